"""Two observations of one deformable object brought together: a rigid motion first, then a smooth displacement.

The rigid part is iterated closest points (Besl and McKay, PAMI 1992) from several starts, trimmed; the rest is coherent point drift (Myronenko and Song, PAMI
2010, sections 5 and 6): the points of one set are the centres of a Gaussian mixture, and move coherently, so that the other set is likely. An object that looks
alike from several sides, or bends far, is only told by what its points look like: colours, or other features, count in all of it where they are given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structwm.geometry.neighbors import knn
from structwm.geometry.rotations import motion_matrix, nearest_rotation, quaternion_to_matrix

from .bounds import some

KEPT = 0.8  # of the pairs, the nearest, that a rigid motion is taken from
CENTRES = 800  # centres of the mixture at most; the displacement between them follows from its smoothness
BEST = 5  # rigid motions that are tried as the start of a displacement
ALIKE = 0.05  # of the source's size, that a difference of features of one `feature_width` counts as
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
    start: Tensor | None = None,
    seed: int = 0,
    source_features: Tensor | None = None,
    target_features: Tensor | None = None,
    feature_width: float = 0.1,
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
        start: (4, 4) rigid motion that is taken as it is; searched for if not given.
        seed: of the points that stand for large sets.
        source_features: (N, F) what each point looks like, such as its colour in [0, 1].
        target_features: (M, F) of the observed points.
        feature_width: standard deviation by which features of one point differ between two observations.

    Raises:
        ValueError: on fewer than four points, features of one set alone or of another shape, or numbers that cannot be.
    """
    for name, value in (("source", source), ("target", target)):
        if value.ndim != 2 or value.shape[-1] != 3 or len(value) < 4 or not bool(value.isfinite().all()):
            raise ValueError(f"register_points {name}: expected at least four finite points (N, 3), got {tuple(value.shape)}.")
    if not (width > 0 and stiffness > 0 and 0 <= outliers < 1):
        raise ValueError(f"register_points: expected width and stiffness above 0 and outliers in [0, 1), got {width}, {stiffness} and {outliers}.")
    looks = _looks(source, target, source_features, target_features, feature_width)
    centres, seen = some(source.detach().double(), CENTRES, seed), some(target.detach().double(), SEEN, seed + 1)
    if looks is not None:  # the same points, for the draw depends on their number alone
        looks = some(looks[0], CENTRES, seed), some(looks[1], SEEN, seed + 1)
    drift = _Drift(width, stiffness, outliers, iterations)
    motions = [start.to(centres)] if start is not None else register_rigid(centres, seen, turns=turns, most=BEST if deformable else 1)
    if looks is not None and start is None:
        motions = [_motion_by_looks(centres, seen, *looks), *motions]
    if len(motions) > 1:  # of an object that looks alike from several sides, the way counts in which it had to change its shape least
        few, some_seen = some(centres, 250), some(seen, 400)
        few_looks = None if looks is None else (some(looks[0], 250), some(looks[1], 400))
        motions = sorted(motions, key=lambda motion: _effort(few, some_seen, few_looks, motion, drift, deformable))
    motion = motions[0]
    moved, size = _moved(centres, motion)
    weights = drift.weights(moved, seen, looks, size) if deformable else torch.zeros_like(moved)
    found = moved + _kernel(moved, moved, width * size) @ weights
    distance = knn(seen, found.contiguous(), 1).distances[:, 0].sort().values[: max(1, int(KEPT * len(seen)))]
    return Registration(motion, moved, weights, width * size, float(distance.square().mean().sqrt()))


Looks = tuple[Tensor, Tensor]  # features of the source and of the observed points, in units of their width


def _looks(source: Tensor, target: Tensor, first: Tensor | None, second: Tensor | None, width: float) -> Looks | None:
    """Features in units of their width, if there are any.

    Raises:
        ValueError: on features of one set alone, or that do not fit.
    """
    if first is None and second is None:
        return None
    if first is None or second is None:
        raise ValueError("register_points needs features of both sets of points, or of none.")
    for name, features, points in (("source", first, source), ("target", second, target)):
        if features.ndim != 2 or len(features) != len(points) or features.shape[1] != first.shape[1] or not bool(features.isfinite().all()):
            raise ValueError(f"register_points {name}_features: expected finite features ({len(points)}, {first.shape[1]}), got {tuple(features.shape)}.")
    if not width > 0:
        raise ValueError(f"register_points: expected feature_width above 0, got {width}.")
    return first.detach().double() / width, second.detach().double() / width


def _alike(looks: Looks) -> Tensor:
    """How likely each observed point is each of the source by its features alone, (N, M), up to a factor."""
    return torch.exp(-torch.cdist(*looks).square() / 2)


def _motion_by_looks(source: Tensor, seen: Tensor, *looks: Tensor) -> Tensor:
    """The rigid motion (4, 4) that lays points on those that look alike, without the worst of the pairs."""
    alike = _alike((looks[0], looks[1]))
    mass = alike.sum(0)
    pairs = alike.mT @ source / mass.clamp_min(1e-12).unsqueeze(-1)
    kept = mass > 1e-3
    turn, shift = torch.eye(3).to(source), seen.mean(0) - source.mean(0)
    for _ in range(5):
        if int(kept.sum()) < 4:
            break
        a, b = pairs[kept], seen[kept]
        turn = quaternion_to_matrix(nearest_rotation((b - b.mean(0)).mT @ (a - a.mean(0))))
        shift = b.mean(0) - turn @ a.mean(0)
        off = (pairs @ turn.mT + shift - seen).norm(dim=-1)
        kept = (mass > 1e-3) & (off <= off[mass > 1e-3].quantile(KEPT))
    return motion_matrix(turn, shift)


def _moved(centres: Tensor, motion: Tensor) -> tuple[Tensor, float]:
    """Points after a rigid motion, and their root mean square distance from their middle [m]."""
    moved = centres @ motion[:3, :3].mT + motion[:3, 3]
    return moved, float((moved - moved.mean(0)).norm(dim=-1).square().mean().sqrt())


def _effort(centres: Tensor, seen: Tensor, looks: Looks | None, motion: Tensor, drift: _Drift, deformable: bool) -> float:
    """What is left of the distance after a displacement, unlike features counted in, and a part of how far it moved the points [m]."""
    moved, size = _moved(centres, motion)
    by = torch.zeros_like(moved)
    if deformable:
        by = _kernel(moved, moved, drift.width * size) @ replace(drift, iterations=drift.iterations // 2).weights(moved, seen, looks, size)
    a, b = moved + by, seen
    if looks is not None:
        a, b = (torch.cat((points, ALIKE * size * own), -1) for points, own in zip((a, b), looks, strict=True))
    left = torch.cdist(b, a).amin(-1).sort().values[: max(1, int(KEPT * len(seen)))]
    return float(left.mean() + EFFORT * by.norm(dim=-1).mean())


def _kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    return torch.exp(-torch.cdist(a, b).square() / (2 * width**2))


@dataclass(frozen=True)
class _Drift:
    """Coherent point drift: expectation maximisation with a variance that shrinks, lengths in units of the source's size."""

    width: float
    stiffness: float
    outliers: float
    iterations: int

    def weights(self, centres: Tensor, seen: Tensor, looks: Looks | None, size: float) -> Tensor:
        """Weights (M, 3) of the displacement [m]."""
        y, x = centres / size, seen / size
        count, total = len(y), len(x)
        kernel = _kernel(y, y, self.width)
        alike = None if looks is None else _alike(looks)
        rarity = 1.0 if alike is None else float(alike.mean())  # so that strangers are as likely with features as without
        weights, moved = torch.zeros_like(y), y
        variance = float(torch.cdist(x, moved).square().mean() / 3) / 4  # rigidly aligned already, so near from the start
        eye = torch.eye(count, dtype=y.dtype, device=y.device)
        for _ in range(self.iterations):
            near = torch.exp(-torch.cdist(moved, x).square() / (2 * variance))
            if alike is not None:
                near = near * alike
            rest = rarity * (2 * torch.pi * variance) ** 1.5 * self.outliers / (1 - self.outliers) * count / total
            belief = near / (near.sum(0) + rest + 1e-300)
            mass = belief.sum(1)
            # diag(mass) G + lambda variance I, scaled by the root of mass so that it is symmetric
            weights = torch.linalg.solve(mass.unsqueeze(-1) * kernel + self.stiffness * variance * eye, belief @ x - mass.unsqueeze(-1) * y)
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
