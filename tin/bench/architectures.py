"""Counts and times networks on a CPU: parameters, multiply-adds, and the latency of one clip."""

from collections.abc import Sequence
from typing import get_args

import torch

from configs.load import ConfigError, load
from configs.schema import Config
from configs.train_schema import Arch
from tin.bench.timing import Call, Report, in_turns, measuring_device
from tin.models.network import TIN, build_model
from tin.models.size import count

SHIFT_DIV = {"none": 4, "shift": 8, "interlace": 4}  # values of the papers
MOBILENET_SHIFT_DIV = {**SHIFT_DIV, "interlace": 2}  # 4 groups divide half of 24 channels
CLASSES = 400
CROP = 224


def bench_architectures(archs: Sequence[str], seconds: float) -> Report:
    """Count and time networks for one clip of 8 frames with each temporal module, on the CPU.

    The latency of the networks of one architecture is measured in turns, as multiples of the
    network without temporal modules. Computed in float32 and channels_last.

    Args:
        archs: values of `model.arch`.
        seconds: time for each architecture, which has at least five rounds.

    Raises:
        ConfigError: an architecture does not exist.
    """
    unknown = [arch for arch in archs if arch not in get_args(Arch)]
    if unknown:
        raise ConfigError(
            f"--arch {unknown[0]}: this network does not exist; choose among"
            f" {', '.join(get_args(Arch))}"
        )
    measuring_device()  # prepares malloc for measurements
    device = torch.device("cpu")
    report = Report("architectures", device)
    timed = {}
    for arch in archs:
        models = {}
        for temporal, shift_div in _shift_divs(arch).items():
            config = _config(arch, temporal, shift_div)
            model = build_model(config, CLASSES)
            # torch's stubs do not know memory_format
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            params, gflops = count(model, config)
            report.add({"arch": arch, "temporal": temporal, "parameters": params, "GFLOPs": gflops})
            models[temporal] = model
        timed[arch] = in_turns(_predictions(models), device, seconds)
    for arch, times in timed.items():
        report.add({"what": "latency of one clip", "arch": arch}, times)
    report.notes.append(f"{torch.get_num_threads()} CPU threads; GFLOPs are multiply-adds in 10^9")
    return report


def _shift_divs(arch: str) -> dict[str, int]:
    return MOBILENET_SHIFT_DIV if arch == "mobilenetv2" else SHIFT_DIV


def _config(arch: str, temporal: str, shift_div: int) -> Config:
    settings = [f"model.arch={arch}", f"model.temporal={temporal}", f"model.shift_div={shift_div}"]
    return load(None, [*settings, f"clip.crop={CROP}"])


def _predictions(models: dict[str, TIN]) -> dict[str, Call]:
    """Return a call of each model that predicts one clip."""

    def prediction(model: TIN) -> Call:
        x = torch.randn(1, model.num_segments, 3, CROP, CROP)

        def call() -> object:
            with torch.no_grad():
                return model.eval()(x)

        return call

    return {name: prediction(model) for name, model in models.items()}
