"""The plane on which most of a point's neighbours lie: consensus over all pairs of them, then least squares with less weight for what is off the plane.

Consensus as of Fischler and Bolles, CACM 1981, but over all pairs instead of random ones: next to an edge, where a least squares plane lies across it, the
plane is that of one of the faces. One thread a point; the plain torch form is in `structwm.points.skin`, where gradients are wanted.
"""

from functools import cache
from typing import Any

import warp as wp

LEAST_ANGLE = 0.3  # sine between the ways to two neighbours that span a plane
ABOVE, FINE = 2.0, 0.5  # distance over a plane, in units of `near`, from which on a neighbour speaks against it, and how much
FITS = 2  # times a plane is fitted to those that are near it


@cache
def plane_kernel(kind: type) -> wp.Kernel:
    """The kernel for float32 or float64."""
    module = wp.get_module(f"structwm.likely_planes.{kind.__name__}")
    vec, mat = wp.types.vector(3, kind), wp.types.matrix((3, 3), kind)
    flags, floats, vecs = wp.array(dtype=wp.uint8), wp.array(dtype=kind), wp.array(dtype=vec)
    least, above, fine, fits = kind(LEAST_ANGLE), kind(ABOVE), kind(FINE), FITS

    @wp.kernel(enable_backward=False, module=module)
    def planes(first: int, slots: int, ways: vecs, there: flags, near: floats, out: vecs, normals: vecs):
        """Of each point (P, Q) the normal of its plane, 0 where there is none."""
        at = first + wp.tid()
        start = at * slots
        scale = kind(1.0) / near[at]
        best = kind(-1.0e6)
        normal = vec()
        for i in range(slots):
            if there[start + i] != wp.uint8(0):
                a = wp.normalize(ways[start + i])
                for j in range(i + 1, slots):
                    if there[start + j] != wp.uint8(0):
                        across = wp.cross(a, wp.normalize(ways[start + j]))
                        length = wp.length(across)
                        if length > least:
                            n = across / length
                            if wp.dot(n, out[at]) < kind(0.0):
                                n = -n
                            score = kind(0.0)
                            for k in range(slots):
                                if there[start + k] != wp.uint8(0):
                                    off = wp.dot(n, ways[start + k]) * scale
                                    score += kind(1.0) / (kind(1.0) + off * off)
                                    if off > above:
                                        score -= fine
                            if score > best:
                                best = score
                                normal = n
        if best > kind(-1.0e6):
            for _ in range(fits):
                spread = mat()
                for k in range(slots):
                    if there[start + k] != wp.uint8(0):
                        way = ways[start + k] * scale
                        off = wp.dot(normal, way)
                        falling = kind(1.0) / (kind(1.0) + off * off)
                        spread += falling * falling * wp.outer(way, way)
                axes, sizes = wp.eig3(spread)
                place = wp.int32(0)
                for axis in range(1, 3):
                    if sizes[axis] < sizes[place]:
                        place = axis
                normal = wp.normalize(vec(axes[0, place], axes[1, place], axes[2, place]))
        normals[at] = normal

    return planes


def made_kernels() -> list[Any]:
    """All of them, for `structwm.kernels.build`."""
    return [plane_kernel(kind) for kind in (wp.float32, wp.float64)]
