"""What goes into a decoder and what comes out of it: arguments of each row, and sizes of views."""

from dataclasses import dataclass

import numpy as np

Arguments = dict[str, np.ndarray]
"""Names `pipeline.cutting` lists, and an entry for each row of a batch."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a batch of views, uint8 ``(rows, V, F, S, S, C)``."""

    clips: int
    """Number of clips of a row, K."""
    crops: int
    """Number of views of a clip; V is ``clips * crops``."""
    frames: int
    """Number of frames of a clip, F."""
    side: int
    """Side of a view, S."""
    planes: int
    """Number of gray images that make a frame of flow; 1 for RGB."""

    @property
    def colors(self) -> int:
        """Return C: red, green and blue, or the planes of flow."""
        return 3 if self.planes == 1 else self.planes

    def of(self, rows: int) -> tuple[int, ...]:
        """Return the shape of a batch."""
        views = self.clips * self.crops
        return (rows, views, self.frames, self.side, self.side, self.colors)
