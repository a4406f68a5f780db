// CUDA blocks on one processor, for the CUDA branches of native Warp functions: what a kernel computes, and whether its threads meet at its barriers.
//
// Every thread of a block is a fiber; blocks run one after another. A fiber runs until it waits at a barrier, a shuffle or a vote, and the order in which the
// fibers of a block take turns can be chosen: a kernel without races gives the same bits in every order. It is an error when threads of a block wait at
// different places (lines of the kernel), or one ends while others wait. Shared memory is one section of the library, filled with NaN before every block.

#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define __CUDA_ARCH__ 900
#define __shared__ static __attribute__((section("shared_memory")))
#define __expf expf
#define __syncthreads() emulated::wait(emulated::BARRIER, __LINE__, 0, 0)
#define __syncthreads_count(flag) int(emulated::wait(emulated::BARRIER, __LINE__, (flag) ? 1u : 0u, 0))
#define __any_sync(mask, flag) (emulated::wait(emulated::VOTE, __LINE__, (flag) ? 1u : 0u, mask) != 0u)
#define __shfl_down_sync(mask, value, step) emulated::number(emulated::wait(emulated::SHUFFLE, __LINE__, emulated::bits(value), mask, step))

extern char __start_shared_memory[], __stop_shared_memory[];

struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx;

static inline int min(int a, int b) { return a < b ? a : b; }

static inline int atomicMax(int* place, int value)
{
    const int old = *place;
    if (value > old) *place = value;
    return old;
}

static inline float atomicAdd(float* place, float value)
{
    const float old = *place;
    *place = old + value;
    return old;
}

namespace wp {
template <typename T> struct array_t {
    T* data;
};
}  // namespace wp

namespace emulated {

const int BLOCK = 256, WARP = 32;
const size_t STACK = 64 * 1024;
enum Place { NOWHERE, BARRIER, VOTE, SHUFFLE, END };

struct Fiber {
    ucontext_t start;
    jmp_buf resume;
    bool started;
    Place place;
    int line;
    unsigned given, got, mask;
    int step;
};

static Fiber fibers[BLOCK];
static char stacks[BLOCK][STACK] __attribute__((aligned(64)));
static jmp_buf scheduler;
static int sweep[WARP], at;
static void (*body)();
static char error[256];

static inline unsigned bits(float value)
{
    unsigned result;
    memcpy(&result, &value, 4);
    return result;
}

static inline float number(unsigned value)
{
    float result;
    memcpy(&result, &value, 4);
    return result;
}

// The next fiber of the sweep over a warp that can go on takes its turn, at the end the scheduler.
[[noreturn]] static void next()
{
    while (++at < WARP) {
        const int thread = sweep[at];
        Fiber& fiber = fibers[thread];
        if (fiber.place != NOWHERE) continue;
        threadIdx.x = unsigned(thread);
        if (fiber.started) _longjmp(fiber.resume, 1);
        fiber.started = true;
        setcontext(&fiber.start);
    }
    _longjmp(scheduler, 1);
}

// The running fiber waits; gives what the others made of its number.
static __attribute__((noinline)) unsigned wait(Place place, int line, unsigned given, unsigned mask, int step = 0)
{
    Fiber& fiber = fibers[threadIdx.x];
    fiber.place = place;
    fiber.line = line;
    fiber.given = given;
    fiber.mask = mask;
    fiber.step = step;
    if (!_setjmp(fiber.resume)) next();
    return fibers[threadIdx.x].got;
}

static void enter()
{
    body();
    fibers[threadIdx.x].place = END;
    next();
}

static __attribute__((noinline)) void turns(int first, const int* lanes)
{
    for (int l = 0; l < WARP; ++l) sweep[l] = first + lanes[l];
    at = -1;
    if (!_setjmp(scheduler)) next();
}

// Whether the `count` threads from `first` on all wait at one place; an error if some do and others cannot come there any more.
static bool together(int first, int count, bool in_warp)
{
    int waiting = -1;
    bool all = true;
    for (int t = first; t < first + count; ++t) {
        const bool here = in_warp ? fibers[t].place == VOTE || fibers[t].place == SHUFFLE : fibers[t].place == BARRIER;
        all &= here;
        if (here && waiting < 0) waiting = t;
    }
    if (waiting < 0) return false;
    const Fiber& one = fibers[waiting];
    for (int t = first; t < first + count; ++t) {
        const Fiber& other = fibers[t];
        if (all ? other.line != one.line || other.place != one.place || other.step != one.step : other.place == END) {
            const char* does = other.place == END ? "has ended" : "is elsewhere";
            snprintf(error, sizeof error, "block %u: thread %d waits at line %d, thread %d %s, last at line %d", blockIdx.x, waiting, one.line, t, does, other.line);
            return false;
        }
        if (in_warp && all && other.mask != 0xffffffffu) {
            snprintf(error, sizeof error, "line %d: the mask %x is not that of the whole warp", other.line, other.mask);
            return false;
        }
    }
    return all;
}

static bool meet_warp(int first)
{
    unsigned any = 0;
    for (int t = first; t < first + WARP; ++t) any |= fibers[t].given;
    for (int t = first; t < first + WARP; ++t) {
        Fiber& fiber = fibers[t];
        const int from = t + fiber.step < first + WARP ? t + fiber.step : t;
        fiber.got = fiber.place == VOTE ? any : fibers[from].given;
    }
    for (int t = first; t < first + WARP; ++t) fibers[t].place = NOWHERE;
    return true;
}

static void meet_block()
{
    unsigned sum = 0;
    for (int t = 0; t < BLOCK; ++t) sum += fibers[t].given;
    for (int t = 0; t < BLOCK; ++t) {
        fibers[t].got = sum;
        fibers[t].place = NOWHERE;
    }
}

// Every warp takes turns until it waits for the block.
static void run_block(const int* warps, const int* lanes)
{
    memset(__start_shared_memory, 0xff, size_t(__stop_shared_memory - __start_shared_memory));
    for (int t = 0; t < BLOCK; ++t) {
        Fiber& fiber = fibers[t];
        fiber.started = false;
        fiber.place = NOWHERE;
        fiber.line = 0;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = stacks[t];
        fiber.start.uc_stack.ss_size = STACK;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, enter, 0);
    }
    for (;;) {
        for (int w = 0; w < BLOCK / WARP; ++w) {
            const int first = warps[w] * WARP;
            do turns(first, lanes);
            while (together(first, WARP, true) && meet_warp(first));
        }
        int ended = 0;
        for (int t = 0; t < BLOCK; ++t) ended += fibers[t].place == END;
        if (ended == BLOCK) return;
        if (!together(0, BLOCK, false) && !error[0]) snprintf(error, sizeof error, "block %u: threads wait at barriers of different kinds", blockIdx.x);
        if (error[0]) return;
        meet_block();
    }
}

static void arrange(int* order, int count, int seed)
{
    for (int i = 0; i < count; ++i) order[i] = seed == -1 ? count - 1 - i : i;
    for (int i = count - 1; i > 0 && seed >= 0; --i) {
        const int j = rand() % (i + 1), other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
}

// Launch `kernel` on a grid; seed -2 gives the fibers of a block turns from first to last, -1 from last to first, others shuffle them. "" or what went wrong.
static const char* launch(void (*kernel)(), int blocks, int seed)
{
    int warps[BLOCK / WARP], lanes[WARP];
    srand(unsigned(seed));
    arrange(warps, BLOCK / WARP, seed);
    arrange(lanes, WARP, seed);
    body = kernel;
    error[0] = 0;
    for (int block = 0; block < blocks && !error[0]; ++block) {
        blockIdx.x = unsigned(block);
        run_block(warps, lanes);
    }
    return error;
}

}  // namespace emulated

// What the kernels of splat_compositing are given, and their grid: every block takes tiles `blockIdx.x`, `blockIdx.x + blocks`, ... as Warp's loop does.
struct Arguments {
    int *lists, *touches, *ends, *lasts;
    float *packed, *channels, *image, *through, *grad_image, *grad_through, *gradients;
    int tiles, columns, rows, width, height, direct, blocks;
};
static const Arguments* given;

template <typename Tile> static void for_tiles(Tile tile)
{
    for (int t = int(blockIdx.x); t < given->tiles; t += given->blocks) {
        const int inner = t % (given->columns * given->rows);
        tile(t > 0 ? given->ends[t - 1] : 0, given->ends[t], t / (given->columns * given->rows), inner % given->columns * 16, inner / given->columns * 16);
    }
}

#define TILE int start, int stop, int view, int x0, int y0
#define COMMON                                                                                                                                               \
    const wp::array_t<int> lists{given->lists}, touches{given->touches}, lasts{given->lasts};                                                                                         \
    const wp::array_t<float> packed{given->packed}, channels{given->channels}, image{given->image}, through{given->through},                                 \
        grad_image{given->grad_image}, grad_through{given->grad_through}, gradients{given->gradients};                                                       \
    const int width = given->width, height = given->height, direct = given->direct;
#define LAUNCH(name)                                                                                                                                         \
    extern "C" const char* name(const Arguments* arguments, int seed)                                                                                       \
    {                                                                                                                                                        \
        given = arguments;                                                                                                                                   \
        return emulated::launch([] { for_tiles(tile_##name); }, arguments->blocks, seed);                                                                    \
    }
