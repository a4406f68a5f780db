"""Nearest neighbors of points in space: a k-d tree for CPU, sorted tiles of points for CUDA, and the gradients of the distances.

Distances are compared as squares (L2) or as they are (L1), of true differences and without contracted multiply-adds, so that no rounding separates a box from
the points in it. Of equally distant points the one of lower index is nearer: the result does not depend on how the search went.

CPU (native code, eight queries at a time): a tree that halves the axis of widest spread (Friedman, Bentley and Finkel, ACM TOMS 1977), with its points in its
order. A split never separates equal coordinates, so that copies of a point stay together: they end in one leaf, sorted by index, of which a query reads no more
than it keeps. Queries come in the order of a tree of their own, and a node is entered if any of the eight could find something there: eight that are far apart
cost no more than they would one by one.

CUDA: points and queries in the order of their Morton codes, points in tiles with boxes; a query walks outwards from the tile where it belongs, and skips those
that are too far. The same kernel runs on CPU for the tests.
"""

from typing import Any, NamedTuple

import warp as wp

LANES = 8  # queries at a time, and points of a leaf
CHUNK = 32  # groups of queries a task
TILE = 32  # points of a tile
LIMIT = 1.0e18  # [m], so that squares are finite in float32

wp.set_module_options({"fuse_fp": False})

_TYPES = """
typedef decltype(rows.data[0] + rows.data[0]) T;
struct Whole { static int of(float); static long of(double); };
typedef decltype(Whole::of(T())) I;
typedef T Row __attribute__((ext_vector_type(4)));  // x, y, z and the bits of an integer
struct Bits {
    static inline I get(T value) { union { T t; I i; } both; both.t = value; return both.i; }
    static inline T set(I value) { union { T t; I i; } both; both.i = value; return both.t; }
};
"""

_PACK = f"""
#if !defined(__CUDA_ARCH__)
{_TYPES}
const T* in = points.data + 3L * item * size;
const unsigned char* keep = masked ? mask.data + (long)item * size : nullptr;
Row* out = (Row*)rows.data + start;
Row low = (T)__builtin_inf(), high = -low;
bool good = true;
int n = 0;
for (int i = 0; i < size; ++i, in += 3) {{
    if (keep && !keep[i]) continue;
    const Row row = {{in[0], in[1], in[2], Bits::set(i)}};
    const Row level = __builtin_elementwise_abs(row);
    good &= (level.x < {LIMIT}) & (level.y < {LIMIT}) & (level.z < {LIMIT});
    low = __builtin_elementwise_min(low, row);
    high = __builtin_elementwise_max(high, row);
    out[n++] = row;
}}
if (n > 0) {{
    Row* root = (Row*)nodes.data + 4L * start;
    root[0] = low;
    root[1] = high;
}}
counts.data[place] = good ? n : -1;
#endif
"""

_GROW = f"""
#if !defined(__CUDA_ARCH__)
{_TYPES}
struct Part {{
    static inline T key(const Row* p, long i, int axis) {{ return ((const T*)(p + i))[axis]; }}
    // moves the rows below `value` (`most`: up to it) to the front; returns where the others begin
    static inline long below(Row* p, long a, long b, int axis, T value) {{
        long i = a;
        for (long j = a; j < b; ++j) {{ const Row row = p[j]; const T k = key(p, j, axis); p[j] = p[i]; p[i] = row; i += k < value; }}
        return i;
    }}
    static inline long up_to(Row* p, long a, long b, int axis, T value) {{
        long i = a;
        for (long j = a; j < b; ++j) {{ const Row row = p[j]; const T k = key(p, j, axis); p[j] = p[i]; p[i] = row; i += k <= value; }}
        return i;
    }}
    // rows so that no key before `middle` is above one from there on; pivots are quantiles of a sample, beyond the aim when it is near an end
    static inline void select(Row* p, long a, long b, long middle, int axis) {{
        unsigned seed = 12345u;
        while (b - a > 1) {{
            T sample[31];
            const long n = b - a, size = n > 1000 ? 31 : n > 100 ? 9 : 3;
            for (long i = 0; i < size; ++i) {{
                seed = seed * 1664525u + 1013904223u;
                const T k = key(p, a + (long)(((unsigned long)seed * n) >> 32), axis);
                long j = i;
                for (; j > 0 && sample[j - 1] > k; --j) sample[j] = sample[j - 1];
                sample[j] = k;
            }}
            const long shift = size == 3 ? 0 : middle - a < n / 4 ? 1 : b - middle < n / 4 ? -1 : 0;
            const long rank = (middle - a) * size / n + shift;
            const T pivot = sample[rank < 0 ? 0 : rank < size ? rank : size - 1];
            const long from = below(p, a, b, axis, pivot);
            if (middle < from) b = from;
            else if (from > a) a = from;
            else if (middle < (a = up_to(p, a, b, axis, pivot))) return;
        }}
    }}
    static inline void box(const Row* p, long n, Row& low, Row& high) {{
        low = high = p[0];
        for (long i = 1; i < n; ++i) {{ low = __builtin_elementwise_min(low, p[i]); high = __builtin_elementwise_max(high, p[i]); }}
    }}
    static inline void sort_by_index(Row* p, long n) {{  // heapsort
        for (long start = n / 2, end = n; end > 1;) {{
            if (start > 0) --start;
            else {{ --end; const Row last = p[end]; p[end] = p[0]; p[0] = last; }}
            const Row row = p[start];
            long i = start;
            for (long child; (child = 2 * i + 1) < end; i = child) {{
                if (child + 1 < end && Bits::get(p[child + 1].w) > Bits::get(p[child].w)) ++child;
                if (Bits::get(p[child].w) <= Bits::get(row.w)) break;
                p[i] = p[child];
            }}
            p[i] = row;
        }}
    }}
}};
const int DEPTH = 200;
struct Todo {{ long first, count, parent; Row low, high; }} stack[DEPTH];
const int* job = jobs.data + 3L * index;
Row* p = (Row*)rows.data;
Row* node = (Row*)nodes.data;
long first = job[0], count = job[1], next = job[2];
int depth = 0;
int* child = children.data + 6L * index;
if (!whole) child[1] = child[4] = 0;
if (count == 0) return;
Row low = node[2 * next], high = node[2 * next + 1];
for (;;) {{
    const long at = next++;
    const Row wide = high - low;
    const int axis = wide.x >= wide.y ? (wide.x >= wide.z ? 0 : 2) : (wide.y >= wide.z ? 1 : 2);
    if (count <= {LANES} || !(wide[axis] > 0) || depth == DEPTH) {{
        if (!(wide[axis] > 0)) Part::sort_by_index(p + first, count);
        low.w = Bits::set(~(I)first);
        high.w = Bits::set(count);
        node[2 * at] = low;
        node[2 * at + 1] = high;
        if (depth == 0) return;
        const Todo& todo = stack[--depth];
        first = todo.first; count = todo.count; low = todo.low; high = todo.high;
        node[2 * todo.parent].w = Bits::set(next);
        continue;
    }}
    long half = (count + {LANES} - 1) / {LANES} / 2 * {LANES};
    Row* q = p + first;
    Row left_low, left_high, right_low, right_high;
    Part::select(q, 0, count, half, axis);
    Part::box(q, half, left_low, left_high);
    Part::box(q + half, count - half, right_low, right_high);
    if (left_high[axis] >= right_low[axis]) {{  // equal coordinates on both sides: split before or after them
        const T value = right_low[axis];
        const long before = Part::below(q, 0, half, axis, value), after = Part::up_to(q, half, count, axis, value);
        half = before > 0 && (after == count || half - before <= after - half) ? before : after;
        Part::box(q, half, left_low, left_high);
        Part::box(q + half, count - half, right_low, right_high);
    }}
    high.w = Bits::set(axis);
    if (!whole) {{  // leave the two halves to others
        const long left = at + 1, right = at + 2 * half;
        low.w = Bits::set(right);
        node[2 * at] = low; node[2 * at + 1] = high;
        node[2 * left] = left_low; node[2 * left + 1] = left_high;
        node[2 * right] = right_low; node[2 * right + 1] = right_high;
        child[0] = first; child[1] = half; child[2] = left;
        child[3] = first + half; child[4] = count - half; child[5] = right;
        return;
    }}
    node[2 * at] = low;
    node[2 * at + 1] = high;
    Todo& todo = stack[depth++];
    todo.first = first + half; todo.count = count - half; todo.parent = at; todo.low = right_low; todo.high = right_high;
    count = half; low = left_low; high = left_high;
}}
#endif
"""

_SEARCH = f"""
#if !defined(__CUDA_ARCH__)
{_TYPES}
typedef T Lanes __attribute__((ext_vector_type({LANES})));
typedef I Marks __attribute__((ext_vector_type({LANES})));
const T INF = (T)__builtin_inf();
const Row* queries = (const Row*)rows.data + query_row;
const Row* points = (const Row*)rows.data;
const T* node = nodes.data;
Lanes* near = (Lanes*)(work.data + 2L * {LANES} * thread * k);  // sorted distances of each lane, and what they belong to
Marks* names = (Marks*)(near + k);
int stack[256];  // deeper than any tree
for (int g = group; g < group_end; ++g) {{
    const int lanes = wp::min({LANES}, query_count - {LANES} * g);
    Lanes x, y, z, worst = reach;
    Marks own, found = 0;
    for (int l = 0; l < {LANES}; ++l) {{
        const Row row = queries[{LANES} * g + wp::min(l, lanes - 1)];
        x[l] = row.x; y[l] = row.y; z[l] = row.z;
        own[l] = Bits::get(row.w);
    }}
    for (int j = 0; j < k; ++j) {{ near[j] = INF; names[j] = 0x7fffffff; }}
    const T middle[3] = {{x[{LANES} / 2], y[{LANES} / 2], z[{LANES} / 2]}};
    int depth = 0;
    for (long at = root; root >= 0;) {{
        const T* box = node + 8 * at;
        const Lanes zero = 0;
        const Lanes gx = __builtin_elementwise_max(__builtin_elementwise_max(box[0] - x, x - box[4]), zero);
        const Lanes gy = __builtin_elementwise_max(__builtin_elementwise_max(box[1] - y, y - box[5]), zero);
        const Lanes gz = __builtin_elementwise_max(__builtin_elementwise_max(box[2] - z, z - box[6]), zero);
        const Lanes gap = sum_of_absolutes ? gx + gy + gz : gx * gx + gy * gy + gz * gz;
        if (__builtin_reduce_or(gap <= worst)) {{
            const I link = Bits::get(box[3]), detail = Bits::get(box[7]);
            if (link >= 0) {{  // a branch: right child, axis
                const long left = at + 1, right = link;
                const bool low = 2 * middle[detail] <= node[8 * left + 4 + detail] + node[8 * right + detail];
                stack[depth++] = low ? right : left;
                at = low ? left : right;
                continue;
            }}
            const bool copies = box[0] == box[4] && box[1] == box[5] && box[2] == box[6];
            const Row* leaf = points + ~link;
            for (const Row* end = leaf + detail; leaf < end; ++leaf) {{
                const Row row = *leaf;
                const Lanes dx = x - row.x, dy = y - row.y, dz = z - row.z;
                const Lanes d = sum_of_absolutes ? __builtin_elementwise_abs(dx) + __builtin_elementwise_abs(dy) + __builtin_elementwise_abs(dz)
                                                 : dx * dx + dy * dy + dz * dz;
                if (!__builtin_reduce_or(d <= worst)) continue;
                const Marks name = Bits::get(row.w);
                const Marks other = exclude_self ? name != own : ~(Marks)0;
                if (counting) found -= (d <= worst) & other;
                Marks active = (d <= worst) & ((d < near[k - 1]) | ((d == near[k - 1]) & (name < names[k - 1])));
                if (copies && !counting && !__builtin_reduce_or(active)) break;  // the rest is as far, and of higher index
                active &= other;
                if (!__builtin_reduce_or(active)) continue;
                int j = k - 1;
                for (; j > 0; --j) {{
                    const Marks less = active & ((d < near[j - 1]) | ((d == near[j - 1]) & (name < names[j - 1])));
                    near[j] = less ? near[j - 1] : (active ? d : near[j]);
                    names[j] = less ? names[j - 1] : (active ? name : names[j]);
                    active = less;
                    if (!__builtin_reduce_or(active)) break;
                }}
                if (j == 0) {{ near[0] = active ? d : near[0]; names[0] = active ? name : names[0]; }}
                if (!counting) worst = __builtin_elementwise_min(near[k - 1], worst);
            }}
        }}
        if (depth == 0) break;
        at = stack[--depth];
    }}
    for (int j = 0; j < k; ++j) {{
        const Lanes d = sum_of_absolutes ? near[j] : __builtin_elementwise_sqrt(near[j]);
        for (int l = 0; l < lanes; ++l) {{
            const long o = ((long)out_row + own[l]) * k + j;
            distances.data[o] = d[l];
            indices.data[o] = d[l] < INF ? (long)names[j][l] : -1L;
        }}
    }}
    if (counting) for (int l = 0; l < lanes; ++l) counts.data[out_row + own[l]] = found[l];
}}
#endif
"""


@wp.func_native(_PACK)
def _pack(
    points: wp.array(dtype=Any), mask: wp.array(dtype=wp.uint8), masked: int, size: int, item: int, start: int, place: int,
    rows: wp.array(dtype=Any), nodes: wp.array(dtype=Any), counts: wp.array(dtype=wp.int32),
): ...  # fmt: skip


@wp.func_native(_GROW)
def _grow(
    index: int, whole: int, jobs: wp.array2d(dtype=wp.int32), children: wp.array2d(dtype=wp.int32), rows: wp.array(dtype=Any), nodes: wp.array(dtype=Any)
): ...


@wp.func_native(_SEARCH)
def _search(
    thread: int, query_row: int, query_count: int, group: int, group_end: int, root: int, k: int, reach: Any, counting: int, sum_of_absolutes: int,
    exclude_self: int, out_row: int, rows: wp.array(dtype=Any), nodes: wp.array(dtype=Any), work: wp.array(dtype=Any),
    distances: wp.array(dtype=Any), indices: wp.array(dtype=wp.int64), counts: wp.array(dtype=wp.int32),
): ...  # fmt: skip


@wp.kernel(enable_backward=False)
def pack(
    first: int,
    points: wp.array(dtype=Any),
    mask: wp.array(dtype=wp.uint8),
    masked: int,
    size: int,
    start: int,
    place: int,
    rows: wp.array(dtype=Any),
    nodes: wp.array(dtype=Any),
    counts: wp.array(dtype=wp.int32),
):
    """Valid points of an item as rows (x, y, z, index) from `start + item * size`, their number or -1 if one is not finite, and the root's box."""
    item = first + wp.tid()
    _pack(points, mask, masked, size, item, start + item * size, place + item, rows, nodes, counts)


@wp.kernel(enable_backward=False)
def grow(
    first: int,
    whole: int,
    jobs: wp.array2d(dtype=wp.int32),
    children: wp.array2d(dtype=wp.int32),
    rows: wp.array(dtype=Any),
    nodes: wp.array(dtype=Any),
):
    """The tree over a job's rows (first, count, node with its box), or only its first split, and the jobs of the halves.

    A node of 8 numbers: lower corner, right child (the left one comes next), upper corner, axis; or in a leaf the complement of its first row, and its count.
    """
    _grow(first + wp.tid(), whole, jobs, children, rows, nodes)


@wp.kernel(enable_backward=False)
def search(
    first: int,
    stride: int,
    query_start: int,
    query_size: int,
    query_place: int,
    point_start: int,
    point_size: int,
    point_place: int,
    sizes: wp.array(dtype=wp.int32),
    k: int,
    reach: Any,
    counting: int,
    sum_of_absolutes: int,
    exclude_self: int,
    rows: wp.array(dtype=Any),
    nodes: wp.array(dtype=Any),
    work: wp.array(dtype=Any),
    distances: wp.array(dtype=Any),
    indices: wp.array(dtype=wp.int64),
    counts: wp.array(dtype=wp.int32),
):
    """The k nearest within `reach` of a chunk of an item's queries; with `counting` also how many are within reach."""
    task = first + stride * wp.tid()
    chunks = (query_size + wp.static(LANES * CHUNK - 1)) // wp.static(LANES * CHUNK)
    item = task // chunks
    group = (task % chunks) * wp.static(CHUNK)
    count = sizes[query_place + item]
    root = 2 * (point_start + item * point_size)
    if sizes[point_place + item] == 0:
        root = -1
    last = wp.min(group + wp.static(CHUNK), (count + wp.static(LANES - 1)) // wp.static(LANES))
    _search(
        first, query_start + item * query_size, count, group, last, root, k, reach, counting, sum_of_absolutes, exclude_self,
        item * query_size, rows, nodes, work, distances, indices, counts,
    )  # fmt: skip


@wp.func
def _measure(x: Any, y: Any, z: Any, sum_of_absolutes: int):
    if sum_of_absolutes == 1:
        return wp.abs(x) + wp.abs(y) + wp.abs(z)
    return x * x + y * y + z * z


@wp.kernel(enable_backward=False)
def scan(
    first: int,
    order: wp.array(dtype=wp.int64),
    queries: wp.array2d(dtype=Any),
    starts: wp.array(dtype=wp.int64),
    points: wp.array2d(dtype=Any),
    names: wp.array(dtype=wp.int64),
    boxes: wp.array2d(dtype=Any),
    lowest: wp.array(dtype=wp.int64),
    query_size: int,
    tiles: int,
    k: int,
    reach: Any,
    counting: int,
    sum_of_absolutes: int,
    exclude_self: int,
    distances: wp.array2d(dtype=Any),
    indices: wp.array2d(dtype=wp.int64),
    counts: wp.array(dtype=wp.int32),
):
    """The k nearest of one query, walking over the item's tiles of points from tile `starts` outwards."""
    rank = first + wp.tid()
    item = rank // query_size
    query = int(order[rank])
    row = item * query_size + query
    x = queries[row, 0]
    y = queries[row, 1]
    z = queries[row, 2]
    zero = type(reach)(0.0)
    worst = reach
    held = wp.int32(0)
    found = wp.int32(0)
    begin = int(starts[rank])
    for step in range(tiles):
        tile = begin + (step + 1) // 2
        if step % 2 == 0:
            tile = begin - step // 2
        tile = (tile + tiles) % tiles + item * tiles
        gx = wp.max(wp.max(boxes[tile, 0] - x, x - boxes[tile, 3]), zero)
        gy = wp.max(wp.max(boxes[tile, 1] - y, y - boxes[tile, 4]), zero)
        gz = wp.max(wp.max(boxes[tile, 2] - z, z - boxes[tile, 5]), zero)
        gap = _measure(gx, gy, gz, sum_of_absolutes)
        near = gap <= worst
        if gap == worst and held == k and counting == 0:
            near = lowest[tile] < indices[row, k - 1]
        if near:
            for slot in range(tile * wp.static(TILE), (tile + 1) * wp.static(TILE)):
                d = _measure(x - points[slot, 0], y - points[slot, 1], z - points[slot, 2], sum_of_absolutes)
                name = names[slot]
                if d <= worst and name >= wp.int64(0):
                    if exclude_self == 0 or name != wp.int64(query):
                        found += 1
                        better = held < k
                        if held == k:
                            better = d < distances[row, k - 1] or (d == distances[row, k - 1] and name < indices[row, k - 1])
                        if better:
                            at = wp.min(held, k - 1)
                            rising = wp.bool(True)
                            while at > 0 and rising:
                                before = distances[row, at - 1]
                                if d < before or (d == before and name < indices[row, at - 1]):
                                    distances[row, at] = before
                                    indices[row, at] = indices[row, at - 1]
                                    at -= 1
                                else:
                                    rising = wp.bool(False)
                            distances[row, at] = d
                            indices[row, at] = name
                            held = wp.min(held + 1, k)
                            if held == k and counting == 0:
                                worst = distances[row, k - 1]
    if sum_of_absolutes == 0:
        for j in range(held):
            distances[row, j] = wp.sqrt(distances[row, j])
    if counting == 1:
        counts[row] = found


@wp.kernel(enable_backward=False)
def gradients(
    first: int,
    share: int,
    queries: wp.array2d(dtype=Any),
    points: wp.array2d(dtype=Any),
    distances: wp.array2d(dtype=Any),
    indices: wp.array2d(dtype=wp.int64),
    incoming: wp.array2d(dtype=Any),
    query_size: int,
    point_size: int,
    k: int,
    sum_of_absolutes: int,
    by_queries: wp.array2d(dtype=Any),
    by_points: wp.array2d(dtype=Any),
):
    """Gradients of the distances of `share` queries in a row, added to those of the points: CPU takes an item at a time, which is in order, CUDA a query."""
    begin = (first + wp.tid()) * share
    for row in range(begin, begin + share):
        start = (row // query_size) * point_size
        x = queries[row, 0]
        y = queries[row, 1]
        z = queries[row, 2]
        zero = type(x)(0.0)
        sum_x = zero
        sum_y = zero
        sum_z = zero
        for j in range(k):
            index = int(indices[row, j])
            d = distances[row, j]
            if index >= 0 and d > zero:
                point = start + index
                scale = incoming[row, j]
                gx = x - points[point, 0]
                gy = y - points[point, 1]
                gz = z - points[point, 2]
                if sum_of_absolutes == 1:
                    gx = wp.where(gx == zero, zero, wp.sign(gx)) * scale
                    gy = wp.where(gy == zero, zero, wp.sign(gy)) * scale
                    gz = wp.where(gz == zero, zero, wp.sign(gz)) * scale
                else:
                    gx = gx / d * scale
                    gy = gy / d * scale
                    gz = gz / d * scale
                sum_x += gx
                sum_y += gy
                sum_z += gz
                wp.atomic_add(by_points, point, 0, -gx)
                wp.atomic_add(by_points, point, 1, -gy)
                wp.atomic_add(by_points, point, 2, -gz)
        by_queries[row, 0] = sum_x
        by_queries[row, 1] = sum_y
        by_queries[row, 2] = sum_z


class Kernels(NamedTuple):
    """All for one type of number."""

    pack: wp.Kernel
    grow: wp.Kernel
    search: wp.Kernel
    scan: wp.Kernel
    gradients: wp.Kernel


def _kernels(scalar: Any) -> Kernels:
    flat, table = wp.array(dtype=scalar), wp.array2d(dtype=scalar)
    tree = {"rows": flat, "nodes": flat}
    return Kernels(
        wp.overload(pack, {"points": flat, **tree}),
        wp.overload(grow, tree),
        wp.overload(search, {"reach": scalar, **tree, "work": flat, "distances": flat}),
        wp.overload(scan, {"reach": scalar, "queries": table, "points": table, "boxes": table, "distances": table}),
        wp.overload(gradients, dict.fromkeys(("queries", "points", "distances", "incoming", "by_queries", "by_points"), table)),
    )


KERNELS = {scalar: _kernels(scalar) for scalar in (wp.float32, wp.float64)}
