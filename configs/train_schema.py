"""Settings of a recipe for the model, its optimizer, and how a run trains, tests and executes.

The defaults are TIN's own recipe (ResNet-50, 8 frames, Something-Something v1).
"""

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from configs.settings import Settings

Arch = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenetv2"]
NonLocalKind = Literal["none", "embedded_gaussian", "gaussian", "dot_product"]


class ModelSettings(Settings):
    """The network."""

    arch: Arch = "resnet50"
    """Backbone network. Its tensors have torchvision's names."""
    temporal: str = "interlace"
    """Temporal module of the residual blocks: none (TSN), shift (TSM), interlace (TIN), conv
    (r-TCN), or `package.module:Class` for a module of your own."""
    shift_div: PositiveInt = 4
    """Shift or interlace 1/shift_div of the channels (TIN: 4, TSM: 8). `shift` moves this share in
    each direction."""
    causal: bool = False
    """Let each frame depend on itself and earlier frames only, so that a stream can be classified
    frame by frame. `temporal` must be none, shift or interlace."""
    non_local: NonLocalKind = "none"
    """Similarity of the non-local blocks behind every second block of layers 2 and 3 of a ResNet;
    `none` builds no such blocks. TIN and TSM have `embedded_gaussian`."""
    temporal_pool: bool = False
    """Halve the number of frames before layer 2 of a ResNet, by a maximum over neighbors."""
    dropout: float = Field(0.8, ge=0, lt=1)
    """Dropout probability before the classifier; 0 disables dropout."""
    init: str = "imagenet"
    """Initial weights: `imagenet` (from the cache that `tin weights fetch` fills), `none` (random
    weights), or the path of a checkpoint that `tin weights import` can read."""
    init_interpolate: bool = False
    """If the initial weights are for another number of frames, interpolate their offset networks
    to `clip.num_segments`. If false, such weights are an error."""


class OptimSettings(Settings):
    """The SGD optimizer and its learning rate schedule."""

    lr: PositiveFloat = 0.02
    """Learning rate for a global batch of `lr_batch` clips."""
    lr_batch: PositiveInt = 48
    """Global batch, in clips, that `lr` was chosen for."""
    scale_lr: bool = False
    """Scale `lr` by train.batch / lr_batch. If false, `lr` is used as it is, with a warning if the
    two batches differ."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD; 0 disables it."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    weight_decay: NonNegativeFloat = 5e-4
    """Weight decay of convolution and linear weights. Biases and normalization layers have none,
    except with `groups: single`."""
    schedule: Literal["cosine", "step", "xtemporal"] = "cosine"
    """How the learning rate falls after the warm-up: `cosine` to 0 at the end of the last epoch,
    `step` by the factor `gamma` at each of the `milestones`, or `xtemporal` along X-Temporal's
    cosine, which is 0 after `cosine_epochs` epochs and rises again after that."""
    milestones: tuple[PositiveInt, ...] = (10, 20, 30)
    """Epochs at which `schedule: step` multiplies the learning rate by `gamma`."""
    gamma: PositiveFloat = 0.1
    """Factor on the learning rate at each milestone."""
    cosine_epochs: PositiveInt = 30
    """Epoch at whose start the learning rate of `schedule: xtemporal` is 0."""
    warmup_epochs: NonNegativeFloat = 1.0
    """Length of the warm-up from `warmup_start` times lr to lr, in epochs; 0 disables it.
    A warm-up that would take all of `train.epochs` is shortened to half of them."""
    warmup_start: float = Field(0.1, gt=0, le=1)
    """Learning rate of the first step of the warm-up, as a fraction of lr."""
    warmup: Literal["linear", "exponential"] = "linear"
    """How the learning rate rises from step to step of the warm-up: by equal amounts (`linear`) or
    by equal factors (`exponential`)."""
    clip_norm: NonNegativeFloat = 20.0
    """Maximum L2 norm of the gradient over all parameters; a larger gradient is scaled down to it.
    0 disables clipping."""
    groups: Literal["module", "reference", "single"] = "module"
    """How parameters are grouped. `module`: TIN's factors on learning rate and weight decay, by
    the module that a parameter belongs to. `reference`: the same factors, but the classifier's
    layers are counted as the original code counts them. `single`: one group, no factors."""
    classifier_lr: PositiveFloat = 5.0
    """Factor on the learning rate of the classifier's weights; its biases get twice this factor.
    `groups: single` ignores it."""


class TrainSettings(Settings):
    """The training loop."""

    epochs: PositiveInt = 40
    """Number of passes over the training split."""
    batch: PositiveInt = 48
    """Global batch: clips per optimizer step, over all ranks."""
    accumulate: PositiveInt = 1
    """Number of forward and backward passes per optimizer step. It must divide `batch`."""
    seed: NonNegativeInt = 0
    """Seed of all random numbers of a run: weights, data order, frames, crops, augmentation,
    dropout."""
    loss: Literal["nll", "bce"] = "nll"
    """`nll`: cross-entropy, for one label per video. `bce`: binary cross-entropy, for datasets with
    several labels per video."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Fraction of the target that is spread evenly over all classes; 0 disables it. Only for
    `loss: nll`."""
    bn: Literal["full", "partial", "frozen", "sync"] = "partial"
    """Which BatchNorm layers train: all (`full`), only the first and those of non-local blocks
    (`partial`), none (`frozen`), or all, with statistics over all ranks (`sync`, on GPUs only)."""
    bn_clips: NonNegativeInt = 0
    """Compute the BatchNorm statistics of training over groups of this many clips, so that training
    is the same at every number of ranks, up to rounding. It must divide the clips of a pass on a
    rank. 0 uses all of them as one group, and results depend on the number of ranks."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of autocast; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    compile: Literal["none", "default", "graphs"] = "none"
    """Run the model as it is (`none`), compiled by torch.compile (`default`), or as it is, but with
    the forward and backward pass replayed from a CUDA graph (`graphs`), which saves the time in
    which the host launches kernels. The values false and true of older recipes mean `none` and
    `default`."""
    deterministic: bool = False
    """Use only deterministic GPU algorithms, so that two runs are equal bit for bit. This is
    slower. Runs on a CPU are always deterministic."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which is then evaluated and
    tested in place of the weights. 0 disables it."""
    evaluate_every: PositiveInt = 1
    """Epochs between two evaluations on `data.test_split`. The last epoch is always evaluated."""
    nan: Literal["stop", "skip"] = "stop"
    """On a NaN or infinite loss or gradient: stop the run, or skip the step and count it. A skipped
    step changes neither weights nor statistics."""

    @field_validator("compile", mode="before")
    @classmethod
    def _compile_of_older_files(cls, value: object) -> object:
        return {True: "default", False: "none"}[value] if isinstance(value, bool) else value


class TestSettings(Settings):
    """How `tin test` evaluates a trained model."""

    clips: PositiveInt = 1
    """Number of clips per video. A view is one crop of one clip."""
    sampling: Literal["clip", "twice"] = "clip"
    """How test clips are sampled: as `clip.sampling` says (`clip`), or as TSM does (`twice`): the
    first clip has the middle frame of each segment, the second clip the first frame of each."""
    average: Literal["scores", "logits"] = "scores"
    """What is averaged over the views of a video: class probabilities (`scores`), as in TIN, or
    their `logits`, as in TSM and X-Temporal."""
    crops: Literal[1, 3, 5, 10] = 1
    """Number of crops per clip: 1 is the center, 3 lie along the longer side, 5 are the center and
    the corners, 10 are these five and their mirror images."""
    crop: NonNegativeInt = 0
    """Side of the square test crop, in pixels; 0 uses `clip.crop`."""
    batch: PositiveInt = 16
    """Number of videos per step on each rank."""
    checkpoint: Literal["best", "last"] = "best"
    """Test the checkpoint with the best metric, or the last one."""
    last_checkpoints: PositiveInt = 1
    """Test the mean of the weights of this many checkpoints, the last ones of the run. More than 1
    needs `checkpoint: last`, and a run with `run.keep_checkpoints` as large."""
    precise_bn: NonNegativeInt = 0
    """Number of training batches on each rank from which the statistics of BatchNorm are computed
    again before a test; 0 keeps the statistics of the checkpoint."""


class RunSettings(Settings):
    """How a run is executed. Only these settings may change when a run is resumed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; `auto` is a GPU if there is one, otherwise the CPU."""
    decode: Literal["auto", "gpu", "cpu"] = "auto"
    """Where JPEGs are decoded: on the GPU by DALI, or in CPU threads of each rank. `auto` is the
    GPU if the device is one and DALI is installed, otherwise the CPU."""
    threads: NonNegativeInt = 0
    """CPU threads of each rank for decoding and for PyTorch, or processes of `tin shard`; 0 uses
    all CPUs that the rank may use."""
    readers: PositiveInt = 16
    """Number of threads of each rank that read frames from the shards."""
    prefetch: PositiveInt = 3
    """Number of batches that each rank reads ahead."""
    log_steps: PositiveInt = 20
    """Steps between two lines of the log, and between two rows of steps.csv."""
    offset_steps: NonNegativeInt = 0
    """Steps between two records of the interlacing offsets and weights, in offsets.csv and
    TensorBoard; 0 disables them."""
    checkpoint_minutes: NonNegativeFloat = 10.0
    """Minutes between two checkpoints within an epoch; 0 disables them. A checkpoint is written
    after every epoch anyway."""
    checkpoint_steps: NonNegativeInt = 0
    """Steps between two checkpoints within an epoch; 0 disables them."""
    keep_checkpoints: int = Field(2, ge=2)
    """Number of checkpoints that are kept, the newest ones, in addition to the best one."""
    hang_minutes: NonNegativeFloat = 10.0
    """Treat the run as hung after this many minutes without a step; 0 disables the check. The
    first step may always take 10 minutes."""
    max_restarts: NonNegativeInt = 20
    """Maximum number of automatic restarts after failures; the next failure ends the run.
    Preemptions and time limits do not count."""
    tensorboard: bool = True
    """Write TensorBoard files to the run folder."""
    check_node: bool = True
    """Check each node before the first step of a job: disk, GPU memory, arithmetic, network."""
