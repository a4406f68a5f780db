"""Particles seen from a frame that moves and turns with two of them, in which gravity and nothing else tells directions apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIRROR = (1.0, -1.0, 1.0)
"""The reflection of vectors in that frame under which gravity and the line between the anchors stay as they are."""


@dataclass(frozen=True)
class ParticleFrame:
    """A frame midway between two anchors, z up, x along the horizontal part of the line from the first to the second.

    What is computed from positions and velocities in it, and turned back, moves and turns with the scene: it is equivariant to translations and to rotations
    about the vertical. Where one anchor is right above the other the frame has no direction of its own.

    Raises:
        ValueError: if both anchors are one particle.
    """

    first: int
    second: int

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise ValueError(f"ParticleFrame needs two anchors, got particle {self.first} twice.")

    def direction(self, positions: Tensor) -> Tensor:
        """Cosine and sine of the frame's yaw (*B, 2), of positions (*B, V, 3)."""
        line = (positions[..., self.second, :] - positions[..., self.first, :])[..., :2]
        return line / (line.square().sum(-1, keepdim=True) + 1e-12).sqrt()

    def origin(self, positions: Tensor) -> Tensor:
        """(*B, 3) [m]."""
        return 0.5 * (positions[..., self.first, :] + positions[..., self.second, :])


def turned_in(vectors: Tensor, direction: Tensor) -> Tensor:
    """World vectors (*B, V, 3) in a frame of yaw `direction` (*B, 2)."""
    c, s = direction[..., None, 0], direction[..., None, 1]
    x, y, z = vectors.unbind(-1)
    return torch.stack((c * x + s * y, c * y - s * x, z), -1)


def turned_out(vectors: Tensor, direction: Tensor) -> Tensor:
    """The inverse of `turned_in`."""
    return turned_in(vectors, direction * direction.new_tensor((1.0, -1.0)))


def mirrored(vectors: Tensor) -> Tensor:
    """Vectors (..., 3) of the frame, mirrored."""
    return vectors * vectors.new_tensor(MIRROR)


def widest(positions: Tensor, *, most: int = 60) -> tuple[int, int]:
    """Two particles of (..., V, 3) whose level distance is largest where it is small: in the lowest twentieth of the instants at which both were seen."""
    level = positions[..., :2].reshape(-1, *positions.shape[-2:-1], 2)
    numbers = torch.linspace(0, level.shape[1] - 1, min(most, level.shape[1])).round().long().unique()
    level = level[:: -(-len(level) // 400), numbers]
    apart = (level.unsqueeze(2) - level.unsqueeze(1)).norm(dim=-1)
    low = apart.nanquantile(0.05, dim=0).nan_to_num(0.0)
    first, second = divmod(int(low.argmax()), len(numbers))
    return int(numbers[min(first, second)]), int(numbers[max(first, second)])
