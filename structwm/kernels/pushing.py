"""Quasi-static planar pushing, fused over a whole rollout: one thread a rollout, one Warp source for CPU and CUDA, float32 and float64.

The mathematics is that of `structwm.physics.pushing`, whose plain torch form is the oracle in the tests and gives the gradients.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import warp as wp
from torch import Tensor

from structwm.geometry.planar import ELLIPSE_ITERATIONS, Ellipse, Polygon, Shape

from .launching import as_descriptor, launch_beside, scalar_of

PARAMETERS = (
    "friction",
    "surface_anisotropy_x",
    "surface_anisotropy_xy",
    "outline_x",
    "outline_y",
    "outline_angle",
    "pusher_radius",
    "tip_offset_x",
    "tip_offset_y",
)
"""Order of the first columns of the kernel's parameter table; meanings and units in `structwm.physics.pushing`."""

SURFACE = len(PARAMETERS)  # the first of the 15 columns with the limit surface's coefficients
ROOT_ITERATIONS = 24
THREAD_SHARE = 512  # rollouts a CPU thread must have to be worth starting


@wp.func
def _polygon(q: Any, corners: Any, count: int):
    """Nearest boundary point of q: (distance, outward normal, point) as a flat 5-vector."""
    one = type(q[0])(1.0)
    zero = type(q[0])(0.0)
    best = type(q[0])(1.0e12)
    cx = zero
    cy = zero
    ex_best = one
    ey_best = zero
    inside = wp.int32(0)
    for k in range(count):
        j = k + 1
        if j == count:
            j = 0
        a = corners[k]
        b = corners[j]
        ex = b[0] - a[0]
        ey = b[1] - a[1]
        dx = q[0] - a[0]
        dy = q[1] - a[1]
        t = wp.clamp((dx * ex + dy * ey) / (ex * ex + ey * ey), zero, one)
        px = a[0] + t * ex
        py = a[1] + t * ey
        d = (q[0] - px) * (q[0] - px) + (q[1] - py) * (q[1] - py)
        if d < best:
            best = d
            cx = px
            cy = py
            ex_best = ex
            ey_best = ey
        if (a[1] > q[1]) != (b[1] > q[1]):
            if q[0] < a[0] + (q[1] - a[1]) / ey * ex:
                inside = 1 - inside
    if best < type(q[0])(1.0e-18):
        norm = wp.sqrt(ex_best * ex_best + ey_best * ey_best)
        return zero, ey_best / norm, -ex_best / norm, cx, cy
    d = wp.sqrt(best)
    if inside == 1:
        d = -d
    return d, (q[0] - cx) / d, (q[1] - cy) / d, cx, cy


@wp.func
def _ellipse(q: Any, a: Any, b: Any):
    """Nearest boundary point of q on an ellipse of semi-axes a, b; see `structwm.geometry.planar.Ellipse.nearest`."""
    one = type(a)(1.0)
    zero = type(a)(0.0)
    tiny = type(a)(1.0e-12)
    qx = wp.abs(q[0])
    qy = wp.abs(q[1])
    tx = type(a)(0.7071067811865476)
    ty = tx
    for _ in range(wp.static(ELLIPSE_ITERATIONS)):
        ex = (a * a - b * b) / a * tx * tx * tx
        ey = (b * b - a * a) / b * ty * ty * ty
        rx = a * tx - ex
        ry = b * ty - ey
        sx = qx - ex
        sy = qy - ey
        scale = wp.sqrt((rx * rx + ry * ry) / wp.max(sx * sx + sy * sy, tiny * tiny))
        tx = wp.clamp((sx * scale + ex) / a, zero, one)
        ty = wp.clamp((sy * scale + ey) / b, zero, one)
        norm = wp.max(wp.sqrt(tx * tx + ty * ty), tiny)
        tx = tx / norm
        ty = ty / norm
    slope = -a * a * tx * ty + a * qx * ty + b * b * tx * ty - b * qy * tx
    curve = a * a * (ty * ty - tx * tx) + a * qx * tx + b * b * (tx * tx - ty * ty) + b * qy * ty
    if wp.abs(curve) < tiny:
        curve = tiny
    turn = -slope / curve
    ux = tx - ty * turn
    uy = ty + tx * turn
    norm = wp.sqrt(ux * ux + uy * uy)
    px = a * ux / norm
    py = b * uy / norm
    nx = b * ux
    ny = a * uy
    length = wp.sqrt(nx * nx + ny * ny)
    nx = nx / length
    ny = ny / length
    if q[0] < zero:
        px = -px
        nx = -nx
    if q[1] < zero:
        py = -py
        ny = -ny
    return (q[0] - px) * nx + (q[1] - py) * ny, nx, ny, px, py


@wp.func
def _flow(table: wp.array2d(dtype=Any), r: int, fx: Any, fy: Any, m: Any, p: Any, q: Any):
    """Gradient of the limit surface of row r at the wrench (fx, fy, m); p, q are the anisotropy in the slider's frame."""
    k = wp.static(SURFACE)
    two = type(fx)(2.0)
    three = type(fx)(3.0)
    four = type(fx)(4.0)
    x = fx + p * fx + q * fy
    y = fy + q * fx - p * fy
    xx = x * x
    xy = x * y
    yy = y * y
    mm = m * m
    gx = xx * (four * table[r, k] * x + three * table[r, k + 1] * y) + yy * (two * table[r, k + 2] * x + table[r, k + 3] * y)
    gx += m * (three * table[r, k + 5] * xx + two * table[r, k + 6] * xy + table[r, k + 7] * yy)
    gx += mm * (two * table[r, k + 9] * x + table[r, k + 10] * y + table[r, k + 12] * m)
    gy = xx * (table[r, k + 1] * x + two * table[r, k + 2] * y) + yy * (three * table[r, k + 3] * x + four * table[r, k + 4] * y)
    gy += m * (table[r, k + 6] * xx + two * table[r, k + 7] * xy + three * table[r, k + 8] * yy)
    gy += mm * (table[r, k + 10] * x + two * table[r, k + 11] * y + table[r, k + 13] * m)
    gm = xx * (table[r, k + 5] * x + table[r, k + 6] * y) + yy * (table[r, k + 7] * x + table[r, k + 8] * y)
    gm += two * m * (table[r, k + 9] * xx + table[r, k + 10] * xy + table[r, k + 11] * yy)
    gm += mm * (three * (table[r, k + 12] * x + table[r, k + 13] * y) + four * table[r, k + 14] * m)
    return gx + p * gx + q * gy, gy + q * gx - p * gy, gm


@wp.kernel(enable_backward=False)
def _rollout(
    first: int,
    start: wp.array2d(dtype=Any),
    tips: wp.array2d(dtype=Any),
    velocities: wp.array3d(dtype=Any),
    table: wp.array2d(dtype=Any),
    row: wp.array(dtype=wp.int32),
    corners: wp.array(dtype=Any),
    corner_count: int,
    horizon: int,
    substeps: int,
    centre_x: Any,
    centre_y: Any,
    gyration: Any,
    seconds: Any,
    poses: wp.array3d(dtype=Any),
    pushers: wp.array3d(dtype=Any),
):
    i = first + wp.tid()
    r = row[i]
    zero = type(seconds)(0.0)
    one = type(seconds)(1.0)
    half = type(seconds)(0.5)
    two = type(seconds)(2.0)
    tiny = type(seconds)(1.0e-12)
    mu = table[r, 0]
    inverse = one / gyration
    anisotropy = half * table[r, 1]
    diagonal = half * table[r, 2]
    shift_x = table[r, 3]
    shift_y = table[r, 4]
    cos_turn = wp.cos(table[r, 5])
    sin_turn = wp.sin(table[r, 5])
    radius = table[r, 6]
    x = start[i, 0]
    y = start[i, 1]
    yaw = start[i, 2]
    tx = tips[i, 0]
    ty = tips[i, 1]
    poses[i, 0, 0] = x
    poses[i, 0, 1] = y
    poses[i, 0, 2] = yaw
    pushers[i, 0, 0] = tx
    pushers[i, 0, 1] = ty
    share = seconds / type(seconds)(substeps)
    for h in range(horizon):
        dx = velocities[i, h, 0] * share
        dy = velocities[i, h, 1] * share
        k = wp.int32(0)
        while k < substeps:
            c = wp.cos(yaw)
            s = wp.sin(yaw)
            wx = tx + table[r, 7] - x
            wy = ty + table[r, 8] - y
            bx = c * wx + s * wy - shift_x
            by = -s * wx + c * wy - shift_y
            query = wp.vector(cos_turn * bx + sin_turn * by, -sin_turn * bx + cos_turn * by)
            if corner_count == 1:
                d, mx, my, qx, qy = _ellipse(query, corners[0][0], corners[0][1])
            else:
                d, mx, my, qx, qy = _polygon(query, corners, corner_count)
            gap = d - radius
            if k == 0 and gap > wp.sqrt(dx * dx + dy * dy) * type(seconds)(substeps):
                k = substeps  # too far to touch in this step
            else:
                k += 1
                nx = cos_turn * mx - sin_turn * my
                ny = sin_turn * mx + cos_turn * my
                # contact point from the centroid, in the slider's frame
                cx = cos_turn * qx - sin_turn * qy + shift_x - centre_x
                cy = sin_turn * qx + cos_turn * qy + shift_y - centre_y
                ux = c * dx + s * dy
                uy = -s * dx + c * dy
                approach = -(nx * ux + ny * uy)
                need = approach - gap
                if need > zero:
                    slip = -ny * ux + nx * uy
                    if approach > tiny and need < approach:
                        slip = slip * need / approach
                    # the surface's anisotropy in the slider's frame
                    c2 = c * c - s * s
                    s2 = two * c * s
                    p = anisotropy * c2 + diagonal * s2
                    q = -anisotropy * s2 + diagonal * c2
                    m0 = -(cx * ny - cy * nx) * inverse
                    m1 = (cx * nx + cy * ny) * inverse
                    lo = -mu
                    hi = mu
                    gx, gy, gm = _flow(table, r, -nx - lo * ny, -ny + lo * nx, m0 + lo * m1, p, q)
                    w = gm * inverse
                    f_lo = (-ny * (gx - w * cy) + nx * (gy + w * cx)) * need + (nx * (gx - w * cy) + ny * (gy + w * cx)) * slip
                    gx, gy, gm = _flow(table, r, -nx - hi * ny, -ny + hi * nx, m0 + hi * m1, p, q)
                    w = gm * inverse
                    f_hi = (-ny * (gx - w * cy) + nx * (gy + w * cx)) * need + (nx * (gx - w * cy) + ny * (gy + w * cx)) * slip
                    tau = lo
                    if f_hi <= zero:
                        tau = hi
                    elif f_lo < zero:
                        # Illinois method: the contact's slip direction turns monotonically with the force
                        side = wp.int32(0)
                        last = hi - lo + hi
                        for _ in range(wp.static(ROOT_ITERATIONS)):
                            if wp.abs(tau - last) > type(seconds)(1.0e-7) or side == 0:
                                last = tau
                                tau = (lo * f_hi - hi * f_lo) / (f_hi - f_lo)
                                gx, gy, gm = _flow(table, r, -nx - tau * ny, -ny + tau * nx, m0 + tau * m1, p, q)
                                w = gm * inverse
                                f = (-ny * (gx - w * cy) + nx * (gy + w * cx)) * need + (nx * (gx - w * cy) + ny * (gy + w * cx)) * slip
                                if f > zero:
                                    hi = tau
                                    f_hi = f
                                    if side == 1:
                                        f_lo = f_lo * half
                                    side = 1
                                else:
                                    lo = tau
                                    f_lo = f
                                    if side == 2:
                                        f_hi = f_hi * half
                                    side = 2
                    gx, gy, gm = _flow(table, r, -nx - tau * ny, -ny + tau * nx, m0 + tau * m1, p, q)
                    w = gm * inverse
                    normal = -(nx * (gx - w * cy) + ny * (gy + w * cx))
                    if normal > tiny:
                        scale = need / normal
                        w = w * scale
                        # velocity of the slider's origin, then half of the turn before the translation
                        vx = gx * scale + w * centre_y
                        vy = gy * scale - w * centre_x
                        middle = yaw + half * w
                        cm = wp.cos(middle)
                        sm = wp.sin(middle)
                        x += cm * vx - sm * vy
                        y += sm * vx + cm * vy
                        yaw += w
                tx += dx
                ty += dy
        # the pusher's motion is exact, whatever the substeps added up to
        tx = pushers[i, h, 0] + velocities[i, h, 0] * seconds
        ty = pushers[i, h, 1] + velocities[i, h, 1] * seconds
        poses[i, h + 1, 0] = x
        poses[i, h + 1, 1] = y
        poses[i, h + 1, 2] = yaw
        pushers[i, h + 1, 0] = tx
        pushers[i, h + 1, 1] = ty


def _of(scalar: Any, vector: Any) -> Any:
    """The kernel for one precision; Warp would take longer to infer it at every launch than a small rollout takes."""
    return wp.overload(
        _rollout,
        {
            **{name: wp.array2d(dtype=scalar) for name in ("start", "tips", "table")},
            **{name: wp.array3d(dtype=scalar) for name in ("velocities", "poses", "pushers")},
            **dict.fromkeys(("centre_x", "centre_y", "gyration", "seconds"), scalar),
            "corners": wp.array(dtype=vector),
        },
    )


_KERNELS = {torch.float32: _of(wp.float32, wp.vec2f), torch.float64: _of(wp.float64, wp.vec2d)}


def rollout(
    pose: Tensor,
    pusher: Tensor,
    velocities: Tensor,
    table: Tensor,
    row: Tensor,
    shape: Shape,
    *,
    centroid: tuple[float, float],
    gyration: float,
    dt: float,
    substeps: int,
) -> tuple[Tensor, Tensor]:
    """Roll N pushes out.

    Args:
        pose: (N, 3) x, y [m], yaw [rad] of the slider.
        pusher: (N, 2) [m].
        velocities: (N, H, 2) of the pusher [m/s].
        table: (P, len(PARAMETERS) + 15), one row per parameter draw; the last 15 columns are the limit surface's coefficients.
        row: int32 (N,), which row of the table each push uses.
        shape: the slider's outline.
        centroid: of the outline [m], slider frame; the point about which the limit surface's moments are taken.
        gyration: radius of gyration of the outline [m], the unit of those moments.
        dt: duration of a step [s].
        substeps: contact solves per step.

    Returns:
        Poses (N, H+1, 3) and pusher positions (N, H+1, 2), the start included.
    """
    count, horizon = velocities.shape[:2]
    poses = pose.new_empty(count, horizon + 1, 3)
    pushers = pose.new_empty(count, horizon + 1, 2)
    if count == 0:
        return poses, pushers
    corners = _corners(shape, pose.dtype, pose.device)
    scalar_of(pose)  # refuses other precisions
    arrays, results = (list(map(as_descriptor, tensors)) for tensors in ((pose, pusher, velocities, table, row), (poses, pushers)))
    arguments = [*arrays, *corners, horizon, substeps, *centroid, gyration, dt, *results]
    launch_beside(pose, _KERNELS[pose.dtype], count, arguments, share=THREAD_SHARE)
    return poses, pushers


@cache
def _corners(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, int]:
    """The outline as a Warp array: the vertices of a polygon, or one entry with the semi-axes of an ellipse."""
    if isinstance(shape, Ellipse):
        values: Any = [(shape.a, shape.b)]
    elif isinstance(shape, Polygon):
        values = shape.vertices
    else:
        raise TypeError(f"The pushing kernel knows Polygon and Ellipse, got {type(shape).__name__}.")
    vector = wp.vec2d if dtype == torch.float64 else wp.vec2f
    return wp.array(values, dtype=vector, device=wp.device_from_torch(device)), len(values)
