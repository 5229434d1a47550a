"""The state of a training run that a checkpoint holds: model, optimizer, average and position."""

import contextlib
import copy
import logging
import math
import os
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from configs.load import ConfigError, differences
from configs.schema import Config
from pipeline.plan import bn_groups
from preprocess.shards import DatasetInfo
from tin.models.grouped_norm import group_norms
from tin.models.network import build_model, train_mode
from tin.models.weights import initialize
from tin.op.interlace import is_compiled
from tin.ranks.distributed import World
from tin.runs import checkpoint
from tin.runs.best import rebuild_best
from tin.runs.folder import Run
from tin.runs.restore import config_of, load_weights, precision_of, require
from tin.training.any_ranks import update_statistics
from tin.training.average import update_average
from tin.training.early_stop import EarlyStop
from tin.training.optim import build_optimizer, restore_optimizer
from tin.training.pass_graph import PassGraph
from tin.training.running_sums import RunningSums

log = logging.getLogger(__name__)
SHOWN_DIGITS = 12  # of a digest in a message
NEWER_ENTRIES = {"best_loss", "keyed_dropout", "early_stop"}  # earlier checkpoints lack them


class TrainingState:
    """Model, optimizer and position of a training run on one rank.

    It is built fresh, or from the newest checkpoint of the run if there is one.
    """

    def __init__(self, config: Config, run: Run, world: World, info: DatasetInfo, num_steps: int):
        self.config = config
        self.run = run
        self.world = world
        self.info = info
        self.num_steps = num_steps
        """Optimizer steps of an epoch."""
        self.epoch = 0
        self.step = 0
        """Optimizer steps that are complete in this epoch."""
        self.best = -math.inf
        """The highest metric of all evaluations."""
        self.best_loss = math.inf
        """The loss of the evaluation with the highest metric."""
        self.skips = torch.zeros((), dtype=torch.int64, device=world.device)
        """Steps without an update, because the gradient was not finite; counted on the device."""
        self.bad_frames = 0
        """Damaged frames that all ranks found in this epoch."""
        self.sums = RunningSums(world.device)
        self.keyed_dropout = True
        """Whether dropout masks do not depend on the ranks; older runs keep their own masks."""
        self.early_stop = EarlyStop(config)
        self.class_weights: torch.Tensor | None = None
        """Factor on the loss of a clip by its class; None for no factors."""
        saved = _load_newest(run, world)
        self._build(fresh=saved is None)
        if saved:
            self._restore(saved)
        self.graph = self._pass_graph()
        """Replays the passes of a step with `train.compile: graphs`, otherwise None."""
        self.replica = self._wrap()
        """The model that is trained: the model itself, or DDP around it."""

    @property
    def global_step(self) -> int:
        """Optimizer steps since the start of the run."""
        return self.epoch * self.num_steps + self.step

    @property
    def skipped(self) -> int:
        """Steps without an update; reading it waits for the device."""
        return int(self.skips)

    @property
    def precision(self) -> str:
        """Type of autocast: bfloat16, or float32 for none."""
        return precision_of(self.config, self.world.device)

    @property
    def auto(self) -> dict[str, Any]:
        """What the settings leave to the machine, and what was chosen here."""
        chosen: dict[str, Any] = {
            "device": str(self.world.device),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
        }
        if self.config.model.temporal in ("interlace", "shift"):
            compiled = is_compiled(self.world.device.type)
            chosen["operator"] = "compiled" if compiled else "plain PyTorch"
        return chosen

    @property
    def evaluated_model(self) -> nn.Module:
        """The model to evaluate: the moving average if there is one."""
        return self.ema or self.model

    def train_mode(self) -> None:
        """Set the model to training mode, with BatchNorm as `train.bn` says."""
        train_mode(self.model, self.config.train.bn, self.config.train.freeze)

    def gradient_sync(self, enabled: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context for a pass, in which the ranks sum their gradients only if `enabled`."""
        if enabled or not isinstance(self.replica, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.replica.no_sync()

    def update(self) -> None:
        """Update the weights, the statistics of grouped BatchNorms, and the moving average."""
        self.optimizer.step()
        update_statistics(self.model, self.world)
        if self.ema:
            decay = self.config.train.ema
            update_average(self.ema, self.model, decay, first=self.global_step == 0)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        if self.graph:
            self.graph.zero_gradients()
        else:
            self.optimizer.zero_grad(set_to_none=True)

    def save(self, sums: list[float], name: str | None = None) -> None:
        """Write a checkpoint (rank 0 only); `sums` are the epoch's sums over all ranks."""
        if self.world.is_main:
            kept = self.config.run.keep_checkpoints
            checkpoint.save(self.run, self._contents(sums), name, kept)

    def check_best(self) -> None:
        """Write best.pt again if it is lost or damaged (rank 0 only)."""
        if not self.world.is_main or self.best == -math.inf:
            return
        rebuilt = rebuild_best(self.run)
        if rebuilt:
            self.best = rebuilt.metric
            self.best_loss = -rebuilt.negative_loss

    def _build(self, fresh: bool) -> None:
        """Build model, optimizer and moving average; load `model.init` only for a fresh run."""
        settings = self.config.train
        device = self.world.device
        torch.manual_seed(settings.seed)
        if device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(settings.deterministic)
            # By default torch then fills each new tensor with NaN, which no result here needs.
            # Missing in torch's stubs.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = not settings.deterministic
        model = build_model(self.config, len(self.info.classes))
        if fresh:
            initialize(model, self.config)
        if settings.bn == "sync" and self.world.world_size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if settings.bn_clips:
            group_norms(model, bn_groups(self.config, self.world.world_size))
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in stubs
        self.model = model
        self.train_mode()
        self.optimizer = build_optimizer(self.model, self.config)
        self.ema = copy.deepcopy(self.model) if settings.ema else None

    def _restore(self, saved: dict[str, Any]) -> None:
        """Resume from a checkpoint, after checking that it has this dataset and these settings."""
        require(saved, sorted(set(self._contents([])) - NEWER_ENTRIES))
        self._check_origin(saved)
        load_weights(self.model, saved["model"], self.config)
        self._load_optimizer(saved["optimizer"])
        if self.ema:
            load_weights(self.ema, saved["ema"] or {}, self.config)
        self.epoch = saved["epoch"]
        self.step = saved["step"]
        self.best = saved["best"]
        # Checkpoints of earlier versions lack the loss; -inf keeps their best at equal metrics.
        self.best_loss = saved.get("best_loss", -math.inf)
        if "early_stop" in saved:
            self.early_stop.restore(saved["early_stop"])
        self.skips.fill_(saved["skipped"])
        self.bad_frames = saved["bad_frames"]
        self.keyed_dropout = saved.get("keyed_dropout", False)
        if self.world.is_main:
            self.sums.restore(saved["sums"])
        log.info("resumed in epoch %d, step %d of %d", self.epoch + 1, self.step, self.num_steps)
        if saved["world_size"] != self.world.world_size:
            log.warning(
                "the checkpoint comes from %d ranks, now there are %d: each step has the same"
                " clips, frames and crops, but the result is no longer bit-equal",
                saved["world_size"],
                self.world.world_size,
            )

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        """Load the optimizer's state, after checking the shapes and types of its tensors.

        Raises:
            CheckpointError: it does not fit the parameters.
        """
        try:
            restore_optimizer(self.optimizer, saved)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise checkpoint.CheckpointError(
                f"the checkpoint's optimizer does not fit the model: {error}"
            ) from None

    def _check_origin(self, saved: dict[str, Any]) -> None:
        """Raise CheckpointError for another dataset, ConfigError for other settings."""
        if saved["dataset_digest"] != self.info.digest:
            raise checkpoint.CheckpointError(
                f"{self.run.path} was trained on a dataset with digest"
                f" {saved['dataset_digest'][:SHOWN_DIGITS]}, but dataset {self.info.name} now has"
                f" digest {self.info.digest[:SHOWN_DIGITS]}; set data.dataset to the dataset that"
                " the run started with, or choose another run folder"
            )
        different = differences(config_of(saved), self.config)
        if different:
            raise ConfigError(
                f"the settings in {self.run.path / 'config.yaml'} differ from those of the newest"
                f" checkpoint: {'; '.join(different)}; restore the settings of the checkpoint,"
                " or choose another run folder"
            )

    def _pass_graph(self) -> PassGraph | None:
        settings = self.config.train
        if settings.compile != "graphs":
            return None
        # DDP does the same for its ranks.
        self.world.broadcast_tensors([*self.model.parameters(), *self.model.buffers()])
        return PassGraph(self.model, settings.batch // settings.accumulate // self.world.world_size)

    def _wrap(self) -> nn.Module:
        """Return the model as it is trained: compiled if asked for, in DDP with several ranks."""
        if self.config.train.compile == "default":
            self.model.compile()
        if self.world.world_size == 1 or self.graph:
            return self.model
        # find_unused_parameters keeps DDP from rebuilding its buckets after the first step, which
        # would change the order of its sums after a restart.
        device_ids = [self.world.device.index] if self.world.device.type == "cuda" else None
        # BatchNorm statistics are not sent in each step: no rank computes with those of another.
        return DistributedDataParallel(
            self.model,
            device_ids,
            broadcast_buffers=False,
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )

    def _contents(self, sums: list[float]) -> dict[str, Any]:
        """Return what a checkpoint of this moment holds."""
        return {
            "config": self.config.model_dump(mode="json"),
            "dataset_digest": self.info.digest,
            "classes": list(self.info.classes),
            "attempt": self.run.attempt,
            "world_size": self.world.world_size,
            "batch": self.config.train.batch,
            "epoch": self.epoch,
            "step": self.step,
            "global_step": self.global_step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "sums": sums,
            "best": self.best,
            "best_loss": self.best_loss,
            "early_stop": self.early_stop.saved(),
            "skipped": self.skipped,
            "bad_frames": self.bad_frames,
            "keyed_dropout": self.keyed_dropout,
        }


def _load_newest(run: Run, world: World) -> dict[str, Any] | None:
    """Return the newest intact checkpoint, the same on all ranks; None if the run has none.

    Rank 0 chooses it, because a rank that skips a damaged file alone would be at another step.
    """
    saved = checkpoint.load_newest(run) if world.is_main else None
    name = ""
    if saved:
        require(saved, ("global_step", "attempt"))
        name = checkpoint.step_name(saved["global_step"], saved["attempt"])
    name = world.broadcast(name)
    if name and not world.is_main:
        saved = checkpoint.load(run.checkpoints / name)
    return saved
