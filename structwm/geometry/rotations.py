"""Rotations in space as batches of quaternions, matrices and rotation vectors, and rigid motions as poses.

Quaternions are `wxyz`, mean the same at any length, and q and -q are one rotation; the zero quaternion, as in padding, is the identity and has no gradient.
A rotation vector is the axis times the angle [rad]. A pose is `world_from_body`: position [m], then quaternion; a motion is the same as a matrix (4, 4). All
gradients are finite, also at the identity and at half turns, where results that jump between two equal answers give the gradient of the one returned. Leading
axes broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

SERIES_BELOW = 1e-4
"""Squares below which sin(x) / x and its kin are taken from their series, whose error is then below the rounding of float64."""


def _checked(name: str, value: Tensor, *shape: int | str) -> None:
    """Refuses what is not floating and does not end in `shape`, where a letter stands for any size."""
    fits = value.ndim >= len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(value.shape[value.ndim - len(shape) :], shape, strict=True)
    )
    if not fits or not value.is_floating_point():
        raise ValueError(f"{name}: expected floats (*B, {', '.join(map(str, shape))}), got {value.dtype} {tuple(value.shape)}.")


def check_rotations(what: str, matrix: Tensor, *, advice: str = "") -> None:
    """Refuse matrices (*B, 3, 3) that are no rotations within 1e-3.

    Raises:
        ValueError: "{what}: expected rotations, ...{advice}."
    """
    turn = matrix.detach().double()
    skew = (turn @ turn.mT - torch.eye(3, dtype=turn.dtype, device=turn.device)).abs().amax() if turn.numel() else turn.new_zeros(())
    if not bool(skew <= 1e-3) or bool((torch.linalg.det(turn) < 0).any()):
        raise ValueError(f"{what}: expected rotations, got a matrix that is off by {float(skew):.2g} from one (or mirrors){advice}.")


def normalize_quaternion(quaternion: Tensor) -> Tensor:
    """The unit quaternion (*B, 4) of the same rotation."""
    _checked("quaternion", quaternion, 4)
    largest = quaternion.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    scaled = quaternion / torch.where(zero, 1.0, largest)  # so that no square over- or underflows
    identity = pad(torch.ones_like(largest), (0, 3))
    scaled = torch.where(zero, identity, scaled)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)


def quaternion_conjugate(quaternion: Tensor) -> Tensor:
    """The quaternion (*B, 4) of the same length that turns back."""
    _checked("quaternion", quaternion, 4)
    return torch.cat((quaternion[..., :1], -quaternion[..., 1:]), -1)


def quaternion_multiply(left: Tensor, right: Tensor) -> Tensor:
    """The product (*B, 4), which turns by `right` first and then by `left`."""
    _checked("left quaternion", left, 4)
    _checked("right quaternion", right, 4)
    a, b, c, d = left.unbind(-1)
    w, x, y, z = right.unbind(-1)
    return torch.stack(
        (a * w - b * x - c * y - d * z, a * x + b * w + c * z - d * y, a * y - b * z + c * w + d * x, a * z + b * y - c * x + d * w),
        -1,
    )


def quaternion_rotate(quaternion: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (*B, 3) turned by quaternions (*B, 4)."""
    _checked("vectors", vectors, 3)
    unit = normalize_quaternion(quaternion)
    w, axis = unit[..., :1], unit[..., 1:]
    across = 2 * torch.linalg.cross(*torch.broadcast_tensors(axis, vectors))
    return vectors + w * across + torch.linalg.cross(*torch.broadcast_tensors(axis, across))


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Rotation matrices (*B, 3, 3), whose columns are the turned axes."""
    w, x, y, z = normalize_quaternion(quaternion).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions (*B, 4) with w >= 0 of rotation matrices (*B, 3, 3).

    The entries are sums of products of the quaternion's parts; the row of 4 q q^T with the largest part is taken, as no root of a small number is needed then.
    """
    _checked("matrix", matrix, 3, 3)
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    products = torch.stack(
        (
            torch.stack((1 + a + e + i, h - f, c - g, d - b), -1),
            torch.stack((h - f, 1 + a - e - i, b + d, c + g), -1),
            torch.stack((c - g, b + d, 1 - a + e - i, f + h), -1),
            torch.stack((d - b, c + g, f + h, 1 - a - e + i), -1),
        ),
        -2,
    )
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = products.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    return normalize_quaternion(torch.where(row[..., :1] < 0, -row, row))


def nearest_rotation(matrix: Tensor) -> Tensor:
    """Unit quaternions (*B, 4) with w >= 0 of the rotations R nearest to any matrices (*B, 3, 3), those with the largest trace(R^T matrix).

    It is the rotation of the polar decomposition, and of Kabsch's method. Of several that are as near it is one, without gradient in the directions between
    them.
    """
    from structwm.kernels.skinning import nearest_rotation as nearest

    _checked("matrix", matrix, 3, 3)
    return nearest(matrix.reshape(-1, 3, 3)).view(*matrix.shape[:-2], 4)


def rotation_vector_to_quaternion(vector: Tensor) -> Tensor:
    """Unit quaternions (*B, 4) of rotation vectors (*B, 3) [rad] of any length: the exponential map."""
    _checked("rotation vector", vector, 3)
    square = vector.square().sum(-1, keepdim=True)
    small = square < SERIES_BELOW
    angle = torch.where(small, 1.0, square).sqrt()
    w = torch.where(small, 1 - square / 8 + square**2 / 384, torch.cos(angle / 2))
    factor = torch.where(small, 0.5 - square / 48 + square**2 / 3840, torch.sin(angle / 2) / angle)
    return torch.cat((w, factor * vector), -1)


def quaternion_to_rotation_vector(quaternion: Tensor) -> Tensor:
    """Rotation vectors (*B, 3) [rad] of no more than half a turn: the logarithm."""
    unit = normalize_quaternion(quaternion)
    unit = torch.where(unit[..., :1] < 0, -unit, unit)
    w, axis = unit[..., :1], unit[..., 1:]
    square = axis.square().sum(-1, keepdim=True)
    small = square < SERIES_BELOW
    length = torch.where(small, 1.0, square).sqrt()
    w_near_one = torch.where(small, w, 1.0)
    ratio = square / w_near_one.square()
    series = (2 - ratio * (2 / 3 - ratio * (2 / 5 - ratio * 2 / 7))) / w_near_one
    return axis * torch.where(small, series, 2 * torch.atan2(length, w) / length)


def align_quaternions(quaternion: Tensor, reference: Tensor) -> Tensor:
    """Quaternions (*B, 4) of the same rotations, with the signs that bring them to the side of `reference` (*B, 4)."""
    _checked("quaternion", quaternion, 4)
    _checked("reference quaternion", reference, 4)
    return torch.where((quaternion * reference).sum(-1, keepdim=True) < 0, -quaternion, quaternion)


def slerp(start: Tensor, end: Tensor, fraction: Tensor | float) -> Tensor:
    """Unit quaternions (*B, 4) on the shorter way from `start` to `end` (*B, 4) at constant angular velocity; fractions (*B) 0 and 1 are the ends."""
    start, end = normalize_quaternion(start), normalize_quaternion(end)
    turn = quaternion_to_rotation_vector(quaternion_multiply(quaternion_conjugate(start), end))
    share = fraction.unsqueeze(-1) if isinstance(fraction, Tensor) else fraction
    return quaternion_multiply(start, rotation_vector_to_quaternion(share * turn))


def to_world(pose: Tensor, points: Tensor) -> Tensor:
    """Points (*B, N, 3) [m] of bodies in the world, by their poses (*B, 7)."""
    _checked("pose", pose, 7)
    _checked("points", points, "N", 3)
    return points @ quaternion_to_matrix(pose[..., 3:]).mT + pose[..., None, :3]


def to_body(pose: Tensor, points: Tensor) -> Tensor:
    """Points (*B, N, 3) [m] of the world in the frames of poses (*B, 7)."""
    _checked("pose", pose, 7)
    _checked("points", points, "N", 3)
    return (points - pose[..., None, :3]) @ quaternion_to_matrix(pose[..., 3:])


def motion_matrix(rotation: Tensor, translation: Tensor) -> Tensor:
    """Motions (*B, 4, 4) of rotations (*B, 3, 3) and then translations (*B, 3) [m]."""
    _checked("rotation", rotation, 3, 3)
    _checked("translation", translation, 3)
    batch = torch.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    top = torch.cat((rotation.expand(*batch, 3, 3), translation.unsqueeze(-1).expand(*batch, 3, 1)), -1)
    return torch.cat((top, top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*batch, 1, 4)), -2)


def invert_motion(motion: Tensor) -> Tensor:
    """The motions (*B, 4, 4) back: R^T and -R^T t."""
    _checked("motion", motion, 4, 4)
    back, place = motion[..., :3, :3].mT, motion[..., :3, 3]
    return motion_matrix(back, -(back @ place.unsqueeze(-1)).squeeze(-1))
