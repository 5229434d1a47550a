"""Exports a trained model to a file that runs without this package: .pt2, ONNX or safetensors."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from configs.errors import TinError
from configs.files import atomic_file, write_text
from configs.load import ConfigError
from configs.schema import Config
from pipeline.batches import batch_channels
from tin.deploy.clips import Clip, clips_of_dataset, clips_of_videos
from tin.deploy.model_card import card
from tin.deploy.preprocess import Deployed, Preprocess
from tin.deploy.scorer import check_frames
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.restore import find_checkpoint, restore, trusted_config

log = logging.getLogger(__name__)
Kind = Literal["pt2", "onnx", "safetensors"]
OPSET = 18
"""Version of the ONNX operators; the first one whose Resize and reductions torch exports as is."""
TOLERANCE = 1e-4
"""Most that a logit of an exported model may differ from the run's."""
NUM_CHECKED = 4  # videos of the dataset that an exported model is checked on
METADATA = "tin.json"
"""Name of the metadata in a .pt2 file, and key of it in ONNX and safetensors files."""


class ExportError(TinError):
    """A model cannot be exported, or its exported file computes something else."""

    is_final = True


@dataclass(frozen=True)
class ExportCheck:
    """How far an exported model is from its run, over all checked clips."""

    num_clips: int
    largest_difference: float
    """Of two logits."""


def export(model: Path, out: Path, *, preprocess: bool, videos: Sequence[Path]) -> ExportCheck:
    """Write a trained model to ``out`` and a model card beside it; check the file on real clips.

    The suffix of ``out`` selects the format: .pt2 (torch.export), .onnx, or .safetensors, which
    holds the weights only. The file takes a batch of any size.

    Args:
        model: folder of a run, or one of its checkpoints.
        out: the file to write.
        preprocess: take uint8 frames of any size, and scale, crop and normalize them in the model.
        videos: videos to check the file on; without any, the first ones of `data.test_split`.

    Raises:
        ConfigError: the suffix is unknown, a package is missing, or there are no clips to check.
        ExportError: the model cannot be exported, or the file computes something else.
    """
    kind = _kind(out, preprocess)
    run = Run(model) if model.is_dir() else None
    path = find_checkpoint(run, run.config().test.checkpoint) if run else model
    state = checkpoint.load(path)
    config = trusted_config(path, state)
    if videos:
        check_frames(config, "`tin export --check`")
    network = restore(state, config)
    clips = clips_of_videos(videos, config) if videos else clips_of_dataset(config, NUM_CHECKED)
    metadata = _metadata(state, config, path, preprocess)
    deployed = Deployed(network, config).eval() if preprocess else network
    inputs = [_input(clip, config, preprocess) for clip in clips]
    log.info("writing %s and comparing it with the model on %d clips", out, len(clips))
    with atomic_file(out) as file:  # opened first, so that an unwritable folder costs no time
        data, compute = _WRITERS[kind](deployed, inputs[0], metadata)
        check = _check(compute, deployed, inputs, clips)
        file.write(data)
    write_text(out.with_suffix(".md"), card(out, metadata, config, run))
    return check


def _kind(out: Path, preprocess: bool) -> Kind:
    """Return the format that the suffix of a file stands for."""
    needed: dict[str, tuple[Kind, Sequence[str]]] = {
        ".pt2": ("pt2", ()),
        ".onnx": ("onnx", ("onnx", "onnxscript", "onnxruntime")),
        ".safetensors": ("safetensors", ("safetensors",)),
    }
    if out.suffix not in needed:
        raise ConfigError(
            f"{out}: unknown format {out.suffix or 'without a suffix'}; expected a name ending in"
            f" {', '.join(needed)}"
        )
    kind, packages = needed[out.suffix]
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise ConfigError(
                f"{out}: writing {kind} needs the package {package}; install tin-video[export]"
            ) from None
    if preprocess and kind == "safetensors":
        raise ConfigError(
            f"{out}: a safetensors file holds weights only, so it cannot hold preprocessing; leave"
            " out --preprocess, or write .onnx or .pt2"
        )
    return kind


def _metadata(
    state: dict[str, Any], config: Config, path: Path, preprocess: bool
) -> dict[str, Any]:
    """Return what users of the file need to know to call it."""
    clip = config.clip
    frames = clip.num_segments * clip.frames_per_segment
    if preprocess:
        shape = ["batch", frames, "height", "width", 2 if clip.modality == "flow" else 3]
    else:
        side = config.test_crop
        shape = ["batch", clip.num_segments, batch_channels(clip), side, side]
    return {
        "classes": list(state["classes"]),
        "input": {"dtype": "uint8" if preprocess else "float32", "shape": shape},
        "scores": "sigmoid" if config.train.loss == "bce" else "softmax",
        "checkpoint": path.name,
        "step": state["global_step"],
        "settings": config.model_dump(mode="json"),
    }


def _input(clip: Clip, config: Config, preprocess: bool) -> Tensor:
    """Return the input of an exported model for a clip, with a batch of one."""
    frames = torch.from_numpy(clip.frames)[None]
    return frames if preprocess else Preprocess(config)(frames)


Compute = Callable[[Tensor], np.ndarray]
"""Computes the logits of a batch with the content of a file."""


def _as_program(network: nn.Module, example: Tensor) -> ExportedProgram:
    """Trace a network; the batch, and the size of uint8 frames, stay variable."""
    # torch takes a size of 1 for a constant, so trace with two clips.
    example = torch.cat([example, example])
    sizes = {0: Dim("batch", min=1)}
    if example.dtype == torch.uint8:
        sizes |= {2: Dim("height", min=1, max=1 << 14), 3: Dim("width", min=1, max=1 << 14)}
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=(sizes,))
    except Exception as error:  # torch raises many types for what it cannot trace
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"torch.export cannot trace this model ({type(error).__name__}: {reason}). A temporal"
            " module of your own must consist of operators that torch.export knows."
        ) from error


def _to_pt2(network: nn.Module, example: Tensor, metadata: dict) -> tuple[bytes, Compute]:
    program = _as_program(network, example)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
    loaded = torch.export.load(io.BytesIO(file.getvalue())).module()

    def compute(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            return loaded(x).numpy()

    return file.getvalue(), compute


def _to_onnx(network: nn.Module, example: Tensor, metadata: dict) -> tuple[bytes, Compute]:
    import onnxruntime

    program = _as_program(network, example)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, unused here
    name = "frames" if example.dtype == torch.uint8 else "clip"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about its own code
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, opset_version=OPSET, input_names=[name],
            output_names=["logits"],
        )  # fmt: skip
    assert exported is not None
    proto = exported.model_proto
    for place, size in enumerate(metadata["input"]["shape"]):
        if isinstance(size, str):
            proto.graph.input[0].type.tensor_type.shape.dim[place].dim_param = size
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    entry = proto.metadata_props.add()
    entry.key = METADATA
    entry.value = json.dumps(metadata)
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda x: np.asarray(session.run(["logits"], {name: x.numpy()})[0])


def _to_safetensors(network: nn.Module, example: Tensor, metadata: dict) -> tuple[bytes, Compute]:
    from safetensors.torch import load, save

    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    data = save(tensors, {METADATA: json.dumps(metadata), "format": "pt"})
    found = load(data)
    if not all(torch.equal(found[name], tensor) for name, tensor in tensors.items()):
        raise ExportError("the tensors read back from safetensors differ from the model's")

    def compute(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.func.functional_call(network, found, (x,)).numpy()

    return data, compute


_WRITERS: dict[Kind, Callable[[nn.Module, Tensor, dict], tuple[bytes, Compute]]] = {
    "pt2": _to_pt2,
    "onnx": _to_onnx,
    "safetensors": _to_safetensors,
}


def _check(
    compute: Compute, network: nn.Module, inputs: Sequence[Tensor], clips: Sequence[Clip]
) -> ExportCheck:
    """Compare an exported model with the run's own model, clip by clip and in a batch of two."""
    largest = 0.0
    batches = [(clip.name, x) for clip, x in zip(clips, inputs, strict=True)]
    batches.append((f"two of {clips[0].name}", torch.cat([inputs[0], inputs[0]])))
    for name, x in batches:
        with torch.no_grad():
            want = network(x).numpy()
        found = compute(x)
        difference = float(np.abs(found - want).max())
        # A NaN is not above the tolerance, so ask whether the difference is within it.
        if not difference <= TOLERANCE or (found.argmax(1) != want.argmax(1)).any():
            raise ExportError(
                f"{name}: a logit of the exported model differs by {difference:.3g} from the"
                f" run's, or its best class does; at most {TOLERANCE:g} is allowed. The file was"
                " not written."
            )
        largest = max(largest, difference)
    return ExportCheck(len(clips), largest)
