"""Nearest points of a triangle mesh: Warp's bounding volumes find the face in float32, the place on it is found here in float32 or float64.

The sign is that of the pseudonormal of the nearest corner, edge or face (Baerentzen and Aanaes, "Signed distance computation using the angle weighted
pseudonormal", IEEE TVCG 2005), or from the winding number (Barill et al., "Fast winding numbers for soups and clouds", SIGGRAPH 2018).
"""

from functools import cache

import warp as wp

FAR = 1.0e18  # [m] how far the search reaches; its square is a float32


@cache
def nearest_kernel(kind: type) -> wp.Kernel:
    """The kernel for points and corners of `wp.float32` or `wp.float64`."""
    module = wp.get_module(f"{__name__}.{kind.__name__}")
    vec3 = wp.types.vector(3, kind)
    rounding = 1.2e-7 if kind is wp.float32 else 2.3e-16

    @wp.func
    def along(p: vec3, a: vec3, b: vec3) -> kind:
        """Where on the segment from a (0) to b (1) it is nearest to p."""
        ab = b - a
        square = wp.dot(ab, ab)
        if square == kind(0.0):
            return kind(0.0)
        return wp.clamp(wp.dot(p - a, ab) / square, kind(0.0), kind(1.0))

    @wp.func
    def feature(t: kind, start: int, end: int, edge: int) -> int:
        """Number of what is nearest on an edge: its first corner, its last, or itself."""
        if t == kind(0.0):
            return start
        if t == kind(1.0):
            return end
        return edge

    @wp.func
    def place(p: vec3, a: vec3, b: vec3, c: vec3):
        """Barycentric coordinates of the point of a triangle nearest to p, and what it is: corner 0 to 2, edge 3 to 5 (after corner 0 to 2), or 6, the
        inside."""
        zero = kind(0.0)
        one = kind(1.0)
        normal = wp.cross(b - a, c - a)
        square = wp.dot(normal, normal)
        if square > zero:
            v = wp.dot(wp.cross(p - a, c - a), normal) / square
            w = wp.dot(wp.cross(b - a, p - a), normal) / square
            if v > zero and w > zero and v + w < one:
                return vec3(one - v - w, v, w), 6
        t = along(p, a, b)
        best = wp.length_sq(a + t * (b - a) - p)
        found = vec3(one - t, t, zero)
        number = feature(t, 0, 1, 3)
        t = along(p, b, c)
        d = wp.length_sq(b + t * (c - b) - p)
        if d < best:
            best = d
            found = vec3(zero, one - t, t)
            number = feature(t, 1, 2, 4)
        t = along(p, c, a)
        d = wp.length_sq(c + t * (a - c) - p)
        if d < best:
            found = vec3(t, zero, one - t)
            number = feature(t, 2, 0, 5)
        return found, number

    @wp.kernel(enable_backward=False, module=module)
    def nearest(
        first: int,
        mesh: wp.uint64,
        winding: int,
        order: wp.array(dtype=wp.int32),
        points: wp.array(dtype=vec3),
        corners: wp.array2d(dtype=vec3),
        normals: wp.array2d(dtype=vec3),
        faces: wp.array(dtype=wp.int32),
        places: wp.array(dtype=vec3),
        directions: wp.array(dtype=vec3),
    ):
        """Face, barycentric coordinates, and the unit direction in which the signed distance grows."""
        i = order[first + wp.tid()]
        p = points[i]
        q = wp.vec3(wp.float32(p[0]), wp.float32(p[1]), wp.float32(p[2]))
        face = wp.int32(0)  # beyond the search all faces are as far, and what is there is outside
        outside = wp.int32(1)
        by_normal = wp.int32(0)
        if winding == 1:
            solid = wp.mesh_query_point_sign_winding_number(mesh, q, wp.static(FAR))
            if solid.result:
                face = solid.face
                if solid.sign < 0.0:
                    outside = 0
        else:
            plain = wp.mesh_query_point_no_sign(mesh, q, wp.static(FAR))
            if plain.result:
                face = plain.face
                by_normal = 1
        a = corners[face, 0]
        b = corners[face, 1]
        c = corners[face, 2]
        spot, number = place(p, a, b, c)
        gap = p - (spot[0] * a + spot[1] * b + spot[2] * c)
        normal = normals[face, number]
        if by_normal == 1 and wp.dot(gap, normal) < kind(0.0):
            outside = 0
        distance = wp.length(gap)
        if distance > kind(8.0 * rounding) * wp.length(p):
            direction = gap / distance
            if outside == 0:
                direction = -direction
        else:
            direction = normal  # on the surface
        faces[i] = face
        places[i] = spot
        directions[i] = direction

    return nearest


def made_kernels() -> list[wp.Kernel]:
    """All of them, for `structwm.kernels.build`."""
    return [nearest_kernel(kind) for kind in (wp.float32, wp.float64)]
