"""Gaussian splats to ellipses in the image: forward and hand-written backward, one thread a pair, float32 and float64.

A pair is a splat in a view: the views of a world see the splats of that world, and pair `view * N + splat` is splat `splat` of its world in view `view`.

Elliptical weighted average splatting (Zwicker et al., IEEE TVCG 2002) as in 3D Gaussian splatting (Kerbl et al., ACM TOG 2023): the covariance is carried
through the camera's Jacobian at the splat's centre, and a blur is added. The plain torch form in `splat_reference` is the oracle in the tests.
"""

from functools import cache
from typing import NamedTuple

import warp as wp

from .quaternions import measurable, rotation_matrix


class ProjectionKernels(NamedTuple):
    """Both directions for one type of number."""

    forward: wp.Kernel
    backward: wp.Kernel


@cache
def projection_kernels(kind: type) -> ProjectionKernels:
    """The kernels for `wp.float32` or `wp.float64`."""
    vec2, vec3, vec4 = (wp.types.vector(n, kind) for n in (2, 3, 4))
    mat33, mat23, mat22 = (wp.types.matrix(shape, kind) for shape in ((3, 3), (2, 3), (2, 2)))
    mat34 = wp.types.matrix((3, 4), kind)

    @wp.func
    def rotation_of(view: mat34) -> mat33:
        return mat33(view[0, 0], view[0, 1], view[0, 2], view[1, 0], view[1, 1], view[1, 2], view[2, 0], view[2, 1], view[2, 2])

    @wp.func
    def offset(t: vec3, camera: vec4, near: kind) -> vec2:
        """From the principal point to the image of a camera point [px]; `near` is 1 / depth."""
        return vec2(camera[0] * t[0] * near, camera[1] * t[1] * near)

    @wp.func
    def followed(u: vec2, camera: vec4, width: kind, height: kind) -> vec2:
        """The offset up to which the Jacobian follows a splat's centre: 0.15 of the image's size beyond its edges (Kerbl et al.)."""
        part = kind(0.15)
        whole = kind(1.0) + part
        return vec2(
            wp.clamp(u[0], -part * width - camera[2], whole * width - camera[2]), wp.clamp(u[1], -part * height - camera[3], whole * height - camera[3])
        )

    @wp.func
    def jacobian(u: vec2, camera: vec4, near: kind) -> mat23:
        """Of the image point by the camera point, for a followed offset."""
        zero = kind(0.0)
        return mat23(camera[0] * near, zero, -u[0] * near, zero, camera[1] * near, -u[1] * near)

    @wp.kernel(enable_backward=False, module="unique")
    def forward(
        first: int,
        means: wp.array(dtype=vec3),
        rotations: wp.array(dtype=vec4),
        scales: wp.array(dtype=vec3),
        deformations: wp.array(dtype=mat33),
        views: wp.array(dtype=mat34),
        cameras: wp.array(dtype=vec4),
        splats: int,
        views_a_world: int,
        width: kind,
        height: kind,
        near: kind,
        far: kind,
        blur: kind,
        centres: wp.array(dtype=vec2),
        conics: wp.array(dtype=vec3),
        depths: wp.array(dtype=kind),
    ):
        """Centre [px], inverse covariance (a, b, c) [1/px^2] and depth [m]; depth 0 for what cannot be seen. No deformations stand for the identity."""
        p = first + wp.tid()
        v = p / splats
        n = (v / views_a_world) * splats + p % splats
        centres[p] = vec2(kind(0.0), kind(0.0))
        conics[p] = vec3(kind(1.0), kind(0.0), kind(1.0))
        depths[p] = kind(0.0)
        pose = views[v]
        turned = rotation_of(pose)
        t = turned @ means[n] + vec3(pose[0, 3], pose[1, 3], pose[2, 3])
        q, _size = measurable(rotations[n])
        length = wp.length(q)
        if not (t[2] > near and t[2] < far and length > kind(0.0)):
            return
        camera = cameras[v]
        close = kind(1.0) / t[2]
        place = offset(t, camera, close)
        m = rotation_matrix(q * (kind(1.0) / length)) @ wp.diag(scales[n])
        if deformations.shape[0] > 0:
            m = deformations[n] @ m
        u = jacobian(followed(place, camera, width, height), camera, close) @ turned @ m
        cov = u @ wp.transpose(u)
        a = cov[0, 0] + blur
        b = cov[0, 1]
        c = cov[1, 1] + blur
        across = u[0, 0] * u[1, 1] - u[0, 1] * u[1, 0]
        along = u[0, 1] * u[1, 2] - u[0, 2] * u[1, 1]
        aside = u[0, 2] * u[1, 0] - u[0, 0] * u[1, 2]
        # a c - b^2, which would cancel for long thin splats (Lagrange's identity)
        det = across * across + along * along + aside * aside + blur * (cov[0, 0] + cov[1, 1]) + blur * blur
        if not (det > kind(0.0) and wp.isfinite(det)):
            return
        area = kind(1.0) / det
        centres[p] = vec2(place[0] + camera[2], place[1] + camera[3])
        conics[p] = vec3(c * area, -b * area, a * area)
        depths[p] = t[2]

    @wp.kernel(enable_backward=False, module="unique")
    def backward(
        first: int,
        means: wp.array(dtype=vec3),
        rotations: wp.array(dtype=vec4),
        scales: wp.array(dtype=vec3),
        deformations: wp.array(dtype=mat33),
        views: wp.array(dtype=mat34),
        cameras: wp.array(dtype=vec4),
        splats: int,
        views_a_world: int,
        width: kind,
        height: kind,
        conics: wp.array(dtype=vec3),
        depths: wp.array(dtype=kind),
        grad_centres: wp.array(dtype=vec2),
        grad_conics: wp.array(dtype=vec3),
        grad_depths: wp.array(dtype=kind),
        grad_means: wp.array(dtype=vec3),
        grad_rotations: wp.array(dtype=vec4),
        grad_scales: wp.array(dtype=vec3),
        grad_deformations: wp.array(dtype=mat33),
        grad_views: wp.array(dtype=mat34),
    ):
        """One row of gradients a splat and view; those of the views are left out where their array is empty."""
        p = first + wp.tid()
        v = p / splats
        n = (v / views_a_world) * splats + p % splats
        zero = kind(0.0)
        two = kind(2.0)
        grad_means[p] = vec3(zero, zero, zero)
        grad_rotations[p] = vec4(zero, zero, zero, zero)
        grad_scales[p] = vec3(zero, zero, zero)
        if deformations.shape[0] > 0:
            grad_deformations[p] = mat33()
        if grad_views.shape[0] > 0:
            grad_views[p] = mat34()
        if depths[p] == zero:
            return
        gc = grad_centres[p]
        g = grad_conics[p]
        if gc[0] == zero and gc[1] == zero and g[0] == zero and g[1] == zero and g[2] == zero and grad_depths[p] == zero:
            return  # hidden: often most of a scene
        pose = views[v]
        turned = rotation_of(pose)
        mean = means[n]
        t = turned @ mean + vec3(pose[0, 3], pose[1, 3], pose[2, 3])
        camera = cameras[v]
        close = kind(1.0) / t[2]
        place = offset(t, camera, close)
        seen = followed(place, camera, width, height)
        q, size = measurable(rotations[n])
        length = wp.length(q)
        q = q * (kind(1.0) / length)
        r = rotation_matrix(q)
        s = scales[n]
        axes = r @ wp.diag(s)
        m = axes
        if deformations.shape[0] > 0:
            m = deformations[n] @ axes
        j = jacobian(seen, camera, close)
        jw = j @ turned
        u = jw @ m  # (2, 3): the covariance is u u^T
        k = conics[p]
        conic = mat22(k[0], k[1], k[1], k[2])
        grad_cov = -(conic @ mat22(g[0], g[1] / two, g[1] / two, g[2]) @ conic)
        grad_u = two * (grad_cov @ u)
        grad_m = wp.transpose(jw) @ grad_u
        if deformations.shape[0] > 0:
            grad_deformations[p] = grad_m @ wp.transpose(axes)
            grad_m = wp.transpose(deformations[n]) @ grad_m
        grad_jw = grad_u @ wp.transpose(m)
        grad_j = grad_jw @ wp.transpose(turned)
        tx = gc[0] * camera[0] * close
        ty = gc[1] * camera[1] * close
        close2 = close * close
        tz = grad_depths[p] - (gc[0] * place[0] + gc[1] * place[1]) * close
        tz += (grad_j[0, 2] * seen[0] + grad_j[1, 2] * seen[1] - grad_j[0, 0] * camera[0] - grad_j[1, 1] * camera[1]) * close2
        if place[0] == seen[0]:
            tx += -grad_j[0, 2] * camera[0] * close2
            tz += grad_j[0, 2] * seen[0] * close2
        if place[1] == seen[1]:
            ty += -grad_j[1, 2] * camera[1] * close2
            tz += grad_j[1, 2] * seen[1] * close2
        grad_t = vec3(tx, ty, tz)
        grad_means[p] = wp.transpose(turned) @ grad_t
        grad_scales[p] = vec3(
            r[0, 0] * grad_m[0, 0] + r[1, 0] * grad_m[1, 0] + r[2, 0] * grad_m[2, 0],
            r[0, 1] * grad_m[0, 1] + r[1, 1] * grad_m[1, 1] + r[2, 1] * grad_m[2, 1],
            r[0, 2] * grad_m[0, 2] + r[1, 2] * grad_m[1, 2] + r[2, 2] * grad_m[2, 2],
        )
        h = grad_m @ wp.diag(s)  # by the rotation matrix
        grad_q = two * vec4(
            q[1] * (h[2, 1] - h[1, 2]) + q[2] * (h[0, 2] - h[2, 0]) + q[3] * (h[1, 0] - h[0, 1]),
            q[0] * (h[2, 1] - h[1, 2]) + q[2] * (h[0, 1] + h[1, 0]) + q[3] * (h[0, 2] + h[2, 0]) - two * q[1] * (h[1, 1] + h[2, 2]),
            q[0] * (h[0, 2] - h[2, 0]) + q[1] * (h[0, 1] + h[1, 0]) + q[3] * (h[1, 2] + h[2, 1]) - two * q[2] * (h[0, 0] + h[2, 2]),
            q[0] * (h[1, 0] - h[0, 1]) + q[1] * (h[0, 2] + h[2, 0]) + q[2] * (h[1, 2] + h[2, 1]) - two * q[3] * (h[0, 0] + h[1, 1]),
        )
        grad_rotations[p] = (grad_q - wp.dot(grad_q, q) * q) / length / size
        if grad_views.shape[0] > 0:
            gw = wp.transpose(j) @ grad_jw + wp.outer(grad_t, mean)
            grad_views[p] = mat34(
                gw[0, 0], gw[0, 1], gw[0, 2], grad_t[0],
                gw[1, 0], gw[1, 1], gw[1, 2], grad_t[1],
                gw[2, 0], gw[2, 1], gw[2, 2], grad_t[2],
            )  # fmt: skip

    return ProjectionKernels(forward, backward)


def made_kernels() -> list[wp.Kernel]:
    """All of them, for `structwm.kernels.build`."""
    return [kernel for kind in (wp.float32, wp.float64) for kernel in projection_kernels(kind)]
