"""Names the most likely classes of video files, which are scored as in `tin test`."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import nn

from configs.files import write_bytes
from configs.load import ConfigError
from configs.schema import Config
from pipeline.plan import plan_evaluation
from preprocess.frame_folders import encode_folder
from preprocess.shards import Split
from preprocess.tables import FRAME_ROW, LABEL, VIDEO_ROW
from preprocess.videos import BadVideoError, EncodedVideo, encode_video
from tin.evaluation.averages import average
from tin.evaluation.scores import ScoresError
from tin.models.clip_input import normalized
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.restore import find_checkpoint, precision_of, restore, trusted_config

TOP = 5
GAP = 4  # pixels between the frames of a strip
UPRIGHT_CROPS = 5  # of ten crops, the last five are the first five in a mirror


@dataclass(frozen=True)
class Prediction:
    """The classes that a model predicts for a video."""

    video: Path
    classes: list[tuple[str, float]]
    """The most likely classes with their scores, best first; empty if the video cannot be used."""
    frames: np.ndarray
    """uint8 ``(F, S, S, 3)``: the frames of the first view."""
    problem: str = ""
    """The reason why the video cannot be used."""

    def record(self) -> dict[str, Any]:
        """Return the prediction for JSON."""
        classes = [{"class": name, "score": round(score, 6)} for name, score in self.classes]
        record: dict[str, Any] = {"video": str(self.video), "classes": classes}
        if self.problem:
            record["problem"] = self.problem
        return record


def predict(model: Path, videos: Sequence[Path]) -> Iterator[Prediction]:
    """Score videos one after the other, on a GPU if there is one.

    A video is scaled and compressed as in `tin shard` with the settings `shard` of the recipe. The
    model sees it in the clips and crops of the settings `test`.

    Args:
        model: folder of a run, or one of its checkpoint files.
        videos: video files, or folders of frames.

    Raises:
        CheckpointError: no checkpoint can be used.
        ConfigError: the model sees optical flow.
    """
    if model.is_dir():
        run = Run(model)
        model = find_checkpoint(run, run.config().test.checkpoint)
    state = checkpoint.load(model)
    config = trusted_config(model, state)
    if config.clip.modality == "flow":
        raise ConfigError(
            f"{model} sees optical flow, which `tin predict` does not compute from videos. Make a"
            " dataset with `tin shard ... shard.flow=dis` and run `tin test` on it."
        )
    classes = state["classes"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = restore(state, config)
    # torch's stubs do not know memory_format
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for video in videos:
        try:
            views = views_of(encoded(video, config), config)
        except BadVideoError as error:
            yield Prediction(video, [], np.zeros((0, 1, 1, 3), np.uint8), str(error))
            continue
        try:
            scores = _scores(network, views, config, device)
        except ScoresError as error:
            yield Prediction(video, [], views[0], str(error))
            continue
        best = np.argsort(-scores, kind="stable")[:TOP]
        yield Prediction(video, [(classes[k], float(scores[k])) for k in best], views[0])


def save_strip(predictions: Sequence[Prediction], path: Path) -> None:
    """Save the frames of the first views as one picture with a row for each video.

    Raises:
        ValueError: none of the videos could be used, or the suffix is not that of a picture.
    """
    shown = [prediction.frames for prediction in predictions if len(prediction.frames)]
    if not shown:
        raise ValueError(f"cannot write {path}: none of the videos could be used")
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"cannot write {path}: unknown picture format; use a name ending in .png")
    F, S = shown[0].shape[:2]
    step = S + GAP
    strip = np.full((len(shown) * step - GAP, F * step - GAP, 3), 255, np.uint8)
    for row, frames in enumerate(shown):
        for column, frame in enumerate(frames):
            strip[row * step : row * step + S, column * step : column * step + S] = frame
    picture = io.BytesIO()
    Image.fromarray(strip).save(picture, kind)
    write_bytes(path, picture.getvalue())


def encoded(video: Path, config: Config) -> EncodedVideo:
    """Return a video file or a folder of frames as `tin shard` stores it.

    Raises:
        BadVideoError: the video cannot be used.
    """
    encode = encode_folder if video.is_dir() else encode_video
    return encode(video, config.shard)


def split_of(video: EncodedVideo) -> Split:
    """Return a split that holds this video alone, to plan its clips and crops."""
    row = (0, len(video.jpegs), video.source_frames, video.width, video.height, 0)
    videos = np.array([row], VIDEO_ROW)
    return Split("", Path(), videos, np.zeros(0, FRAME_ROW), np.zeros(0, LABEL))


def views_of(video: EncodedVideo, config: Config) -> np.ndarray:
    """Return the frames of each view as the loader's evaluation cuts them.

    The result is uint8 ``(V, F, S, S, 3)`` for F = T*L frames of a clip.
    """
    plan = plan_evaluation(split_of(video), config, np.array([0]))
    clips = plan.frames[0].reshape(config.test.clips, -1)

    # Decode each frame once, although clips may share it.
    images = {
        frame: Image.fromarray(simplejpeg.decode_jpeg(video.jpegs[frame]))
        for frame in set(clips.reshape(-1).tolist())
    }

    # Cut the crops of each clip.
    views = [
        [
            cut(images[frame], region, crop >= UPRIGHT_CROPS, config.test_crop)
            for frame in clip.tolist()
        ]
        for clip in clips
        for crop, region in enumerate(plan.regions[0].tolist())
    ]
    return np.array(views)


def cut(image: Image.Image, region: Sequence[float], mirrored: bool, side: int) -> np.ndarray:
    """Return a region (top, left, bottom, right) of a frame, scaled to ``(side, side, 3)``."""
    top, left, bottom, right = region
    box = (left, top, min(right, image.width), min(bottom, image.height))
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box))
    return pixels[:, ::-1] if mirrored else pixels


def frames_input(frames: torch.Tensor, num_segments: int) -> torch.Tensor:
    """Return uint8 frames ``(V, T*L, S, S, 3)`` as the network's input ``(V, T, L*3, S, S)``."""
    return normalized(frames.unflatten(1, (num_segments, -1)))


def _scores(
    network: nn.Module, views: np.ndarray, config: Config, device: torch.device
) -> np.ndarray:
    """Return the class probabilities of a video, averaged over its views, float64 ``(K,)``."""
    x = frames_input(torch.from_numpy(views).to(device), config.clip.num_segments)
    bfloat16 = precision_of(config, device) == "bfloat16"
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        logits = network(x).float()
    multi_label = config.train.loss == "bce"
    scores = logits.sigmoid() if multi_label else logits.softmax(1)
    mean = average(scores.cpu().numpy(), config.test.average, multi_label)
    if not np.isfinite(mean).all():
        raise ScoresError("the model's scores are NaN or infinite, so no class is named")
    return mean
