"""Models with the weights of shared/reference, which are drawn by tensor name.

The recipe of the weights is described in shared/reference/README.md.
"""

import functools
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tin.models.network import TIN
from tin.models.tensor_names import from_reference, to_reference


def recipe_tensor(key: str, shape: tuple[int, ...], seed: int, last_norm: str) -> Tensor:
    """Return the tensor that the recipe draws for one of the original's tensor names.

    Args:
        key: the original's name of the tensor; it seeds the draw together with `seed`.
        shape: shape of the tensor.
        seed: the seed of the recipe.
        last_norm: pattern of the weights of the last BatchNorm of each block, which are small.
    """
    draw = np.random.RandomState((zlib.crc32(key.encode()) + seed) & 0xFFFFFFFF)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_mean"):
        value = 0.1 * draw.randn(*shape)
    elif key.endswith("running_var"):
        value = 1 + 0.4 * (draw.random_sample(shape) - 0.5)
    elif key.endswith("bias"):
        value = 0.1 * draw.randn(*shape)
        if key.endswith("biasnet.net.lastlayer.bias"):
            value = 0.5108 + 5 * value
    elif len(shape) == 1:
        value = 1 + 0.1 * draw.randn(*shape)
        if re.fullmatch(last_norm, key):
            value *= 0.2
    else:
        value = draw.randn(*shape) * _scale(key, shape)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def _scale(key: str, shape: tuple[int, ...]) -> float:
    """Return the standard deviation of the recipe's weights, by the rank of the tensor."""
    fan_in = np.prod(shape[1:])
    if key == "new_fc.weight":
        return 0.01
    convolution = np.sqrt(2 / fan_in)
    linear = 1 / np.sqrt(fan_in)  # also for the 1x1x1 convolutions of non-local blocks
    scales = {5: linear, 4: convolution, 3: 0.5 / np.sqrt(fan_in), 2: linear}
    return scales[len(shape)]


def recipe_state(model: TIN, seed: int) -> dict[str, Tensor]:
    """Return the recipe's tensors for a model, by the original's names."""
    own = to_reference(model)
    norm = "bn3" if "base_model.layer1.0.bn3.weight" in own else "bn2"
    last_norm = rf".*layer\d+\.\d+\.{norm}\.weight"
    return {
        key: recipe_tensor(key, tuple(value.shape), seed, last_norm) for key, value in own.items()
    }


class Reference:
    """One model of shared/reference/model: its numbers, weights, input and target.

    `facts` are the numbers of the JSON file and `arrays` those of the npz file. `x` is the input,
    ``(B, T, 3, H, W)``, and `target` ``(B,)`` its classes.
    """

    def __init__(self, shared: Path, name: str):
        folder = shared / "reference" / "model"
        self.facts = json.loads((folder / f"{name}.json").read_text())
        with np.load(folder / f"{name}.npz") as arrays:
            self.arrays = dict(arrays)
        T = self.facts["num_segments"]
        H, W = self.facts["hw"]
        draw = np.random.RandomState(self.facts["weight_seed"] + 1)
        x = draw.randn(self.facts["batch"], 3 * T, H, W).astype(np.float32)
        self.x = torch.from_numpy(x).unflatten(1, (T, 3))
        self.target = torch.tensor(self.facts["target"])

    def empty_model(self, **changes: Any) -> TIN:
        """Return the network with random weights; `changes` are arguments of TIN."""
        facts = self.facts
        settings = {
            "arch": facts["arch"],
            "num_segments": facts["num_segments"],
            "shift_div": facts["shift_div"],
        }
        return TIN(facts["num_class"], **{**settings, **changes})

    @functools.cached_property
    def initial_state(self) -> dict[str, Tensor]:
        """The recipe's tensors by our names."""
        return self.model().state_dict()

    def model(self) -> TIN:
        """Return the network with the recipe's weights, without dropout."""
        model = self.empty_model()
        model.load_state_dict(from_reference(recipe_state(model, self.facts["weight_seed"])))
        model.dropout.p = 0.0  # after loading: the original's names depend on it
        return model
