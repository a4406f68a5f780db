"""Motion that keeps rigid things rigid: the twist of each object that best explains how its points are predicted to move."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.rotations import quaternion_to_matrix, rotation_vector_to_quaternion

FLAT = 1e-6  # share of an object's spread that is added to its moments, so that points on a line, or a single one, have a turn as well (none about the line)


def rigid_motion(positions: Tensor, moves: Tensor, member: Tensor, flat: float = FLAT) -> tuple[Tensor, Tensor, Tensor]:
    """The rigid motion of each object nearest to the motions of its points, by least squares in the twist.

    Args:
        positions: (P, N, 3) [m].
        moves: (P, N, 3) where points are predicted to go, less where they are [m].
        member: (P or 1, O, N) 1 where a point belongs to an object.
        flat: share of an object's spread that is added to its moments; what is larger turns less, and few points that are almost on a line do not turn wildly.

    Returns:
        Centroids (P, O, 3), how far they move (P, O, 3) and by how much the object turns about them, rotation vectors (P, O, 3) [rad].
    """
    count = member.sum(-1, keepdim=True).clamp_min(1.0)
    centre, shift = (member @ positions) / count, (member @ moves) / count
    arms = positions.unsqueeze(1) - centre.unsqueeze(2)  # (P, O, N, 3)
    own = member.unsqueeze(-1)
    torque = (own * torch.linalg.cross(arms, moves.unsqueeze(1).expand_as(arms), dim=-1)).sum(2)
    spread = (own * arms).transpose(-1, -2) @ arms  # sum of r r^T
    size = spread.diagonal(dim1=-2, dim2=-1).sum(-1)
    eye = torch.eye(3, dtype=positions.dtype, device=positions.device)
    moments = (size * (1.0 + flat) + 1e-12)[..., None, None] * eye - spread
    turn = torch.linalg.solve(moments, torque.unsqueeze(-1)).squeeze(-1)
    return centre, shift, turn


def as_rigid(positions: Tensor, moves: Tensor, member: Tensor) -> Tensor:
    """Motions (P, N, 3) of points as those of rigid objects; what belongs to none does not move. Shapes as of `rigid_motion`."""
    centre, shift, turn = rigid_motion(positions, moves, member)
    matrix = quaternion_to_matrix(rotation_vector_to_quaternion(turn))
    weights = member.transpose(-1, -2)  # (P or 1, N, O)
    own = (weights @ matrix.flatten(-2)).unflatten(-1, (3, 3))  # of each point, the rotation of its object
    middle, step = weights @ centre, weights @ shift
    moved: Tensor = (own @ (positions - middle).unsqueeze(-1)).squeeze(-1) + middle + step - positions
    return torch.where(weights.sum(-1, keepdim=True) > 0, moved, 0.0)
