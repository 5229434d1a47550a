"""Settings of a recipe for its dataset, and the rules that they follow."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from configs.settings import Settings
from configs.train_schema import TrainSettings


class DataSettings(Settings):
    """Which dataset a run uses, and in which order it reads it."""

    dataset: str = ""
    """Folder of a dataset, or its name in site.yaml."""
    train_split: str = "train"
    """Split to train on."""
    test_split: str = "val"
    """Split to evaluate during training and in `tin test`."""
    order: Literal["global", "local"] = "global"
    """Order of an epoch. `global` shuffles all videos. `local` shuffles the shards, then the videos
    within each window of `window_shards` shards, so that reads stay in few files."""
    window_shards: PositiveInt = 16
    """Number of shards in a window of `order: local`."""
    balanced: bool = False
    """Draw equally many training clips of each class. An epoch keeps its number of clips: videos of
    small classes are repeated with other crops, those of large classes take turns."""
    folds: NonNegativeInt = 0
    """Cross-validation: divide the groups of `train_split` into this many folds, and train on all
    but one. `test_split: fold` evaluates on that one. 0 disables it."""
    fold: NonNegativeInt = 0
    """Which of the `folds` is held out, counted from 0."""
    bad_frames: float = Field(0.001, ge=0, le=1)
    """Fraction of an epoch's frames that may be damaged before the run stops. 20 damaged frames are
    always allowed."""


def check_data(data: DataSettings, train: TrainSettings) -> None:
    """Reject settings of section `data` that are impossible together, or with those of `train`.

    Raises:
        ValueError: names two settings and says what to change.
    """
    if data.folds == 1 or data.fold >= max(data.folds, 1):
        raise ValueError(
            f"data.fold {data.fold} of data.folds {data.folds} does not exist; set data.folds to 2"
            " or more, and data.fold to a number below it"
        )
    if data.balanced and data.order == "local":
        raise ValueError(
            "data.balanced draws from all shards, but data.order is local; set data.order=global"
        )
    if data.balanced and train.loss == "bce":
        raise ValueError(
            "data.balanced needs one label per video, but train.loss is bce; leave it out"
        )
    if data.balanced and train.class_weights != "none":
        raise ValueError(
            f"data.balanced and train.class_weights {train.class_weights} would both correct the"
            " same imbalance; set data.balanced=false or train.class_weights=none"
        )
