"""The centre line of a rope from its points: where it runs, how long and how thick it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structwm.geometry.mesh_sampling import thin_points
from structwm.geometry.spring_graph import graph_distances, graph_pieces

from .bounds import some

Array = NDArray[np.float64]

MOST = 8000  # points that stand for a cloud
FEW = 1500  # points that thickness is measured on
PULLED = 3000  # points that are pulled to the middle
GROWTH = 1.2  # from one radius that is tried to the next
AGREE = (0.65, 1.25)  # root mean square distance to the line, in units of the radius that was tried, between which the two agree
EVEN = 0.35  # least distance of the points that give the final line, in radii, so that none of its sides weighs more by having more points
TIGHT = 0.4  # distance to the line of four fifths of the points at the middle, in radii, below which they are believed to be there
PULL = 0.5  # standard deviation of the pull of points to each other, in radii
ROUNDS = 6  # of pulling
LINK = 1.2  # longest link of pulled points, in radii
PIECE = 0.04  # share of the points that a piece has at least


@dataclass(frozen=True, eq=False)
class CentreLine:
    """A polyline along the middle of an elongated object."""

    vertices: Tensor  # (V, 3), evenly spaced along the line [m]
    length: float  # of the smooth line from end to end [m]
    radius: float  # root mean square distance of the points to the line [m]

    @property
    def rest_lengths(self) -> Tensor:
        """(V - 1,) each an equal part of the length [m]; the straight distances between vertices are a little less where the line bends."""
        return torch.full((len(self.vertices) - 1,), self.length / (len(self.vertices) - 1), dtype=self.vertices.dtype)


def centre_line(points: Tensor, vertices: int = 32, *, radius: float | None = None, seed: int = 0) -> CentreLine:
    """The centre line of a rope from points on or in it.

    1. How thick it is: radii are tried from small to large, until one agrees with how far the points are from the line that is found with it. The smallest is
       taken, for two strands side by side look like one thick one.
    2. Points on the surface are moved inward by the radius, along their normals; points that fill the rope stay. (Both are tried.) Then they are pulled
       together across the local direction (blurring mean shift; Cheng, PAMI 1995), so that strands that lie side by side come apart.
    3. They are linked to a graph, whose shortest ways from one end order the points of each piece. Pieces, where the rope was hidden, are joined at their ends,
       the nearest and straightest first.
    4. Means along that order give a smooth spline; the points are ordered again along it, which gives the final one. It ends where the points end.

    Strands that lie side by side are told apart if their middles are 4 radii apart or more, 3 where points fill the rope, 6 where only its upper side is seen;
    nearer ones may be taken for one thick rope, whose length is then far too small. The object must not branch or close to a ring.

    Args:
        points: (N, 3) [m].
        vertices: of the polyline.
        radius: of the rope [m]; measured if not given. Give it where most of the rope lies beside itself.
        seed: which points stand for a large cloud.

    Raises:
        ValueError: in one sentence, on too few points, or an object that is not elongated.
    """
    if points.ndim != 2 or points.shape[-1] != 3 or len(points) < 30 or vertices < 2:
        raise ValueError(f"centre_line: expected at least 30 points (N, 3) and 2 vertices, got {tuple(points.shape)} and {vertices}.")
    if not bool(points.isfinite().all()):
        raise ValueError("centre_line: expected finite points, got NaN or infinity.")
    cloud = some(points.detach().cpu(), MOST, seed).double()
    hollow, thick = _kind(_numbers(some(cloud, FEW, seed)), radius)
    line, _ = _trace(_numbers(some(cloud, PULLED, seed)), thick, hollow)
    every = _numbers(cloud[thin_points(cloud, EVEN * thick, seed=seed)])
    middle = inward(every, thick) if hollow else every
    for _ in range(3):
        distance, along = _project(line, middle)
        near = distance < 1.5 * thick
        line = _spline(middle[near], along[near], thick, float(np.sqrt(np.mean(distance[near] ** 2))))
    line = _to_the_ends(line, every, thick)
    radius = thick
    place = _places(line)
    if place[-1] < 4 * radius:
        raise ValueError(f"centre_line: expected an elongated object, got one {place[-1]:.3g} m long and {2 * radius:.3g} m thick.")
    even = np.linspace(0.0, place[-1], vertices)
    corners = np.stack([np.interp(even, place, line[:, axis]) for axis in range(3)], -1)
    return CentreLine(torch.from_numpy(corners).to(points), float(place[-1]), _rms(line, every, radius))


def _numbers(points: Tensor) -> Array:
    cloud: Array = points.numpy()
    return cloud[_among_others(cloud)]


def _places(line: Array) -> Array:
    """Of the corners of a polyline along it, (L,) [m]."""
    return np.concatenate(([0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()))


def _rms(line: Array, points: Array, radius: float) -> float:
    """Root mean square distance of points to a line, but for the farthest [m]."""
    distance, _ = _project(line, points)
    return float(np.sqrt(np.mean(distance[distance < max(2.5 * radius, float(np.quantile(distance, 0.9)))] ** 2)))


def _trace(cloud: Array, radius: float, hollow: bool) -> tuple[Array, float]:
    """A first smooth polyline (L, 3) along points (n, 3) on the surface of a rope (hollow) or through it, and how far most are from it when at the middle."""
    pulled = pull_together(inward(cloud, radius) if hollow else cloud, radius)
    line = _spline(pulled, _joined(pulled, radius), radius)
    return line, float(np.quantile(_project(line, pulled)[0], 0.8))


def _kind(cloud: Array, radius: float | None) -> tuple[bool, float]:
    """Whether points (n, 3) lie on the surface of a rope, or all through it, and its radius [m]: the smallest that agrees with the line that it gives.

    Raises:
        ValueError: if none does.
    """

    size = float(np.linalg.norm(np.ptp(cloud, axis=0)))
    start = max(size / 500, float(np.median(_nearest(cloud, 5)[:, 4])) / 2)
    radii = [radius] if radius is not None else [start * GROWTH**k for k in range(40) if start * GROWTH**k < size / 6]
    for tried in radii:
        for hollow in (True, False):
            try:
                line, away = _trace(cloud, tried, hollow)
            except ValueError:
                continue
            found = _rms(line, cloud, tried)
            if away < TIGHT * tried and (radius is not None or AGREE[0] * tried < found < AGREE[1] * tried):
                return hollow, tried
    if radius is not None:
        return False, radius
    raise ValueError("centre_line: expected an elongated object, got points that agree with no thickness; give its radius.")


def _among_others(cloud: Array) -> NDArray[np.bool_]:
    """Which points have neighbours: the mean distance to eight others is no outlier, by the median and the median absolute deviation."""

    distance = _nearest(cloud, 9)[:, 1:].mean(-1)
    middle = np.median(distance)
    found: NDArray[np.bool_] = distance <= middle + 5 * max(1.4826 * np.median(np.abs(distance - middle)), 0.2 * middle)
    return found


def inward(cloud: Array, radius: float) -> Array:
    """Points (n, 3) of a surface moved by `radius` [m] along their normals, to the side on which their neighbours are."""
    first, second = _pairs(cloud, radius)
    apart, count = cloud[second] - cloud[first], len(cloud)
    mean, moments = _moments(first, apart, count)
    crowd = np.bincount(first, minlength=count)[:, None] + 1
    mean = mean / crowd
    values, axes = np.linalg.eigh(moments / crowd[:, None] - mean[:, :, None] * mean[:, None])
    normal = axes[..., 0]
    side = np.sign((normal * mean).sum(-1, keepdims=True))
    # along a rope two directions vary; where the normal is not told from the other two, as among few points, the point stays
    plain = (values[:, 0] < 0.5 * values[:, 1]) & (crowd[:, 0] > 5)
    return np.asarray(cloud + radius * plain[:, None] * side * normal)


def _nearest(points: Array, count: int) -> Array:
    """Distances (n, count) to the nearest points, itself first."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(points).query(points, count)[0])


def _pairs(points: Array, radius: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both ends of all pairs within a radius, each pair twice."""
    from scipy.spatial import cKDTree

    pairs = np.asarray(cKDTree(points).query_pairs(radius, output_type="ndarray"), dtype=np.int64)
    both: NDArray[np.int64] = np.concatenate((pairs, pairs[:, ::-1]))
    return both[:, 0], both[:, 1]


def _moments(first: NDArray[np.int64], apart: Array, count: int) -> tuple[Array, Array]:
    """Sums (n, 3) and (n, 3, 3) of vectors and of their products with themselves, by their first ends."""
    sums: Array = np.stack([np.bincount(first, apart[:, k], count) for k in range(3)], -1).astype(np.float64)
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    products: Array = np.stack([np.bincount(first, apart[:, a] * apart[:, b], count) for a, b in pairs], -1).astype(np.float64)
    return sums, products[:, [[0, 1, 2], [1, 3, 4], [2, 4, 5]]]


def pull_together(cloud: Array, radius: float) -> Array:
    """Points (m, 3) pulled together across the rope's direction, without those that few others are near to."""
    pulled = cloud
    for turn in range(ROUNDS):
        first, second = _pairs(pulled, 2 * radius)
        apart, count = pulled[second] - pulled[first], len(pulled)
        weight = np.exp(-(apart**2).sum(-1) / (2 * (PULL * radius) ** 2))
        mean = _moments(first, weight[:, None] * apart, count)[0] / (np.bincount(first, weight, count) + 1)[:, None]
        direction = np.linalg.eigh(_moments(first, apart, count)[1])[1][..., 2]
        pulled = pulled + mean - (mean * direction).sum(-1, keepdims=True) * direction
        if turn in (0, ROUNDS - 1):  # on a rope a point has about as many others around it as the others have
            crowd = np.bincount(_pairs(pulled, (2.0 if turn == 0 else 0.5) * radius)[0], minlength=count)
            pulled = pulled[crowd >= 0.3 * np.median(crowd)]
    return pulled


def _joined(pulled: Array, radius: float) -> Array:
    """Place of each point (m,) along the rope, in metres from one end; NaN for points of pieces that are too small."""
    from scipy.spatial import cKDTree

    spacing = float(np.median(_nearest(pulled, 7)[:, 6]))
    pairs = torch.from_numpy(cKDTree(pulled).query_pairs(max(LINK * radius, spacing), output_type="ndarray"))
    labels = graph_pieces(len(pulled), pairs).numpy()
    sizes = np.bincount(labels)
    pieces = [np.flatnonzero(labels == k) for k in np.argsort(-sizes) if sizes[k] >= max(8, PIECE * len(pulled))]
    lengths = torch.from_numpy(np.linalg.norm(pulled[pairs[:, 0]] - pulled[pairs[:, 1]], axis=1))
    along = np.full(len(pulled), np.nan)
    for members in pieces:
        far = members[0]
        for _ in range(2):  # the point farthest from any is an end, and the one farthest from that the other
            way = graph_distances(len(pulled), pairs, lengths, torch.tensor([far]))[0].numpy()
            far = members[np.argmax(way[members])]
        way = graph_distances(len(pulled), pairs, lengths, torch.tensor([far]))[0].numpy()
        along[members] = way[members]
    return _chained(pulled, pieces, along, radius)


def _chained(pulled: Array, pieces: list[NDArray[np.int64]], along: Array, radius: float) -> Array:
    """Places along the whole rope from those along each piece."""
    chains = [[(k, False)] for k in range(len(pieces))]
    ends = [_ends(pulled[members], along[members], radius) for members in pieces]

    def end(chain: list[tuple[int, bool]], last: bool) -> tuple[Array, Array]:
        piece, turned = chain[-1 if last else 0]
        return ends[piece][int(last != turned)]

    while len(chains) > 1:
        best, choice = math.inf, (0, 1, False, False)
        for i in range(len(chains)):
            for j in range(i + 1, len(chains)):
                for last_i in (False, True):
                    for last_j in (False, True):
                        (a, out_a), (b, out_b) = end(chains[i], last_i), end(chains[j], last_j)
                        gap = b - a
                        length = float(np.linalg.norm(gap)) + 1e-9
                        bend = 2 - float(out_a @ gap) / length + float(out_b @ gap) / length
                        if (cost := length * (1 + bend)) < best:
                            best, choice = cost, (i, j, last_i, last_j)
        i, j, last_i, last_j = choice
        head = chains[i] if last_i else [(k, not turned) for k, turned in reversed(chains[i])]
        tail = [(k, not turned) for k, turned in reversed(chains[j])] if last_j else chains[j]
        chains = [chain for k, chain in enumerate(chains) if k not in (i, j)] + [head + tail]
    order, start, before = np.full(len(pulled), np.nan), 0.0, None
    for piece, turned in chains[0]:
        members = pieces[piece]
        way = along[members].max() - along[members] if turned else along[members]
        if before is not None:
            start += float(np.linalg.norm(ends[piece][int(turned)][0] - before))
        order[members] = start + way
        start += float(way.max())
        before = ends[piece][int(not turned)][0]
    return order


def _ends(points: Array, along: Array, radius: float) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Where a piece begins and ends, and the directions out of it there."""
    length = float(along.max())
    reach = min(3 * radius, length / 3)

    def mean(low: float, high: float) -> Array:
        chosen = (along >= low) & (along <= high)
        return np.asarray(points[chosen].mean(0))

    first, second = mean(0, reach / 2), mean(reach / 2, 1.5 * reach)
    last, before = mean(length - reach / 2, length), mean(length - 1.5 * reach, length - reach / 2)
    out, on = first - second, last - before
    return (first, out / (np.linalg.norm(out) + 1e-12)), (last, on / (np.linalg.norm(on) + 1e-12))


def _spline(points: Array, order: Array, radius: float, scatter: float | None = None) -> Array:
    """A smooth dense polyline (L, 3) through means of points (m, 3) along an order (m,) [m], as rough as their scatter allows."""
    from scipy.interpolate import splev, splprep

    fine = np.isfinite(order)
    points, order = points[fine], order[fine] - order[fine].min()
    length = float(order.max())
    count = int(np.clip(round(length / radius), 6, 400))
    bin_of = np.minimum((order / length * count).astype(int), count - 1)
    crowd = np.bincount(bin_of, minlength=count)
    kept = np.flatnonzero(crowd >= max(1, 0.05 * np.median(crowd[crowd > 0])))
    means = np.stack([np.bincount(bin_of, points[:, axis], count)[kept] / crowd[kept] for axis in range(3)], -1)
    sure = (scatter or radius) / np.sqrt(crowd[kept])
    # a mean is as sure as the scatter across the line, over the root of how many points it is of; where points hang together, as on the strands of a rope,
    # less sure: second differences of neighbouring means tell (their median, which bends do not move)
    if len(means) > 4:
        second = np.linalg.norm(means[:-2] - 2 * means[1:-1] + means[2:], axis=1)
        sure = np.maximum(sure, float(np.median(second)) / (1.18 * math.sqrt(6)))
    if len(kept) < 5:
        raise ValueError("centre_line: expected an elongated object, got points that lie in fewer than five places along it.")
    chord = _places(means)
    spline: Any = splprep(means.T, w=1 / sure, u=chord, k=3, s=1.5 * len(kept))[0]
    dense = np.linspace(0, chord[-1], 8 * count)
    return np.stack(splev(dense, spline), -1)


def _project(line: Array, points: Array) -> tuple[Array, Array]:
    """Distance of points (m, 3) to a dense polyline, and the place of the nearest point along it [m]."""
    from scipy.spatial import cKDTree

    place = _places(line)
    step = np.diff(line, axis=0)
    nearest = cKDTree(line).query(points)[1]
    best, along = np.full(len(points), np.inf), np.zeros(len(points))
    for shift in (-1, 0):
        k = np.clip(nearest + shift, 0, len(step) - 1)
        share = ((points - line[k]) * step[k]).sum(-1) / (step[k] ** 2).sum(-1)
        share = np.clip(share, np.where(k == 0, -np.inf, 0.0), np.where(k == len(step) - 1, np.inf, 1.0))  # beyond the ends too
        distance = np.linalg.norm(points - line[k] - share[:, None] * step[k], axis=1)
        better = distance < best
        best, along = np.where(better, distance, best), np.where(better, place[k] + share * np.linalg.norm(step[k], axis=1), along)
    return best, along


def _to_the_ends(line: Array, points: Array, radius: float) -> Array:
    """The polyline, made longer or shorter so that it ends where the points do."""
    distance, along = _project(line, points)
    place = _places(line)
    near = distance < 2 * radius
    density = near.sum() / place[-1]  # points by metre; of what is beyond the ends a few may be outliers
    few = max(1, round(0.1 * density * radius))
    ordered = np.sort(along[near])
    low, high = ordered[min(few, len(ordered) - 1)], ordered[-1 - min(few, len(ordered) - 1)]
    inner = (place > low) & (place < high)

    def at(where: float) -> Array:
        k = int(np.clip(np.searchsorted(place, where) - 1, 0, len(line) - 2))
        return np.asarray(line[k] + (where - place[k]) / (place[k + 1] - place[k]) * (line[k + 1] - line[k]))

    return np.concatenate((at(low)[None], line[inner], at(high)[None]))
