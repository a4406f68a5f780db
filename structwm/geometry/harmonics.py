"""Real spherical harmonics of degrees 1 to 3, in the order and with the signs of 3-D Gaussian splats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HARMONIC_COUNTS = (0, 3, 8, 15)
"""How many harmonics the degrees 1 to `degree` have together."""

_DEGREE_1 = math.sqrt(3 / (4 * math.pi))
_DEGREE_2 = (math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi)), math.sqrt(15 / (16 * math.pi)))
_DEGREE_3 = tuple(math.sqrt(factor / math.pi) for factor in (35 / 32, 105 / 4, 21 / 32, 7 / 16, 105 / 16))


def harmonic_basis(directions: Tensor, degree: int) -> Tensor:
    """The real spherical harmonics of degrees 1 to `degree` at unit directions.

    Order m = -l ... l within each degree l. With the complex harmonics Y and the Condon-Shortley phase (as `scipy.special.sph_harm_y`) they are
    sqrt(2) Im Y_l^|m| for m < 0, Y_l^0, and sqrt(2) Re Y_l^m for m > 0: those of degree 1 are proportional to -y, z, -x.
    (Kerbl et al., 3D Gaussian Splatting, SIGGRAPH 2023.)

    Args:
        directions: (*B, 3) of length 1; they are not normalised here, and may carry gradients.
        degree: 1, 2 or 3.

    Returns:
        (*B, (degree + 1)^2 - 1).

    Raises:
        ValueError: if the degree is another one, or the directions are not three numbers each.
    """
    if degree not in (1, 2, 3):
        raise ValueError(f"harmonic degree: expected 1, 2 or 3, got {degree}.")
    if directions.ndim == 0 or directions.shape[-1] != 3:
        raise ValueError(f"harmonic directions: expected (*B, 3), got {tuple(directions.shape)}.")
    x, y, z = directions.unbind(-1)
    values = [-_DEGREE_1 * y, _DEGREE_1 * z, -_DEGREE_1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        mixed, even, split = _DEGREE_2
        values += [mixed * x * y, -mixed * y * z, even * (2 * zz - xx - yy), -mixed * x * z, split * (xx - yy)]
    if degree == 3:
        outer, mixed, inner, even, split = _DEGREE_3
        ring = 4 * zz - xx - yy
        values += [-outer * y * (3 * xx - yy), mixed * x * y * z, -inner * y * ring, even * z * (2 * zz - 3 * xx - 3 * yy)]
        values += [-inner * x * ring, split * z * (xx - yy), -outer * x * (xx - 3 * yy)]
    return torch.stack(values, -1)


def harmonic_degree(count: int) -> int:
    """The degree of a set of `count` coefficients, which start at degree 1.

    Raises:
        ValueError: if no degree from 0 to 3 has so many.
    """
    if count not in HARMONIC_COUNTS:
        raise ValueError(f"harmonics: expected 3, 8 or 15 coefficients (degrees 1 to 1, 2 or 3), got {count}.")
    return HARMONIC_COUNTS.index(count)
