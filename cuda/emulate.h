// Emulates the part of CUDA that the .cu files use, so that tests can run the kernels on a CPU.
//
// Blocks run one after the other, and the threads of a block are fibers. A warp runs alone until
// all of its threads wait for the block or have ended, so that warps drift as far apart as the code
// allows. Threads run from the first to the last, or with tin_emulate_reversed from the last to the
// first: a missing __syncthreads gives a wrong result in one of the two orders. The emulation finds
// no races between blocks, and it says nothing about speed.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream;
};
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }

using std::min;

inline dim3 blockIdx, threadIdx;

extern "C" {
inline int tin_emulate_reversed = 0;
}

namespace emulate {

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;

enum class State { runs, waits_for_warp, waits_for_block, ended };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  State state;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline std::function<void()> kernel;
inline double exchanged[1024];

inline void leave(State state) {  // returns when all other threads have come this far
  const dim3 me = threadIdx;
  fibers[me.x].state = state;
  swapcontext(&fibers[me.x].context, &scheduler);
  threadIdx = me;
}

inline void run_fiber() {
  kernel();
  leave(State::ended);
}

// Returns the i-th thread or warp to run.
inline int in_order(int i, int count) { return tin_emulate_reversed ? count - 1 - i : i; }

// Runs the threads of a warp until each of them waits for the block or has ended.
inline void run_warp(int first, int count) {
  for (bool again = true; again;) {
    int waiting = 0, shuffling = 0;
    for (int i = 0; i < count; ++i) {
      Fiber& fiber = fibers[first + in_order(i, count)];
      if (fiber.state == State::ended) continue;
      threadIdx = dim3(first + in_order(i, count), 0, 0);
      swapcontext(&scheduler, &fiber.context);
      waiting += fiber.state == State::waits_for_block;
      shuffling += fiber.state == State::waits_for_warp;
    }
    // On a GPU a shuffle that only some threads of a warp call is undefined.
    if (shuffling && shuffling < count) {
      std::fprintf(stderr, "block %u: %d of %d threads shuffle\n", blockIdx.x, shuffling, count);
      std::abort();
    }
    again = shuffling > 0;
  }
}

// Starts a fiber per thread, and runs one warp after the other until all threads have ended.
inline void run_block(int threads) {
  if (int(fibers.size()) != threads) fibers = std::vector<Fiber>(threads);
  for (Fiber& fiber : fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
    fiber.state = State::runs;
  }
  const int warps = (threads + kWarp - 1) / kWarp;
  const auto ended = [](const Fiber& fiber) { return fiber.state == State::ended; };
  while (!std::all_of(fibers.begin(), fibers.end(), ended))
    for (int i = 0; i < warps; ++i) {
      const int first = in_order(i, warps) * kWarp;
      run_warp(first, std::min(kWarp, threads - first));
    }
}

}  // namespace emulate

inline void __syncthreads() { emulate::leave(emulate::State::waits_for_block); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  std::memcpy(&emulate::exchanged[threadIdx.x], &value, sizeof(T));
  emulate::leave(emulate::State::waits_for_warp);  // all threads of the warp have written
  std::memcpy(&value, &emulate::exchanged[threadIdx.x ^ distance], sizeof(T));
  emulate::leave(emulate::State::waits_for_warp);  // all threads of the warp have read
  return value;
}

template <typename T>
void __stwb(T* to, T value) {
  *to = value;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  emulate::kernel = [=] { kernel(arguments...); };
  for (unsigned block = 0; block < config->gridDim.x; ++block) {
    blockIdx = dim3(block, 0, 0);
    emulate::run_block(int(config->blockDim.x));
  }
  return cudaSuccess;
}
