"""Settings of a recipe for predictions: `tin predict --out`, its stage, timelines and streams."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from configs.settings import Settings


class PredictSettings(Settings):
    """What `tin predict` writes. None of these settings changes a trained model."""

    source: str = ""
    """What the stage `predict` of `tin submit` reads: a dataset, a folder of videos, a list, or a
    video. Empty is the split `data.test_split` of `data.dataset`."""
    part: PositiveInt = 512
    """Number of videos in a part, rounded up to a multiple of `test.batch`. A finished part is not
    computed again after an interruption."""
    top: PositiveInt = 5
    """Number of classes that are written for each video, best first."""
    scores: bool = False
    """Also write the scores of all classes to scores.npy."""
    features: bool = False
    """Also write the pooled input of the classifier to features.npy."""
    format: Literal["csv", "parquet"] = "csv"
    """Format of the predictions. `parquet` needs the extra `parquet`."""
    stride: NonNegativeInt = 0
    """Timelines: distance between two frames of a window, in frames of the video; 0 uses
    `clip.stride`."""
    step: NonNegativeInt = 0
    """Timelines: distance between two windows, in frames at the stride; 0 is half of a window."""
    threshold: float = Field(0.5, ge=0, le=1)
    """Timelines: lowest score of a class within a segment."""
    min_seconds: NonNegativeFloat = 1.0
    """Timelines: shortest segment, in seconds."""
