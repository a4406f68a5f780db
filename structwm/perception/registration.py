"""Two observations of one deformable object brought together: a rigid motion first, then a smooth displacement.

The rigid part is iterated closest points (Besl and McKay, PAMI 1992) from several starts, trimmed; the rest is coherent point drift (Myronenko and Song, PAMI
2010, sections 5 and 6): the points of one set are the centres of a Gaussian mixture, and move coherently, so that the other set is likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.neighbors import knn
from structwm.geometry.rotations import motion_matrix, nearest_rotation, quaternion_to_matrix

from .bounds import some

KEPT = 0.8  # of the pairs, the nearest, that a rigid motion is taken from
CENTRES = 800  # centres of the mixture at most; the displacement between them follows from its smoothness
BEST = 5  # rigid motions that are tried as the start of a displacement
EFFORT = 0.3  # of a displacement's length, counted beside the distance that is left
SEEN = 1500  # observed points at most that it is fitted to


@dataclass(frozen=True, eq=False)
class Registration:
    """How one set of points moved to another."""

    world_from_source: Tensor  # (4, 4) the rigid part [m]
    centres: Tensor  # (M, 3) points of the source, moved rigidly [m]
    weights: Tensor  # (M, 3) of the smooth displacement; zeros where it was not asked for
    width: float  # of its kernel [m]
    distance: float  # root mean square distance of the observed points to the moved source, but for a fifth [m]

    def move(self, points: Tensor) -> Tensor:
        """Where points (*B, 3) of the source's frame are now [m]: also others than those that were registered, as those inside or the vertices of a twin."""
        flat = points.reshape(-1, 3).to(self.centres)
        rigid = flat @ self.world_from_source[:3, :3].mT + self.world_from_source[:3, 3]
        return (rigid + _kernel(rigid, self.centres, self.width) @ self.weights).reshape(points.shape).to(points)


def register_points(
    source: Tensor,
    target: Tensor,
    *,
    deformable: bool = True,
    width: float = 1.0,
    stiffness: float = 10.0,
    outliers: float = 0.1,
    iterations: int = 60,
    turns: bool = True,
    seed: int = 0,
) -> Registration:
    """Move points of an object to a new observation of it.

    Args:
        source: points (N, 3) of the object [m].
        target: observed points (M, 3) [m]; parts may be missing, and strangers among them.
        deformable: whether the object may also have changed its shape.
        width: of the kernel, in units of the source's root mean square size; larger bends less sharply. Too small, points run after single observed ones.
        stiffness: larger moves neighbours more alike (lambda of the paper).
        outliers: expected share of observed points that are not the object's.
        iterations: of coherent point drift, at most.
        turns: try large rotations too; False where the object lies about as it did.
        seed: of the points that stand for large sets.

    Raises:
        ValueError: on fewer than four points, or numbers that cannot be.
    """
    for name, value in (("source", source), ("target", target)):
        if value.ndim != 2 or value.shape[-1] != 3 or len(value) < 4 or not bool(value.isfinite().all()):
            raise ValueError(f"register_points {name}: expected at least four finite points (N, 3), got {tuple(value.shape)}.")
    if not (width > 0 and stiffness > 0 and 0 <= outliers < 1):
        raise ValueError(f"register_points: expected width and stiffness above 0 and outliers in [0, 1), got {width}, {stiffness} and {outliers}.")
    centres, seen = some(source.detach().double(), CENTRES, seed), some(target.detach().double(), SEEN, seed + 1)
    options = (width, stiffness, outliers, iterations)
    motions = register_rigid(centres, seen, turns=turns, most=BEST if deformable else 1)
    if len(motions) > 1:  # of an object that looks alike from several sides, the way counts in which it had to change its shape least
        few, some_seen = some(centres, 250), some(seen, 400)
        motions = sorted(motions, key=lambda motion: _effort(few, some_seen, motion, *options))
    motion = motions[0]
    moved, size = _moved(centres, motion)
    weights = _drift(moved, seen, width * size, stiffness, outliers, iterations, size) if deformable else torch.zeros_like(moved)
    found = moved + _kernel(moved, moved, width * size) @ weights
    distance = knn(seen, found.contiguous(), 1).distances[:, 0].sort().values[: max(1, int(KEPT * len(seen)))]
    return Registration(motion, moved, weights, width * size, float(distance.square().mean().sqrt()))


def _moved(centres: Tensor, motion: Tensor) -> tuple[Tensor, float]:
    """Points after a rigid motion, and their root mean square distance from their middle [m]."""
    moved = centres @ motion[:3, :3].mT + motion[:3, 3]
    return moved, float((moved - moved.mean(0)).norm(dim=-1).square().mean().sqrt())


def _effort(centres: Tensor, seen: Tensor, motion: Tensor, width: float, stiffness: float, outliers: float, iterations: int) -> float:
    """What is left of the distance after a displacement, and a part of how far it moved the points [m]."""
    moved, size = _moved(centres, motion)
    by = _kernel(moved, moved, width * size) @ _drift(moved, seen, width * size, stiffness, outliers, iterations // 2, size)
    left = knn(seen, moved + by, 1).distances[:, 0].sort().values[: max(1, int(KEPT * len(seen)))]
    return float(left.mean() + EFFORT * by.norm(dim=-1).mean())


def _kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2 * width**2))


def _drift(centres: Tensor, seen: Tensor, width: float, stiffness: float, outliers: float, iterations: int, size: float) -> Tensor:
    """Weights (M, 3) of the displacement: expectation maximisation with a variance that shrinks, lengths in units of `size`."""
    y, x, beta = centres / size, seen / size, width / size
    count, total = len(y), len(x)
    kernel = _kernel(y, y, beta)
    weights = torch.zeros_like(y)
    moved = y
    variance = float(torch.cdist(x, moved).square().mean() / 3) / 4  # rigidly aligned already, so near from the start
    eye = torch.eye(count, dtype=y.dtype, device=y.device)
    for _ in range(iterations):
        near = torch.exp(-torch.cdist(moved, x).square() / (2 * variance))
        rest = (2 * torch.pi * variance) ** 1.5 * outliers / (1 - outliers) * count / total
        belief = near / (near.sum(0) + rest + 1e-300)
        mass = belief.sum(1)
        # diag(mass) G + lambda variance I, scaled by the root of mass so that it is symmetric
        weights = torch.linalg.solve(mass.unsqueeze(-1) * kernel + stiffness * variance * eye, belief @ x - mass.unsqueeze(-1) * y)
        moved = y + kernel @ weights
        square = (belief * torch.cdist(moved, x).square()).sum() / (3 * belief.sum()).clamp_min(1e-12)
        before, variance = variance, max(float(square), 1e-6)
        if abs(before - variance) < 1e-4 * before:
            break
    return weights * size


def register_rigid(source: Tensor, target: Tensor, *, turns: bool = True, iterations: int = 40, most: int = 1) -> list[Tensor]:
    """The rigid motions (4, 4) [m] that bring source (N, 3) nearest to target (M, 3), the best first, at most `most` that differ.

    Trimmed iterated closest points from the middle of one set on that of the other: unturned and, with `turns`, with the principal axes laid on each other in
    all 24 ways.
    """
    starts = [torch.eye(3).to(source)]
    if turns:
        starts += _axis_turns(source, target)
    few, seen = some(source, 300), some(target, 600)
    tried = sorted((_closest(few, seen, turn, iterations // 2) for turn in starts), key=lambda pair: pair[1])
    chosen: list[Tensor] = []
    for motion, _ in tried:
        if all(float((motion[:3, :3] * other[:3, :3]).sum()) < 2.9 for other in chosen) and len(chosen) < most:
            chosen.append(motion)
    return [_closest(source, target, motion[:3, :3], iterations, motion[:3, 3])[0] for motion in chosen]


def _axis_turns(source: Tensor, target: Tensor) -> list[Tensor]:
    a, b = (torch.linalg.svd(points - points.mean(0), full_matrices=False).Vh.mT for points in (source, target))
    found = []
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            axes = b[:, order].clone()
            axes[:, 0] *= signs[0]
            axes[:, 1] *= signs[1]
            axes[:, 2] *= torch.linalg.det(axes) * torch.linalg.det(a)
            found.append(axes @ a.mT)
    return found


def _closest(source: Tensor, target: Tensor, turn: Tensor, iterations: int, shift: Tensor | None = None) -> tuple[Tensor, float]:
    shift = target.mean(0) - turn @ source.mean(0) if shift is None else shift
    target, error = target.contiguous(), torch.inf
    for _ in range(iterations):
        moved = source @ turn.mT + shift
        near = knn(moved.contiguous(), target, 1)
        distance, index = near.distances[:, 0], near.indices[:, 0]
        kept = distance.argsort()[: max(4, int(KEPT * len(source)))]
        a, b = source[kept], target[index[kept]]
        turn = quaternion_to_matrix(nearest_rotation((b - b.mean(0)).mT @ (a - a.mean(0))))
        shift = b.mean(0) - turn @ a.mean(0)
        before, error = error, float(distance[kept].square().mean())
        if before - error < 1e-6 * before:
            break
    return motion_matrix(turn, shift), error
