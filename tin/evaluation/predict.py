"""Names the likeliest classes of video files, as `tin test` would score them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import nn

from configs.schema import Config
from pipeline.batches import MEAN, STD
from pipeline.plan import plan_evaluation
from preprocess.frame_folders import encode_folder
from preprocess.shards import FRAME_ROW, LABEL, VIDEO_ROW, Split
from preprocess.videos import BadVideoError, EncodedVideo, encode_video
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.restore import config_of, find_checkpoint, precision_of, restore

TOP = 5
GAP = 4  # pixels between the frames of a strip


@dataclass(frozen=True)
class Prediction:
    """What a model says of a video."""

    video: Path
    classes: list[tuple[str, float]]
    """The likeliest classes with their scores, best first; none where the video is bad."""
    frames: np.ndarray
    """uint8 ``(F, S, S, 3)``: the frames that the first view shows to the model."""
    problem: str = ""
    """Why the video cannot be used."""

    def record(self) -> dict[str, Any]:
        """Return what JSON should say."""
        classes = [{"class": name, "score": round(score, 6)} for name, score in self.classes]
        problem = {"problem": self.problem} if self.problem else {}
        return {"video": str(self.video), "classes": classes, **problem}


def predict(model: Path, videos: Sequence[Path]) -> Iterator[Prediction]:
    """Score videos one after the other, on a GPU where there is one.

    A video is scaled and compressed as `tin shard` does by the recipe's section `shard`, and seen
    in the clips and crops of its section `test`.

    Args:
        model: folder of a run, or a checkpoint file of one.
        videos: video files, or folders of frames.

    Raises:
        CheckpointError: there is no checkpoint that can be used.
    """
    if model.is_dir():
        run = Run(model)
        model = find_checkpoint(run, run.config().test.checkpoint)
    state = checkpoint.load(model)
    config, classes = config_of(state), state["classes"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = restore(state, config).to(device, memory_format=torch.channels_last)
    for video in videos:
        try:
            views = _views(_encoded(video, config), config)
        except BadVideoError as error:
            yield Prediction(video, [], np.zeros((0, 1, 1, 3), np.uint8), str(error))
            continue
        scores = _scores(network, views, config, device)
        best = np.argsort(-scores, kind="stable")[:TOP]
        yield Prediction(video, [(classes[k], float(scores[k])) for k in best], views[0])


def save_strip(predictions: Sequence[Prediction], path: Path) -> None:
    """Save the frames that were used as a picture, a row a video."""
    shown = [prediction.frames for prediction in predictions if len(prediction.frames)]
    if not shown:
        raise ValueError(f"{path} is not written: no video could be used")
    F, S = shown[0].shape[:2]
    step = S + GAP
    strip = np.full((len(shown) * step - GAP, F * step - GAP, 3), 255, np.uint8)
    for row, frames in enumerate(shown):
        for column, frame in enumerate(frames):
            strip[row * step : row * step + S, column * step : column * step + S] = frame
    Image.fromarray(strip).save(path)


def _encoded(video: Path, config: Config) -> EncodedVideo:
    return (encode_folder if video.is_dir() else encode_video)(video, config.shard)


def _views(video: EncodedVideo, config: Config) -> np.ndarray:
    """Return the frames of each view as the loader's evaluation cuts them, ``(V, F, S, S, 3)``."""
    row = (0, len(video.jpegs), video.source_frames, video.width, video.height, 0)
    nothing = np.zeros(0, FRAME_ROW), np.zeros(0, LABEL)
    split = Split("", Path(), np.array([row], VIDEO_ROW), *nothing)
    plan = plan_evaluation(split, config, np.array([0]))
    clips = plan.frames[0].reshape(config.test.clips, -1)
    images = {
        frame: Image.fromarray(simplejpeg.decode_jpeg(video.jpegs[frame]))
        for frame in set(clips.reshape(-1).tolist())
    }
    views = [
        [_cut(images[frame], region, view >= 5, config.test_crop) for frame in clip.tolist()]
        for clip in clips
        for view, region in enumerate(plan.regions[0].tolist())
    ]
    return np.array(views)


def _cut(image: Image.Image, region: Sequence[float], mirrored: bool, side: int) -> np.ndarray:
    top, left, bottom, right = region
    box = (left, top, min(right, image.width), min(bottom, image.height))
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box))
    return pixels[:, ::-1] if mirrored else pixels


def _scores(
    network: nn.Module, views: np.ndarray, config: Config, device: torch.device
) -> np.ndarray:
    V, _, S = views.shape[:3]
    mean, std = (torch.tensor(values, device=device) for values in (MEAN, STD))
    x = (torch.from_numpy(views).to(device) / 255 - mean) / std
    x = x.permute(0, 1, 4, 2, 3).reshape(V, config.clip.num_segments, -1, S, S)
    bfloat16 = precision_of(config, device) == "bfloat16"
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        logits = network(x).float()
    scores = logits.sigmoid() if config.train.loss == "bce" else logits.softmax(1)
    return scores.mean(0, dtype=torch.float64).cpu().numpy()
