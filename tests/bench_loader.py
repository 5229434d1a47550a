"""The loader beside other ways to read the same clips: CPU time, clips/s, bytes and memory a clip.

    python -m tests.bench_loader ../shared/videos/ucf101 [ROUNDS] [section.key=value ...]

All ways read the same clips of the same videos, with the same frames, crops and flips: 8 frames of
224 pixels. They alternate, and the best round of each is printed, because other programs on the
machine can only make a round slower.

- `Pillow`: PyTorch's DataLoader over a folder of JPEGs a video, as in TSN, TSM and TIN
- `webdataset`: it reads our tars; Pillow decodes
- `PyAV`, `decord`, `torchcodec`: a DataLoader over mp4 files, with a key frame every 12 or 250
- `tin cpu`: this loader with run.decode=cpu, uint8
- `tin gpu`: this loader with run.decode=gpu, whose DALI graph runs on the CPU without a GPU
- `decoder`: the JPEGs of the clips in memory, decoded by libjpeg-turbo: the floor

A way whose package cannot be imported is listed as missing. The others deliver float32.
"""

import importlib.util
import io
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import psutil
import simplejpeg
import torch
from PIL import Image, ImageOps
from torch.utils.data import ChainDataset, ConcatDataset, DataLoader, Dataset, IterableDataset

from configs.load import load
from configs.schema import Config
from pipeline.batches import MEAN, STD
from pipeline.loader import ClipLoader
from pipeline.plan import TrainingPlan, epoch_order, plan_training
from pipeline.store import FrameStore
from preprocess.convert import shard
from preprocess.shards import Split

WORKERS = 2
EPOCHS = 4  # a round reads the same epoch this often, so that the start-up time counts little
RECIPE = ("train.batch=8", "augment.flip=random", f"run.threads={WORKERS}", "shard.shard_mb=10")
GOPS = (12, 250)


class Result(NamedTuple):
    """What a round needed."""

    cpu_ms: float
    """CPU milliseconds a clip, of this process and its workers."""
    rate: float
    """Clips a second."""
    read_kb: float
    """Kilobytes a clip that read calls returned, from files and from pipes of workers."""


class Clips(Dataset):
    """The clips of an epoch as normalized float32 tensors; subclasses read the frames."""

    def __init__(self, folder: Path, plan: TrainingPlan, crop: int) -> None:
        self.folder = folder
        self.plan = plan
        self.crop = crop
        channels = 3 * plan.frames.shape[1]
        self.mean = torch.tensor(MEAN).repeat(channels // 3).view(channels, 1, 1)
        self.std = torch.tensor(STD).repeat(channels // 3).view(channels, 1, 1)

    def __len__(self) -> int:
        return len(self.plan.clips)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.clip(row, self.images(row)), 0

    def images(self, row: int) -> Iterable[Image.Image]:
        """Return the planned frames of a clip."""
        raise NotImplementedError

    def clip(self, row: int, images: Iterable[Image.Image]) -> torch.Tensor:
        """Crop, scale, mirror and normalize frames, as the code of TSN, TSM and TIN does."""
        x, y, width, height = self.plan.boxes[row].tolist()
        done = []
        for image in images:
            region = image.crop((x, y, x + width, y + height))
            region = region.resize((self.crop, self.crop), Image.Resampling.BILINEAR)
            done.append(ImageOps.mirror(region) if self.plan.flips[row] else region)
        stacked = torch.from_numpy(np.concatenate(done, axis=2))
        clip = stacked.permute(2, 0, 1).contiguous().float().div(255)
        return clip.sub_(self.mean).div_(self.std)


class JpegFolders(Clips):
    """Frames in one folder of numbered JPEGs a video."""

    def images(self, row: int) -> Iterable[Image.Image]:
        for frame in self.plan.frames[row]:
            path = self.folder / str(self.plan.clips[row]) / f"{frame:05d}.jpg"
            yield Image.open(path).convert("RGB")


class Mp4(Clips):
    """Frames in one mp4 file a video, decoded by PyAV from the key frame before each of them."""

    gop = 0

    def path(self, row: int) -> str:
        return str(self.folder / f"{self.plan.clips[row]}-{self.gop}.mp4")

    def images(self, row: int) -> Iterable[Image.Image]:
        with av.open(self.path(row)) as file:
            stream = file.streams.video[0]
            step = round(1 / (stream.average_rate * stream.time_base))  # ticks a frame
            decoded = iter(())
            position = -1  # number of the last decoded frame
            for frame in sorted(self.plan.frames[row].tolist()):
                if position < 0 or frame // self.gop > position // self.gop:
                    file.seek(frame * step, stream=stream)
                    decoded = file.decode(stream)
                while position < frame:
                    picture = next(decoded)
                    position = round(picture.pts / step)
                yield picture.to_image()


class Decord(Mp4):
    """The same files, read by decord."""

    def images(self, row: int) -> Iterable[Image.Image]:
        import decord

        reader = decord.VideoReader(self.path(row), num_threads=1)
        frames = reader.get_batch(self.plan.frames[row].tolist()).asnumpy()
        return [Image.fromarray(frame) for frame in frames]


class Torchcodec(Mp4):
    """The same files, read by torchcodec."""

    def images(self, row: int) -> Iterable[Image.Image]:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(self.path(row), num_ffmpeg_threads=1)
        frames = decoder.get_frames_at(self.plan.frames[row].tolist()).data
        return [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]


class Tars(IterableDataset):
    """The clips of our tars in their order, read by webdataset."""

    def __init__(self, clips: Clips, split: Split) -> None:
        import webdataset

        shards = sorted({int(row) for row in split.frames["shard"]})
        urls = [str(split.shard_path(number)) for number in shards]
        self.tars = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
        keys = split.keys()
        self.rows = {keys[clip]: row for row, clip in enumerate(clips.plan.clips.tolist())}
        self.clips = clips
        self.split = split

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        for sample in self.tars:
            row = self.rows[sample["__key__"]]
            video = self.split.videos[self.clips.plan.clips[row]]
            table = self.split.frames[video["first_frame"] :][: video["num_frames"]]
            offsets = np.concatenate([[0], np.cumsum(table["size"].astype(np.int64))])
            images = []
            for frame in self.clips.plan.frames[row]:
                data = sample["mjpeg"][offsets[frame] : offsets[frame + 1]]
                images.append(Image.open(io.BytesIO(data)).convert("RGB"))
            yield self.clips.clip(row, images), 0


def write_files(split: Split, folder: Path, with_mp4: bool) -> None:
    """Write each video of a dataset as a folder of JPEG files, and as mp4 files."""
    for clip, video in enumerate(split.videos):
        target = folder / str(clip)
        target.mkdir(parents=True)
        images = []
        for frame in range(video["num_frames"]):
            row = split.frames[video["first_frame"] + frame]
            with split.shard_path(row["shard"]).open("rb") as file:
                file.seek(row["offset"])
                data = file.read(row["size"])
            (target / f"{frame:05d}.jpg").write_bytes(data)
            images.append(simplejpeg.decode_jpeg(data))
        for gop in GOPS if with_mp4 else ():
            write_mp4(folder / f"{clip}-{gop}.mp4", images, gop)


def write_mp4(path: Path, images: list[np.ndarray], gop: int) -> None:
    """Write frames as H.264 with a key frame every ``gop`` frames."""
    with av.open(str(path), "w") as file:
        options = {"g": str(gop), "keyint_min": str(gop), "sc_threshold": "0", "crf": "20"}
        stream = file.add_stream("libx264", rate=25, options={**options, "preset": "veryfast"})
        height, width = (side // 2 * 2 for side in images[0].shape[:2])  # H.264 has even sides
        stream.width = width
        stream.height = height
        stream.pix_fmt = "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def usage() -> tuple[float, int]:
    """Return CPU seconds and bytes read, of this process and of its workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    read = Path("/proc/self/io").read_text().split()[1]  # Linux counts ended children, too
    return sum(usage.ru_utime + usage.ru_stime for usage in usages), int(read)


def measure(batches: Iterable[object], num_clips: int) -> Result:
    """Read all batches."""
    cpu_start, read_start = usage()
    wall_start = time.perf_counter()
    for batch in batches:
        del batch
    wall = time.perf_counter() - wall_start
    cpu, read = usage()
    return Result(
        1e3 * (cpu - cpu_start) / num_clips, num_clips / wall, (read - read_start) / num_clips / 1e3
    )


def peak_mb(batches: Iterable[object]) -> float:
    """Return the memory that is added while all batches are read, in this process and workers."""
    process = psutil.Process()
    done = threading.Event()
    start = process.memory_full_info().pss
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            total = 0
            for found in [process, *process.children()]:
                try:
                    total += found.memory_full_info().pss  # pages in common count once
                except psutil.Error:
                    continue  # it has ended
            peak = max(peak, total)

    thread = threading.Thread(target=watch)
    thread.start()
    for batch in batches:
        del batch
    done.set()
    thread.join()
    return max(peak - start, 0) / 1e6


def has(package: str) -> bool:
    """Return whether a package can be imported, and say so if not."""
    try:
        importlib.import_module(package)
    except Exception as error:  # a library of it may be missing
        print(f"{package:12s} is missing: {type(error).__name__}: {str(error)[:80]}")
        return False
    return True


def other_ways(work: Path, split: Split, config: Config) -> dict[str, Callable[[], Iterable]]:
    """Return the ways to read an epoch `EPOCHS` times without this project's loader."""
    plan = plan_training(split, config, epoch_order(split, config), 0, np.arange(split.num_videos))
    batch = config.train.batch

    def over(data: Dataset) -> Callable[[], Iterable]:
        return lambda: DataLoader(ConcatDataset([data] * EPOCHS), batch, num_workers=WORKERS)

    jpegs = JpegFolders(work, plan, config.clip.crop)
    ways = {"Pillow": over(jpegs)}
    if has("webdataset"):
        tars = Tars(jpegs, split)
        ways["webdataset"] = lambda: DataLoader(
            ChainDataset([tars] * EPOCHS), batch, num_workers=WORKERS
        )
    for name, kind, package in (
        ("PyAV", Mp4, "av"),
        ("decord", Decord, "decord"),
        ("torchcodec", Torchcodec, "torchcodec.decoders"),
    ):
        for gop in GOPS if has(package) else ():
            data = kind(work, plan, config.clip.crop)
            data.gop = gop
            ways[f"{name} {gop}"] = over(data)
    store = FrameStore(split, readers=1)
    read = [
        store.read(int(plan.clips[row]), plan.frames[row].tolist())
        for row in range(len(plan.clips))
    ]
    store.close()

    def decode_alone() -> Iterator[None]:
        for clip in read * EPOCHS:
            for jpeg in clip.jpegs:
                simplejpeg.decode_jpeg(jpeg)
            yield None

    ways["decoder"] = decode_alone
    return ways


def own_loader(folder: Path, config: Config, decode: str) -> ClipLoader:
    """Return this project's loader, on a GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = ClipLoader(folder, "train", config, training=True, device=device)
    loader.decode = decode  # on a CPU, the graph of a GPU runs in its place
    next(loader.epoch(0))  # starts the threads and fills the caches
    return loader


def main(videos: str, rounds: int, settings: list[str]) -> None:
    """Make all forms of the dataset, measure the rounds, and print the results."""
    torch.set_num_threads(1)
    config = load(None, [*RECIPE, *settings, f"shard.source={Path(videos).resolve()}"])
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shard(config, work / "dataset")
        own = {"tin cpu": own_loader(work / "dataset", config, "cpu")}
        if has("nvidia.dali"):
            own["tin gpu"] = own_loader(work / "dataset", config, "gpu")
        split = own["tin cpu"].split
        write_files(split, work / "files", with_mp4=True)
        ways = other_ways(work / "files", split, config)
        num_clips = dict.fromkeys(ways, EPOCHS * split.num_videos)
        for name, loader in own.items():
            ways[name] = lambda loader=loader: chain.from_iterable(
                loader.epoch(0) for _ in range(EPOCHS)
            )
            num_clips[name] = EPOCHS * loader.num_steps * config.train.batch
        results: dict[str, list[Result]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                results[name].append(measure(way(), num_clips[name]))
        memory = {name: peak_mb(way()) for name, way in ways.items()}
        for loader in own.values():
            loader.close()
    print(f"{min(num_clips.values())} clips a round, {rounds} rounds, best of each")
    print(f"{'way':14s} CPU ms/clip  of Pillow  clips/s  read KB/clip  memory MB  (CPU of rounds)")
    pillow = min(result.cpu_ms for result in results["Pillow"])
    for name, found in results.items():
        cpu = min(result.cpu_ms for result in found)
        print(
            f"{name:14s} {cpu:11.2f} {pillow / cpu:9.2f}x {max(r.rate for r in found):8.1f}"
            f" {min(r.read_kb for r in found):13.1f} {memory[name]:10.0f} "
            f" ({', '.join(f'{r.cpu_ms:.1f}' for r in found)})"
        )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    count = int(arguments.pop(1)) if len(arguments) > 1 and arguments[1].isdigit() else 3
    main(arguments[0], count, arguments[1:])
