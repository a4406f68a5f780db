"""Messages along the edges of a graph, forward and hand-written backward, float32 and float64.

Receiver i hears y_i = sum_k w_ik silu(z_ik) with z_ik = r_i + s_j + sum_d e_ikd T_d from its senders j, silu(z) = z / (1 + exp(-z)). Edges of weight 0 cost
nothing. Nothing as large as edges times channels is kept: backward computes z again.

One body, two forms. CPU: one thread a receiver, or backward a problem, so that what senders get can be added up without atomics; the channels lie side by side
in vector registers, with a polynomial for the exponential (relative error 2e-7 in float32). CUDA: a channel a thread; backward gives the gradient by z of
every edge, which torch sums up. The plain torch form in `messages_reference` is the oracle in the tests.
"""

from functools import cache
from typing import NamedTuple

import warp as wp

LANES = {wp.float32: 16, wp.float64: 8}  # channels in a vector register
DEEPEST = 32  # most numbers D of an edge
WARP = 32  # CUDA: threads that share a receiver or an edge

_COMMON = """
typedef %(scalar)s S;
#if defined(__CUDA_ARCH__)
typedef S V;
const int L = 1;
#define EXP(x) wp::exp(x)
#define SUM(x) (x)
#else
typedef S V __attribute__((ext_vector_type(%(lanes)d), aligned(sizeof(S))));
const int L = %(lanes)d;
#if %(single)d
typedef int Whole __attribute__((ext_vector_type(%(lanes)d)));
auto EXP = [](V x) -> V {
    const V t = __builtin_elementwise_max(__builtin_elementwise_min(x, (V)87.0f), (V)-87.0f) * 1.44269504f;
    const V whole = __builtin_elementwise_floor(t), part = t - whole;
    union { Whole i; V f; } power;
    power.i = (__builtin_convertvector(whole, Whole) + 127) << 23;
    V sum = (V)1.8775767e-3f;
    const float terms[5] = {8.9893397e-3f, 5.5826318e-2f, 2.4015361e-1f, 6.9315308e-1f, 9.9999994e-1f};
    for (int i = 0; i < 5; ++i) sum = __builtin_elementwise_fma(sum, part, (V)terms[i]);
    return power.f * sum;
};
#else
auto EXP = [](V x) -> V { for (int l = 0; l < L; ++l) x[l] = wp::exp(x[l]); return x; };
#endif
auto SUM = [](V x) -> S {
    S parts[L];
    *(V*)parts = x;
    for (int half = L / 2; half > 0; half /= 2) for (int l = 0; l < half; ++l) parts[l] += parts[l + half];
    return parts[0];
};
#endif
auto at = [](const S* place) -> V { return *(const V*)place; };
auto put = [](S* place, V value) { *(V*)place = value; };
const long W = width, D = depth, K = slots;
// z of the channels from c on, for edge k of receiver i in problem p
auto pre = [&](long p, long i, const S* e, long sender, long c) -> V {
    V z = at(receivers.data + i * W + c) + at(senders.data + (p * count + sender) * W + c);
    for (long d = 0; d < D; ++d) z = z + e[d] * at(table.data + d * W + c);
    return z;
};
"""

_FORWARD = (
    _COMMON
    + """
const long p = i / listeners;
for (long c = lane * L; c < W; c += lanes * L) put(heard.data + i * W + c, (V)(S)0);
for (long k = 0; k < K; ++k) {
    const long edge = i * K + k;
    const S weight = weights.data[edge];
    if (weight == (S)0) continue;
    for (long c = lane * L; c < W; c += lanes * L) {
        const V z = pre(p, i, edges.data + edge * D, index.data[edge], c);
        S* out = heard.data + i * W + c;
        put(out, at(out) + weight * (z / ((S)1 + EXP(-z))));
    }
}
"""
)

# CPU: of problem p, all gradients
_BACKWARD = (
    _COMMON
    + """
for (long i = (long)p * listeners; i < (long)(p + 1) * listeners; ++i) {
    for (long c = 0; c < W; c += L) put(by_receivers.data + i * W + c, (V)(S)0);
    for (long k = 0; k < K; ++k) {
        const long edge = i * K + k, sender = index.data[edge];
        const S weight = weights.data[edge];
        const S* e = edges.data + edge * D;
        V by_e[%(deepest)d], by_weight = (V)(S)0;
        for (long d = 0; d < D; ++d) by_e[d] = (V)(S)0;
        if (weight != (S)0) for (long c = 0; c < W; c += L) {
            const V z = pre(p, i, e, sender, c), g = at(given.data + i * W + c), s = (S)1 / ((S)1 + EXP(-z));
            by_weight += g * z * s;
            const V h = weight * g * s * ((S)1 + z * ((S)1 - s));
            S* to = by_receivers.data + i * W + c;
            put(to, at(to) + h);
            to = by_senders.data + ((long)p * count + sender) * W + c;
            put(to, at(to) + h);
            for (long d = 0; d < D; ++d) {
                to = by_table.data + ((long)p * D + d) * W + c;
                put(to, at(to) + e[d] * h);
                by_e[d] += h * at(table.data + d * W + c);
            }
        }
        by_weights.data[edge] = SUM(by_weight);
        for (long d = 0; d < D; ++d) by_edges.data[edge * D + d] = SUM(by_e[d]);
    }
}
"""
)

# CUDA: of a channel of an edge, the gradient by z, and silu(z) times what is given
_EDGE = (
    _COMMON
    + """
const long i = edge / K, p = i / listeners;
for (long c = lane * L; c < W; c += lanes * L) {
    const V z = pre(p, i, edges.data + edge * D, index.data[edge], c), g = at(given.data + i * W + c), s = (S)1 / ((S)1 + EXP(-z));
    put(said.data + edge * W + c, weights.data[edge] == (S)0 ? (V)(S)0 : g * z * s);
    put(by_z.data + edge * W + c, weights.data[edge] * g * s * ((S)1 + z * ((S)1 - s)));
}
"""
)


class MessageKernels(NamedTuple):
    """For one type of number."""

    forward: wp.Kernel
    backward: wp.Kernel
    edge: wp.Kernel


@cache
def message_kernels(kind: type) -> MessageKernels:
    """The kernels for float32 or float64. Arrays are flat; the last three of a graph's sizes are K, D and W."""
    module = wp.get_module(f"structwm.messages.{kind.__name__}")
    floats, ints = wp.array(dtype=kind), wp.array(dtype=wp.int32)
    single = kind is wp.float32
    names = {"scalar": "float" if single else "double", "lanes": LANES[kind], "single": int(single), "deepest": DEEPEST}

    @wp.func_native(_FORWARD % names)
    def hear(
        i: int, lane: int, lanes: int, count: int, listeners: int, slots: int, depth: int, width: int,
        receivers: floats, senders: floats, edges: floats, table: floats, index: ints, weights: floats, heard: floats,
    ): ...  # fmt: skip

    @wp.func_native(_BACKWARD % names)
    def hear_backward(
        p: int, count: int, listeners: int, slots: int, depth: int, width: int,
        receivers: floats, senders: floats, edges: floats, table: floats, index: ints, weights: floats, given: floats,
        by_receivers: floats, by_senders: floats, by_edges: floats, by_table: floats, by_weights: floats,
    ): ...  # fmt: skip

    @wp.func_native(_EDGE % names)
    def edge_backward(
        edge: int, lane: int, lanes: int, count: int, listeners: int, slots: int, depth: int, width: int,
        receivers: floats, senders: floats, edges: floats, table: floats, index: ints, weights: floats, given: floats, by_z: floats, said: floats,
    ): ...  # fmt: skip

    @wp.kernel(enable_backward=False, module=module)
    def forward(
        first: int, lanes: int, count: int, listeners: int, slots: int, depth: int, width: int,
        receivers: floats, senders: floats, edges: floats, table: floats, index: ints, weights: floats, heard: floats,
    ):  # fmt: skip
        """What each receiver hears, (P listeners, width)."""
        t = first + wp.tid()
        hear(t / lanes, t % lanes, lanes, count, listeners, slots, depth, width, receivers, senders, edges, table, index, weights, heard)

    @wp.kernel(enable_backward=False, module=module)
    def backward(
        first: int, count: int, listeners: int, slots: int, depth: int, width: int,
        receivers: floats, senders: floats, edges: floats, table: floats, index: ints, weights: floats, given: floats,
        by_receivers: floats, by_senders: floats, by_edges: floats, by_table: floats, by_weights: floats,
    ):  # fmt: skip
        """Gradients of the problems; those by senders and, of each problem, by the table are added to zeros."""
        hear_backward(
            first + wp.tid(), count, listeners, slots, depth, width, receivers, senders, edges, table, index, weights, given,
            by_receivers, by_senders, by_edges, by_table, by_weights,
        )  # fmt: skip

    @wp.kernel(enable_backward=False, module=module)
    def edge(
        first: int, lanes: int, count: int, listeners: int, slots: int, depth: int, width: int,
        receivers: floats, senders: floats, edges: floats, table: floats, index: ints, weights: floats, given: floats, by_z: floats, said: floats,
    ):  # fmt: skip
        """Of every edge and channel the gradient by z and, times what is given, silu(z), (P listeners K, width)."""
        t = first + wp.tid()
        edge_backward(t / lanes, t % lanes, lanes, count, listeners, slots, depth, width, receivers, senders, edges, table, index, weights, given, by_z, said)

    return MessageKernels(forward, backward, edge)


def made_kernels() -> list[wp.Kernel]:
    """All of them, for `structwm.kernels.build`."""
    return [kernel for kind in (wp.float32, wp.float64) for kernel in message_kernels(kind)]
