"""What a training pass and an evaluation step are made of: plan, frames, tensors.

B clips, K clips of a video, C crops of a clip, T segments of L frames a clip, S side of the crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.errors import BAD_DATA, TinError
from configs.load import ConfigError
from configs.schema import Config
from pipeline.plan import (
    EvaluationPlan,
    TrainingPlan,
    epoch_order,
    evaluation_clips,
    plan_evaluation,
    plan_training,
    training_positions,
)
from pipeline.store import BadFrame, ClipFrames, FrameStore
from preprocess.shards import DatasetInfo, Split

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, in RGB, as the weights of the model zoos expect
STD = (0.229, 0.224, 0.225)
MIN_BAD_FRAMES = 20  # that an epoch may have, however small it is
LISTED = 20  # frames that an error names


class BadDataError(TinError):
    """More frames are damaged than `data.bad_frames` allows; the message lists them."""

    exit_code = BAD_DATA
    is_final = True


@dataclass(frozen=True)
class Batch:
    """What one step computes on; all three lie on the loader's device."""

    x: Tensor
    """``(B, T, L*3, S, S)``, in evaluation ``(B, V, T, L*3, S, S)`` with V = K*C, the crops of a
    clip together: float32 RGB, normalized with ImageNet's mean and deviation."""
    labels: Tensor
    """``(B,)`` int64, -1 without a label; of a multi-label dataset ``(B, classes)`` float32 of 0
    and 1."""
    clips: Tensor
    """``(B,)`` int64 rows of the split; -1 fills a last step, or stands for a video without a
    good frame, and is not to be scored."""


class Training:
    """Random clips of one rank, ``train.batch / train.accumulate`` a pass over all ranks."""

    def __init__(
        self, split: Split, info: DatasetInfo, config: Config, rank: int, world_size: int
    ) -> None:
        settings, self._order = config.train, epoch_order(split, config)
        self._split, self._info, self._config = split, info, config
        self._rank, self._world_size = rank, world_size
        self._pass_clips = settings.batch // settings.accumulate
        if self._pass_clips % world_size:
            raise ConfigError(
                f"train.batch {settings.batch} in {settings.accumulate} passes gives"
                f" {self._pass_clips} clips a pass, which {world_size} ranks do not divide"
            )
        if split.num_videos < settings.batch:
            raise ConfigError(
                f"train.batch {settings.batch} is more than the {split.num_videos} videos of"
                f" split {split.name} in {split.folder}"
            )
        self.num_steps = split.num_videos // settings.batch * settings.accumulate
        self.num_rows = self._pass_clips // world_size
        self.frames_per_row = config.clip.num_segments * config.clip.frames_per_segment
        self.limit = _limit(split, config, self.frames_per_row)

    def plan(self, epoch: int, step: int) -> TrainingPlan:
        """Return what this rank reads at a step."""
        places = training_positions(step, self._pass_clips, self._rank, self._world_size)
        return plan_training(self._split, self._config, self._order, epoch, places)

    def complete(
        self, epoch: int, plan: TrainingPlan, clips: list[ClipFrames], store: FrameStore
    ) -> tuple[TrainingPlan, list[ClipFrames], list[BadFrame]]:
        """Put the next clip of the order in the place of each that has no good frame.

        So the batch stays full, and holds the same at every number of ranks. Where there are more
        damaged frames than allowed no clips come back: the frames are enough to refuse.
        """
        bad_frames = [bad for clip in clips for bad in clip.bad_frames]
        for row in range(len(clips)):
            position = plan.positions[row]
            while not clips[row].jpegs:
                if len(bad_frames) > self.limit:
                    return plan, [], bad_frames
                position = (position + 1) % self._split.num_videos
                places = np.array([position])
                other = plan_training(self._split, self._config, self._order, epoch, places)
                clips[row] = store.read(int(other.clips[0]), other.frames[0].tolist())
                bad_frames += clips[row].bad_frames
                plan.put(row, other)
        return plan, clips, bad_frames

    def arguments(self, plan: TrainingPlan) -> dict[str, np.ndarray]:
        """Return the graph's inputs, a row a clip."""
        x, y, width, height = plan.boxes.astype(np.int32).T
        corner, size = np.stack([y, x], axis=1), np.stack([height, width], axis=1)
        return {"corner": corner, "size": size, "flip": plan.flips.astype(np.int32)}

    def batch(self, plan: TrainingPlan, views: list[Tensor], device: torch.device) -> Batch:
        """Return the frames of the graph as a batch."""
        settings, S = self._config.clip, self._config.clip.crop
        x = views[0].view(-1, settings.num_segments, settings.frames_per_segment * 3, S, S)
        labels = _labels(self._split, self._info, plan.clips, len(plan.clips))
        if self._config.augment.flip == "labels":
            flips, mirror = torch.from_numpy(plan.flips), torch.tensor(self._info.left_right)
            labels[flips] = _mirrored(labels[flips], mirror)
        return Batch(x, labels.to(device), torch.from_numpy(plan.clips).to(device))


class Evaluation:
    """Each video of a split once: ``test.batch`` of them a step on each rank."""

    def __init__(
        self, split: Split, info: DatasetInfo, config: Config, rank: int, world_size: int
    ) -> None:
        self._split, self._info, self._config = split, info, config
        self._rank, self._world_size = rank, world_size
        self.num_rows = config.test.batch
        self.num_steps = -(-split.num_videos // (self.num_rows * world_size))
        self.mirrored = [view >= 5 for view in range(config.test.crops)]
        clip_frames = config.clip.num_segments * config.clip.frames_per_segment
        self.frames_per_row = config.test.clips * clip_frames
        self.limit = _limit(split, config, self.frames_per_row)

    def plan(self, epoch: int, step: int) -> EvaluationPlan:
        """Return what this rank reads at a step, the same in every epoch."""
        num_videos = self._split.num_videos
        clips = evaluation_clips(step, num_videos, self.num_rows, self._rank, self._world_size)
        return plan_evaluation(self._split, self._config, clips)

    def complete(
        self, epoch: int, plan: EvaluationPlan, clips: list[ClipFrames], store: FrameStore
    ) -> tuple[EvaluationPlan, list[ClipFrames], list[BadFrame]]:
        """Leave out videos that have no good frame."""
        good = [row for row, clip in enumerate(clips) if clip.jpegs]
        bad_frames = [bad for clip in clips for bad in clip.bad_frames]
        kept = EvaluationPlan(plan.clips[good], plan.frames[good], plan.regions[good])
        return kept, [clips[row] for row in good], bad_frames

    def arguments(self, plan: EvaluationPlan) -> dict[str, np.ndarray]:
        """Return the graph's inputs, a row a video."""
        return {f"region{v}": plan.regions[:, v] for v in range(self._config.test.crops)}

    def batch(self, plan: EvaluationPlan, views: list[Tensor], device: torch.device) -> Batch:
        """Return the frames of the graph as a batch, rows without a video filled with 0."""
        config, n = self._config, len(plan.clips)
        T, S = config.clip.num_segments, config.test_crop
        shape = (T, config.clip.frames_per_segment * 3, S, S)
        x = torch.zeros(self.num_rows, config.test.clips, len(self.mirrored), *shape, device=device)
        for v, view in enumerate(views):
            x[:n, :, v] = view.view(n, config.test.clips, *shape)
        clips = torch.full((self.num_rows,), -1)
        clips[:n] = torch.from_numpy(plan.clips)
        labels = _labels(self._split, self._info, plan.clips, self.num_rows)
        return Batch(x.flatten(1, 2), labels.to(device), clips.to(device))


def refuse(bad_frames: Sequence[BadFrame], limit: int, split: Split) -> None:
    """Raise `BadDataError` if there are more ``bad_frames`` than ``limit``."""
    if len(bad_frames) <= limit:
        return
    named = [f"video {bad.clip} frame {bad.frame}: {bad.reason}" for bad in bad_frames[:LISTED]]
    raise BadDataError(
        f"{split.folder}: {len(bad_frames)} damaged frames in split {split.name}, more than"
        f" {limit}; `tin data verify` lists them all\n" + "\n".join(named)
    )


def _limit(split: Split, config: Config, frames_per_video: int) -> int:
    share = config.data.bad_frames * split.num_videos * frames_per_video
    return max(MIN_BAD_FRAMES, int(share))


def _labels(split: Split, info: DatasetInfo, clips: np.ndarray, num_rows: int) -> Tensor:
    """Return the labels of ``clips``, and of rows after them that no video fills."""
    found = [split.labels_of(clip) for clip in clips]
    if info.multi_label:
        labels = torch.zeros(num_rows, len(info.classes))
        for row, classes in enumerate(found):
            labels[row, torch.from_numpy(classes.astype(np.int64))] = 1
        return labels
    labels = torch.full((num_rows,), -1)
    labels[: len(found)] = torch.tensor([row[0] if len(row) else -1 for row in found])
    return labels


def _mirrored(labels: Tensor, mirror: Tensor) -> Tensor:
    """Return what labels become in a mirror: ``mirror`` ``(classes,)`` is its own inverse."""
    if labels.is_floating_point():
        return labels[:, mirror]
    return torch.where(labels < 0, labels, mirror[labels])
