"""Gaps between points and the surfaces of other things as an operator of torch, `structwm::surface_gaps`, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .launching import as_array, as_vectors, launch_beside, scalar_of
from .surface_gaps_kernels import gap_kernel

QUERY_SHARE = 256  # queries a CPU thread must have to be worth starting


def surface_gaps(
    points: Tensor, normals: Tensor, owner: Tensor, order: Tensor, begin: Tensor, spacing: Tensor, reach: Tensor, moving: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """How far each of P problems' Q points is from the surface of each of T things, where it may be within reach.

    The formula is that of `surface_gaps_kernels`. There are no gradients.

    Args:
        points: (P, Q, 3) [m].
        normals: (P, Q, 3) unit normals out of the things, 0 where none is known.
        owner: int32 (P, Q) the thing that a point belongs to; -1: the point takes no part.
        order: int32 (P or 1, Q) points sorted by thing, those that take no part last.
        begin: int32 (P or 1, T + 1) where the points of each thing begin in `order`.
        spacing: (P, T) between points of a thing, h [m].
        reach: (P, Q) how far a query looks [m].
        moving: (P, T) what is added to that for a thing [m].

    Returns:
        int32 (P, Q, T) the nearest point of the thing, -1 where it is the query's own or out of reach; gaps (P, Q, T) [m], negative inside; directions
        (P, Q, T, 3) out of the thing. Where there is no nearest point, the others say nothing.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: on other numbers than float32 and float64.
    """
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.structwm.surface_gaps(points, normals, owner, order, begin, spacing, reach, moving)
    return found


@torch.library.custom_op("structwm::surface_gaps", mutates_args=())
def _surface_gaps(
    points: Tensor, normals: Tensor, owner: Tensor, order: Tensor, begin: Tensor, spacing: Tensor, reach: Tensor, moving: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    problems, count = owner.shape
    things, graphs = spacing.shape[-1], len(order)
    shapes = {"points": (problems, count, 3), "normals": (problems, count, 3), "order": (graphs, count), "begin": (graphs, things + 1)}
    shapes |= {"spacing": (problems, things), "reach": (problems, count), "moving": (problems, things)}
    given = {"points": points, "normals": normals, "order": order, "begin": begin, "spacing": spacing, "reach": reach, "moving": moving}
    if any(tuple(given[name].shape) != shape for name, shape in shapes.items()) or graphs not in (1, problems):
        raise ValueError(f"surface_gaps: expected {shapes}, got { ({name: tuple(value.shape) for name, value in given.items()}) }.")
    own = (owner.unsqueeze(1) == torch.arange(things, device=owner.device)[:, None]).to(points)  # (P, T, Q)
    centre = (own @ points) / own.sum(-1, keepdim=True).clamp_min(1.0)
    radius = ((points.unsqueeze(1) - centre.unsqueeze(2)).norm(dim=-1) * own).amax(-1) if count else spacing
    nearest = torch.empty(problems, count, things, dtype=torch.int32, device=points.device)
    gap, out = points.new_zeros(problems, count, things), points.new_zeros(problems, count, things, 3)
    numbers = [count, things, int(graphs == 1)]
    clouds = [as_vectors(points), as_vectors(normals), as_array(owner), as_array(order), as_array(begin), as_vectors(centre)]
    rest = [as_array(value) for value in (radius, spacing, reach, moving, nearest, gap)]
    launch_beside(points, gap_kernel(scalar_of(points)), problems * count, [*numbers, *clouds, *rest, as_vectors(out)], share=QUERY_SHARE)
    return nearest, gap, out


@_surface_gaps.register_fake
def _(points: Tensor, normals: Tensor, owner: Tensor, order: Tensor, begin: Tensor, spacing: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*owner.shape, spacing.shape[-1])
    return owner.new_empty(shape, dtype=torch.int32), points.new_empty(shape), points.new_empty((*shape, 3))
