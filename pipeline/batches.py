"""Turns the plan of a step into frames to read, and the decoded frames into a batch.

A source (`TrainingSource`, `EvaluationSource`) knows the split and the settings, and makes one step
after the other. A step (`TrainingStep`, `EvaluationStep`) has a plan, says what the decoder needs
to know, and makes a `Batch` of the views that the decoder gives. A step of the loader is one
forward pass: ``train.accumulate`` of them make one optimizer step.

B clips, K clips of a video, T segments of L frames per clip, S side of the crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.errors import BAD_DATA, TinError
from configs.load import ConfigError
from configs.schema import ClipSettings, Config
from pipeline.decoded import Arguments, Shape
from pipeline.labels import labels_of, mirrored_labels
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
    """Too much of the data cannot be used; the message says which, and names the reasons."""

    exit_code = BAD_DATA
    is_final = True


@dataclass(frozen=True)
class Batch:
    """The input of one step. All three tensors are on the loader's device."""

    x: Tensor
    """uint8 ``(B, T, L, S, S, 3)``, in evaluation ``(B, V, T, L, S, S, 3)``. V is K times the crops
    of a clip, which lie next to each other. A flow dataset has 2 colors, x before y."""
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
        frames = config.clip.num_segments * config.clip.frames_per_segment
        self.shape = Shape(1, 1, frames, config.clip.crop, split.planes)
        self.max_bad_frames = _max_bad_frames(split, config, frames)

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

    def arguments(self) -> Arguments:
        """Return the arguments of `cut_training`, a row per clip."""
        x, y, width, height = self.plan.boxes.astype(np.int32).T
        return {
            "corner": np.stack([y, x], axis=1),
            "size": np.stack([height, width], axis=1),
            "flip": self.plan.flips.astype(np.int32),
        }

    def batch(self, views: Tensor, device: torch.device) -> Batch:
        """Return the decoded views of the step, ``(B, 1, T*L, S, S, C)``, as a batch."""
        config = self._source.config
        info = self._source.info
        clips = self.plan.clips
        x = views[:, 0].unflatten(1, (config.clip.num_segments, -1))
        if config.clip.modality == "flow":
            _turn_motion(x, torch.from_numpy(self.plan.flips))
        labels = labels_of(self._source.split, info, clips, len(clips))
        if config.augment.flip == "labels":
            flips = torch.from_numpy(self.plan.flips)
            labels[flips] = mirrored_labels(labels[flips], torch.tensor(info.left_right))
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
        frames = config.clip.num_segments * config.clip.frames_per_segment
        K = config.test.clips
        self.shape = Shape(K, config.test.crops, frames, config.test_crop, split.planes)
        self.max_bad_frames = _max_bad_frames(split, config, K * frames)

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
        self.plan = self.plan.rows(good)
        return [clips[row] for row in good], bad_frames

    def arguments(self) -> Arguments:
        """Return the arguments of `cut_evaluation`, and the regions of DALI; a row per video."""
        plan = self.plan
        return {
            "scaled": plan.sizes,
            "corners": plan.corners,
            "mirrored": np.tile(self._source.mirrored, (len(plan.clips), 1)),
            "regions": plan.regions,
        }

    def batch(self, views: Tensor | None, device: torch.device) -> Batch:
        """Return the decoded views ``(videos, V, T*L, S, S, C)`` as a batch padded with zeros.

        They are None if none of the videos has a good frame.
        """
        source = self._source
        num_rows = source.num_rows
        num_videos = len(self.plan.clips)
        x = views
        if x is None or num_videos < num_rows:
            x = torch.zeros(source.shape.of(num_rows), dtype=torch.uint8, device=device)
        if views is not None and num_videos < num_rows:
            x[:num_videos] = views
        x = x.unflatten(2, (source.config.clip.num_segments, -1))
        if source.config.clip.modality == "flow":
            _turn_motion(x.movedim(1, 0), torch.tensor(source.mirrored * source.config.test.clips))
        clips = torch.full((num_rows,), -1)
        clips[:num_videos] = torch.from_numpy(self.plan.clips)
        labels = labels_of(self._source.split, self._source.info, self.plan.clips, num_rows)
        return Batch(x, _copied(labels, device), _copied(clips, device))


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


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on `device`. The host does not wait for what the device computes meanwhile.

    A copy from ordinary memory would wait, and the loader would count that as waiting for data.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _turn_motion(x: Tensor, flips: Tensor) -> None:
    """Turn motion to the right into motion to the left, in the parts of x that are mirrored.

    ``x`` ``(N, ..., 2)`` holds x and y of flow, and ``flips`` ``(N,)`` is on the CPU. The middle
    127.5 is no motion, so v becomes 255 - v, which inverts all bits.
    """
    mask = _copied(flips.to(torch.uint8) * 255, x.device)
    x[..., 0].bitwise_xor_(mask.view(-1, *[1] * (x.dim() - 2)))
