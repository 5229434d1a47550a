"""Classification of a stream: a causal model reads one frame at a time and keeps a small state."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.load import ConfigError
from configs.schema import Config
from tin.deploy.rgb_frames import Frame, center_crop, source_frames
from tin.deploy.scorer import Scorer, check_frames
from tin.evaluation.predict import frames_input
from tin.models.causal import CausalInterlace, CausalShift
from tin.models.network import TIN


class Stream:
    """The state of B streams that are classified together, frame by frame."""

    def __init__(self, network: TIN):
        """Start new streams; the network must be causal and serves these streams only.

        Raises:
            ConfigError: the network is not causal.
        """
        modules = _causal_modules(network)
        for module in modules:
            module.start_stream(True)
        self._network = network
        self._recent: deque[Tensor] = deque(maxlen=network.num_segments)

    def step(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` up to the next frame of each stream, ``(B, L*3, S, S)``.

        They are the mean of the logits of all frames so far, or of the last T frames.
        """
        with torch.no_grad():
            self._recent.append(_frame_logits(self._network, x))
        return torch.stack(list(self._recent)).mean(0)


def logits_over_time(network: TIN, clips: Tensor) -> Tensor:
    """Return the logits ``(B, N, K)`` up to each frame of whole clips ``(B, N, L*3, S, S)``.

    A causal network takes clips of any length N; the result is that of `Stream`, computed at once.

    Raises:
        ConfigError: the network is not causal.
    """
    B, N = clips.shape[:2]
    T = network.num_segments
    with torch.no_grad(), _clips_of(network, N):
        frames = _frame_logits(network, clips.flatten(0, 1)).unflatten(0, (B, N))
    return torch.stack([frames[:, max(0, t - T + 1) : t + 1].mean(1) for t in range(N)], dim=1)


@dataclass(frozen=True)
class StreamPrediction:
    """The best classes of a stream up to a frame."""

    number: int
    """Number of the frame in the source, from 0."""
    seconds: float
    """Time of the frame; NaN if the source has no times."""
    classes: list[tuple[str, float]]
    """The most likely classes with their scores, best first."""


def predict_stream(
    model: Path, source: str, settings: Sequence[str], size: tuple[int, int] | None
) -> Iterator[StreamPrediction]:
    """Yield a prediction at every `clip.stride`-th frame of a stream.

    Args:
        model: folder of a run with `model.causal`, or one of its checkpoints.
        source: a video file, ``-`` for raw RGB frames on the standard input, or ``camera:DEVICE``.
        settings: ``section.key=value`` that `tin.deploy.scorer` allows.
        size: width and height of raw frames; None for other sources.

    Raises:
        ConfigError: the model is not causal, or does not sample at a stride.
        BadVideoError: the source cannot be read.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer = Scorer(model, settings, device)
    config = scorer.config
    check_streams(config)
    stream = Stream(scorer.network)
    for frame in source_frames(source, config, size):
        if frame.number % config.clip.stride:
            continue
        logits = stream.step(_input(frame, config).to(device)).float()
        scores = (logits.sigmoid() if config.train.loss == "bce" else logits.softmax(1))[0]
        best = np.argsort(-scores.cpu().numpy(), kind="stable")[: config.predict.top]
        classes = [(scorer.classes[k], float(scores[k])) for k in best]
        yield StreamPrediction(frame.number, frame.seconds, classes)


def check_streams(config: Config) -> None:
    """Raise ConfigError unless a model of these settings can read a stream."""
    if not config.model.causal:
        raise ConfigError("--stream needs a model that was trained with model.causal=true")
    check_frames(config, "--stream")
    if config.clip.sampling != "dense" or config.clip.frames_per_segment > 1:
        raise ConfigError(
            "--stream needs clip.sampling dense and clip.frames_per_segment 1, because a stream is"
            f" read at clip.stride; the model was trained with {config.clip.sampling} and"
            f" {config.clip.frames_per_segment}"
        )


def _input(frame: Frame, config: Config) -> Tensor:
    pixels = center_crop(frame.pixels, config)
    return frames_input(torch.tensor(pixels)[None, None], 1)[:, 0]


def _frame_logits(network: TIN, x: Tensor) -> Tensor:
    return network.fc(network.dropout(network.backbone(x))).float()


def _causal_modules(network: TIN) -> list[CausalShift | CausalInterlace]:
    """Return the causal modules of a network.

    Raises:
        ConfigError: it has none.
    """
    kinds = (CausalShift, CausalInterlace)
    found = [module for module in network.modules() if isinstance(module, kinds)]
    if not found:
        raise ConfigError("the network has no causal module; train it with model.causal=true")
    return found


@contextmanager
def _clips_of(network: TIN, num_frames: int) -> Iterator[None]:
    """Let the causal modules take clips of another length for a while."""
    modules = _causal_modules(network)
    before = [module.num_segments for module in modules]
    for module in modules:
        module.start_stream(False)
        module.num_segments = num_frames
    try:
        yield
    finally:
        for module, length in zip(modules, before, strict=True):
            module.num_segments = length
