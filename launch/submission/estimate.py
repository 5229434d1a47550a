"""What a run will need, before it is submitted: steps, reads, bytes and memory."""

from dataclasses import dataclass

from configs.cluster import Cluster
from configs.load import ConfigError, dataset_path
from configs.schema import Config

RATE = {"gpu": 250.0, "cpu": 1.5}
"""Clips/s of a rank that reads are counted for, assumed: ResNet-50, 8 frames of 224 pixels, on an
A100-class GPU in bfloat16, or a CPU core in float32; scaled by frames, pixels and backbone."""
MODEL_MB = {"resnet18": 45, "resnet34": 86, "resnet50": 96, "resnet101": 172}
"""10^6 bytes of the weights in float32, 174 classes, counted."""
STATES = 3  # weights, gradients, momentum
ACTIVATION_MB = {"resnet18": 29, "resnet34": 43, "resnet50": 126, "resnet101": 190}
"""10^6 bytes that autograd keeps of a frame of 224 pixels in float32, counted; half in bfloat16."""
PROCESS_GB = 1.5  # torch, DALI and the CUDA context, measured as resident memory
DECODED = 3 * 224 * 224 / 1e6  # MB of a decoded frame of 224 pixels


@dataclass(frozen=True)
class Estimate:
    """Figures of a training run."""

    clips: int
    """Videos of the training split."""
    steps: int
    """Optimizer steps of an epoch."""
    mb_per_clip: float
    """10^6 bytes that are read for a clip."""
    reads_per_s: float
    """Reads a second of all ranks, at the assumed speed."""
    mb_per_s: float
    """10^6 bytes a second of all ranks, at the assumed speed."""
    host_gb: float
    """10^9 bytes of memory of a rank, its GPU's apart."""
    device_gb: float
    """10^9 bytes that model, optimizer and activations of a rank take."""
    checkpoint_gb: float
    """10^9 bytes of a checkpoint; three are kept."""

    def lines(self, config: Config) -> list[str]:
        """Return the figures as text."""
        epochs = config.train.epochs
        return [
            f"steps: {self.steps} an epoch of {self.clips} clips, {self.steps * epochs} in all",
            f"reads: {config.clip.num_segments} a clip, {self.mb_per_clip:.3f} MB;"
            f" about {self.reads_per_s:.0f} reads/s and {self.mb_per_s:.0f} MB/s in all",
            f"memory of a rank: about {self.host_gb:.1f} GB, model and activations"
            f" {self.device_gb:.1f} GB",
            f"run folder: about {3 * self.checkpoint_gb:.1f} GB of checkpoints",
        ]


def estimate(config: Config, cluster: Cluster) -> Estimate | None:
    """Return what training will need; None where the dataset does not exist yet.

    Frames are counted from the dataset's tables; speed and memory are assumptions that this module
    names, good for an order of magnitude.
    """
    from preprocess.shards import open_split

    try:
        split = open_split(dataset_path(config.data.dataset), config.data.train_split)
    except ConfigError:
        return None
    ranks = cluster.nodes * cluster.ranks_per_node
    frames = config.clip.num_segments * config.clip.frames_per_segment
    mb_per_clip = frames * float(split.frames["size"].mean()) / 1e6
    size = config.clip.crop**2 / 224**2
    on_gpu = cluster.gpus_per_node > 0 and config.run.device != "cpu"
    work = frames / 8 * size * ACTIVATION_MB[config.model.arch] / ACTIVATION_MB["resnet50"]
    rate = RATE["gpu" if on_gpu else "cpu"] / work * ranks
    rate *= 1 if on_gpu else cluster.cpus_per_task
    clips = config.train.batch // config.train.accumulate // ranks
    activations = clips * frames * size * ACTIVATION_MB[config.model.arch] / (2 if on_gpu else 1)
    model = STATES * MODEL_MB[config.model.arch]
    buffers = config.run.prefetch * clips * (mb_per_clip + 4 * frames * size * DECODED)
    device = (model + activations) / 1000
    return Estimate(
        clips=split.num_videos,
        steps=split.num_videos // config.train.batch,
        mb_per_clip=mb_per_clip,
        reads_per_s=rate * frames,
        mb_per_s=rate * mb_per_clip,
        host_gb=PROCESS_GB + buffers / 1000 + (0 if on_gpu else device),
        device_gb=device,
        checkpoint_gb=2 * MODEL_MB[config.model.arch] / 1000,
    )
