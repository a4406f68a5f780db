"""Alpha compositing of splats, tile by tile, forward and backward.

With alpha_i = min(0.99, o_i exp(-d^T conic_i d / 2)), drawn where it is at least 1/255, and T_i the product of (1 - alpha_j) over what lies in front, a
pixel's channels are the sum of alpha_i T_i f_i; a splat that would bring T to 1e-4 or less ends the pixel (Kerbl et al., ACM TOG 2023). The backward pass
walks the same list from the last splat that was drawn to the first, divides T by (1 - alpha), and keeps of all that lies behind only its product with the
incoming gradient.

One body, two forms. CPU: one thread a tile; the inner loop is over the 16 pixels of a tile's row and vectorises, with a polynomial for the exponential
(relative error 2e-7). CUDA: one block of 256 threads a tile, splats staged in shared memory, gradients summed over warps by shuffles. `splat_per_pixel` says
the same in plain Warp. The gradient of a touch (a splat in a tile) is a row: centre (2), conic (3), logarithm of opacity, channels. Rows are summed by
`splat_binning.gather`, in a fixed order; one CPU thread adds them up at once in the same order, CUDA if asked to in any order.
"""

from functools import cache
from typing import NamedTuple

import warp as wp

CHANNELS = (4, 12, 36)  # for which kernels are made; other numbers are padded
GEOMETRY = 6  # floats of a gradient row before the channels

_VECTORS = """
typedef float Row __attribute__((ext_vector_type(16)));
typedef float Half __attribute__((ext_vector_type(8)));
typedef float Quarter __attribute__((ext_vector_type(4)));
typedef int Flags __attribute__((ext_vector_type(16)));
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
// Pairs lie anywhere in memory, so that what is wanted AHEAD slots later is fetched now.
#define AHEAD 8
#define FETCH(j) { const long next = lists.data[j]; __builtin_prefetch(packed.data + 8 * next); __builtin_prefetch(channels.data + C * next); }
"""

# raw = exp(e) for e in [-14, 0], by 2^t = 2^floor(t) * polynomial
_ALPHA = """
        const Row t = __builtin_elementwise_max(e, (Row)(-14.0f)) * 1.44269504f;
        const Row whole = __builtin_elementwise_floor(t);
        const Row part = t - whole;
        union { Flags i; Row f; } power;
        power.i = (__builtin_convertvector(whole, Flags) + 127) << 23;
        const Row raw = power.f * FMA(FMA(FMA(FMA(FMA((Row)1.8775767e-3f, part, (Row)8.9893397e-3f), part, (Row)5.5826318e-2f), part,
            (Row)2.4015361e-1f), part, (Row)6.9315308e-1f), part, (Row)9.9999994e-1f);
        const Row alpha = __builtin_elementwise_min(raw, (Row)0.99f);
"""

# A row of pixels: e = log(alpha) there
_SPLAT = """
    const long pair = lists.data[k];
    const float* g = packed.data + 8 * pair;
    const float* f = channels.data + C * pair;
    const float mx = g[0], my = g[1], a = g[2], b = g[3], c = g[4], half = g[7];
    const int first = wp::max(0, (int)ceilf(my - half - y0 - 0.5f)), last_row = wp::min(rows - 1, (int)floorf(my + half - y0 - 0.5f));
    const Row dx = px - mx, ea = -0.5f * a * dx * dx + g[5], eb = -b * dx;
"""

# CUDA: e at a pixel for a staged splat g; with every fused product written out, both directions get the same bits and so the same splats
_EXPONENT = """
        const float dx = x + 0.5f - g[0], dy = y + 0.5f - g[1];
        const float e = fmaf(fmaf(-0.5f * g[4], dy, -g[3] * dx), dy, fmaf(-0.5f * g[2] * dx, dx, g[5]));
"""

_FORWARD = (
    """
const int C = %(channels)d;
#if defined(__CUDA_ARCH__)
const int lane = threadIdx.x, x = x0 + (lane & 15), y = y0 + (lane >> 4);
const bool inside = x < width && y < height;
__shared__ float geometry[256][6];
__shared__ float colors[256][C];
float T = 1.0f, sums[C];
for (int i = 0; i < C; ++i) sums[i] = 0.0f;
int last = -1;
bool done = !inside;
for (int base = start; base < stop; base += 256) {
    if (__syncthreads_count(done) == 256) break;
    if (base + lane < stop) {
        const long long pair = lists.data[base + lane];
        for (int i = 0; i < 6; ++i) geometry[lane][i] = packed.data[8 * pair + i];
        for (int i = 0; i < C; ++i) colors[lane][i] = channels.data[C * pair + i];
    }
    __syncthreads();
    const int n = min(256, stop - base);
    for (int i = 0; i < n && !done; ++i) {
        const float* g = geometry[i];
"""
    + _EXPONENT
    + """
        if (!(e >= -5.5412635f)) continue;
        const float alpha = fminf(0.99f, __expf(e)), after = T * (1.0f - alpha);
        if (!(after > 1e-4f)) { done = true; break; }
        for (int j = 0; j < C; ++j) sums[j] += alpha * T * colors[i][j];
        T = after;
        last = base + i;
    }
}
if (inside) {
    const long long p = ((long long)view * height + y) * width + x;
    for (int i = 0; i < C; ++i) image.data[p * C + i] = sums[i];
    through.data[p] = T;
    lasts.data[p] = last;
}
#else
"""
    + _VECTORS
    + """
Row T[16], sums[16 * C], px;
Flags last[16];
for (int j = 0; j < 16; ++j) px[j] = x0 + j + 0.5f;
const int rows = wp::min(16, height - y0);
for (int r = 0; r < 16; ++r) { T[r] = 1.0f; last[r] = -1; }
for (int i = 0; i < 16 * C; ++i) sums[i] = 0.0f;
int live = (1 << rows) - 1;  // rows with a pixel that is not finished; finished pixels have -T
for (int k = start; k < stop && live; ++k) {
    FETCH(wp::min(k + AHEAD, stop - 1))
"""
    + _SPLAT
    + """
    for (int r = first; r <= last_row; ++r) {
        if (!((live >> r) & 1)) continue;
        const float dy = y0 + r + 0.5f - my;
        const Row e = FMA(eb, (Row)dy, ea - 0.5f * c * dy * dy);
        const Flags hit = (e >= -5.5412635f) & (T[r] > 0.0f);
        if (!__builtin_reduce_or(hit)) continue;
"""
    + _ALPHA
    + """
        const Row after = FMA(-T[r], alpha, T[r]);
        const Flags kept = hit & (after > 1e-4f);
        const Row share = kept ? alpha * T[r] : (Row)0.0f;
        for (int i = 0; i < C; ++i) sums[r * C + i] = FMA(share, (Row)f[i], sums[r * C + i]);
        T[r] = kept ? after : (hit ? -T[r] : T[r]);
        last[r] = kept ? (Flags)k : last[r];
        if (!__builtin_reduce_or((Flags)(T[r] > 0.0f))) live &= ~(1 << r);
    }
}
const int columns = wp::min(16, width - x0);
for (int r = 0; r < rows; ++r) for (int j = 0; j < columns; ++j) {
    const long p = ((long)view * height + y0 + r) * width + x0 + j;
    for (int i = 0; i < C; ++i) image.data[p * C + i] = sums[r * C + i][j];
    through.data[p] = __builtin_fabsf(T[r][j]);
    lasts.data[p] = last[r][j];
}
#endif
"""
)

_BACKWARD = """
const int C = %(channels)d, W = C + 6;
#if defined(__CUDA_ARCH__)
const int BATCH = 16, lane = threadIdx.x, x = x0 + (lane & 15), y = y0 + (lane >> 4);
const bool inside = x < width && y < height;
__shared__ float geometry[BATCH][6];
__shared__ float colors[BATCH][C];
__shared__ float parts[8][BATCH][W];
__shared__ int deepest;
float T = 1.0f, behind = 0.0f, incoming[C];
int last = -1;
for (int i = 0; i < C; ++i) incoming[i] = 0.0f;
if (inside) {
    const long long p = ((long long)view * height + y) * width + x;
    T = through.data[p];
    behind = T * grad_through.data[p];
    last = lasts.data[p];
    for (int i = 0; i < C; ++i) incoming[i] = grad_image.data[p * C + i];
}
__syncthreads();
if (lane == 0) deepest = start - 1;
__syncthreads();
atomicMax(&deepest, last);
__syncthreads();
const int top = deepest;
if (!direct) for (int i = lane; i < (stop - top - 1) * W; i += 256) gradients.data[(long long)touches.data[top + 1 + i / W] * W + i %% W] = 0.0f;
for (int high = top; high >= start; high -= BATCH) {
    const int n = min(BATCH, high - start + 1);
    for (int i = lane; i < n * 6; i += 256) geometry[i / 6][i %% 6] = packed.data[8 * (long long)lists.data[high - i / 6] + i %% 6];
    for (int i = lane; i < n * C; i += 256) colors[i / C][i %% C] = channels.data[C * (long long)lists.data[high - i / C] + i %% C];
    __syncthreads();
    for (int i = 0; i < n; ++i) {
        const float* g = geometry[i];
""" + _EXPONENT + """
        const bool hit = last >= high - i && e >= -5.5412635f;
        float* part = parts[lane >> 5][i];
        if (!__any_sync(0xffffffffu, hit)) {
            for (int j = lane & 31; j < W; j += 32) part[j] = 0.0f;
            continue;
        }
        float share = 0.0f, slope = 0.0f;  // alpha T, and the gradient by e
        if (hit) {
            const float raw = __expf(e), alpha = fminf(0.99f, raw), inverse = 1.0f / (1.0f - alpha);
            T *= inverse;
            share = alpha * T;
            float along = 0.0f;
            for (int j = 0; j < C; ++j) along += colors[i][j] * incoming[j];
            if (raw < 0.99f) slope = alpha * (T * along - behind * inverse);
            behind += share * along;
        }
        const float half = -0.5f * slope;
        const float geometric[6] = {slope * (g[2] * dx + g[3] * dy), slope * (g[3] * dx + g[4] * dy), half * dx * dx, -slope * dx * dy, half * dy * dy, slope};
        for (int j = 0; j < W; ++j) {
            float value = j < 6 ? geometric[j < 6 ? j : 0] : share * incoming[j < 6 ? 0 : j - 6];
            for (int step = 16; step > 0; step >>= 1) value += __shfl_down_sync(0xffffffffu, value, step);
            if ((lane & 31) == 0) part[j] = value;
        }
    }
    __syncthreads();
    for (int i = lane; i < n * W; i += 256) {
        float sum = 0.0f;
        for (int w = 0; w < 8; ++w) sum += parts[w][i / W][i %% W];
        const long long k = high - i / W;
        if (!direct) gradients.data[(long long)touches.data[k] * W + i %% W] = sum;
        else if (sum != 0.0f) atomicAdd(gradients.data + (long long)lists.data[k] * W + i %% W, sum);
    }
}
#else
""" + _VECTORS + """
Row T[16], behind[16], incoming[16 * C], px;
Flags last[16];
for (int j = 0; j < 16; ++j) px[j] = x0 + j + 0.5f;
const int rows = wp::min(16, height - y0), columns = wp::min(16, width - x0);
int tops[16], top = start - 1;
for (int r = 0; r < rows; ++r) {
    T[r] = 1.0f; behind[r] = 0.0f; last[r] = -1;
    for (int i = 0; i < C; ++i) incoming[r * C + i] = 0.0f;
    for (int j = 0; j < columns; ++j) {
        const long p = ((long)view * height + y0 + r) * width + x0 + j;
        T[r][j] = through.data[p]; behind[r][j] = through.data[p] * grad_through.data[p]; last[r][j] = lasts.data[p];
        for (int i = 0; i < C; ++i) incoming[r * C + i][j] = grad_image.data[p * C + i];
    }
    tops[r] = __builtin_reduce_max(last[r]);
    top = wp::max(top, tops[r]);
}
float* out = gradients.data;
const int* target = direct ? lists.data : touches.data;
if (!direct) for (int k = top + 1; k < stop; ++k) for (int i = 0; i < W; ++i) out[(long)target[k] * W + i] = 0.0f;
for (int k = top; k >= start; --k) {
    const int later = wp::max(k - AHEAD, start);
    FETCH(later)
    __builtin_prefetch(out + (long)target[later] * W, 1);
""" + _SPLAT + """
    Row by_e = 0.0f, by_e_dy = 0.0f, by_e_dy2 = 0.0f, by_channel[C];
    for (int i = 0; i < C; ++i) by_channel[i] = 0.0f;
    for (int r = first; r <= last_row; ++r) {
        if (k > tops[r]) continue;
        const float dy = y0 + r + 0.5f - my;
        const Row e = FMA(eb, (Row)dy, ea - 0.5f * c * dy * dy);
        const Flags hit = (e >= -5.5412635f) & (last[r] >= k);
        if (!__builtin_reduce_or(hit)) continue;
""" + _ALPHA + """
        const Row drawn = hit ? alpha : (Row)0.0f;
        const Row inverse = 1.0f / (1.0f - drawn);
        T[r] *= inverse;
        const Row share = drawn * T[r];
        Row along = 0.0f;
        for (int i = 0; i < C; ++i) { by_channel[i] = FMA(share, incoming[r * C + i], by_channel[i]); along = FMA((Row)f[i], incoming[r * C + i], along); }
        const Row slope = raw < 0.99f ? drawn * (T[r] * along - behind[r] * inverse) : (Row)0.0f;
        behind[r] = FMA(share, along, behind[r]);
        by_e += slope; by_e_dy = FMA(slope, (Row)dy, by_e_dy); by_e_dy2 = FMA(slope, (Row)(dy * dy), by_e_dy2);
    }
    #define SUM(row) ({ const Half h_ = (row).lo + (row).hi; const Quarter q_ = h_.lo + h_.hi; (q_.x + q_.z) + (q_.y + q_.w); })
    const Row by_e_dx = by_e * dx;
    const float sx = SUM(by_e_dx), sy = SUM(by_e_dy);
    float* o = out + (long)target[k] * W;
    float row[W] = {a * sx + b * sy, b * sx + c * sy, -0.5f * SUM(by_e_dx * dx), -SUM(by_e_dy * dx), -0.5f * SUM(by_e_dy2), SUM(by_e)};
    for (int i = 0; i < C; ++i) row[6 + i] = SUM(by_channel[i]);
    for (int i = 0; i < W; ++i) o[i] = direct ? o[i] + row[i] : row[i];
    #undef SUM
}
#endif
"""  # fmt: skip


class CompositingKernels(NamedTuple):
    """Both directions for one number of channels."""

    forward: wp.Kernel
    backward: wp.Kernel


@cache
def compositing_kernels(channels: int) -> CompositingKernels:
    """The kernels for one of the numbers in `CHANNELS`. A launch takes tiles `first`, `first + stride`, ...: one thread a tile on CPU, 256 on CUDA."""
    floats = wp.array(dtype=float)
    table = wp.array2d(dtype=float)
    ints = wp.array(dtype=wp.int32)

    @wp.func_native(_FORWARD % {"channels": channels})
    def tile_forward(
        lists: ints, packed: table, channels: table, start: int, stop: int, view: int, x0: int, y0: int, width: int, height: int,
        image: floats, through: floats, lasts: ints,
    ): ...  # fmt: skip

    @wp.func_native(_BACKWARD % {"channels": channels})
    def tile_backward(
        lists: ints, packed: table, channels: table, start: int, stop: int, view: int, x0: int, y0: int, width: int, height: int,
        through: floats, lasts: ints, grad_image: floats, grad_through: floats, touches: ints, direct: int, gradients: table,
    ): ...  # fmt: skip

    @wp.func
    def bounds(t: int, ends: ints, columns: int, rows: int):
        """First and last slot, view and first pixel of a tile."""
        start = wp.int32(0)
        if t > 0:
            start = ends[t - 1]
        inner = t % (columns * rows)
        return start, ends[t], t / (columns * rows), (inner % columns) * 16, (inner / columns) * 16

    @wp.kernel(enable_backward=False, module="unique")
    def forward(
        first: int, stride: int, threads: int, lists: ints, packed: table, channels: table, ends: ints, columns: int, rows: int, width: int, height: int,
        image: floats, through: floats, lasts: ints,
    ):  # fmt: skip
        """Channels (V, height, width, C), transmittance (V, height, width), and the slot of each pixel's last splat or -1."""
        start, stop, view, x0, y0 = bounds(first + stride * (wp.tid() / threads), ends, columns, rows)
        tile_forward(lists, packed, channels, start, stop, view, x0, y0, width, height, image, through, lasts)

    @wp.kernel(enable_backward=False, module="unique", launch_bounds=(256, 2))  # two blocks a multiprocessor: at most 128 registers
    def backward(
        first: int, stride: int, threads: int, lists: ints, packed: table, channels: table, ends: ints, columns: int, rows: int, width: int, height: int,
        through: floats, lasts: ints, grad_image: floats, grad_through: floats, touches: ints, direct: int, gradients: table,
    ):  # fmt: skip
        """A row of gradients for every touch; with `direct` added to the pair's row instead, on CUDA by atomics, on CPU right in one thread only."""
        start, stop, view, x0, y0 = bounds(first + stride * (wp.tid() / threads), ends, columns, rows)
        tile_backward(lists, packed, channels, start, stop, view, x0, y0, width, height, through, lasts, grad_image, grad_through, touches, direct, gradients)

    return CompositingKernels(forward, backward)


def made_kernels() -> list[wp.Kernel]:
    """All of them, for `structwm.kernels.build`."""
    return [kernel for channels in CHANNELS for kernel in compositing_kernels(channels)]
