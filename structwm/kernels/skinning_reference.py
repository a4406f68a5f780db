"""Skinning in plain torch: the oracle of the kernels in the tests, and the peer in measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix


def _rows(table: Tensor, indices: Tensor) -> Tensor:
    """Rows (W or 1, M, *) at indices (W or 1, N, k): (W, N, k, *)."""
    worlds = max(len(table), len(indices))
    table, indices = table.expand(worlds, *table.shape[1:]), indices.expand(worlds, *indices.shape[1:])
    return table[torch.arange(worlds, device=table.device)[:, None, None], indices.long()]


def blend_maps(points: Tensor, indices: Tensor, weights: Tensor, nodes: Tensor, moved: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """As `structwm.kernels.skinning.blend_maps`."""
    linear = _rows(maps, indices)
    places = (linear @ (points.unsqueeze(2) - _rows(nodes, indices)).unsqueeze(-1)).squeeze(-1) + _rows(moved, indices)
    return (weights.unsqueeze(-1) * places).sum(2), (weights[..., None, None] * linear).sum(2)


def deform_axes(maps: Tensor, rotations: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """As `structwm.kernels.skinning.deform_axes`, but with the axes in the order of their lengths and no gradient where two are equal."""
    left, values, _ = torch.linalg.svd(maps @ (quaternion_to_matrix(rotations) * scales.unsqueeze(-2)))
    return matrix_to_quaternion(left * torch.linalg.det(left)[..., None, None].sign()), values


def covariances(maps: Tensor, rotations: Tensor, scales: Tensor) -> Tensor:
    """F R diag(s^2) R^T F^T, (W, N, 3, 3) [m^2]: what the axes stand for."""
    factor = maps @ (quaternion_to_matrix(rotations) * scales.unsqueeze(-2))
    return factor @ factor.mT


def nearest_rotation(matrices: Tensor) -> Tensor:
    """As `structwm.kernels.skinning.nearest_rotation`, (N, 3, 3) to (N, 4); no gradient where two singular values are equal."""
    left, _, right = torch.linalg.svd(matrices)
    mirrored = torch.linalg.det(left @ right).sign()
    signs = torch.stack((torch.ones_like(mirrored), torch.ones_like(mirrored), mirrored), -1)
    return matrix_to_quaternion((left * signs.unsqueeze(-2)) @ right)
