"""Which splats touch which tiles of their view, nearest first: one sort by depth, then stable placement into the tiles' lists.

A pair is a splat in a view, with the index `view * N + splat`. Pairs that are drawn are ranked by depth; each touches some tiles of 16 x 16 pixels, and those
touches are numbered rank after rank. A slot is a place in the list of all tiles' lists. On CPU sorting and placement run in one thread and are
linear in the touches; on CUDA they are stable radix sorts.
"""

import warp as wp

TILE = 16  # pixels a side
ROW = 8  # floats of a packed pair: centre (2), inverse covariance (3), logarithm of opacity, half width, half height

# The footprint of a splat is the ellipse a dx^2 + 2 b dx dy + c dy^2 <= reach, where its alpha is at least 1/255. It touches the tiles of one row that lie
# between its leftmost and rightmost points within the band of that row's pixel centres; where it is one tile high or wide those are its own. TOUCH is called
# with row, first and last. Counting and listing must give the same tiles, so that FMA leaves a CUDA compiler no choice what to fuse.
_FOOTPRINT = """
#if defined(__CUDA_ARCH__)
#define FMA(a, b, c) fmaf(a, b, c)
#else
#define FMA(a, b, c) (a) * (b) + (c)
#endif
const float most_x = 16.0f * columns - 1.0f, most_y = 16.0f * rows - 1.0f;
const int left = (int)wp::clamp(ceilf(x - wide - 0.5f), 0.0f, most_x + 1.0f), right = (int)wp::clamp(floorf(x + wide - 0.5f), -1.0f, most_x);
const int top = (int)wp::clamp(ceilf(y - half - 0.5f), 0.0f, most_y + 1.0f), bottom = (int)wp::clamp(floorf(y + half - 0.5f), -1.0f, most_y);
if (half > 0.0f && left <= right && top <= bottom) {
    const int first = left >> 4, last = right >> 4, low = top >> 4, high = bottom >> 4;
    if (first == last || low == high) {
        for (int row = low; row <= high; ++row) { TOUCH(row, first, last) }
    } else {
        const float per_a = 1.0f / a;
        const float det = wp::max(FMA(0.9999997f * a, c, -b * b), 1e-8f * a * c), slack = wide * wide * det / c, lean = -b / c * wide;
        for (int row = low; row <= high; ++row) {
            const float up = wp::max(16.0f * row + 0.5f - y, -half), down = wp::min(16.0f * row + 15.5f - y, half);
            const float r = wp::clamp(lean, up, down), l = wp::clamp(-lean, up, down);
            const float most = FMA(FMA(-b, r, sqrtf(wp::max(0.0f, FMA(slack, a, -det * r * r)))), per_a, x);
            const float least = FMA(FMA(-b, l, -sqrtf(wp::max(0.0f, FMA(slack, a, -det * l * l)))), per_a, x);
            const int from = wp::max(left, (int)wp::clamp(ceilf(least - 0.5f), -1.0f, most_x + 1.0f)) >> 4;
            const int to = wp::min(right, (int)wp::clamp(floorf(most - 0.5f), -1.0f, most_x)) >> 4;
            TOUCH(row, from, to)
        }
    }
}
#undef FMA
"""

_LIST = (
    """
const int p = order.data[i], view = p / pairs_a_view;
#if !defined(__CUDA_ARCH__)
if (i + 8 < order.shape[0]) __builtin_prefetch(packed.data + 8 * (long long)order.data[i + 8]);
#endif
const float* g = packed.data + 8 * (long long)p;
const float x = g[0], y = g[1], a = g[2], b = g[3], c = g[4], wide = g[6], half = g[7];
const int end = wp::min(starts.data[i + 1], capacity);
int at = starts.data[i];
#define TOUCH(row, first, last) \\
    for (int column = first; column <= (last); ++column, ++at) \\
        if (at >= 0 && at < end) { tiles.data[at] = (view * rows + row) * columns + column; owners.data[at] = p; }
"""
    + _FOOTPRINT
    + "#undef TOUCH\n"
)


@wp.func_native(_LIST)
def list_tiles(
    i: int,
    order: wp.array(dtype=wp.int32),
    packed: wp.array2d(dtype=float),
    starts: wp.array(dtype=wp.int32),
    pairs_a_view: int,
    columns: int,
    rows: int,
    capacity: int,
    tiles: wp.array(dtype=wp.int32),
    owners: wp.array(dtype=wp.int32),
):
    """The tiles that the pair of rank i touches, from its first touch on."""


_PACK = (
    """
const float x = centres.data[2 * p], y = centres.data[2 * p + 1], depth = depths.data[p];
const float* conic = conics.data + 3 * p;
const float a = conic[0], b = conic[1], c = conic[2];
const float det = wp::max(0.9999997f * a * c - b * b, 1e-8f * a * c);  // no more than it is, so that rounding costs no tile
const float log_opacity = logf(opacities.data[p]), reach = 2.0f * (log_opacity + 5.541263545f);
float wide = -1.0f, half = -1.0f;
if (depth > 0.0f && reach >= 0.0f && det > 0.0f && wp::isfinite(x) && wp::isfinite(y) && wp::isfinite(reach)) {
    const float scale = (reach * 1.00001f + 1e-4f) / det;
    wide = sqrtf(scale * c);
    half = wp::min(sqrtf(scale * a), 1e9f);  // so that rows of pixels are counted in 32 bits
}
const float row[8] = {x, y, a, b, c, log_opacity, wide, half};
for (int i = 0; i < 8; ++i) packed.data[8 * p + i] = row[i];
int n = 0;
#define TOUCH(row, first, last) n += wp::max(0, (last) - (first) + 1);
"""
    + _FOOTPRINT
    + """
#undef TOUCH
touched.data[p] = n;
pairs.data[p] = p;
union { float f; int i; } key;  // the bits of positive numbers sort as the numbers do
key.f = depth;
keys.data[p] = n > 0 ? key.i : 0x7fffffff;  // what is not drawn comes last
"""
)


@wp.func_native(_PACK)
def pack_natively(
    p: wp.int64,
    centres: wp.array2d(dtype=float),
    conics: wp.array2d(dtype=float),
    depths: wp.array(dtype=float),
    opacities: wp.array(dtype=float),
    columns: int,
    rows: int,
    packed: wp.array2d(dtype=float),
    touched: wp.array(dtype=wp.int32),
    keys: wp.array(dtype=wp.int32),
    pairs: wp.array(dtype=wp.int32),
):
    """See `pack`."""


@wp.kernel(enable_backward=False)
def pack(
    first: int,
    centres: wp.array2d(dtype=float),
    conics: wp.array2d(dtype=float),
    depths: wp.array(dtype=float),
    opacities: wp.array(dtype=float),
    columns: int,
    rows: int,
    packed: wp.array2d(dtype=float),
    touched: wp.array(dtype=wp.int32),
    keys: wp.array(dtype=wp.int32),
    pairs: wp.array(dtype=wp.int32),
):
    """Rows for compositing, how many tiles each pair touches, and keys that sort by depth; one thread a pair."""
    pack_natively(wp.int64(first + wp.tid()), centres, conics, depths, opacities, columns, rows, packed, touched, keys, pairs)


@wp.kernel(enable_backward=False)
def copy_depths(depths: wp.array(dtype=float), channel: int, channels: wp.array2d(dtype=float)):
    """Depths as a channel; one thread a pair."""
    p = wp.tid()
    channels[p, channel] = depths[p]


# Least significant digit first, three digits of 11 bits, stable. What is not drawn is left out before the sort.
_ORDER = """
#if !defined(__CUDA_ARCH__)
unsigned* key = (unsigned*)keys.data; unsigned* other_key = key + n;
int* pair = pairs.data; int* other_pair = pair + n;
int histogram[3][2048];
for (int d = 0; d < 3; ++d) for (int k = 0; k < 2048; ++k) histogram[d][k] = 0;
int drawn = 0;
for (int p = 0; p < n; ++p) {
    const unsigned k = key[p];
    if (k == 0x7fffffffu) continue;
    histogram[0][k & 2047]++; histogram[1][(k >> 11) & 2047]++; histogram[2][k >> 22]++;
    key[drawn] = k; pair[drawn] = p; ++drawn;
}
for (int d = 0; d < 3; ++d) {
    int sum = 0;
    for (int k = 0; k < 2048; ++k) { const int c = histogram[d][k]; histogram[d][k] = sum; sum += c; }
    for (int i = 0; i < drawn; ++i) {
        const unsigned k = key[i];
        const int at = histogram[d][(k >> (11 * d)) & 2047]++;
        other_key[at] = k; other_pair[at] = pair[i];
    }
    unsigned* u = key; key = other_key; other_key = u;
    int* v = pair; pair = other_pair; other_pair = v;
}
long long sum = 0;
for (int i = 0; i < drawn; ++i) { order.data[i] = pair[i]; starts.data[i] = (int)sum; sum += touched.data[pair[i]]; }
if (sum >= 0x40000000) { for (int i = 0; i < n; ++i) starts.data[i] = 0; starts.data[n] = -1; }
else for (int i = drawn; i <= n; ++i) starts.data[i] = (int)sum;
#endif
"""


@wp.func_native(_ORDER)
def order_natively(
    n: int,
    keys: wp.array(dtype=wp.int32),
    pairs: wp.array(dtype=wp.int32),
    touched: wp.array(dtype=wp.int32),
    order: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.int32),
):
    """See `rank`."""


@wp.kernel(enable_backward=False)
def rank(
    n: int,
    keys: wp.array(dtype=wp.int32),
    pairs: wp.array(dtype=wp.int32),
    touched: wp.array(dtype=wp.int32),
    order: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.int32),
):
    """CPU: pairs by rank, and the number of the first touch of every rank (n + 1,), or -1 at the end if there are 2^30 touches or more; one thread in all.

    The sorted halves of keys and pairs lie behind the first n.
    """
    order_natively(n, keys, pairs, touched, order, starts)


@wp.kernel(enable_backward=False)
def counts_by_rank(order: wp.array(dtype=wp.int32), touched: wp.array(dtype=wp.int32), counts: wp.array(dtype=wp.int32)):
    """CUDA: how many tiles the pair of each rank touches, and 0 at the end; one thread a rank."""
    i = wp.tid()
    counts[i] = 0
    if i < order.shape[0]:
        counts[i] = touched[order[i]]


@wp.kernel(enable_backward=False)
def touch(
    first: int,
    order: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.int32),
    packed: wp.array2d(dtype=float),
    pairs_a_view: int,
    columns: int,
    rows: int,
    capacity: int,
    tiles: wp.array(dtype=wp.int32),
    owners: wp.array(dtype=wp.int32),
):
    """The tile and the pair of every touch; one thread a rank."""
    i = first + wp.tid()
    if starts[i] < starts[i + 1]:
        list_tiles(i, order, packed, starts, pairs_a_view, columns, rows, capacity, tiles, owners)


_PLACE = """
#if !defined(__CUDA_ARCH__)
const int m = wp::min(starts.data[n], capacity);
int* end = ends.data; const int* tile = tiles.data;
for (int t = 0; t < count; ++t) end[t] = 0;
for (int j = 0; j < m; ++j) end[tile[j]]++;
int sum = 0;
for (int t = 0; t < count; ++t) { const int c = end[t]; end[t] = sum; sum += c; }
for (int j = 0; j < m; ++j) { const int k = end[tile[j]]++; lists.data[k] = owners.data[j]; touches.data[k] = j; }
#endif
"""


@wp.func_native(_PLACE)
def place_natively(
    n: int,
    count: int,
    capacity: int,
    starts: wp.array(dtype=wp.int32),
    tiles: wp.array(dtype=wp.int32),
    owners: wp.array(dtype=wp.int32),
    lists: wp.array(dtype=wp.int32),
    touches: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int32),
):
    """See `place`."""


@wp.kernel(enable_backward=False)
def place(
    n: int,
    count: int,
    capacity: int,
    starts: wp.array(dtype=wp.int32),
    tiles: wp.array(dtype=wp.int32),
    owners: wp.array(dtype=wp.int32),
    lists: wp.array(dtype=wp.int32),
    touches: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int32),
):
    """CPU: the tiles' lists of pairs one after another, the touch of every slot, and where each tile's list ends; one thread in all."""
    place_natively(n, count, capacity, starts, tiles, owners, lists, touches, ends)


@wp.kernel(enable_backward=False)
def number(touches: wp.array(dtype=wp.int32)):
    """CUDA: touches in order; one thread a touch."""
    k = wp.tid()
    touches[k] = k


@wp.kernel(enable_backward=False)
def settle(touches: wp.array(dtype=wp.int32), owners: wp.array(dtype=wp.int32), lists: wp.array(dtype=wp.int32)):
    """CUDA: the pairs of touches that were sorted stably by tile; one thread a slot."""
    k = wp.tid()
    lists[k] = owners[touches[k]]


@wp.kernel(enable_backward=False)
def find_ends(tiles: wp.array(dtype=wp.int32), length: int, ends: wp.array(dtype=wp.int32)):
    """CUDA: where each tile's list ends, by bisection in the touches' tiles, sorted; one thread a tile."""
    t = wp.tid()
    low = wp.int32(0)
    high = wp.int32(length)
    while low < high:
        middle = (low + high) / 2
        if tiles[middle] <= t:
            low = middle + 1
        else:
            high = middle
    ends[t] = low


_GATHER = """
const int start = starts.data[i], end = wp::min(starts.data[i + 1], rows.shape[0]);
if (start >= end) return;
float* sum = sums.data + (long long)width * order.data[i];
for (int c = 0; c < width; ++c) sum[c] = 0.0f;
for (int j = start; j < end; ++j) {
    const float* row = rows.data + (long long)width * j;
    for (int c = 0; c < width; ++c) sum[c] += row[c];
}
"""


@wp.func_native(_GATHER)
def gather_natively(
    i: int,
    width: int,
    order: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.int32),
    rows: wp.array2d(dtype=float),
    sums: wp.array2d(dtype=float),
):
    """See `gather`."""


@wp.kernel(enable_backward=False)
def gather(
    first: int,
    order: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.int32),
    rows: wp.array2d(dtype=float),
    sums: wp.array2d(dtype=float),
):
    """The sum of the rows of a pair's touches, always in the same order; one thread a rank. Pairs without a touch are not written."""
    gather_natively(first + wp.tid(), rows.shape[1], order, starts, rows, sums)
