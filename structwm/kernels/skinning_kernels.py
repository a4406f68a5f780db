"""Affine maps of nodes blended at points, splats under affine maps, and nearest rotations: forward and hand-written backward, float32 and float64.

A splat's axes after a map are the left factor of the singular value decomposition of F R diag(s), by one-sided Jacobi rotations (Hestenes, J. SIAM 1958;
de Rijk, SIAM J. Sci. Stat. Comput. 1989). They never form the covariance, so small axes keep their digits, and they do nothing where F is a rotation: the axes
are then F R. One body, two forms: a CPU thread decomposes `LANES` matrices side by side in vector registers, a CUDA thread one. The plain torch forms in
`skinning_reference` are the oracle in the tests.
"""

from functools import cache
from typing import NamedTuple

import warp as wp

from .quaternions import longest, rotation_matrix

SWEEPS = 8  # rounds over the three pairs of columns; four are enough but for adversaries
LANES = {wp.float32: 8, wp.float64: 4}

_DECOMPOSE = """
typedef %(scalar)s S;
#if defined(__CUDA_ARCH__)
typedef S V;
#define LANE(v, l) v
#define ANY(mask) (mask)
#define SQRT(x) wp::sqrt(x)
#define ABS(x) wp::abs(x)
#define MAX(x, y) wp::max(x, y)
const int lanes = 1;
#else
typedef S V __attribute__((ext_vector_type(%(lanes)d)));
#define LANE(v, l) v[l]
#define ANY(mask) __builtin_reduce_or(mask)
#define SQRT(x) __builtin_elementwise_sqrt(x)
#define ABS(x) __builtin_elementwise_abs(x)
#define MAX(x, y) __builtin_elementwise_max(x, y)
const int lanes = %(lanes)d;
#endif
const V zero = (V)(S)0, one = (V)(S)1, two = (V)(S)2;
const int n = total - start < lanes ? total - start : lanes;
auto dot = [](const V* a, const V* b) -> V { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; };
auto cross = [](const V* a, const V* b, V* out) {
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
};

// columns of the matrices, m[column][row]
V f[3][3], m[3][3];
for (int l = 0; l < lanes; ++l) {
    const int i = start + (l < n ? l : n - 1);
    const auto& map = maps.data[map_step ? i : i %% count];
    for (int r = 0; r < 3; ++r) for (int c = 0; c < 3; ++c) LANE(f[c][r], l) = map.data[r][c];
}
if (rotations.shape[0] == 0) {
    for (int c = 0; c < 3; ++c) for (int r = 0; r < 3; ++r) m[c][r] = f[c][r];
} else {
    V q[4], s[3];
    for (int l = 0; l < lanes; ++l) {
        const int i = start + (l < n ? l : n - 1), k = splat_step ? i : i %% count;
        for (int c = 0; c < 4; ++c) LANE(q[c], l) = rotations.data[k][c];
        for (int c = 0; c < 3; ++c) LANE(s[c], l) = scales.data[k][c];
    }
    const V largest = MAX(MAX(ABS(q[0]), ABS(q[1])), MAX(ABS(q[2]), ABS(q[3])));
    for (int c = 0; c < 4; ++c) q[c] = largest == zero ? (c == 0 ? one : zero) : q[c] / largest;
    const V shrink = one / SQRT(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    const V w = q[0] * shrink, x = q[1] * shrink, y = q[2] * shrink, z = q[3] * shrink;
    const V turn[3][3] = {
        {one - two * (y * y + z * z), two * (x * y + w * z), two * (x * z - w * y)},
        {two * (x * y - w * z), one - two * (x * x + z * z), two * (y * z + w * x)},
        {two * (x * z + w * y), two * (y * z - w * x), one - two * (x * x + y * y)}};
    for (int c = 0; c < 3; ++c) for (int r = 0; r < 3; ++r)
        m[c][r] = (f[0][r] * turn[c][0] + f[1][r] * turn[c][1] + f[2][r] * turn[c][2]) * s[c];
}

// at one size; what has none, or is not finite, stands in as the identity
V size = zero;
for (int c = 0; c < 3; ++c) for (int r = 0; r < 3; ++r) size = size + ABS(m[c][r]);
const auto fine = (size > zero) & (size - size == zero);
V v[3][3];
for (int c = 0; c < 3; ++c) for (int r = 0; r < 3; ++r) {
    v[c][r] = c == r ? one : zero;
    m[c][r] = fine ? m[c][r] / size : v[c][r];
}

auto make_orthogonal = [&](V* p, V* q, V* vp, V* vq) -> V {
    const V a = dot(p, p), b = dot(q, q), g = two * dot(p, q), d = b - a;
    const auto needed = g * g > (S)%(orthogonal).17g * a * b;
    V t = g / (ABS(d) + SQRT(d * d + g * g));
    t = d < zero ? -t : t;
    V c = one / SQRT(one + t * t), s = c * t;
    c = needed ? c : one;
    s = needed ? s : zero;
    for (int r = 0; r < 3; ++r) {
        const V h = c * p[r] - s * q[r], vh = c * vp[r] - s * vq[r];
        q[r] = s * p[r] + c * q[r];
        vq[r] = s * vp[r] + c * vq[r];
        p[r] = h;
        vp[r] = vh;
    }
    return ABS(s);
};
for (int sweep = 0; sweep < %(sweeps)d; ++sweep) {
    V moved = make_orthogonal(m[0], m[1], v[0], v[1]);
    moved = MAX(moved, make_orthogonal(m[1], m[2], v[1], v[2]));
    moved = MAX(moved, make_orthogonal(m[0], m[2], v[0], v[2]));
    if (!ANY(moved > (S)%(gap).17g)) break;  // what is left is its square
}

// unit columns, longest first: the first is reliable, the second mostly, and the third follows from the two
V length[3], side = one;
for (int c = 0; c < 3; ++c) length[c] = SQRT(dot(m[c], m[c]));
auto swap = [&](int i, int j, decltype(zero < one) yes) {
    const V h = yes ? length[j] : length[i];
    length[j] = yes ? length[i] : length[j];
    length[i] = h;
    for (int r = 0; r < 3; ++r) {
        const V k = yes ? m[j][r] : m[i][r];
        m[j][r] = yes ? m[i][r] : m[j][r];
        m[i][r] = k;
    }
};
const auto swap0 = length[0] < length[1];
swap(0, 1, swap0);
const auto swap1 = length[1] < length[2];
swap(1, 2, swap1);
const auto swap2 = length[0] < length[1];
swap(0, 1, swap2);
side = swap0 ? -side : side;
side = swap1 ? -side : side;
side = swap2 ? -side : side;
for (int r = 0; r < 3; ++r) m[0][r] = m[0][r] / length[0];
const V along = dot(m[1], m[0]);
const auto lost = length[1] <= (S)%(rounding).17g * length[0];
const auto steep = ABS(m[0][0]) < (S)0.6;
const V aside[3] = {steep ? one : zero, steep ? zero : one, zero};
V across[3];
cross(m[0], aside, across);  // any direction at right angles to the first
for (int r = 0; r < 3; ++r) m[1][r] = lost ? across[r] : m[1][r] - along * m[0][r];
const V norm = SQRT(dot(m[1], m[1]));
for (int r = 0; r < 3; ++r) m[1][r] = m[1][r] / norm;
cross(m[0], m[1], m[2]);
for (int r = 0; r < 3; ++r) m[2][r] = side * m[2][r];
swap(0, 1, swap2);
swap(1, 2, swap1);
swap(0, 1, swap0);

// quaternions from the row of 4 q q^T with the largest part
V out[2][4];
for (int k = 0; k < 2; ++k) {
    const V (*t)[3] = k == 0 ? m : v;
    const V w = one + t[0][0] + t[1][1] + t[2][2], x = one + t[0][0] - t[1][1] - t[2][2];
    const V y = one - t[0][0] + t[1][1] - t[2][2], z = one - t[0][0] - t[1][1] + t[2][2];
    const V wx = t[1][2] - t[2][1], wy = t[2][0] - t[0][2], wz = t[0][1] - t[1][0];
    const V xy = t[0][1] + t[1][0], xz = t[0][2] + t[2][0], yz = t[1][2] + t[2][1];
    const V best = MAX(MAX(w, x), MAX(y, z));
    V* q = out[k];
    q[0] = w == best ? w : x == best ? wx : y == best ? wy : wz;
    q[1] = w == best ? wx : x == best ? x : y == best ? xy : xz;
    q[2] = w == best ? wy : x == best ? xy : y == best ? y : yz;
    q[3] = w == best ? wz : x == best ? xz : y == best ? yz : z;
    V scale = one / SQRT(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    scale = q[0] < zero ? -scale : scale;
    for (int c = 0; c < 4; ++c) q[c] = q[c] * scale;
}
for (int l = 0; l < n; ++l) {
    for (int c = 0; c < 4; ++c) {
        lefts.data[start + l][c] = LANE(out[0][c], l);
        rights.data[start + l][c] = LANE(out[1][c], l);
    }
}
for (int c = 0; c < 3; ++c) {
    const V value = fine ? size * length[c] : size;
    for (int l = 0; l < n; ++l) values.data[start + l][c] = LANE(value, l);
}
"""


class SkinningKernels(NamedTuple):
    """All of them for one type of number."""

    blend: wp.Kernel
    blend_backward: wp.Kernel
    blend_nodes_backward: wp.Kernel
    decompose: wp.Kernel
    deform_backward: wp.Kernel
    nearest_backward: wp.Kernel


@cache
def skinning_kernels(kind: type) -> SkinningKernels:
    """The kernels for `wp.float32` or `wp.float64`."""
    module = wp.get_module(f"{__name__}.{kind.__name__}")
    vec3, vec4 = (wp.types.vector(n, kind) for n in (3, 4))
    mat33 = wp.types.matrix((3, 3), kind)
    scalar, rounding = ("float", 1.2e-7) if kind is wp.float32 else ("double", 2.3e-16)
    gap = rounding**0.5  # relative; below it, what tells two axes apart is lost in rounding
    orthogonal = 16.0 * rounding**2  # squared cosine of columns that are
    constants = {"scalar": scalar, "lanes": LANES[kind], "sweeps": SWEEPS, "rounding": rounding, "gap": gap, "orthogonal": orthogonal}

    @wp.func_native(_DECOMPOSE % constants)
    def decompose_some(
        start: int, total: int, count: int, map_step: int, splat_step: int, maps: wp.array(dtype=mat33), rotations: wp.array(dtype=vec4),
        scales: wp.array(dtype=vec3), lefts: wp.array(dtype=vec4), values: wp.array(dtype=vec3), rights: wp.array(dtype=vec4),
    ): ...  # fmt: skip

    @wp.func
    def unit(q: vec4) -> vec4:
        """The quaternion at length 1; the identity for zero."""
        largest = longest(q)
        if largest == kind(0.0):
            return vec4(kind(1.0), kind(0.0), kind(0.0), kind(0.0))
        return wp.normalize(q / largest)

    @wp.func
    def spin(q: vec4, grad: vec4) -> vec3:
        """From the gradient by a unit quaternion, the one by a small rotation vector in the turned frame, q -> q exp(v)."""
        axis = vec3(q[1], q[2], q[3])
        part = vec3(grad[1], grad[2], grad[3])
        return kind(0.5) * (q[0] * part - grad[0] * axis + wp.cross(part, axis))

    @wp.func
    def unspin(q: vec4, grad: vec3) -> vec4:
        """The opposite of `spin`: the gradient by a unit quaternion, which has no part along it."""
        axis = vec3(q[1], q[2], q[3])
        part = kind(2.0) * (q[0] * grad + wp.cross(axis, grad))
        return vec4(-kind(2.0) * wp.dot(axis, grad), part[0], part[1], part[2])

    @wp.func
    def diagonal(left: mat33, product: mat33) -> vec3:
        """Of left^T product."""
        return vec3(
            left[0, 0] * product[0, 0] + left[1, 0] * product[1, 0] + left[2, 0] * product[2, 0],
            left[0, 1] * product[0, 1] + left[1, 1] * product[1, 1] + left[2, 1] * product[2, 1],
            left[0, 2] * product[0, 2] + left[1, 2] * product[1, 2] + left[2, 2] * product[2, 2],
        )

    @wp.func
    def inverse_gap(a: kind, b: kind) -> kind:
        """1 / (a - b), and 0 where a is b: what would tell the axes apart is lost in rounding there."""
        d = a - b
        floor = kind(gap) * (a + b)
        square = d * d + floor * floor
        if square == kind(0.0):
            return kind(0.0)
        return d / square

    @wp.func
    def inverse_sum(a: kind, b: kind, most: kind) -> kind:
        """1 / (a + b), and 0 where the sum is 0: there no rotation is nearer than the others."""
        d = a + b
        floor = kind(gap) * most
        square = d * d + floor * floor
        if square == kind(0.0):
            return kind(0.0)
        return d / square

    @wp.func
    def twisted(s: vec3, grad: vec3) -> mat33:
        """Part of the gradient by left diag(s) right^T, between the outer two, that comes from the gradient by a turn of `left` in its own frame."""
        square = wp.cw_mul(s, s)
        yz = grad[0] * inverse_gap(square[1], square[2])
        zx = grad[1] * inverse_gap(square[2], square[0])
        xy = grad[2] * inverse_gap(square[0], square[1])
        return mat33(kind(0.0), xy * s[1], zx * s[2], xy * s[0], kind(0.0), yz * s[2], zx * s[0], yz * s[1], kind(0.0))

    @wp.func
    def row(i: int, count: int, step: int) -> int:
        """Row of an array that has one world (step 0) or all of them (step 1)."""
        if step == 0:
            return i % count
        return i

    @wp.kernel(enable_backward=False, module=module)
    def blend(
        first: int,
        points: wp.array(dtype=vec3),
        indices: wp.array2d(dtype=wp.int32),
        weights: wp.array2d(dtype=kind),
        nodes: wp.array(dtype=vec3),
        moved: wp.array(dtype=vec3),
        maps: wp.array(dtype=mat33),
        count: int,
        node_count: int,
        steps: wp.vec4i,
        positions: wp.array(dtype=vec3),
        blended: wp.array(dtype=mat33),
    ):
        """Position and linear part of the blended map of each point."""
        i = first + wp.tid()
        world = i / count
        x = points[row(i, count, steps[0])]
        r = row(i, count, steps[1])
        position = vec3()
        total = mat33()
        for k in range(indices.shape[1]):
            m = indices[r, k]
            w = weights[r, k]
            linear = maps[m + world * steps[3] * node_count]
            position += w * (linear @ (x - nodes[m + world * steps[2] * node_count]) + moved[m + world * steps[3] * node_count])
            total += w * linear
        positions[i] = position
        blended[i] = total

    @wp.kernel(enable_backward=False, module=module)
    def blend_backward(
        first: int,
        points: wp.array(dtype=vec3),
        indices: wp.array2d(dtype=wp.int32),
        weights: wp.array2d(dtype=kind),
        nodes: wp.array(dtype=vec3),
        moved: wp.array(dtype=vec3),
        maps: wp.array(dtype=mat33),
        count: int,
        node_count: int,
        steps: wp.vec4i,
        grad_positions: wp.array(dtype=vec3),
        grad_blended: wp.array(dtype=mat33),
        grad_points: wp.array(dtype=vec3),
        grad_weights: wp.array2d(dtype=kind),
    ):
        """Gradients by points and weights; the latter are left out where their array is empty."""
        i = first + wp.tid()
        world = i / count
        x = points[row(i, count, steps[0])]
        r = row(i, count, steps[1])
        a = grad_positions[i]
        h = grad_blended[i]
        total = mat33()
        for k in range(indices.shape[1]):
            m = indices[r, k]
            linear = maps[m + world * steps[3] * node_count]
            total += weights[r, k] * linear
            if grad_weights.shape[0] > 0:
                place = linear @ (x - nodes[m + world * steps[2] * node_count]) + moved[m + world * steps[3] * node_count]
                grad_weights[i, k] = wp.dot(a, place) + wp.ddot(h, linear)
        grad_points[i] = a @ total

    @wp.kernel(enable_backward=False, module=module)
    def blend_nodes_backward(
        first: int,
        points: wp.array(dtype=vec3),
        weights: wp.array(dtype=kind),
        nodes: wp.array(dtype=vec3),
        starts: wp.array2d(dtype=wp.int32),
        entries: wp.array2d(dtype=wp.int32),
        count: int,
        node_count: int,
        parts: int,
        steps: wp.vec4i,
        grad_positions: wp.array(dtype=vec3),
        grad_blended: wp.array(dtype=mat33),
        grad_moved: wp.array(dtype=vec3),
        grad_maps: wp.array(dtype=mat33),
    ):
        """Gradients by the nodes' places and maps, in `parts` sums a node over the points that follow it.

        Neighboring threads sum the same part of different nodes' lists, whose points are near one another in memory.
        """
        i = first + wp.tid()
        m = i % node_count
        part = (i / node_count) % parts
        world = (i / node_count) / parts
        skin = world * steps[1]
        node = nodes[m + world * steps[2] * node_count]
        begin = starts[skin, m]
        length = starts[skin, m + 1] - begin
        share = (length + parts - 1) / parts
        slots = entries.shape[1] / count
        place = vec3()
        linear = mat33()
        for e in range(begin + wp.min(part * share, length), begin + wp.min((part + 1) * share, length)):
            entry = entries[skin, e]
            n = entry / slots
            w = weights[entry + skin * entries.shape[1]]
            a = w * grad_positions[n + world * count]
            place += a
            linear += wp.outer(a, points[n + world * steps[0] * count] - node) + w * grad_blended[n + world * count]
        grad_moved[i] = place
        grad_maps[i] = linear

    @wp.kernel(enable_backward=False, module=module)
    def decompose(
        first: int,
        total: int,
        lanes: int,
        count: int,
        map_step: int,
        splat_step: int,
        maps: wp.array(dtype=mat33),
        rotations: wp.array(dtype=vec4),
        scales: wp.array(dtype=vec3),
        lefts: wp.array(dtype=vec4),
        values: wp.array(dtype=vec3),
        rights: wp.array(dtype=vec4),
    ):
        """F R diag(s) = left diag(values) right^T up to the signs of the values, with rotations left and right; without rotations and scales, of F."""
        decompose_some((first + wp.tid()) * lanes, total, count, map_step, splat_step, maps, rotations, scales, lefts, values, rights)

    @wp.kernel(enable_backward=False, module=module)
    def deform_backward(
        first: int,
        maps: wp.array(dtype=mat33),
        rotations: wp.array(dtype=vec4),
        scales: wp.array(dtype=vec3),
        count: int,
        map_step: int,
        splat_step: int,
        new_rotations: wp.array(dtype=vec4),
        rights: wp.array(dtype=vec4),
        grad_new_rotations: wp.array(dtype=vec4),
        grad_new_scales: wp.array(dtype=vec3),
        grad_maps: wp.array(dtype=mat33),
        grad_rotations: wp.array(dtype=vec4),
        grad_scales: wp.array(dtype=vec3),
    ):
        """Gradients by maps, rotations and scales, a row for each splat of each world."""
        i = first + wp.tid()
        n = row(i, count, splat_step)
        linear = maps[row(i, count, map_step)]
        q = unit(rotations[n])
        turned = rotation_matrix(q)
        s = scales[n]
        axes = turned @ wp.diag(s)
        left = rotation_matrix(new_rotations[i])
        right = rotation_matrix(rights[i])
        values = diagonal(left, linear @ axes @ right)
        middle = twisted(values, spin(new_rotations[i], grad_new_rotations[i]))
        for c in range(3):
            middle[c, c] = grad_new_scales[i][c] * wp.sign(values[c])
        grad_m = left @ middle @ wp.transpose(right)
        grad_maps[i] = grad_m @ wp.transpose(axes)
        b = wp.transpose(linear) @ grad_m
        b = wp.transpose(turned) @ b  # by R diag(s), in the splat's own frame
        grad_scales[i] = vec3(b[0, 0], b[1, 1], b[2, 2])
        b = b @ wp.diag(s)
        length = wp.length(rotations[n])
        if length > kind(0.0):
            grad_rotations[i] = unspin(q, vec3(b[2, 1] - b[1, 2], b[0, 2] - b[2, 0], b[1, 0] - b[0, 1])) / length
        else:
            grad_rotations[i] = vec4()

    @wp.kernel(enable_backward=False, module=module)
    def nearest_backward(
        first: int,
        matrices: wp.array(dtype=mat33),
        rotations: wp.array(dtype=vec4),
        rights: wp.array(dtype=vec4),
        grad_rotations: wp.array(dtype=vec4),
        grad_matrices: wp.array(dtype=mat33),
    ):
        """With left^T m right = diag(s), a change P of the left side turns the rotation by (P_ji - P_ij) / (s_i + s_j), in the right factor's frame."""
        i = first + wp.tid()
        right = rotation_matrix(rights[i])
        left = rotation_matrix(rotations[i]) @ right
        s = diagonal(left, matrices[i] @ right)
        g = spin(rotations[i], grad_rotations[i]) @ right
        most = wp.max(wp.max(s[0], s[1]), s[2])
        x = g[0] * inverse_sum(s[1], s[2], most)
        y = g[1] * inverse_sum(s[2], s[0], most)
        z = g[2] * inverse_sum(s[0], s[1], most)
        zero = kind(0.0)
        grad_matrices[i] = left @ mat33(zero, -z, y, z, zero, -x, -y, x, zero) @ wp.transpose(right)

    return SkinningKernels(blend, blend_backward, blend_nodes_backward, decompose, deform_backward, nearest_backward)


def made_kernels() -> list[wp.Kernel]:
    """All of them, for `structwm.kernels.build`."""
    return [kernel for kind in (wp.float32, wp.float64) for kernel in skinning_kernels(kind)]
