"""Splat scenes for tests: made from a seed, with every field."""

import torch
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.state import Splats


def random_splats(count: int, *, seed: int = 0, batch: tuple[int, ...] = (), degree: int = 0, features: int = 0, dtype: torch.dtype = torch.float32) -> Splats:
    """A cloud within a cube of 2 m, dense enough that splats hide one another."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*batch, count, *shape, generator=generator, dtype=torch.float64)

    return Splats(
        means=(2 * uniform(3) - 1).to(dtype),
        rotations=(2 * uniform(4) - 1).to(dtype),
        scales=(0.35 * count ** (-1 / 3) * torch.exp(1.5 * uniform(3) - 0.75)).to(dtype),
        opacities=(0.1 + 0.89 * uniform()).to(dtype),
        colors=uniform(3).to(dtype),
        harmonics=(0.4 * uniform((degree + 1) ** 2 - 1, 3) - 0.2).to(dtype) if degree else None,
        features=(2 * uniform(features) - 1).to(dtype) if features else None,
        batch_size=list(batch),
    )


def ring(*views: int, width: int = 60, height: int = 44, dtype: torch.dtype = torch.float32) -> Camera:
    """Cameras in a circle of 3 m around the origin."""
    angles = torch.arange(int(torch.tensor(views or (1,)).prod()), dtype=torch.float64) * 0.7
    eyes = torch.stack((3 * angles.cos(), 3 * angles.sin(), 0.5 + 0.3 * angles), -1).reshape(*views, 3).to(dtype)
    return Camera.look_at(eyes, torch.zeros(3, dtype=dtype), width=width, height=height)
