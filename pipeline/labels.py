"""The labels of a batch as tensors."""

import numpy as np
import torch
from torch import Tensor

from preprocess.shards import DatasetInfo, Split


def labels_of(split: Split, info: DatasetInfo, clips: np.ndarray, num_rows: int) -> Tensor:
    """Return the labels of ``clips``, padded to ``num_rows`` rows without a label."""
    found = [split.labels_of(clip) for clip in clips]
    if info.multi_label:
        labels = torch.zeros(num_rows, len(info.classes))
        for row, classes in enumerate(found):
            labels[row, torch.from_numpy(classes.astype(np.int64))] = 1
        return labels
    labels = torch.full((num_rows,), -1)
    labels[: len(found)] = torch.tensor([row[0] if len(row) else -1 for row in found])
    return labels


def mirrored_labels(labels: Tensor, mirror: Tensor) -> Tensor:
    """Return the labels of mirrored clips; ``mirror`` ``(classes,)`` is its own inverse."""
    if labels.is_floating_point():
        return labels[:, mirror]
    return torch.where(labels < 0, labels, mirror[labels])
