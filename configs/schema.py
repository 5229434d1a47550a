"""Every setting of a recipe: its type, default, unit and meaning, in one place.

The defaults are TIN's own recipe (ResNet-50, 8 frames, Something-Something v1).
"""

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Fraction = Field(ge=0, le=1)


class Settings(BaseModel):
    """A group of settings: frozen, strict, unknown keys forbidden."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True
    )


class ShardSettings(Settings):
    """How `tin shard` turns videos into a dataset; the command names source and dataset."""

    source: str = ""
    """Folder of videos or frame folders; relative paths of annotations start here."""
    labels: str = ""
    """Labels CSV (path,labels,split[,key][,group][,reverse]); empty: a folder per class."""
    format: str = ""
    """Annotations as they are distributed: sthv1, sthv2, jester, kinetics, ucf101, hmdb51, mit,
    mmit or lists (of TIN); empty: labels CSV or folders. `direction` takes either, each video
    forwards and backwards as the two classes."""
    annotations: str = ""
    """File or folder of the annotation format; empty is the source folder."""
    fold: Literal[1, 2, 3] = 1
    """Which of their three divisions into train and val UCF101 and HMDB51 are read in."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of groups that go to `val` where the annotations name no split."""
    multi_label: bool = False
    """A video may have several labels (or none)."""
    short_side: PositiveInt = 256
    """Short side of stored frames, in pixels; smaller videos are not enlarged."""
    quality: int = Field(90, ge=1, le=100)
    """JPEG quality."""
    fps: NonNegativeFloat = 0.0
    """Resample to this frame rate by timestamp; 0 keeps the frames as decoded."""
    frame_cap: NonNegativeInt = 0
    """Most frames kept of a video, thinned evenly; 0 keeps all. Refused for dense sampling."""
    shard_mb: PositiveFloat = 1000.0
    """Wanted size of a shard in 10^6 bytes; fixes the videos per shard before encoding."""
    parts: PositiveInt = 1
    """Jobs that encode in parallel."""
    seed: NonNegativeInt = 0
    """Seed of the shuffle that spreads the videos over the shards."""


class DataSettings(Settings):
    """Which dataset, and how it is read."""

    dataset: str = ""
    """Folder of a dataset, or its name in site.yaml."""
    train_split: str = "train"
    """Split that is trained on."""
    test_split: str = "val"
    """Split that is measured after an epoch and by `tin test`."""
    order: Literal["global", "local"] = "global"
    """Shuffle over the whole epoch, or shards first and then inside a window of shards."""
    window_shards: PositiveInt = 16
    """Shards that `order: local` mixes at a time."""
    bad_frames: float = Field(0.001, ge=0, le=1)
    """Share of an epoch's frames that may be damaged (and at least 20) before the run stops."""


class ClipSettings(Settings):
    """How a video becomes model input."""

    num_segments: PositiveInt = 8
    """Frames per clip."""
    frames_per_segment: PositiveInt = 1
    """Neighbouring frames stacked as channels at each segment; 1 for RGB."""
    sampling: Literal["uniform", "dense", "reference", "reference_dense"] = "uniform"
    """One frame of each equal part, or frames at a stride; `reference*` copies the original."""
    stride: PositiveInt = 8
    """Frames from one sampled frame to the next, for dense sampling."""
    crop: PositiveInt = 224
    """Side of the square crop, in pixels."""
    resize: PositiveInt = 256
    """Short side that a frame is scaled to before a test crop, in pixels."""


class AugmentSettings(Settings):
    """Random changes of training clips, the same for all frames of a clip."""

    scales: tuple[PositiveFloat, ...] = (1.0, 0.875, 0.75, 0.66)
    """Sides of multi-scale crops, as shares of the short side."""
    max_distort: NonNegativeInt = 1
    """How many scales width and height may lie apart."""
    flip: Literal["none", "random", "labels"] = "none"
    """Mirror half of the clips; `labels` swaps left-right classes with them."""
    color_jitter: NonNegativeFloat = 0.0
    """Strength of random brightness, contrast and saturation; 0 is off."""
    randaugment_ops: NonNegativeInt = 0
    """Operations of RandAugment a clip; 0 is off."""
    randaugment_magnitude: float = Field(9.0, ge=0, le=10)
    """Strength of RandAugment's operations."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of mixup's Beta distribution; 0 is off."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of cutmix's Beta distribution; 0 is off. With mixup too, each step draws one."""


class ModelSettings(Settings):
    """The network."""

    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Backbone, with torchvision's tensor names."""
    temporal: str = "interlace"
    """none (TSN), shift (TSM), interlace (TIN), conv (r-TCN), or `package.module:Class`."""
    shift_div: PositiveInt = 4
    """One of so many channels is shifted or interlaced (TIN 4, TSM 8)."""
    dropout: float = Field(0.8, ge=0, lt=1)
    """Dropout before the classifier."""
    init: str = "imagenet"
    """Starting weights: imagenet (from the cache), none, or a checkpoint file of any zoo."""
    init_interpolate: bool = False
    """Fit offset nets of another number of frames by interpolation instead of refusing them."""


class OptimSettings(Settings):
    """SGD and its schedule."""

    lr: PositiveFloat = 0.02
    """Learning rate, for a global batch of `lr_batch` clips."""
    lr_batch: PositiveInt = 48
    """Global batch that `lr` belongs to."""
    scale_lr: bool = False
    """Scale `lr` linearly when `train.batch` differs from `lr_batch`."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NonNegativeFloat = 5e-4
    """Weight decay of convolution and linear weights."""
    schedule: Literal["cosine", "step"] = "cosine"
    """How the learning rate falls."""
    milestones: tuple[PositiveInt, ...] = (10, 20, 30)
    """Epochs at which `step` multiplies the learning rate by `gamma`."""
    gamma: PositiveFloat = 0.1
    """Factor of each milestone."""
    warmup_epochs: NonNegativeFloat = 1.0
    """Epochs of linear warm-up from lr/10, by step; 0 is off."""
    clip_norm: NonNegativeFloat = 20.0
    """Largest norm of the whole gradient; 0 is off."""
    groups: Literal["module", "reference", "single"] = "module"
    """TIN's parameter groups by module, the same as the original counts them, or just one."""
    classifier_lr: PositiveFloat = 5.0
    """Factor of the classifier's weight (its bias: twice that) where groups are used."""


class TrainSettings(Settings):
    """The training loop."""

    epochs: PositiveInt = 40
    """Passes over the training split."""
    batch: PositiveInt = 48
    """Clips of an optimizer step, over all ranks."""
    accumulate: PositiveInt = 1
    """Passes that one optimizer step is cut into."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""
    loss: Literal["nll", "bce"] = "nll"
    """Cross entropy, or binary cross entropy for several labels a video."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that goes to all classes evenly."""
    bn: Literal["full", "partial", "frozen", "sync"] = "partial"
    """BatchNorm that trains: all, the first only, none, or all with statistics of all ranks."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast type; auto is bfloat16 on a GPU and float32 on a CPU."""
    compile: bool = False
    """Compile the model with torch.compile."""
    deterministic: bool = False
    """Same bits every run on a GPU, at a cost in speed; a CPU always gives them."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is then tested; 0 is off."""
    evaluate_every: PositiveInt = 1
    """Epochs between measurements of the test split; the last epoch is always measured."""
    nan: Literal["stop", "skip"] = "stop"
    """What a loss that is no number does: stop the run, or skip the step and count it."""


class TestSettings(Settings):
    """How a trained model is measured."""

    clips: PositiveInt = 1
    """Clips of a video."""
    crops: Literal[1, 3, 5, 10] = 1
    """Crops of a clip: center; 3 along the longer side; corners and center; with mirrors."""
    crop: NonNegativeInt = 0
    """Side of the square test crop in pixels; 0 is `clip.crop`."""
    batch: PositiveInt = 16
    """Videos of a step on one rank."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of the run."""


class RunSettings(Settings):
    """How a run is executed. These may change when a run continues."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """A GPU where there is one, else the CPU."""
    threads: NonNegativeInt = 0
    """Decoding threads of a rank; 0 takes the CPUs that the task has."""
    readers: PositiveInt = 16
    """Threads that read frames."""
    prefetch: PositiveInt = 3
    """Batches that are read ahead."""
    log_steps: PositiveInt = 20
    """Steps between two lines of the log and of steps.csv."""
    offset_steps: NonNegativeInt = 0
    """Steps between two records of offsets and weights for TensorBoard; 0 is off."""
    checkpoint_minutes: NonNegativeFloat = 10.0
    """Minutes between two checkpoints inside an epoch; 0 is off."""
    checkpoint_steps: NonNegativeInt = 0
    """Steps between two checkpoints inside an epoch; 0 is off."""
    hang_minutes: NonNegativeFloat = 10.0
    """Minutes without a step that count as a hang; 0 is off."""
    max_restarts: NonNegativeInt = 20
    """Starts that a run may take by itself after a failure."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    check_node: bool = True
    """Check the node before the first step of a job."""


class Config(Settings):
    """A recipe, resolved."""

    recipe: str = ""
    """Name of the recipe, set when it is loaded."""
    source: str = ""
    """Paper, repository or zoo that the recipe follows."""
    note: str = ""
    """What readers of its results should know; reports print it."""
    published: float | None = Field(None, ge=0, le=1)
    """Published accuracy (or mAP) that the recipe stands for, as a fraction."""
    published_metric: Literal["top1", "map_class", "map_sample"] = "top1"
    """What `published` measures."""
    shard: ShardSettings = ShardSettings()
    data: DataSettings = DataSettings()
    clip: ClipSettings = ClipSettings()
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    test: TestSettings = TestSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _combinations(self) -> "Config":
        train, clip, warmup = self.train, self.clip, self.optim.warmup_epochs
        if train.batch % train.accumulate:
            raise ValueError(
                f"train.batch {train.batch} is no multiple of train.accumulate {train.accumulate}"
            )
        if clip.sampling in ("dense", "reference_dense") and self.shard.frame_cap:
            raise ValueError(
                f"clip.sampling {clip.sampling} needs all frames, but shard.frame_cap"
                f" is {self.shard.frame_cap}; set shard.frame_cap=0"
            )
        if train.loss == "bce" and train.label_smoothing:
            raise ValueError("train.label_smoothing goes with train.loss nll, not with bce")
        if warmup >= train.epochs:
            raise ValueError(
                f"optim.warmup_epochs {warmup:g} leaves nothing of train.epochs {train.epochs}"
            )
        if self.test_crop > clip.resize:
            raise ValueError(
                f"a test crop of {self.test_crop} pixels does not fit clip.resize {clip.resize}"
            )
        return self

    @property
    def test_crop(self) -> int:
        """Side of the square test crop, in pixels."""
        return self.test.crop or self.clip.crop

    @property
    def lr(self) -> float:
        """Learning rate of the global batch that is trained with."""
        scale = self.train.batch / self.optim.lr_batch if self.optim.scale_lr else 1.0
        return self.optim.lr * scale
