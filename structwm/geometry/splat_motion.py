"""Rigid motions and changes of size of whole sets of splats, with what they show from every side."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from structwm.geometry.harmonics import HARMONIC_COUNTS, harmonic_basis, harmonic_degree
from structwm.geometry.rotations import check_rotations, matrix_to_quaternion, quaternion_multiply
from structwm.state import Splats


def harmonic_rotation(rotation: Tensor, degree: int) -> Tensor:
    """Matrices (*B, K, K), K = (degree + 1)^2 - 1, that turn coefficients of `harmonic_basis` with what they describe.

    With c' = D c it holds at every direction d that basis(d) . c' = basis(R^T d) . c. The harmonics of one degree only mix with each other, so each degree's
    block of D solves these equations at twenty directions exactly, up to rounding in the rotation's type.

    Args:
        rotation: (*B, 3, 3); gradients flow.
        degree: 1, 2 or 3.
    """
    directions, inverse = (part.to(rotation) for part in _samples(degree))
    turned = harmonic_basis(directions @ rotation, degree)
    blocks = turned.new_zeros(*turned.shape[:-2], turned.shape[-1], turned.shape[-1])
    for low, high in zip(HARMONIC_COUNTS[:degree], HARMONIC_COUNTS[1 : degree + 1], strict=True):
        blocks[..., low:high, low:high] = inverse[low:high] @ turned[..., low:high]
    return blocks


@cache
def _samples(degree: int) -> tuple[Tensor, Tensor]:
    """Directions (M, 3) spread evenly over the sphere (a Fibonacci lattice), and the pseudoinverses (K, M) of each degree's harmonics there."""
    count = 20  # at which no degree's condition number is above 1.4
    place = torch.arange(count, dtype=torch.float64) + 0.5
    z, angle = 1 - 2 * place / count, math.pi * (1 + math.sqrt(5)) * place
    across = (1 - z * z).sqrt()
    directions = torch.stack((across * angle.cos(), across * angle.sin(), z), -1)
    basis = harmonic_basis(directions, degree)
    edges = zip(HARMONIC_COUNTS[:degree], HARMONIC_COUNTS[1 : degree + 1], strict=True)
    return directions, torch.cat([torch.linalg.pinv(basis[:, low:high]) for low, high in edges])


def place_splats(splats: Splats, rotation: Tensor, translation: Tensor, scale: float | Tensor = 1.0) -> Splats:
    """The splats after x -> scale * rotation @ x + translation: means, rotations and scales (or deformations, if there are some), and harmonics.

    Quaternions keep their lengths. What a splat shows turns with it. All inputs may carry gradients.

    Args:
        splats: (*B) worlds of N splats.
        rotation: (*B, 3, 3) or (3, 3).
        translation: (*B, 3) or (3,) [m].
        scale: (*B) or a number, above 0.

    Raises:
        ValueError: if the rotation is none, or shapes or the scale do not fit.
    """
    like = splats.means
    scale = torch.as_tensor(scale, dtype=like.dtype, device=like.device)
    for name, value, shape in (("rotation", rotation, (3, 3)), ("translation", translation, (3,))):
        if tuple(value.shape[value.ndim - len(shape) :]) != shape or value.ndim < len(shape):
            raise ValueError(f"splat motion {name}: expected (*B, {', '.join(map(str, shape))}), got {tuple(value.shape)}.")
    check_rotations("splat motion rotation", rotation, advice="; give the size as `scale`")
    if not bool((scale > 0).all()) or not bool(scale.isfinite().all()):
        raise ValueError(f"splat motion scale: expected finite numbers above 0, got {scale.min().item():.4g} to {scale.max().item():.4g}.")
    if not bool(translation.isfinite().all()):
        raise ValueError("splat motion translation: expected finite numbers, got NaN or infinity.")
    batch = torch.broadcast_shapes(splats.batch_size, rotation.shape[:-2], translation.shape[:-1], scale.shape)
    splats = splats.expand(*batch)
    rotation, translation = rotation.to(like), translation.to(like)
    moved = splats.clone(recurse=False)
    moved.means = scale[..., None, None] * (splats.means @ rotation.mT) + translation.unsqueeze(-2)
    if splats.deformations is not None:
        moved.deformations = scale[..., None, None, None] * (rotation.unsqueeze(-3) @ splats.deformations)
    else:
        moved.rotations = quaternion_multiply(matrix_to_quaternion(rotation).unsqueeze(-2), splats.rotations)
        moved.scales = scale[..., None, None] * splats.scales
    if splats.harmonics is not None:
        mixing = harmonic_rotation(rotation, harmonic_degree(splats.harmonics.shape[-2]))
        moved.harmonics = torch.einsum("...ij,...njc->...nic", mixing, splats.harmonics)
    return moved
