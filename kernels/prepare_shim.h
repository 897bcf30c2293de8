// Stands in for CUDA, CUTLASS and CUB where FA3's prepare kernel is run apart from FA3: on the host, thread by thread, or
// on a GPU as a kernel of its own. Holds what the kernel uses, under its names there.
//
// On the host every thread is a fiber with a stack of its own. A warp's lanes meet at each shuffle, all threads at each
// barrier; threads that do not meet end the program, as they may hang a GPU.

#ifdef __CUDACC__

#ifdef __CUDACC_RTC__
// Without the standard library's headers.
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define INT64_MAX 9223372036854775807LL
#define HUGE_VAL __longlong_as_double(0x7ff0000000000000LL)
using int64_t = long long;
namespace std {
template <class T>
__device__ inline T const& min(T const& a, T const& b) { return b < a ? b : a; }
template <class T>
__device__ inline T const& max(T const& a, T const& b) { return a < b ? b : a; }
__device__ inline double sqrt(double a) { return ::sqrt(a); }
__device__ inline double ceil(double a) { return ::ceil(a); }
__device__ inline double floor(double a) { return ::floor(a); }
}  // namespace std
#else
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#endif

#define PREPARE_KERNEL __device__ __forceinline__
#define PREPARE_FUNCTION __host__ __device__ inline

#else

#define PREPARE_KERNEL static
#define PREPARE_FUNCTION inline
#define __shared__ static
#define __device__
#define __syncthreads() fibers::meet(fibers::BLOCK)

#include <setjmp.h>
#include <ucontext.h>

#include <climits>
#include <functional>
#include <memory>

struct ThreadPlace { int x = 0; };
static ThreadPlace threadIdx, blockIdx;
static struct { int x = 1; } gridDim;
struct int2 { int x, y; };
struct int4 { int x, y, z, w; };
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

namespace fibers {

enum State { READY, WARP, BLOCK, DONE };
static constexpr int kMost = 1024;
static constexpr int kStack = 64 * 1024;

struct Fiber {
    ucontext_t first;
    jmp_buf at;
    State state = READY;
    bool begun = false;
    std::unique_ptr<char[]> stack{new char[kStack]};
};

static std::unique_ptr<Fiber[]> all;
static jmp_buf scheduler;
static std::function<void()> body;
static int64_t exchanged[2][kMost];
static int meetings[kMost];

inline void stop(char const* why) {
    std::fprintf(stderr, "the prepare kernel on the host: %s\n", why);
    std::exit(1);
}

// Leaves the thread until those that it waits for have come.
inline void meet(State state) {
    Fiber& own = all[threadIdx.x];
    own.state = state;
    if (_setjmp(own.at) == 0) { _longjmp(scheduler, 1); }
}

inline void begin() {
    body();
    all[threadIdx.x].state = DONE;
    _longjmp(scheduler, 1);
}

inline void resume(int thread) {
    Fiber& fiber = all[thread];
    threadIdx.x = thread;
    fiber.state = READY;
    if (_setjmp(scheduler) == 0) {
        if (!fiber.begun) {
            fiber.begun = true;
            setcontext(&fiber.first);
        }
        _longjmp(fiber.at, 1);
    }
}

// Runs one thread block.
inline void run(int threads, std::function<void()> kernel) {
    if (!all) { all.reset(new Fiber[kMost]); }
    body = std::move(kernel);
    for (int i = 0; i < threads; i++) {
        Fiber& fiber = all[i];
        fiber.state = READY;
        fiber.begun = false;
        meetings[i] = 0;
        getcontext(&fiber.first);
        fiber.first.uc_stack.ss_sp = fiber.stack.get();
        fiber.first.uc_stack.ss_size = kStack;
        fiber.first.uc_link = nullptr;
        makecontext(&fiber.first, begin, 0);
    }
    while (true) {
        int moved = 0, at_barrier = 0;
        for (int warp = 0; warp < threads; warp += 32) {
            if (all[warp].state == BLOCK || all[warp].state == DONE) {
                at_barrier += all[warp].state == BLOCK;
                continue;
            }
            moved++;
            for (int lane = 0; lane < 32; lane++) { resume(warp + lane); }
            for (int lane = 0; lane < 32; lane++) {
                if (all[warp + lane].state != all[warp].state) { stop("lanes of a warp wait for different things"); }
            }
        }
        if (moved) { continue; }
        if (!at_barrier) { return; }
        if (at_barrier != threads / 32) { stop("some warps wait at a barrier that others have left out"); }
        for (int i = 0; i < threads; i++) { all[i].state = READY; }
    }
}

// The values of a warp's lanes, each as it was when the lane came.
template <class T>
int64_t* exchange(T value) {
    int64_t* const side = exchanged[meetings[threadIdx.x]++ % 2];
    side[threadIdx.x] = 0;
    __builtin_memcpy(&side[threadIdx.x], &value, sizeof(T));
    meet(WARP);
    return side + threadIdx.x / 32 * 32;
}

template <class T>
T of_lane(int64_t const* side, int lane) {
    T found;
    __builtin_memcpy(&found, &side[lane], sizeof(T));
    return found;
}

}  // namespace fibers

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return fibers::of_lane<T>(fibers::exchange(value), lane & 31);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return fibers::of_lane<T>(fibers::exchange(value), (threadIdx.x & 31) ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int by) {
    int const lane = threadIdx.x & 31;
    return fibers::of_lane<T>(fibers::exchange(value), lane >= by ? lane - by : lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int by) {
    int const lane = threadIdx.x & 31;
    return fibers::of_lane<T>(fibers::exchange(value), lane + by < 32 ? lane + by : lane);
}
template <class F>
int reduced(int value, F const& of) {
    int64_t const* const side = fibers::exchange(value);
    int found = fibers::of_lane<int>(side, 0);
    for (int i = 1; i < 32; i++) { found = of(found, fibers::of_lane<int>(side, i)); }
    return found;
}
inline int __reduce_add_sync(unsigned, int value) {
    return reduced(value, [](int a, int b) { return a + b; });
}
inline int __reduce_max_sync(unsigned, int value) {
    return reduced(value, [](int a, int b) { return std::max(a, b); });
}
inline int __reduce_min_sync(unsigned, int value) {
    return reduced(value, [](int a, int b) { return std::min(a, b); });
}
inline unsigned __ballot_sync(unsigned, bool value) {
    int64_t const* const side = fibers::exchange(value);
    unsigned found = 0;
    for (int i = 0; i < 32; i++) { found |= unsigned(fibers::of_lane<bool>(side, i)) << i; }
    return found;
}
inline void __syncwarp() { fibers::meet(fibers::WARP); }
inline int __ffs(unsigned value) { return __builtin_ffs(int(value)); }
inline int __clz(unsigned value) { return value == 0 ? 32 : __builtin_clz(value); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline void atomicAdd(int* at, int value) { *at += value; }
inline void atomicMax(int* at, int value) { *at = std::max(*at, value); }
inline void atomicMin(int* at, int value) { *at = std::min(*at, value); }

#endif

namespace cutlass {
static constexpr int NumThreadsPerWarp = 32;
PREPARE_FUNCTION int ceil_div(int a, int b) { return (a + b - 1) / b; }
struct FastDivmod {
    int divisor;
    PREPARE_FUNCTION explicit FastDivmod(int by) : divisor(by) {}
    PREPARE_FUNCTION int div(int value) const { return value / divisor; }
};
namespace arch {
PREPARE_FUNCTION void launch_dependent_grids() {}
}  // namespace arch
}  // namespace cutlass

namespace cute {
struct int_pair { int first, second; };
PREPARE_FUNCTION int_pair make_tuple(int first, int second) { return {first, second}; }
template <int I>
PREPARE_FUNCTION int get(int_pair const& pair) { return I == 0 ? pair.first : pair.second; }
}  // namespace cute

namespace cub {
// Sorting changes the order of the answers alone; the kernel is run without it.
template <class T, int Threads, int Items>
struct BlockMergeSort {
    struct TempStorage {};
    PREPARE_FUNCTION explicit BlockMergeSort(TempStorage&) {}
    template <class F>
    PREPARE_FUNCTION void Sort(T (&)[Items], F const&) {}
};
}  // namespace cub

template <class T>
struct PrepareSortOp {};
