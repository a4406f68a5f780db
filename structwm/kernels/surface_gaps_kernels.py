"""How far points of some things are from the surfaces of others, where a surface is known by points and normals.

Near a query q, a thing is taken for what lies below the planes of its points p_i with unit normals n_i that are about as near as the nearest one, p_0:
f(q) = sum_i w_i n_i . (q - p_i) / sum_i w_i, w_i = exp(-(|q - p_i|^2 - |q - p_0|^2) / h^2 + n_i . (q - p_i) / (SHARP h)), a soft maximum: edges of convex
things stay sharp. A plane that p_0 lies above does not bound the thing there, it belongs across an inner corner or its normal is wrong, and does not count. A
thing whose nearest point has no normal is a set of balls of radius 0. (Weighted means of planes, as of Kolluri, SODA 2005, round edges: 1 to 2 mm on boxes of
6 cm with 64 points, where this is 0.1 mm off.) Spheres around things keep pairs that are far apart cheap. One thread a query; the same kernel on CPU and CUDA.
The plain torch form in `surface_gaps_reference` is the oracle in the tests.
"""

from functools import cache
from typing import Any

import warp as wp

SHARP = 0.1  # height over which the maximum is soft, in units of h
ABOVE = 0.1  # sine of the angle over a plane from which on a point lies above it
STEEPEST = 40.0  # greatest exponent, so that squares of sums stay finite in float32


@cache
def gap_kernel(kind: type) -> wp.Kernel:
    """The kernel for float32 or float64."""
    module = wp.get_module(f"structwm.surface_gaps.{kind.__name__}")
    vec = wp.types.vector(3, kind)
    floats, ints, vecs = wp.array(dtype=kind), wp.array(dtype=wp.int32), wp.array(dtype=vec)
    sharp, above, steepest = kind(SHARP), kind(ABOVE), kind(STEEPEST)

    @wp.kernel(enable_backward=False, module=module)
    def gaps(
        first: int, count: int, things: int, shared: int,
        points: vecs, normals: vecs, owner: ints, order: ints, begin: ints, centre: vecs, radius: floats, spacing: floats, reach: floats, moving: floats,
        nearest: ints, gap: floats, out: vecs,
    ):  # fmt: skip
        """Of each point (P, Q) and thing (P, Q, T): its nearest point or -1, the gap and the direction out of it."""
        at = first + wp.tid()
        p = at / count
        row = p * count
        graph = p
        if shared == 1:
            graph = 0
        q = points[at]
        own = owner[at]
        for t in range(things):
            place = at * things + t
            best = wp.int32(-1)
            limit = reach[at] + moving[p * things + t] + spacing[p * things + t]
            start = begin[graph * (things + 1) + t]
            stop = begin[graph * (things + 1) + t + 1]
            if own >= 0 and own != t and stop > start:
                far = limit + radius[p * things + t]
                away = q - centre[p * things + t]
                if wp.dot(away, away) <= far * far:
                    least = limit * limit
                    for k in range(start, stop):
                        j = order[graph * count + k]
                        d = q - points[row + j]
                        square = wp.dot(d, d)
                        if square <= least:
                            least = square
                            best = j
                    if best >= 0:
                        h = wp.max(spacing[p * things + t], kind(1.0e-9))
                        foot = points[row + best]
                        base = wp.dot(normals[row + best], q - foot)
                        weights = kind(0.0)
                        height = kind(0.0)
                        mean = vec()
                        for k in range(start, stop):
                            j = order[graph * count + k]
                            n = normals[row + j]
                            d = q - points[row + j]
                            aside = foot - points[row + j]
                            if wp.dot(n, n) > kind(0.0) and wp.dot(n, aside) <= above * wp.length(aside):
                                along = wp.dot(n, d)
                                w = wp.exp(wp.min((along - base) / (sharp * h) - (wp.dot(d, d) - least) / (h * h), steepest))
                                weights += w
                                height += w * along
                                mean += w * n
                        length = wp.length(mean)
                        if wp.length(normals[row + best]) > kind(0.0) and length > kind(1.0e-3) * weights:
                            gap[place] = height / weights
                            out[place] = mean / length
                        else:
                            away = q - foot
                            gap[place] = wp.length(away)
                            out[place] = away / wp.max(wp.length(away), kind(1.0e-9))
            nearest[place] = best

    return gaps


def made_kernels() -> list[Any]:
    """All of them, for `structwm.kernels.build`."""
    return [gap_kernel(kind) for kind in (wp.float32, wp.float64)]
