"""Times trained models outside of their run, on one CPU core.

    python -m tests.bench_deploy

ONNX Runtime against eager torch for a TIN with ResNet-50, alternating, and the frames per second of
streams. Times are CPU times of this process, so that other processes disturb them little.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch

from tin.deploy.export import _to_onnx
from tin.deploy.stream import Stream
from tin.models.network import TIN

ROUNDS = 7
FRAMES = 16
SIDE = 224


def cpu_seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def bench_onnx() -> None:
    """Compare ONNX Runtime with eager torch on clips of 8 frames."""
    network = TIN(174, "resnet50", "interlace", 8).eval()
    clip = torch.randn(1, 8, 3, SIDE, SIDE)
    metadata = {"input": {"shape": ["batch", 8, 3, SIDE, SIDE]}}
    data, _ = _to_onnx(network, clip, metadata)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    fast = TIN(174, "resnet50", "interlace", 8).eval()
    fast.load_state_dict(network.state_dict())
    fast.to(memory_format=torch.channels_last)
    calls = {
        "eager torch, channels_last": lambda: fast(clip),
        "eager torch": lambda: network(clip),
        "ONNX Runtime": lambda: session.run(None, {"clip": clip.numpy()}),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for call in calls.values():
            call()
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(cpu_seconds(call))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        ratio = seconds / medians["eager torch, channels_last"]
        print(f"{name:28} {1000 * seconds:7.0f} ms CPU time per clip, {ratio:.2f} x")


def bench_streams() -> None:
    """Print the frames per second of streams of causal models."""
    for arch in ("resnet18", "mobilenetv2"):
        for temporal in ("none", "shift", "interlace"):
            network = TIN(27, arch, temporal, 8, 8 if temporal == "shift" else 4, causal=True)
            network.eval().to(memory_format=torch.channels_last)
            if temporal == "none":
                x = torch.randn(1, 3, SIDE, SIDE)
                with torch.no_grad():
                    per_frame = _median(lambda x=x, network=network: network.backbone(x))
            else:
                stream = Stream(network)
                x = torch.randn(1, 3, SIDE, SIDE)
                per_frame = _median(lambda x=x, stream=stream: stream.step(x))
            print(f"{arch:12} {temporal:10} {1 / per_frame:6.1f} frames/s")


def _median(step: Callable[[], object]) -> float:
    step()
    return statistics.median(cpu_seconds(step) for _ in range(FRAMES))


if __name__ == "__main__":
    torch.set_num_threads(1)
    bench_onnx()
    bench_streams()
