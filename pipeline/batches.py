"""Turns the plan of a step into frames to read, and the decoded frames into a batch.

A source (`TrainingSource`, `EvaluationSource`) knows the split and the settings, and makes one step
after the other. A step (`TrainingStep`, `EvaluationStep`) has a plan, says what the DALI graph
needs to know, and makes a `Batch` of the views that come out of the graph. A step of the loader is
one forward pass: ``train.accumulate`` of them make one optimizer step.

B clips, K clips of a video, C crops of a clip, T segments of L frames per clip, S side of the crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.errors import BAD_DATA, TinError
from configs.load import ConfigError
from configs.schema import ClipSettings, Config
from pipeline.plan import (
    EvaluationPlan,
    TrainingPlan,
    check_batch,
    epoch_order,
    evaluation_clips,
    plan_evaluation,
    plan_training,
    training_positions,
)
from pipeline.store import BadFrame, ClipFrames, FrameStore
from preprocess.shards import DatasetInfo, Split

MEAN = (0.485, 0.456, 0.406)  # of ImageNet in RGB, which pretrained weights expect
STD = (0.229, 0.224, 0.225)
FLOW_MEAN = 0.5  # of TSN, TSM and TIN: no motion becomes 0
FLOW_STD = 0.226  # the mean of ImageNet's three deviations
MIN_ALLOWED_BAD_FRAMES = 20  # allowed in every epoch, however small it is
MAX_LISTED_FRAMES = 20  # in the message of an error


class BadDataError(TinError):
    """More frames are damaged than `data.bad_frames` allows; the message lists them."""

    exit_code = BAD_DATA
    is_final = True


@dataclass(frozen=True)
class Batch:
    """The input of one step. All three tensors are on the loader's device."""

    x: Tensor
    """``(B, T, L*3, S, S)``, in evaluation ``(B, V, T, L*3, S, S)`` with V = K*C, the crops of a
    clip next to each other: float32 RGB, normalized with ImageNet's mean and deviation. A flow
    dataset has L*2 channels, x before y, normalized with `FLOW_MEAN` and `FLOW_STD`."""
    labels: Tensor
    """``(B,)`` int64, -1 without a label; for a multi-label dataset ``(B, classes)`` float32 with
    values 0 and 1."""
    clips: Tensor
    """``(B,)`` int64 rows of the split. -1 marks a row that must not be scored: the padding of a
    last step, or a video without a good frame."""
    draws: Tensor | None = None
    """``(B,)`` int64 numbers that the random changes of a training clip are drawn for. They are
    `clips`, except for a video that the epoch draws again. None in evaluation."""


class TrainingSource:
    """One rank's training clips; a step has ``train.batch / train.accumulate`` over all ranks."""

    def __init__(
        self, split: Split, info: DatasetInfo, config: Config, rank: int, world_size: int
    ) -> None:
        settings = config.train
        self.split = split
        self.info = info
        self.config = config
        self._order = epoch_order(split, config)
        self._rank = rank
        self._world_size = world_size
        self._clips_per_step = settings.batch // settings.accumulate
        if self._clips_per_step % world_size:
            raise ConfigError(
                f"train.batch {settings.batch} / train.accumulate {settings.accumulate} gives"
                f" {self._clips_per_step} clips per pass, which {world_size} ranks do not divide."
                " Change one of the two settings or the number of ranks."
            )
        check_batch(split.num_videos, config, f"split {split.name} in {split.folder}")
        self.num_steps = split.num_videos // settings.batch * settings.accumulate
        self.num_rows = self._clips_per_step // world_size
        _check_modality(split, info, config)
        self.frames_per_row = config.clip.num_segments * config.clip.frames_per_segment
        self.max_bad_frames = _max_bad_frames(split, config, self.frames_per_row)

    def step(self, epoch: int, number: int) -> "TrainingStep":
        """Return step ``number`` of an epoch."""
        positions = training_positions(number, self._clips_per_step, self._rank, self._world_size)
        return TrainingStep(self, epoch, self.plan(epoch, positions))

    def plan(self, epoch: int, positions: np.ndarray) -> TrainingPlan:
        """Return the plan of the clips at ``positions`` of an epoch's order."""
        return plan_training(self.split, self.config, self._order, epoch, positions)


class TrainingStep:
    """One step of training."""

    def __init__(self, source: TrainingSource, epoch: int, plan: TrainingPlan) -> None:
        self._source = source
        self._epoch = epoch
        self.plan = plan

    def complete(
        self, clips: list[ClipFrames], store: FrameStore
    ) -> tuple[list[ClipFrames], list[BadFrame]]:
        """Replace each clip that has no good frame by the next clip of the order.

        The batch stays full, and it holds the same clips at every number of ranks. If more frames
        are damaged than allowed, no clips are returned: the caller rejects the bad frames.
        """
        bad_frames = [bad for clip in clips for bad in clip.bad_frames]
        for row in range(len(clips)):
            position = self.plan.positions[row]
            while not clips[row].jpegs:
                if len(bad_frames) > self._source.max_bad_frames:
                    return [], bad_frames
                position = (position + 1) % self._source.split.num_videos
                other = self._source.plan(self._epoch, np.array([position]))
                clips[row] = store.read(int(other.clips[0]), other.frames[0].tolist())
                bad_frames += clips[row].bad_frames
                self.plan.replace(row, other)
        return clips, bad_frames

    def arguments(self) -> dict[str, np.ndarray]:
        """Return the inputs of the training graph, a row per clip."""
        x, y, width, height = self.plan.boxes.astype(np.int32).T
        return {
            "corner": np.stack([y, x], axis=1),
            "size": np.stack([height, width], axis=1),
            "flip": self.plan.flips.astype(np.int32),
        }

    def batch(self, views: Sequence[Tensor], device: torch.device) -> Batch:
        """Return the only view of the graph as a batch."""
        config = self._source.config
        info = self._source.info
        clips = self.plan.clips
        S = config.clip.crop
        x = views[0].view(-1, config.clip.num_segments, batch_channels(config.clip), S, S)
        if config.clip.modality == "flow":
            # Motion to the right becomes motion to the left in a mirror.
            x[torch.from_numpy(self.plan.flips), :, ::2] *= -1
        labels = _labels(self._source.split, info, clips, len(clips))
        if config.augment.flip == "labels":
            flips = torch.from_numpy(self.plan.flips)
            labels[flips] = _mirrored(labels[flips], torch.tensor(info.left_right))
        return Batch(
            x,
            _copied(labels, device),
            _copied(torch.from_numpy(clips), device),
            _copied(torch.from_numpy(self.plan.draws), device),
        )


class EvaluationSource:
    """One rank's videos, each video of the split once; a step has ``test.batch`` on each rank."""

    def __init__(
        self, split: Split, info: DatasetInfo, config: Config, rank: int, world_size: int
    ) -> None:
        self.split = split
        self.info = info
        self.config = config
        self._rank = rank
        self._world_size = world_size
        self.num_rows = config.test.batch
        self.num_steps = -(-split.num_videos // (self.num_rows * world_size))
        self.mirrored = [view >= 5 for view in range(config.test.crops)]
        _check_modality(split, info, config)
        clip_frames = config.clip.num_segments * config.clip.frames_per_segment
        self.frames_per_row = config.test.clips * clip_frames
        self.max_bad_frames = _max_bad_frames(split, config, self.frames_per_row)

    def step(self, epoch: int, number: int) -> "EvaluationStep":
        """Return step ``number``, which is the same in every epoch."""
        num_videos = self.split.num_videos
        clips = evaluation_clips(number, num_videos, self.num_rows, self._rank, self._world_size)
        return EvaluationStep(self, plan_evaluation(self.split, self.config, clips))


class EvaluationStep:
    """One step of an evaluation."""

    def __init__(self, source: EvaluationSource, plan: EvaluationPlan) -> None:
        self._source = source
        self.plan = plan

    def complete(
        self, clips: list[ClipFrames], store: FrameStore
    ) -> tuple[list[ClipFrames], list[BadFrame]]:
        """Leave out the videos that have no good frame."""
        good = [row for row, clip in enumerate(clips) if clip.jpegs]
        bad_frames = [bad for clip in clips for bad in clip.bad_frames]
        plan = self.plan
        self.plan = EvaluationPlan(plan.clips[good], plan.frames[good], plan.regions[good])
        return [clips[row] for row in good], bad_frames

    def arguments(self) -> dict[str, np.ndarray]:
        """Return the inputs of the evaluation graph, a row per video."""
        num_crops = self.plan.regions.shape[1]
        return {f"region{crop}": self.plan.regions[:, crop] for crop in range(num_crops)}

    def batch(self, views: Sequence[Tensor], device: torch.device) -> Batch:
        """Return the views of the graph, one per crop, as a batch padded with zeros."""
        config = self._source.config
        num_rows = self._source.num_rows
        num_videos = len(self.plan.clips)
        K = config.test.clips
        S = config.test_crop
        shape = (config.clip.num_segments, batch_channels(config.clip), S, S)
        x = torch.zeros(num_rows, K, config.test.crops, *shape, device=device)
        for crop, view in enumerate(views):
            x[:num_videos, :, crop] = view.view(num_videos, K, *shape)
            if config.clip.modality == "flow" and self._source.mirrored[crop]:
                x[:num_videos, :, crop, :, ::2] *= -1
        clips = torch.full((num_rows,), -1)
        clips[:num_videos] = torch.from_numpy(self.plan.clips)
        labels = _labels(self._source.split, self._source.info, self.plan.clips, num_rows)
        return Batch(x.flatten(1, 2), _copied(labels, device), _copied(clips, device))


Step = TrainingStep | EvaluationStep


def batch_channels(clip: ClipSettings) -> int:
    """Return the channels of a segment in a batch: L frames of red, green, blue, or of x, y."""
    return (2 if clip.modality == "flow" else 3) * clip.frames_per_segment


def check_bad_frames(bad_frames: Sequence[BadFrame], max_bad_frames: int, split: Split) -> None:
    """Raise `BadDataError` if there are more than ``max_bad_frames``."""
    if len(bad_frames) <= max_bad_frames:
        return
    first = bad_frames[:MAX_LISTED_FRAMES]
    listed = [f"video {bad.clip} frame {bad.frame}: {bad.reason}" for bad in first]
    raise BadDataError(
        f"{split.folder}: found {len(bad_frames)} damaged frames in split {split.name}, more than"
        f" {max_bad_frames} (the limit of data.bad_frames). Run `tin data verify {split.folder}` to"
        " list all of them. The first:\n" + "\n".join(listed)
    )


def _check_modality(split: Split, info: DatasetInfo, config: Config) -> None:
    """Raise ConfigError unless the dataset has the frames that the model sees."""
    expected = "flow" if config.clip.modality == "flow" else "rgb"
    if info.modality != expected:
        raise ConfigError(
            f"{split.folder} is a dataset of {info.modality}, but clip.modality is"
            f" {config.clip.modality}, which needs one of {expected}. Choose another dataset, or"
            f" set clip.modality={info.modality}."
        )


def _max_bad_frames(split: Split, config: Config, frames_per_video: int) -> int:
    share = config.data.bad_frames * split.num_videos * frames_per_video
    return max(MIN_ALLOWED_BAD_FRAMES, int(share))


def _labels(split: Split, info: DatasetInfo, clips: np.ndarray, num_rows: int) -> Tensor:
    """Return the labels of ``clips``, padded to ``num_rows`` rows without a label."""
    found = [split.labels_of(clip) for clip in clips]
    if info.multi_label:
        labels = torch.zeros(num_rows, len(info.classes))
        for row, classes in enumerate(found):
            labels[row, torch.from_numpy(classes.astype(np.int64))] = 1
        return labels
    labels = torch.full((num_rows,), -1)
    labels[: len(found)] = torch.tensor([row[0] if len(row) else -1 for row in found])
    return labels


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on `device`. The host does not wait for what the device computes meanwhile.

    A copy from ordinary memory would wait, and the loader would count that as waiting for data.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _mirrored(labels: Tensor, mirror: Tensor) -> Tensor:
    """Return the labels of mirrored clips; ``mirror`` ``(classes,)`` is its own inverse."""
    if labels.is_floating_point():
        return labels[:, mirror]
    return torch.where(labels < 0, labels, mirror[labels])
