"""The training loop: from a recipe and shards to checkpoints and metrics, resumable at any time."""

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from configs.errors import STOPPED, TinError
from configs.load import dataset_path
from configs.schema import Config
from pipeline.batches import Batch
from pipeline.folds import stored_split
from tin.evaluation.evaluate import evaluate
from tin.evaluation.scores import Scores
from tin.models.network import record_offsets, recorded_offsets
from tin.ranks.dataset_check import DatasetCheck, compare_copies
from tin.ranks.distributed import World, cpus, start
from tin.ranks.gpu_health import GpuHealth
from tin.ranks.node_check import check_node
from tin.ranks.signals import FlagAllReduce, RankFlags, StopSignals
from tin.ranks.watchdog import Watchdog
from tin.runs.folder import Run
from tin.training import bad_frames
from tin.training.attempt import end_attempt, start_attempt
from tin.training.finite import check_finite
from tin.training.loaders import (
    check_settings,
    class_weights,
    open_test_split,
    open_train_split,
    warn_of_small_split,
)
from tin.training.recorder import Recorder
from tin.training.rows import Interval, interval_row, test_row, train_row
from tin.training.running_sums import NUM_SUMS
from tin.training.slow_ranks import SlowRanks, nodes_of, watched_times
from tin.training.state import TrainingState
from tin.training.step import train_step

log = logging.getLogger(__name__)


class Stopped(TinError):
    """A signal stopped the run after it saved a checkpoint; the same command resumes it."""

    exit_code = STOPPED


def train(config: Config, run_dir: Path) -> None:
    """Train a run to its end, from its newest checkpoint if there is one.

    Raises:
        Stopped: a signal arrived; a checkpoint is saved.
        BadDataError: an epoch has more damaged frames than `data.bad_frames` allows.
        NonFiniteError: the loss or the gradient is NaN or infinite, and `train.nan` is `stop`.
        FencedError: a newer attempt has taken over the run.
        ConfigError, CheckpointError: settings, dataset and checkpoint do not fit together.
    """
    with start(config.run.device) as world, StopSignals() as signals:
        torch.set_num_threads(config.run.threads or cpus())
        run = Run(run_dir)
        if world.broadcast("train" in run.done()):
            log.info("%s: training is complete; evaluate it with `tin test %s`", run_dir, run_dir)
            return
        if config.run.check_node:
            check_node(world, run_dir)
        try:
            Trainer(config, run, world, signals).train()
        except Stopped as stopped:
            stopped.signal = signals.received
            raise


class Trainer:
    """The training loop of one rank.

    After each step the ranks send each other flags, and act on those of the step before: they save
    a checkpoint, stop, or fail because of damaged frames.
    """

    def __init__(self, config: Config, run: Run, world: World, signals: StopSignals):
        self.config = config
        self.run = run
        self.world = world
        self.signals = signals
        splits = [config.data.train_split, stored_split(config.data.test_split, config.data)]
        folder = dataset_path(config.data.dataset)
        check = DatasetCheck(world, config.data.dataset, folder, splits)
        self.train_loader = open_train_split(config, world)
        self.test_loader = open_test_split(config, world)
        check_settings(config, self.train_loader)
        warn_of_small_split(self.test_loader)
        num_steps = self.train_loader.num_steps // config.train.accumulate
        self.state = TrainingState(config, run, world, self.train_loader.info, num_steps)
        self.state.class_weights = class_weights(config, self.train_loader, world.device)
        check.finish()
        auto = {**self.state.auto, "decode": self.train_loader.decode}
        self.environment = start_attempt(run, config, world, auto)
        self.state.check_best()
        self.flags = FlagAllReduce(world)
        self.watchdog = Watchdog(run.job, run.attempt, world.rank, config.run.hang_minutes)
        self.recorder: Recorder | None = None
        self.gpu_health = GpuHealth(world.device)
        self.slow_ranks = SlowRanks(nodes_of(world))
        self.step_times = watched_times(world, self.state)
        self.saved_at = time.monotonic()
        self.checkpoint_s = 0.0
        """Seconds of this interval that went into checkpoints."""
        self.gradient_norm: float | Tensor = 0.0
        """Norm of the gradient of the last step, or 0 if that step was skipped."""

    def train(self) -> None:
        """Train the remaining epochs, evaluate them, and mark the run as complete."""
        self._check_gpu()
        settings = self.config.train
        state = self.state
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            # If the loader fails because of damaged frames, their rows are still to be written.
            stack.callback(self._record_bad_frames)
            stack.enter_context(self.watchdog)
            if self.world.is_main:
                self.recorder = stack.enter_context(self._open_recorder())
            while state.epoch < settings.epochs:
                self._train_epoch()
                done = state.epoch + 1
                is_last = done == settings.epochs
                if done % settings.evaluate_every == 0 or is_last:
                    is_last |= self._evaluate()
                state.epoch = done
                state.step = 0
                state.bad_frames = 0
                state.sums.clear()
                self._check_gpu()
                if is_last:
                    break
            if self.world.is_main:
                self.run.finish("train")

    def _check_gpu(self) -> None:
        if self.config.run.check_node:
            self.gpu_health.check()

    def _open_recorder(self) -> Recorder:
        return Recorder(
            self.run,
            self.config,
            num_steps=self.state.num_steps,
            since=self.state.global_step,
        )

    def _close(self) -> None:
        self.train_loader.close()
        self.test_loader.close()
        end_attempt(self.run, self.world, self.environment)

    def _train_epoch(self) -> None:
        """Train from the current step to the end of the epoch, and save a checkpoint there."""
        state = self.state
        log_steps = self.config.run.log_steps
        accumulate = self.config.train.accumulate
        state.train_mode()
        for loader in (self.train_loader, self.test_loader):
            compare_copies(self.world, self.config.data.dataset, loader)
        self.saved_at = time.monotonic()
        self.checkpoint_s = 0.0
        epoch = Interval(self.train_loader, self._finite_sums())
        interval = epoch
        batches = self.train_loader.epoch(state.epoch, state.step * accumulate)
        has_steps = state.step < state.num_steps  # not if the run resumes at the end of the epoch
        while state.step < state.num_steps:
            self.step_times.start()
            self._train_step([next(batches) for _ in range(accumulate)])
            state.step += 1
            self.watchdog.beat()
            flags = self._exchange_flags()
            if state.step % log_steps == 0 or state.step == state.num_steps:
                interval = self._record_interval(interval)
            self._act_on(flags)
        # The flags of the last step are still on their way. Save a checkpoint in any case.
        flags = self.flags.finish()
        self._act_on(flags._replace(save=has_steps))
        sums = self._finite_sums()
        if self.recorder:
            self.recorder.epoch(train_row(state, epoch, sums))
            bad_frames.log_epoch(state.epoch, state.bad_frames, self.run)

    def _train_step(self, batches: list[Batch]) -> None:
        """Take an optimizer step, and show it with the offsets and weights of its clips."""
        state = self.state
        step = state.global_step
        every = self.config.run.offset_steps
        if every:
            record_offsets(state.model, step % every == 0)
        self.gradient_norm = train_step(state, batches)
        if self.recorder:
            self.recorder.advance(step + 1)
            self.recorder.clips(batches[0].x, step + 1)
            self.recorder.offsets(recorded_offsets(state.model), step + 1)

    def _exchange_flags(self) -> RankFlags:
        """Send this rank's flags to the others, and return those that all sent a step before."""
        limit_s = 60 * self.config.run.checkpoint_minutes
        is_due = limit_s > 0 and time.monotonic() - self.saved_at > limit_s
        own = RankFlags(
            stop=bool(self.signals.received),
            save=self.world.is_main and is_due,
            bad_frames=self._record_bad_frames(),
        )
        flags = self.flags.finish()
        self.flags.start(own)
        return flags

    def _record_bad_frames(self) -> int:
        return bad_frames.record(self.train_loader, self.run, self.state.epoch)

    def _act_on(self, flags: RankFlags) -> None:
        """Do what the flags of all ranks ask for: fail because of bad data, save, or stop."""
        state = self.state
        state.bad_frames += flags.bad_frames
        limit = self.train_loader.max_bad_frames
        bad_frames.check_limit(state.bad_frames, limit, self.run, state.epoch)
        every = self.config.run.checkpoint_steps
        is_inside = 0 < state.step < state.num_steps
        if flags.stop or flags.save or (every and is_inside and state.step % every == 0):
            began = time.monotonic()
            state.save(self._finite_sums())
            self.saved_at = time.monotonic()
            self.checkpoint_s += self.saved_at - began
        if flags.stop:
            self.world.barrier()  # srun and torchrun kill all ranks as soon as one has exited
            raise Stopped(
                f"stopped by {self.signals.received or 'a signal to another rank'} in epoch"
                f" {state.epoch + 1}, step {state.step} of {state.num_steps}; a checkpoint is"
                f" saved: resume with `tin train --run {self.run.path}`"
            )

    def _finite_sums(self, more: Sequence[float] = ()) -> list[float]:
        """Return the sums of the epoch and of `more` over all ranks; check that they are finite."""
        sums = self.state.sums.total(self.world, more)
        check_finite(sums[0] + self.gradient_norm, self.state)
        return sums

    def _record_interval(self, interval: Interval) -> Interval:
        """Write a row of steps.csv, and return the next interval."""
        sums = self._finite_sums(self.step_times.take())
        if self.recorder:
            spread = self.slow_ranks.record(sums[NUM_SUMS:], self.run, self.state)
            facts = {"spread": spread, "checkpoint_s": self.checkpoint_s}
            self.recorder.interval({**interval_row(self.state, interval, sums), **facts})
        self.checkpoint_s = 0.0
        return Interval(self.train_loader, sums)

    def _evaluate(self) -> bool:
        """Evaluate the model on the test split, and keep the best model so far as best.pt.

        Return whether the run stops early, the same on all ranks.
        """
        state = self.state
        model = state.evaluated_model
        began = time.monotonic()
        self.world.broadcast_tensors(model.buffers())  # the statistics of BatchNorm
        # The checkpoint of this epoch is saved: a signal may stop the evaluation anywhere.
        stopped = Stopped(
            f"stopped while evaluating epoch {state.epoch + 1}, whose checkpoint is saved:"
            f" resume with `tin train --run {self.run.path}`"
        )
        precision = state.precision
        loss = self.config.train.loss
        beat = self.watchdog.beat
        with self.signals.raising(stopped):
            scores = evaluate(model, self.test_loader, self.world, precision, loss, beat)
        bad_frames.record(self.test_loader, self.run, state.epoch)
        stops = False
        if scores is not None and self.recorder:  # on rank 0
            stops = self._keep_best(scores, time.monotonic() - began)
        return self.world.broadcast(stops) if self.config.train.patience else False

    def _keep_best(self, scores: Scores, seconds: float) -> bool:
        """Record an evaluation, and keep the best model; return whether the run stops early."""
        assert self.recorder
        state = self.state
        row = test_row(state, scores, seconds)
        self.recorder.epoch(row)
        # The best model has the highest metric and, of equal ones, the lowest loss. An unknown
        # metric is NaN, which is never greater.
        metric = row["map_class" if self.test_loader.info.multi_label else "top1"]
        if (metric, -row["loss"]) > (state.best, -state.best_loss):
            state.best = metric
            state.best_loss = row["loss"]
            state.save([0.0] * NUM_SUMS, "best.pt")
        stops = state.early_stop.update(row, metric)
        if stops:
            state.early_stop.record(self.run, state.epoch)
        return stops
