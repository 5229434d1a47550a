"""What a checkpoint holds: model, optimizer, moving average, position and sums of a run."""

import logging
import math
import os
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from configs.load import ConfigError, differences
from configs.schema import Config
from preprocess.shards import DatasetInfo
from tin.models.network import build_model, train_mode
from tin.models.weights import initialize
from tin.op.interlace import is_compiled
from tin.ranks.distributed import World
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.restore import config_of, load_weights, precision_of
from tin.training.optim import build_optimizer
from tin.training.running_sums import Tally

log = logging.getLogger(__name__)


class TrainingState:
    """Model, optimizer and position of a training run on one rank, from its newest checkpoint."""

    def __init__(self, config: Config, run: Run, world: World, info: DatasetInfo, num_steps: int):
        self.config, self.folder, self.world, self.info = config, run, world, info
        self.num_steps = num_steps
        """Optimizer steps of an epoch."""
        self.epoch = self.step = 0
        self.skipped = self.bad_frames = 0
        self.best, self.tally = -math.inf, Tally(world.device)
        saved = checkpoint.load_newest(run)
        self._build(fresh=saved is None)
        if saved:
            self._restore(saved)
        self.replica = self._wrap()
        """The model as it is trained: itself, or under DDP."""

    @property
    def global_step(self) -> int:
        """Optimizer steps since the start of the run."""
        return self.epoch * self.num_steps + self.step

    @property
    def precision(self) -> str:
        """Type of autocast; float32 is none."""
        return precision_of(self.config, self.world.device)

    @property
    def auto(self) -> dict[str, Any]:
        """What is left to the machine, and what it became here."""
        found = {"device": str(self.world.device), "precision": self.precision}
        found["threads"] = torch.get_num_threads()
        if self.config.model.temporal in ("interlace", "shift"):
            compiled = is_compiled(self.world.device.type)
            found["operator"] = "compiled" if compiled else "plain PyTorch"
        return found

    @property
    def measured(self) -> nn.Module:
        """The model to test: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    def train_mode(self) -> None:
        """Set the modules to training, BatchNorm as `train.bn` says."""
        train_mode(self.model, self.config.train.bn)

    def update(self) -> None:
        """Take the optimizer's step."""
        self.optimizer.step()
        if self.ema:
            self.ema.update_parameters(self.model)

    def save(self, sums: list[float], name: str | None = None) -> None:
        """Write a checkpoint of this position, with the epoch's sums over all ranks (rank 0)."""
        if self.world.is_main:
            checkpoint.save(self.folder, self._words(sums), name)

    def _build(self, fresh: bool) -> None:
        settings, device = self.config.train, self.world.device
        torch.manual_seed(settings.seed)
        if device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(settings.deterministic)
            torch.backends.cudnn.benchmark = not settings.deterministic
        model = build_model(self.config, len(self.info.classes))
        if fresh:
            initialize(model, self.config)
        if settings.bn == "sync" and self.world.world_size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.train_mode()
        self.optimizer = build_optimizer(self.model, self.config)
        self.ema = None
        if settings.ema:
            average = get_ema_multi_avg_fn(settings.ema)
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved["dataset_digest"] != self.info.digest:
            raise checkpoint.CheckpointError(
                f"{self.folder.path} was trained on another dataset than {self.info.name} (digest"
                f" {saved['dataset_digest'][:12]}, now {self.info.digest[:12]}); name its dataset,"
                " or another run folder"
            )
        different = differences(config_of(saved), self.config)
        if different:
            raise ConfigError(
                f"{self.folder.path}: its checkpoint was trained with other settings than its"
                f" config.yaml has now: {'; '.join(different)}; put these back, or name another"
                " run folder"
            )
        load_weights(self.model, saved["model"], self.config)
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
            self.ema.n_averaged.fill_(1)
        for name in ("epoch", "step", "best", "skipped", "bad_frames"):
            setattr(self, name, saved[name])
        if self.world.is_main:
            self.tally.set(saved["sums"])
        log.info("continued at epoch %d, step %d of %d", self.epoch, self.step, self.num_steps)
        if saved["world_size"] != self.world.world_size:
            log.warning(
                "the checkpoint comes from %d ranks, now there are %d: clips, frames and crops of"
                " each step stay the same, but the result is no longer bit-equal",
                saved["world_size"],
                self.world.world_size,
            )

    def _wrap(self) -> nn.Module:
        if self.config.train.compile:
            self.model.compile()
        if self.world.world_size == 1:
            return self.model
        # find_unused_parameters keeps DDP from rebuilding its buckets after the first step, which
        # would change the order of its sums after a restart
        device_ids = [self.world.device.index] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids, find_unused_parameters=True)

    def _words(self, sums: list[float]) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "dataset_digest": self.info.digest,
            "classes": list(self.info.classes),
            "attempt": self.folder.attempt,
            "world_size": self.world.world_size,
            "batch": self.config.train.batch,
            "epoch": self.epoch,
            "step": self.step,
            "global_step": self.global_step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "sums": sums,
            "best": self.best,
            "skipped": self.skipped,
            "bad_frames": self.bad_frames,
        }
