"""All settings of a recipe: the sections about data, and the rules between sections.

Each setting has its type, default, unit and meaning here or in `configs.train_schema`. The defaults
are TIN's own recipe (ResNet-50, 8 frames, Something-Something v1).
"""

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from configs.data_schema import DataSettings, check_data
from configs.predict_schema import PredictSettings
from configs.settings import Settings
from configs.train_schema import (
    ModelSettings,
    OptimSettings,
    RunSettings,
    TestSettings,
    TrainSettings,
    check_training_sections,
)


class ShardSettings(Settings):
    """How `tin shard` turns videos into a dataset. Its arguments name source and dataset."""

    source: str = ""
    """Folder of videos or of frame folders. Relative paths in the annotations start here."""
    labels: str = ""
    """Labels CSV with the columns path,labels[,split][,key][,group][,reverse]. Empty: the classes
    come from `format`, or from a folder per class."""
    format: str = ""
    """Format of a public dataset's own annotation files: sthv1, sthv2, jester, kinetics, ucf101,
    hmdb51, mit, mmit, or lists (of the original TIN code). Empty: `labels` or a folder per class.
    `direction` is like empty, but stores each video twice, as class forwards and as backwards."""
    annotations: str = ""
    """File or folder that `format` reads; empty is the source folder."""
    fold: Literal[1, 2, 3] = 1
    """Which of the three official train and test lists of UCF101 or HMDB51 is used."""
    held_out: float | None = Field(None, ge=0, lt=1)
    """Fraction of the groups of each class that becomes `val`, among videos whose annotations name
    no split. 0 puts all of them into `train`. Null: 0.2 if no video has a split, otherwise 0."""
    multi_label: bool = False
    """Allow several labels per video, or none."""
    flow: Literal["none", "folders", "dis"] = "none"
    """Make a dataset of optical flow: read from folders of flow images (`folders`), or computed
    from videos or frames by OpenCV's DIS (`dis`), which needs the extra `flow`."""
    short_side: PositiveInt = 256
    """Short side of the stored frames, in pixels. Smaller videos are not enlarged."""
    quality: int = Field(90, ge=1, le=100)
    """JPEG quality of the stored frames, from 1 to 100."""
    fps: NonNegativeFloat = 0.0
    """Resample videos to this many frames per second, by timestamp; 0 keeps the frames as
    decoded."""
    frame_cap: NonNegativeInt = 0
    """Maximum number of stored frames per video; longer videos are thinned evenly. 0 keeps all
    frames, which dense sampling requires."""
    max_seconds: PositiveFloat = 600.0
    """Time that one video may take, in seconds. A video that takes longer goes to quarantine,
    or to bad.csv of `tin predict`."""
    shard_mb: PositiveFloat = 1000.0
    """Target size of a shard, in 10^6 bytes. It fixes the number of videos per shard before the
    first video is encoded."""
    parts: PositiveInt = 1
    """Number of jobs that encode in parallel."""
    seed: NonNegativeInt = 0
    """Seed of the shuffle that spreads the videos over the shards, and of the `held_out` groups."""


Modality = Literal["rgb", "diff", "flow"]


class ClipSettings(Settings):
    """How a video becomes model input."""

    modality: Modality = "rgb"
    """What the model sees: frames (`rgb`), differences of neighboring frames (`diff`), or optical
    flow (`flow`), which needs a dataset of flow."""
    num_segments: PositiveInt = 8
    """Number of segments of a clip (T). Each contributes one frame to an RGB clip."""
    frames_per_segment: PositiveInt = 1
    """Number of consecutive frames per segment (L), which are stacked as channels. The originals
    have 1 for RGB, 6 for `modality: diff` (5 differences) and 5 for `modality: flow`."""
    sampling: Literal["uniform", "dense", "reference", "reference_dense"] = "uniform"
    """How frames are sampled. `uniform`: from T equal parts of the video. `dense`: at a distance of
    `stride`. `reference` and `reference_dense` reproduce the original's code with its defects."""
    stride: PositiveInt = 8
    """Distance between two sampled frames, in frames; only dense sampling uses it."""
    crop: PositiveInt = 224
    """Side of the square crop, in pixels. `test.crop` may set another one for tests."""
    resize: PositiveInt = 256
    """Short side to which a frame is scaled before a test crop, in pixels."""


class AugmentSettings(Settings):
    """Random changes of training clips. All frames of a clip are changed alike."""

    scales: tuple[PositiveFloat, ...] = (1.0, 0.875, 0.75, 0.66)
    """Possible sides of multi-scale crops, as fractions of the frame's short side."""
    max_distort: NonNegativeInt = 1
    """Maximum distance between the scales of width and height, in places of `scales`; 0 allows
    square crops only."""
    flip: Literal["none", "random", "labels"] = "none"
    """Mirror half of the clips (`random`), also swap their left and right classes (`labels`), or
    mirror no clip (`none`)."""
    color_jitter: NonNegativeFloat = 0.0
    """Strength s of random brightness, contrast and saturation: each factor lies between 1 - s and
    1 + s. 0 disables it."""
    randaugment_ops: NonNegativeInt = 0
    """Number of RandAugment operations per clip; 0 disables RandAugment."""
    randaugment_magnitude: float = Field(9.0, ge=0, le=10)
    """Strength of RandAugment's operations, from 0 to 10."""
    randaugment_policy: Literal["paper", "mmaction2"] = "paper"
    """Operations of RandAugment: those of its paper, or the 15 of MMAction2, which have other
    strengths and are not repeated within a clip."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of mixup's Beta distribution; 0 disables mixup."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of cutmix's Beta distribution; 0 disables cutmix. With mixup and cutmix, each pass
    applies one of them, drawn at random."""


class Config(Settings):
    """A recipe with all of its settings."""

    recipe: str = ""
    """Name of the recipe. Loading a recipe sets it."""
    source: str = ""
    """Paper, repository or model zoo that the recipe follows."""
    note: str = ""
    """Remark for readers of the results. Reports print it."""
    published: float | None = Field(None, ge=0, le=1)
    """Published accuracy or mAP of this recipe, as a fraction; null if there is none."""
    published_metric: Literal["top1", "map_class", "map_sample"] = "top1"
    """Metric of `published`."""
    shard: ShardSettings = ShardSettings()
    data: DataSettings = DataSettings()
    clip: ClipSettings = ClipSettings()
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    test: TestSettings = TestSettings()
    predict: PredictSettings = PredictSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _check_combinations(self) -> "Config":
        """Reject settings that are valid one by one but impossible together."""
        train = self.train
        clip = self.clip
        check_training_sections(self.model, self.optim, train)
        check_data(self.data, train)
        if train.bn_clips and train.bn == "sync":
            raise ValueError(
                f"train.bn_clips {train.bn_clips} computes statistics over groups of clips, but"
                " train.bn sync computes them over all ranks; set train.bn_clips=0 or train.bn=full"
            )
        if train.batch % train.accumulate:
            raise ValueError(
                f"train.batch {train.batch} is not a multiple of"
                f" train.accumulate {train.accumulate}; change one of them"
            )
        if train.compile == "graphs" and train.bn == "sync":
            raise ValueError(
                "train.bn sync exchanges statistics in the middle of a pass, which train.compile"
                " graphs cannot capture; set train.compile=none, or another train.bn"
            )
        if clip.modality == "diff" and clip.frames_per_segment < 2:
            raise ValueError(
                "clip.modality diff subtracts neighboring frames, but clip.frames_per_segment is"
                f" {clip.frames_per_segment}; set clip.frames_per_segment=6, as TSN does"
            )
        if clip.modality == "flow" and (self.augment.color_jitter or self.augment.randaugment_ops):
            raise ValueError(
                "clip.modality flow has no colors, but augment.color_jitter or"
                " augment.randaugment_ops is set; set both to 0"
            )
        if clip.sampling in ("dense", "reference_dense") and self.shard.frame_cap:
            raise ValueError(
                f"clip.sampling {clip.sampling} needs all frames of a video, but shard.frame_cap is"
                f" {self.shard.frame_cap}; set shard.frame_cap=0"
            )
        if self.test.last_checkpoints > 1 and self.test.checkpoint == "best":
            raise ValueError(
                f"test.last_checkpoints {self.test.last_checkpoints} averages the last checkpoints,"
                " but test.checkpoint is best; set test.checkpoint=last"
            )
        if self.test.sampling == "twice":
            if clip.sampling in ("dense", "reference_dense"):
                raise ValueError(
                    f"test.sampling twice takes a frame of each segment of the video, but"
                    f" clip.sampling is {clip.sampling}; set test.sampling=clip"
                )
            if self.test.clips > 2:
                raise ValueError(
                    f"test.sampling twice has 2 clips, but test.clips is {self.test.clips}; set"
                    " test.clips=2 or test.sampling=clip"
                )
        if train.loss == "bce" and train.label_smoothing:
            raise ValueError(
                f"train.label_smoothing {train.label_smoothing:g} works only with train.loss nll,"
                " but train.loss is bce; set train.label_smoothing=0"
            )
        if self.augment.randaugment_policy == "mmaction2" and self.augment.randaugment_ops > 15:
            raise ValueError(
                f"augment.randaugment_ops {self.augment.randaugment_ops} is more than the 15"
                " operations of augment.randaugment_policy mmaction2, which are not repeated"
            )
        warmup = self.warmup_epochs
        if self.optim.schedule == "xtemporal" and warmup >= self.optim.cosine_epochs:
            raise ValueError(
                f"optim.warmup_epochs {warmup:g} is not less than optim.cosine_epochs"
                f" {self.optim.cosine_epochs}, where optim.schedule xtemporal is 0; shorten the"
                " warm-up or raise optim.cosine_epochs"
            )
        if self.model.arch == "mobilenetv2":
            for name in ("non_local", "temporal_pool"):
                value = getattr(self.model, name)
                if value not in ("none", False):
                    raise ValueError(
                        f"model.{name} works only with a ResNet, but model.arch is mobilenetv2;"
                        f" leave model.{name} out or choose another model.arch"
                    )
        if self.model.temporal_pool and clip.num_segments % 2:
            raise ValueError(
                f"model.temporal_pool halves the frames of a clip, but clip.num_segments is"
                f" {clip.num_segments}; choose an even number"
            )
        if self.test_crop > clip.resize:
            raise ValueError(
                f"the test crop of {self.test_crop} pixels is larger than clip.resize"
                f" {clip.resize}; set a smaller test.crop or a larger clip.resize"
            )
        return self

    @property
    def test_crop(self) -> int:
        """Side of the square test crop, in pixels."""
        return self.test.crop or self.clip.crop

    @property
    def warmup_epochs(self) -> float:
        """Length of the warm-up: half of the run if `optim.warmup_epochs` takes all of it."""
        wanted = self.optim.warmup_epochs
        return wanted if wanted < self.train.epochs else self.train.epochs / 2

    @property
    def lr(self) -> float:
        """Learning rate for the global batch `train.batch`."""
        scale = self.train.batch / self.optim.lr_batch if self.optim.scale_lr else 1.0
        return self.optim.lr * scale
