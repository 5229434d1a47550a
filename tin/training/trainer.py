"""Training: from shards and a recipe to checkpoints and metrics, killed and continued at will."""

import contextlib
import logging
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from configs.errors import STOPPED, TinError
from configs.load import ConfigError, dataset_path, dump
from configs.schema import Config
from pipeline.batches import BadDataError, Batch
from pipeline.loader import ClipLoader
from tin.evaluation.evaluate import evaluate
from tin.evaluation.scores import summarize
from tin.models.network import record_offsets, recorded_offsets
from tin.ranks.distributed import World, cpus, start
from tin.ranks.node_check import check_node
from tin.ranks.signals import Agreement, StopSignals
from tin.ranks.watchdog import Watchdog
from tin.runs.folder import BAD_FRAMES, Run, describe_environment
from tin.training.augment import augment
from tin.training.optim import learning_rate, loss, set_learning_rate
from tin.training.recorder import Recorder
from tin.training.running_sums import Interval
from tin.training.state import TrainingState

log = logging.getLogger(__name__)


class Stopped(TinError):
    """A signal stopped the run; a checkpoint is written and the run can be continued."""

    exit_code = STOPPED


def train(config: Config, path: Path) -> None:
    """Train from the newest checkpoint of the run at `path`, or from the start, to the end.

    Raises:
        Stopped: a signal came; the checkpoint of that step is written.
        BadDataError: more damaged frames than `data.bad_frames` allows.
        FloatingPointError: loss or gradient is no number and `train.nan` is stop.
        FencedError: a newer attempt has taken over the run.
        ConfigError, CheckpointError: settings, dataset and checkpoint do not fit together.
    """
    with start(config.run.device) as world, StopSignals() as signals:
        torch.set_num_threads(config.run.threads or cpus())
        run = Run(path)
        if world.broadcast("train" in run.done()):
            log.info("%s is finished; `tin test %s` measures it", path, path)
            return
        if config.run.check_node:
            check_node(world, path)
        try:
            Trainer(config, run, world, signals).run()
        except Stopped as stopped:
            stopped.signal = signals.received
            raise


class Trainer:
    """The training loop of one rank: steps, words with the other ranks, rows and checkpoints."""

    def __init__(self, config: Config, run: Run, world: World, signals: StopSignals):
        self.config, self.folder, self.world, self.signals = config, run, world, signals
        self.loader = self._open(config.data.train_split, training=True)
        self.tested = self._open(config.data.test_split, training=False)
        self._check()
        num_steps = self.loader.num_steps // config.train.accumulate
        self.state = TrainingState(config, run, world, self.loader.info, num_steps)
        self._start_attempt()
        self.agreement = Agreement(world)
        self.watchdog = Watchdog(run.job, run.attempt, world.rank, config.run.hang_minutes)
        self.recorder: Recorder | None = None
        self.norm: float | Tensor = 0.0

    def run(self) -> None:
        """Train the epochs that are left, measure each, and mark the run as done."""
        settings, state = self.config.train, self.state
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            stack.callback(self._take_bad_frames, self.loader)  # also those of a refusal
            stack.enter_context(self.watchdog)
            if self.world.is_main:
                self.recorder = stack.enter_context(self._open_recorder())
            while state.epoch < settings.epochs:
                self._train_epoch()
                done = state.epoch + 1
                if done % settings.evaluate_every == 0 or done == settings.epochs:
                    self._measure()
                state.epoch, state.step, state.bad_frames = done, 0, 0
                state.tally.clear()
            if self.world.is_main:
                self.folder.finish("train")

    def _open(self, split: str, *, training: bool) -> ClipLoader:
        config = self.config
        threads = config.run.model_copy(update={"threads": torch.get_num_threads()})
        one_view = config.test.model_copy(update={"clips": 1, "crops": 1, "crop": 0})
        return ClipLoader(
            dataset_path(config.data.dataset),
            split,
            config.model_copy(update={"run": threads, "test": one_view}),
            training=training,
            rank=self.world.rank,
            world_size=self.world.world_size,
            device=str(self.world.device),
        )

    def _check(self) -> None:
        config, info = self.config, self.loader.info
        if info.multi_label != (config.train.loss == "bce"):
            raise ConfigError(
                f"train.loss {config.train.loss} does not fit {self.loader.split.folder}, which has"
                f" {'several labels' if info.multi_label else 'one label'} a video; set"
                f" train.loss={'bce' if info.multi_label else 'nll'}"
            )
        if config.train.batch != config.optim.lr_batch and not config.optim.scale_lr:
            log.warning(
                "optim.lr %g belongs to a batch of %d clips, and train.batch is %d: set"
                " optim.scale_lr=true, or optim.lr and optim.lr_batch together",
                config.optim.lr,
                config.optim.lr_batch,
                config.train.batch,
            )

    def _start_attempt(self) -> None:
        if self.world.is_main:
            self.folder.start_attempt()
            self.folder.write("config.yaml", dump(self.config))
            if not (self.folder.path / "bad_frames.csv").exists():
                self.folder.write("bad_frames.csv", ",".join(BAD_FRAMES) + "\n")
        self.folder.attempt = self.world.broadcast(self.folder.attempt)
        self.environment = describe_environment(str(self.world.device), self.world.world_size)
        self.environment["auto"] = self.state.auto
        if self.world.is_main:
            self.folder.warn_of_changes(self.environment)
            self.folder.write_environment(self.environment)

    def _open_recorder(self) -> Recorder:
        return Recorder(
            self.folder,
            epochs=self.config.train.epochs,
            num_steps=self.state.num_steps,
            tensorboard=self.config.run.tensorboard,
            since=self.state.global_step,
        )

    def _close(self) -> None:
        self.loader.close()
        self.tested.close()
        if self.world.is_main and self.folder.attempt == max(self.folder.attempts()):
            self.folder.write_environment({**self.environment, "ended": time.time()})

    def _train_epoch(self) -> None:
        state, accumulate = self.state, self.config.train.accumulate
        state.train_mode()
        self.saved_at = time.monotonic()
        whole = interval = Interval(self.loader, self._sums())
        passes = self.loader.epoch(state.epoch, state.step * accumulate)
        unsaved = state.step < state.num_steps
        while state.step < state.num_steps:
            self._train_step([next(passes) for _ in range(accumulate)])
            state.step += 1
            self.watchdog.beat()
            agreed = self.agreement.exchange(self._words())
            if state.step % self.config.run.log_steps == 0 or state.step == state.num_steps:
                interval = self._log(interval)
            self._heed(agreed)
        stop, _, bad_frames = self.agreement.take(3)
        self._heed([stop, unsaved, bad_frames])
        self._record(whole)

    def _train_step(self, batches: list[Batch]) -> None:
        config, state, number = self.config, self.state, self.state.global_step
        # a seed of its own for each step and rank: dropout draws from it
        torch.manual_seed(hash((config.train.seed, number, self.world.rank)))
        set_learning_rate(state.optimizer, learning_rate(config, number, state.num_steps))
        every = config.run.offset_steps
        if every:
            record_offsets(state.model, number % every == 0)
        for index, batch in enumerate(batches):
            waits = index + 1 < len(batches) and state.replica is not state.model
            with state.replica.no_sync() if waits else contextlib.nullcontext():
                self._pass(batch, number * len(batches) + index, len(batches))
        norm = torch.nn.utils.clip_grad_norm_(
            state.model.parameters(), config.optim.clip_norm or math.inf
        )
        if config.train.nan == "skip" and not torch.isfinite(norm):
            state.skipped += 1
        else:
            self.norm = norm
            state.update()
        state.optimizer.zero_grad(set_to_none=True)
        if self.recorder:
            self.recorder.advance(number + 1)
            self.recorder.offsets(recorded_offsets(state.model), number + 1)

    def _pass(self, batch: Batch, number: int, num_passes: int) -> None:
        state, num_classes = self.state, len(self.loader.info.classes)
        x, targets = augment(
            batch.x, batch.labels, batch.clips, self.config, state.epoch, num_classes, number
        )
        half = state.precision == "bfloat16"
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=half):
            logits = state.replica(x)
        value = loss(logits.float(), targets, self.config)
        (value / num_passes).backward()
        seen = value.detach().nan_to_num() if self.config.train.nan == "skip" else value.detach()
        state.tally.add(seen, logits.detach(), batch.labels)

    def _words(self) -> tuple[float, float, float]:
        """Return what this rank tells the others: stop, save, damaged frames since last time."""
        minutes = self.config.run.checkpoint_minutes
        due = self.world.is_main and minutes and time.monotonic() - self.saved_at > 60 * minutes
        bad_frames = self._take_bad_frames(self.loader)
        return float(bool(self.signals.received)), float(bool(due)), float(bad_frames)

    def _take_bad_frames(self, loader: ClipLoader) -> int:
        frames = loader.take_bad_frames()
        keys = loader.split.keys() if frames else []
        for bad in frames:  # any rank: a row is appended whole
            row = {"epoch": self.state.epoch, "key": keys[bad.clip]}
            row |= {"frame": bad.frame, "reason": bad.reason}
            self.folder.append("bad_frames.csv", BAD_FRAMES, row)
        return len(frames)

    def _heed(self, words: list[float]) -> None:
        """Do what the ranks agreed on: save, stop, or give up on bad data."""
        stop, save, bad_frames = words
        state, every = self.state, self.config.run.checkpoint_steps
        state.bad_frames += int(bad_frames)
        limit = self.loader.max_bad_frames
        if state.bad_frames > limit:
            raise BadDataError(
                f"{state.bad_frames} damaged frames in epoch {state.epoch}, more than {limit};"
                f" {self.folder.path / 'bad_frames.csv'} lists them, `tin data verify` says more"
            )
        inside = 0 < state.step < state.num_steps
        if stop or save or (every and inside and state.step % every == 0):
            state.save(self._sums())
            self.saved_at = time.monotonic()
        if stop:
            self.world.barrier()  # srun and torchrun end all ranks as soon as one has left
            raise Stopped(
                f"stopped by {self.signals.received or 'a signal to another rank'} at epoch"
                f" {state.epoch}, step {state.step} of {state.num_steps}, with a checkpoint; go on"
                f" with `tin train --run {self.folder.path}`"
            )

    def _sums(self) -> list[float]:
        """Return the epoch's sums over all ranks, and refuse to go on with a NaN."""
        sums = self.state.tally.total(self.world)
        if not math.isfinite(sums[0] + self.norm):  # of the gradient: the weights are lost, too
            raise FloatingPointError(
                f"loss or gradient is no number at epoch {self.state.epoch}, step"
                f" {self.state.step}; the last checkpoint stands in {self.folder.checkpoints}:"
                " lower optim.lr, or set train.nan=skip"
            )
        return sums

    def _place(self) -> dict[str, float]:
        step, num_steps = self.state.global_step, self.state.num_steps
        lr = learning_rate(self.config, max(step - 1, 0), num_steps)
        return {"epoch": self.state.epoch, "step": step, "lr": lr}

    def _log(self, interval: Interval) -> Interval:
        sums = self._sums()
        if self.recorder:
            row = {**self._place(), **interval.row(sums), "skipped": self.state.skipped}
            self.recorder.interval(row)
        return Interval(self.loader, sums)

    def _record(self, whole: Interval) -> None:
        sums = self._sums()
        if not self.recorder:
            return
        loss_sum, top1, top5, clips = sums
        row = {**self._place(), "split": self.config.data.train_split, **whole.row(sums)}
        row["loss"] = loss_sum / max(clips, 1)
        if self.config.train.loss == "nll":
            row |= {"top1": top1 / max(clips, 1), "top5": top5 / max(clips, 1)}
        self.recorder.epoch(row)

    def _measure(self) -> None:
        """Measure the test split; the best model so far becomes best.pt."""
        began, state = time.monotonic(), self.state
        self.world.broadcast_buffers(state.measured)
        how = state.precision, self.config.train.loss, self.watchdog.beat
        stopped = Stopped(f"stopped after epoch {state.epoch}, whose checkpoint is written")
        with self.signals.raising(stopped):
            scores = evaluate(state.measured, self.tested, self.world, *how)
        self._take_bad_frames(self.tested)
        if scores is None:
            return
        found = summarize(scores)
        seconds = time.monotonic() - began
        speed = {"seconds": seconds, "clips_per_s": len(scores.keys) / seconds}
        split = self.config.data.test_split
        self.recorder.epoch({**self._place(), "split": split, **found, **speed})
        metric = found["map_class" if self.tested.info.multi_label else "top1"]
        if metric > state.best:
            state.best = metric
            state.save([0.0] * 4, "best.pt")
