"""The plane on which most of a point's neighbours lie as an operator of torch, `structwm::likely_planes`, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .launching import as_array, as_vectors, launch_beside, scalar_of
from .likely_planes_kernels import plane_kernel

POINT_SHARE = 256  # points a CPU thread must have to be worth starting


def likely_planes(ways: Tensor, there: Tensor, near: Tensor, out: Tensor) -> Tensor:
    """Unit normals (*B, 3), either way round, of planes through points; 0 where no two neighbours span one.

    Args:
        ways: (*B, K, 3) from a point to its neighbours [m].
        there: bool (*B, K) which of them there are.
        near: (*B,) distance from a plane at which a neighbour counts half [m].
        out: (*B, 3) to the side that is taken for the outside: surfaces have little above their planes.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: on other numbers than float32 and float64.
    """
    found: Tensor = torch.ops.structwm.likely_planes(ways, there, near, out)
    return found


@torch.library.custom_op("structwm::likely_planes", mutates_args=())
def _likely_planes(ways: Tensor, there: Tensor, near: Tensor, out: Tensor) -> Tensor:
    shapes = [tuple(value.shape) for value in (ways, there, near, out)]
    if shapes != [(*there.shape, 3), (*there.shape,), there.shape[:-1], (*there.shape[:-1], 3)]:
        raise ValueError(f"likely_planes: expected ways (*B, K, 3), there (*B, K), near (*B,) and out (*B, 3), got {shapes}.")
    normals = ways.new_empty(*near.shape, 3)
    flags = as_array(there.contiguous().view(torch.uint8))
    clouds = [as_vectors(ways), flags, as_array(near), as_vectors(out), as_vectors(normals)]
    launch_beside(ways, plane_kernel(scalar_of(ways)), near.numel(), [ways.shape[-2], *clouds], share=POINT_SHARE)
    return normals


@_likely_planes.register_fake
def _(ways: Tensor, there: Tensor, near: Tensor, out: Tensor) -> Tensor:
    return ways.new_empty(*near.shape, 3)
