"""CPU time per clip of the loader, compared with PyTorch's DataLoader and Pillow on JPEG folders.

    python -m tests.bench_loader ../shared/videos/ucf101 [ROUNDS] [section.key=value ...]

Both read the same clips of the same videos, with the same frames, crops and flips: 8 frames of 224
pixels, float32 and normalized. The baseline is what the code of TSN, TSM and TIN does. The two
alternate, and the best round of each is printed, because other programs on the machine can only
make a round slower.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from configs.load import load
from configs.schema import Config
from pipeline.batches import MEAN, STD
from pipeline.loader import ClipLoader
from pipeline.plan import epoch_order, plan_training
from preprocess.convert import shard
from preprocess.shards import Split

WORKERS = 2
EPOCHS = 4  # a round reads the same epoch this often, so that the start-up time counts little
RECIPE = ("train.batch=8", "augment.flip=random", f"run.threads={WORKERS}")


class JpegFolders(Dataset):
    """The clips of an epoch, read from one folder of numbered JPEGs per video."""

    def __init__(self, folder: Path, split: Split, config: Config) -> None:
        positions = np.arange(split.num_videos)
        order = epoch_order(split, config)
        self.plan = plan_training(split, config, order, 0, positions)
        self.folder = folder
        self.crop = config.clip.crop
        channels = 3 * config.clip.num_segments
        self.mean = torch.tensor(MEAN).repeat(channels // 3).view(channels, 1, 1)
        self.std = torch.tensor(STD).repeat(channels // 3).view(channels, 1, 1)

    def __len__(self) -> int:
        return len(self.plan.clips)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        x, y, width, height = self.plan.boxes[row].tolist()
        images = []
        for frame in self.plan.frames[row]:
            path = self.folder / str(self.plan.clips[row]) / f"{frame:05d}.jpg"
            image = Image.open(path).convert("RGB").crop((x, y, x + width, y + height))
            image = image.resize((self.crop, self.crop), Image.Resampling.BILINEAR)
            images.append(ImageOps.mirror(image) if self.plan.flips[row] else image)
        stacked = torch.from_numpy(np.concatenate(images, axis=2))
        clip = stacked.permute(2, 0, 1).contiguous().float().div(255)
        return clip.sub_(self.mean).div_(self.std), 0


def write_folders(split: Split, folder: Path) -> None:
    """Write each frame of a dataset as a JPEG file."""
    for clip, video in enumerate(split.videos):
        target = folder / str(clip)
        target.mkdir(parents=True)
        for frame in range(video["num_frames"]):
            row = split.frames[video["first_frame"] + frame]
            with split.shard_path(row["shard"]).open("rb") as file:
                file.seek(row["offset"])
                (target / f"{frame:05d}.jpg").write_bytes(file.read(row["size"]))


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(batches: Iterable[object], num_clips: int) -> tuple[float, float]:
    """Read all batches; return the CPU milliseconds per clip and the clips per second."""
    cpu_start = cpu_seconds()
    wall_start = time.perf_counter()
    for batch in batches:
        del batch
    cpu = cpu_seconds() - cpu_start
    wall = time.perf_counter() - wall_start
    return 1e3 * cpu / num_clips, num_clips / wall


def main(videos: str, rounds: int, settings: list[str]) -> None:
    """Make both forms of the dataset, measure the rounds, and print the results."""
    torch.set_num_threads(1)
    config = load(None, [*RECIPE, *settings, f"shard.source={Path(videos).resolve()}"])
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "dataset"
        jpegs = Path(work) / "jpegs"
        shard(config, folder)
        loader = ClipLoader(folder, "train", config, training=True)
        write_folders(loader.split, jpegs)
        data = JpegFolders(jpegs, loader.split, config)
        batch = config.train.batch
        num_clips = EPOCHS * loader.num_steps * batch
        next(loader.epoch(0))  # starts the threads and fills the caches
        results: dict[str, list[tuple[float, float]]] = {"tin": [], "DataLoader": []}
        for _ in range(rounds):
            ours = chain.from_iterable(loader.epoch(0) for _ in range(EPOCHS))
            results["tin"].append(measure(ours, num_clips))
            theirs = DataLoader(ConcatDataset([data] * EPOCHS), batch, num_workers=WORKERS)
            results["DataLoader"].append(measure(theirs, EPOCHS * len(data)))
        loader.close()
    for name, found in results.items():
        best_cpu = min(cpu for cpu, _ in found)
        best_rate = max(rate for _, rate in found)
        rounds_cpu = ", ".join(f"{cpu:.1f}" for cpu, _ in found)
        print(
            f"{name:10s} {best_cpu:6.2f} ms of CPU per clip, {best_rate:6.1f} clips/s  "
            f" (rounds: {rounds_cpu})"
        )
    ratio = min(results["DataLoader"])[0] / min(results["tin"])[0]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{num_clips} clips per round; tin needs {ratio:.2f} times less CPU time")
    print(f"peak memory of this process, torch and DALI included: {memory:.0f} MB")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    count = int(arguments.pop(1)) if len(arguments) > 1 and arguments[1].isdigit() else 3
    main(arguments[0], count, arguments[1:])
