"""Estimates what training needs before it is submitted: steps, reads, bytes and memory."""

from dataclasses import dataclass

from configs.cluster import Cluster
from configs.load import ConfigError, dataset_path
from configs.schema import Config

RATE = {"gpu": 250.0, "cpu": 1.5}
"""Assumed clips per second of a rank for ResNet-50 with 8 frames of 224 pixels: on an A100-class
GPU in bfloat16, or on a CPU core in float32. Scaled by frames, pixels and backbone."""
MODEL_MB = {
    "resnet18": 45,
    "resnet34": 86,
    "resnet50": 96,
    "resnet101": 172,
    "resnet152": 234,
    "mobilenetv2": 10,
}
"""10^6 bytes of the weights in float32 with 174 classes, counted."""
STATES = 3
"""Copies of the weights on a device: weights, gradients, momentum."""
ACTIVATION_MB = {
    "resnet18": 29,
    "resnet34": 43,
    "resnet50": 126,
    "resnet101": 190,
    "resnet152": 268,
    "mobilenetv2": 92,
}
"""10^6 bytes that autograd keeps for a frame of 224 pixels in float32, counted (the last two in
proportion to ResNet-50); bfloat16 takes half."""
PROCESS_GB = 1.5
"""Resident memory of a process with torch, DALI and a CUDA context, measured."""
DECODED_MB = 3 * 224 * 224 / 1e6
"""10^6 bytes of a decoded frame of 224 pixels."""


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
    """Reads per second of all ranks, at the assumed speed."""
    mb_per_s: float
    """10^6 bytes per second of all ranks, at the assumed speed."""
    host_gb: float
    """10^9 bytes of host memory of a rank."""
    device_gb: float
    """10^9 bytes of model, optimizer and activations of a rank."""
    checkpoint_gb: float
    """10^9 bytes of a checkpoint; three checkpoints are kept."""

    hours: float
    """Hours of an epoch, at the assumed speed."""

    def lines(self, config: Config, cluster: Cluster, num_runs: int = 1) -> list[str]:
        """Return the figures as text."""
        epochs = config.train.epochs
        hours = self.hours * epochs
        gpus = cluster.nodes * cluster.num_gpus
        total = f", {hours * gpus * num_runs:.1f} GPU-hours in all" if gpus else ""
        return [
            f"time: about {hours:.2f} hours for a run{total}",
            f"steps: {self.steps} an epoch of {self.clips} clips, {self.steps * epochs} in all",
            f"reads: {config.clip.num_segments} a clip, {self.mb_per_clip:.3f} MB;"
            f" about {self.reads_per_s:.0f} reads/s and {self.mb_per_s:.0f} MB/s in all",
            f"memory of a rank: about {self.host_gb:.1f} GB, model and activations"
            f" {self.device_gb:.1f} GB",
            f"run folder: about {3 * self.checkpoint_gb:.1f} GB of checkpoints",
        ]


def estimate(config: Config, cluster: Cluster) -> Estimate | None:
    """Return what training needs; None if the dataset does not exist yet.

    The sizes of frames come from the dataset's tables. Speed and memory are the assumptions that
    this module lists, so the result is good for an order of magnitude only.
    """
    from pipeline.folds import open_part

    try:
        folder = dataset_path(config.data.dataset)
        split = open_part(folder, config.data.train_split, config.data, training=True)
    except ConfigError:
        return None
    ranks = cluster.nodes * cluster.ranks_per_node
    on_gpu = cluster.num_gpus > 0 and config.run.device != "cpu"

    # Reads: the frames of a clip have the mean size of the split's frames.
    frames = config.clip.num_segments * config.clip.frames_per_segment * split.planes
    mb_per_clip = frames * float(split.frames["size"].mean()) / 1e6

    # Speed: the work of a clip grows with its frames, their pixels and the backbone's activations.
    pixels = config.clip.crop**2 / 224**2
    activation_mb = ACTIVATION_MB[config.model.arch]
    work = frames / 8 * pixels * activation_mb / ACTIVATION_MB["resnet50"]
    rate = RATE["gpu" if on_gpu else "cpu"] / work * ranks
    if not on_gpu:
        rate *= cluster.cpus_per_task

    # Memory: a rank holds the model's states and the activations of the clips of one pass.
    clips = config.train.batch // config.train.accumulate // ranks
    activations_mb = clips * frames * pixels * activation_mb / (2 if on_gpu else 1)
    device_gb = (STATES * MODEL_MB[config.model.arch] + activations_mb) / 1000
    buffers_mb = config.run.prefetch * clips * (mb_per_clip + 4 * frames * pixels * DECODED_MB)
    host_gb = PROCESS_GB + buffers_mb / 1000
    if not on_gpu:
        host_gb += device_gb
    return Estimate(
        hours=split.num_videos / rate / 3600,
        clips=split.num_videos,
        steps=split.num_videos // config.train.batch,
        mb_per_clip=mb_per_clip,
        reads_per_s=rate * frames,
        mb_per_s=rate * mb_per_clip,
        host_gb=host_gb,
        device_gb=device_gb,
        checkpoint_gb=2 * MODEL_MB[config.model.arch] / 1000,
    )
