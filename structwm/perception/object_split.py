"""A cloud split into objects by what hangs together and has one colour, and objects that keep their numbers from frame to frame."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from structwm.data.cloud_files import PointCloud
from structwm.geometry.neighbors import knn, radius_search
from structwm.geometry.spring_graph import graph_pieces

BINS = 48  # along each axis of the histogram of colours
DARK = 0.12  # sum of red, green and blue below which a colour says nothing
LINKS = 24  # neighbours of a point that are looked at


def shading_free(colors: Tensor) -> Tensor:
    """Normalised colours (*B, 2): red and green as shares of red + green + blue, which the same light does not change, however bright it is."""
    return (colors / colors.sum(-1, keepdim=True).clamp_min(1e-6))[..., :2]


def color_groups(colors: Tensor, *, least: float = 0.01) -> Tensor:
    """The group of each colour (N, 3), int64 (N,), the largest first; -1 for dark ones, and for mixed ones that lie between the groups.

    Groups are the hills of the smoothed histogram of normalised colours: bins that hold more than a twentieth of the highest near by hang together.

    Args:
        colors: in [0, 1].
        least: share of all points that a group has at least.
    """
    from scipy.ndimage import gaussian_filter, label

    found = torch.full((len(colors),), -1, dtype=torch.int64, device=colors.device)
    known = colors.sum(-1) > DARK
    if not bool(known.any()):
        return found
    bins = (shading_free(colors[known]).clamp(0, 1) * BINS).long().clamp_max(BINS - 1).cpu().numpy()
    counts = np.zeros((BINS, BINS))
    np.add.at(counts, (bins[:, 0], bins[:, 1]), 1.0)
    counts = gaussian_filter(counts, 0.7, mode="constant")
    hills, number = label(counts > max(0.05 * least * len(bins), 0.02), structure=np.ones((3, 3)))
    of_point = hills[bins[:, 0], bins[:, 1]] - 1
    sizes = np.bincount(of_point[of_point >= 0], minlength=number)
    rank = np.full(number, -1)
    order = [place for place in np.argsort(-sizes, kind="stable") if sizes[place] >= least * len(colors)]
    rank[order] = np.arange(len(order))
    found[known] = torch.from_numpy(np.where(of_point >= 0, rank[of_point], -1)).to(colors.device)
    return found


def split_objects(cloud: PointCloud, radius: float, *, by_color: bool | None = None, least: int = 20) -> Tensor:
    """Which object each point belongs to, int64 (N,), the largest first, -1 for points of none.

    Points nearer than `radius` to each other hang together (Euclidean clustering; Rusu, KI 2010, section 6.2), with `by_color` only if they are of one group of
    colours, so that things that touch stay apart. Points without a group join the nearest object within the radius.

    Args:
        cloud: without the table [m].
        radius: above the distance between neighbouring points, below the gaps between objects [m].
        by_color: look at colours; where the cloud has some if not given.
        least: points that an object has at least.

    Raises:
        ValueError: in one sentence, if colours are asked for that are not there, or the radius is not above 0.
    """
    by_color = cloud.colors is not None if by_color is None else by_color
    if by_color and cloud.colors is None:
        raise ValueError("split_objects by_color: expected a cloud with colours, got one without; give the images to `rgbd_cloud`.")
    if not 0 < radius < math.inf:
        raise ValueError(f"split_objects: expected a radius above 0 m, got {radius}.")
    points = cloud.positions.detach().contiguous()
    labels = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    if not len(points):
        return labels
    groups = color_groups(cloud.colors) if by_color and cloud.colors is not None else torch.zeros_like(labels)
    pieces = torch.full_like(labels, -1)
    for group in range(int(groups.max()) + 1):  # apart, so that neighbours of another colour do not use up the links
        index = (groups == group).nonzero()[:, 0]
        own = points[index].contiguous()
        near, _ = radius_search(own, own, radius, limit=LINKS)
        start = torch.arange(len(own), device=points.device).unsqueeze(-1).expand_as(near.indices)
        edges = torch.stack((start[near.valid], near.indices[near.valid]), -1)
        pieces[index] = graph_pieces(len(own), edges[edges[:, 0] != edges[:, 1]]) + int(pieces.max()) + 1
    sizes = torch.bincount(pieces[pieces >= 0], minlength=1)
    for number, piece in enumerate(size for size in sizes.argsort(descending=True, stable=True).tolist() if sizes[size] >= least):
        labels[pieces == piece] = number
    return _joined(points, labels, groups, radius)


def _joined(points: Tensor, labels: Tensor, groups: Tensor, radius: float) -> Tensor:
    """Labels in which points without a group of colours have that of the nearest object."""
    loose, firm = (groups < 0).nonzero()[:, 0], (labels >= 0).nonzero()[:, 0]
    if not len(loose) or not len(firm):
        return labels
    near = knn(points[loose].contiguous(), points[firm].contiguous(), 1)
    close = near.distances[:, 0] <= radius
    labels[loose[close]] = labels[firm[near.indices[close, 0]]]
    return labels


def same_objects(previous: Tensor, found: Tensor, reach: float, *, previous_looks: Tensor | None = None, looks: Tensor | None = None) -> Tensor:
    """Which of K objects of the last frame each of J objects is, int64 (J,); K, K + 1, ... for new ones.

    The sum of the distances between middles is least (Kuhn, Naval Research Logistics 1955); pairs farther apart than `reach` are none.

    Args:
        previous: middles (K, 3) of the objects where they were, or are expected [m].
        found: middles (J, 3) of those in this frame [m].
        reach: how far an object may have come [m].
        previous_looks: (K, F) features such as mean normalised colours; a difference of 0.1 counts as `reach`.
        looks: (J, F).
    """
    from scipy.optimize import linear_sum_assignment

    if previous.ndim != 2 or found.ndim != 2 or previous.shape[1:] != (3,) or found.shape[1:] != (3,) or not reach > 0:
        raise ValueError(f"same_objects: expected middles (K, 3) and (J, 3) and a reach above 0 m, got {tuple(previous.shape)}, {tuple(found.shape)}, {reach}.")
    cost = torch.cdist(previous.double(), found.double()) / reach
    if previous_looks is not None and looks is not None:
        cost = cost + torch.cdist(previous_looks.double(), looks.double()) / 0.1
    allowed = cost <= 1 if looks is None else cost <= 2
    numbers = torch.full((len(found),), -1, dtype=torch.int64)
    rows, columns = linear_sum_assignment(torch.where(allowed, cost, 1e6).cpu().numpy())
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if bool(allowed[row, column]):
            numbers[column] = row
    numbers[numbers < 0] = len(previous) + torch.arange(int((numbers < 0).sum()))
    return numbers.to(found.device)
