"""Triangle meshes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh; the vertices may carry gradients.

    Raises:
        ValueError: in one sentence, if a face names a vertex that is not there, or shapes do not fit.
    """

    vertices: Tensor  # (N, 3) [m]
    faces: Tensor  # int (F, 3), anticlockwise seen from outside
    colors: Tensor | None = None  # (N, 3) in [0, 1]

    def __post_init__(self) -> None:
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"mesh vertices: expected (N, 3), got {tuple(self.vertices.shape)}.")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or self.faces.is_floating_point():
            raise ValueError(f"mesh faces: expected integers (F, 3), got {self.faces.dtype} {tuple(self.faces.shape)}.")
        if self.faces.numel() and not 0 <= int(self.faces.min()) <= int(self.faces.max()) < len(self.vertices):
            raise ValueError(f"mesh faces: expected indices of {len(self.vertices)} vertices, got {int(self.faces.min())} to {int(self.faces.max())}.")
        if not bool(self.vertices.detach().isfinite().all()):
            raise ValueError("mesh vertices: expected finite numbers, got NaN or infinity.")
        if self.colors is not None and self.colors.shape != self.vertices.shape:
            raise ValueError(f"mesh colors: expected {tuple(self.vertices.shape)} as the vertices, got {tuple(self.colors.shape)}.")
        object.__setattr__(self, "faces", self.faces.to(torch.int64))
