"""Writes vectors.npz: numbers of the method, computed in float64 NumPy from its definitions.

This script imports neither the project nor torch. It loops over frames, groups and pixels, exactly
as the formulas are written. Gradients are central differences of the forward pass.

    python tests/vectors/make_vectors.py
"""

import math
from pathlib import Path

import numpy as np

STEP = 1e-6  # the step of central differences


def interlace(x, offset, weight, channels):
    """Shift group g of the leading channels of each clip by offset[b, g] frames."""
    B, T, G = weight.shape
    y = x.copy()
    for b in range(B):
        for g in range(G):
            whole = math.floor(offset[b, g])
            part = offset[b, g] - whole
            group = slice(g * channels // G, (g + 1) * channels // G)
            for t in range(T):
                mixed = np.zeros_like(x[0, group])
                for share, source in ((1 - part, t - whole), (part, t - whole - 1)):
                    if 0 <= source < T:
                        mixed += share * x[b * T + source, group]
                y[b * T + t, group] = weight[b, t, g] * mixed
    return y


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def conv1d(x, kernel, bias):
    """Convolve (F, T) by (O, F, 3) with a zero at each end."""
    padded = np.pad(x, ((0, 0), (1, 1)))
    y = np.zeros((len(kernel), x.shape[1]))
    for t in range(x.shape[1]):
        y[:, t] = (kernel * padded[:, t : t + 3]).sum((1, 2)) + bias
    return y


def module(x, p, num_segments, channels):
    """Return interlaced features, offsets (B, 2) and gains (B, T, 2), for parameters p by name."""
    pooled = x[:, :channels].mean((2, 3)).reshape(-1, num_segments, channels)
    offsets = []
    gains = []
    for clip in pooled:
        hidden = conv1d(clip.T, p["offset_net.conv.weight"], p["offset_net.conv.bias"])[0]
        hidden = np.maximum(p["offset_net.fc1.weight"] @ hidden + p["offset_net.fc1.bias"], 0)
        hidden = p["offset_net.fc2.weight"] @ hidden + p["offset_net.fc2.bias"]
        offsets.append(4 * (sigmoid(hidden) - 0.5))
        gain = conv1d(clip.T, p["weight_net.conv.weight"], p["weight_net.conv.bias"])
        gains.append(2 * sigmoid(gain).T)
    offsets = np.array(offsets)
    gains = np.array(gains)
    four = np.concatenate([offsets, -offsets], 1)
    y = interlace(x, four, np.concatenate([gains, gains], 2), channels)
    return y, offsets, gains


def conv2d(x, kernel, padding=0):
    """Convolve (N, C, H, W) by (O, C, k, k)."""
    k = kernel.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    H, W = (size - k + 1 for size in padded.shape[2:])
    y = np.zeros((len(x), len(kernel), H, W))
    for i in range(H):
        for j in range(W):
            window = padded[:, None, :, i : i + k, j : j + k]
            y[:, :, i, j] = (window * kernel).sum((2, 3, 4))
    return y


def norm(x, p, name):
    """Normalize with the running statistics."""
    scale = p[f"{name}.weight"] / np.sqrt(p[f"{name}.running_var"] + 1e-5)
    shift = p[f"{name}.bias"] - p[f"{name}.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def block(x, p, num_segments, channels):
    """Return the output of a basic block: interlacing, two 3x3 convolutions and a shortcut."""
    inner = {name.removeprefix("temporal."): value for name, value in p.items()}
    y, _, _ = module(x, inner, num_segments, channels)
    y = np.maximum(norm(conv2d(y, p["conv1.weight"], padding=1), p, "bn1"), 0)
    y = norm(conv2d(y, p["conv2.weight"], padding=1), p, "bn2")
    return np.maximum(y + x, 0)


def gradients(function, arrays, grad):
    """Return the derivatives of sum(grad * function()) by each array, by central differences."""
    found = {}
    for name, array in arrays.items():
        slope = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            sides = []
            for sign in (1, -1):
                array[index] = kept + sign * STEP
                sides.append((grad * function()).sum())
            array[index] = kept
            slope[index] = (sides[0] - sides[1]) / (2 * STEP)
        found[name] = slope
    return found


def average_precision(scores, positive):
    """Return the sum, over falling thresholds, of precision times the gain in recall."""
    area = 0.0
    recall = 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        hits = (chosen & positive).sum()
        area += (hits / positive.sum() - recall) * hits / chosen.sum()
        recall = hits / positive.sum()
    return area


def cosine(step, steps_per_epoch, epochs, warmup, lr):
    """Return the rate of a warm-up from lr/10 to lr and half a cosine down to zero."""
    epoch = step / steps_per_epoch
    if epoch < warmup:
        return lr / 10 + (lr - lr / 10) * epoch / warmup
    return lr / 2 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def draw_parameters(draw, channels, num_segments):
    """Draw the parameters of the offset net and the weight net, by their names."""
    shapes = {
        "offset_net.conv.weight": (1, channels, 3), "offset_net.conv.bias": (1,),
        "offset_net.fc1.weight": (num_segments, num_segments),
        "offset_net.fc1.bias": (num_segments,),
        "offset_net.fc2.weight": (2, num_segments), "offset_net.fc2.bias": (2,),
        "weight_net.conv.weight": (2, channels, 3), "weight_net.conv.bias": (2,),
    }  # fmt: skip
    return {name: draw.normal(0, 0.5, shape) for name, shape in shapes.items()}


def op_vectors(draw):
    """Return inputs, outputs and gradients of the operator, and outputs for whole offsets."""
    a = {
        "x": draw.normal(size=(6, 10, 2, 3)),
        "offset": np.array([[0.25, -1.5, 2.75, -3.0 + 1e-3], [1.4, -0.6, 9.5, -0.01]]),
        "weight": draw.uniform(0, 2, (2, 3, 4)),
    }
    whole = np.array([[0.0, 1.0, -2.0, 3.0], [-1.0, 0.0, 2.0, -3.0]])
    grad = draw.normal(size=a["x"].shape)
    slopes = gradients(lambda: interlace(a["x"], a["offset"], a["weight"], 8), a, grad)
    return {
        **a, "grad": grad, "y": interlace(a["x"], a["offset"], a["weight"], 8),
        **{f"grad_{name}": value for name, value in slopes.items()},
        "whole_offset": whole, "whole_y": interlace(a["x"], whole, a["weight"], 8),
    }  # fmt: skip


def module_vectors(draw):
    """Return parameters, input, output and gradients of the temporal module."""
    p = draw_parameters(draw, 4, 3)
    x = draw.normal(size=(6, 16, 2, 2))
    y, offset, weight = module(x, p, 3, 4)
    grad = draw.normal(size=x.shape)
    slopes = gradients(lambda: module(x, p, 3, 4)[0], {"x": x, **p}, grad)
    return {
        "x": x, "y": y, "offset": offset, "weight": weight, "grad": grad,
        **{f"param_{name}": value for name, value in p.items()},
        **{f"grad_{name}": value for name, value in slopes.items()},
    }  # fmt: skip


def block_vectors(draw):
    """Return parameters, input and output of a residual block."""
    p = {f"temporal.{name}": value for name, value in draw_parameters(draw, 4, 4).items()}
    for number in (1, 2):
        p[f"conv{number}.weight"] = draw.normal(0, 0.1, (16, 16, 3, 3))
        p[f"bn{number}.weight"] = draw.uniform(0.5, 1.5, 16)
        p[f"bn{number}.bias"] = draw.normal(0, 0.1, 16)
        p[f"bn{number}.running_mean"] = draw.normal(0, 0.1, 16)
        p[f"bn{number}.running_var"] = draw.uniform(0.5, 1.5, 16)
    x = draw.normal(size=(4, 16, 4, 3))
    return {"x": x, "y": block(x, p, 4, 4), **{f"param_{key}": p[key] for key in p}}


def metric_vectors(draw):
    """Return scores, targets and labels of 12 videos and 7 classes, and their metrics."""
    scores = draw.integers(0, 9, (12, 7)) / 8  # only nine values, so that some scores are equal
    targets = draw.random((12, 7)) < 0.35
    targets[0] = False  # a video without a class
    targets[:, 2] = False  # a class without a video
    by_class = [average_precision(scores[:, k], targets[:, k]) for k in range(7)
                if targets[:, k].any()]  # fmt: skip
    by_sample = [average_precision(scores[n], targets[n]) for n in range(12) if targets[n].any()]
    labels = draw.integers(0, 7, 12)
    ranks = [sum((s > row[label]) or (s == row[label] and k < label) for k, s in enumerate(row))
             for row, label in zip(scores, labels, strict=True)]  # fmt: skip
    per_class = [np.mean([ranks[n] == 0 for n in range(12) if labels[n] == k])
                 for k in sorted(set(labels))]  # fmt: skip
    return {
        "scores": scores, "targets": targets, "labels": labels,
        "map_class": np.mean(by_class), "map_sample": np.mean(by_sample),
        "top1": np.mean([rank < 1 for rank in ranks]),
        "top5": np.mean([rank < 5 for rank in ranks]),
        "mean_class": np.mean(per_class),
    }  # fmt: skip


def sampling_vectors(draw):
    """Return the middle and a random frame of each of 8 segments, for videos of several lengths."""
    num_frames = np.array([1, 3, 7, 8, 9, 16, 37, 100, 1023])
    draws = draw.random((len(num_frames), 8))
    middle = [[(2 * t + 1) * int(n) // 16 for t in range(8)] for n in num_frames]
    random = [
        [
            t * n // 8 + math.floor(u * ((t + 1) * n // 8 - t * n // 8))
            for t, u in enumerate(row.tolist())
        ]
        if n >= 8
        else center
        for n, row, center in zip(num_frames.tolist(), draws, middle, strict=True)
    ]
    return {"num_frames": num_frames, "draws": draws, "middle": middle, "random": random}


def vectors():
    """Return all arrays by ``part/name``."""
    draw = np.random.default_rng(20200117)
    parts = {
        "op": op_vectors(draw),
        "module": module_vectors(draw),
        "block": block_vectors(draw),
        "metrics": metric_vectors(draw),
        "sampling": sampling_vectors(draw),
        "schedule": {"lr": [cosine(step, 3, 12, 1.5, 0.02) for step in range(36)]},
    }
    return {
        f"{part}/{name}": np.asarray(value)
        for part, arrays in parts.items()
        for name, value in arrays.items()
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("vectors.npz")
    np.savez_compressed(path, **vectors())
    print(f"{path}: {path.stat().st_size} bytes")
