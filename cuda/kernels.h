// The CUDA kernels of the interlace operator. The forward kernel and the backward kernel read and
// write every element once; a small third kernel adds up the partial sums of the backward. A thread
// works on one vector, a few consecutive elements of one group, for all frames of a clip, so that
// the frames that it shifts stay in its registers. The file needs no torch headers:
// tests/tin/op/test_kernels.py runs the kernels on the CPU.
#pragma once
#ifdef TIN_EMULATE
#include "emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif
#include <type_traits>

#include "core.h"

namespace tin {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTile = 8;     // frames in registers; a longer clip takes several tiles
constexpr int kForwardBlocks =  // of the forward that fit into a multiprocessor, without a spill
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    3;
#else
    4;
#endif
constexpr int kSumTile = 4;  // the same in the backward, which also keeps sums and a second tensor

template <int Bytes>
using Word = std::conditional_t<
    Bytes == 16, uint4,
    std::conditional_t<Bytes == 8, uint2,
                       std::conditional_t<Bytes == 4, unsigned, unsigned short>>>;

// Some consecutive elements, which one instruction reads or writes. They stay packed as they are in
// memory: nvcc would put every 16-bit element of an array into a register of its own, by an
// instruction that waits for the load, so that the next load would be issued only after that.
template <typename Element, int Size>
struct Vector {
  using T = Element;
  using A = acc_t<Element>;
  static constexpr int size = Size, bytes = Size * int(sizeof(Element));
  uint32_t word[bytes > 4 ? bytes / 4 : 1];

  TIN_INLINE Element get(int k) const {
    if constexpr (sizeof(Element) == 8)
      return same_bits<Element>(uint64_t(word[2 * k]) | uint64_t(word[2 * k + 1]) << 32);
    else if constexpr (sizeof(Element) == 4)
      return same_bits<Element>(word[k]);
    else
      return Element{uint16_t(word[k / 2] >> (k % 2 * 16))};
  }
  TIN_INLINE void set(int k, Element value) {
    if constexpr (sizeof(Element) == 8) {
      const uint64_t bits = same_bits<uint64_t>(value);
      word[2 * k] = uint32_t(bits);
      word[2 * k + 1] = uint32_t(bits >> 32);
    } else if constexpr (sizeof(Element) == 4) {
      word[k] = same_bits<uint32_t>(value);
    } else if (k % 2) {
      word[k / 2] |= uint32_t(value.bits) << 16;
    } else {  // the even element comes first and clears the odd one
      word[k / 2] = value.bits;
    }
  }
};

TIN_INLINE float widen(float value) { return value; }
TIN_INLINE double widen(double value) { return value; }
TIN_INLINE float widen(BFloat16 value) { return bfloat16_to_float<float>(uint32_t(value.bits)); }
TIN_INLINE float widen(Half value) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(value.bits));
#else
  return half_to_float<float>(uint32_t(value.bits));
#endif
}

template <typename T>
TIN_INLINE T narrow(acc_t<T> value) {
  if constexpr (std::is_same_v<T, acc_t<T>>) {
    return value;
#ifdef __CUDA_ARCH__
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  } else {
    return {__half_as_ushort(__float2half_rn(value))};
#else
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return {uint16_t(float_to_bfloat16<uint32_t>(value))};
  } else {
    return {uint16_t(float_to_half<uint32_t>(value))};
#endif
  }
}

// Finds the vectors of some consecutive channels in a frame. The vectors are in rows: with
// channels_last a row is one pixel, otherwise all pixels of these channels are one row. A column is
// the number of a vector, counted over all rows.
struct Columns {
  uint32_t first, row, count;  // first element, vectors per row, vectors in total

  TIN_INLINE Columns(const Shape& s, int size, int first_channel, int channels) {
    const uint32_t inner = s.channels_last ? 1 : s.inner;
    first = first_channel * inner;
    row = channels * inner / size;
    count = s.channels_last ? row * s.inner : row;
  }
  TIN_INLINE uint32_t element(const Shape& s, int size, uint32_t column) const {
    return column / row * s.C + first + column % row * size;
  }
};

// Returns the vector of a frame, or zeros if it is not wanted.
template <typename Vec>
__device__ __forceinline__ Vec load(const typename Vec::T* clip, int64_t stride, int frame,
                                    bool wanted) {
  Vec found{};
  if (wanted) {
    const auto bits = *reinterpret_cast<const Word<Vec::bytes>*>(clip + frame * stride);
    memcpy(found.word, &bits, Vec::bytes);
  }
  return found;
}

template <typename Vec>
__device__ __forceinline__ void store(const Vec& vector, typename Vec::T* clip, int64_t stride,
                                      int frame) {
  Word<Vec::bytes> bits;
  memcpy(&bits, vector.word, Vec::bytes);
  // An assignment would do, but nvcc splits some assignments into one store per element.
  __stwb(reinterpret_cast<Word<Vec::bytes>*>(clip + frame * stride), bits);
}

// Returns the sum of the values of all threads of a warp, in the same order on every run.
template <typename A>
__device__ __forceinline__ A warp_sum(A value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// Computes y. Each thread takes one vector of a clip.
template <typename Vec, typename T = typename Vec::T, typename A = typename Vec::A>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    forward_kernel(const Shape s, const int blocks, const T* __restrict__ x,
                   const A* __restrict__ offset, const A* __restrict__ weight, T* __restrict__ y) {
  const int64_t b = blockIdx.x / blocks;
  const uint32_t element = (blockIdx.x % blocks * kThreads + threadIdx.x) * Vec::size;
  if (element >= s.frame()) return;
  // Find the group of the vector. Channels that are only copied behave like a shift by 0 frames.
  const int channel = s.channels_last ? element % s.C : element / s.inner;
  const bool copied = channel >= s.channels;
  const int g = copied ? 0 : channel / s.group_channels();
  const Shift<A> shift = copied ? Shift<A>{0, 0} : split(offset[b * s.G + g], s.T);
  const int64_t stride = s.frame(), start = b * s.T * stride + element;

  // Go over the clip in tiles of kTile output frames, which need kTile + 1 slots. The last slot of
  // a tile is the first slot of the next tile, so that every frame is read once.
  Vec slots[kTile + 1] = {};
  for (int t0 = 0; t0 < s.T; t0 += kTile) {
#pragma unroll
    for (int i = 0; i <= kTile; ++i) {
      if (i == 0 && t0 > 0) continue;
      const int frame = slot_frame(t0 + i, shift.whole);
      slots[i] = load<Vec>(x + start, stride, frame, t0 + i <= s.T && inside(frame, s.T));
    }
    // All loads of a tile are issued before the first arithmetic, which waits for their values. The
    // gains are among them if an element has 16 bits; otherwise there are no registers left.
    constexpr bool kGainsFirst = sizeof(T) == 2;
    const A* gain = weight + (b * s.T + t0) * s.G + g;
    A gains[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i)
      gains[i] = kGainsFirst && !copied && t0 + i < s.T ? gain[i * s.G] : A(1);
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      if (t0 + i >= s.T) break;
      Vec out = slots[i + 1];
      if (!copied) {
        const A w = kGainsFirst ? gains[i] : gain[i * s.G];
#pragma unroll
        for (int k = 0; k < Vec::size; ++k) {
          const A near = widen(slots[i + 1].get(k)), far = widen(slots[i].get(k));
          out.set(k, narrow<T>(blend(near, far, w, shift.part)));
        }
      }
      store(out, y + start, stride, t0 + i);
    }
    slots[0] = slots[kTile];
  }
}

// Says how the blocks of a backward call divide a clip. The first blocks sum: each takes one chunk
// of the columns of `groups` consecutive groups. The last blocks copy the other channels.
struct Plan {
  int groups, chunks, copying;
  TIN_INLINE int summing(const Shape& s) const { return s.G / groups * chunks; }
  TIN_INLINE int blocks(const Shape& s) const { return summing(s) + copying; }
};

// Copies one vector of the channels that are not interlaced, for all frames of a clip.
template <typename Vec, typename T>
__device__ __forceinline__ void copy_column(const Shape& s, uint32_t column, const T* from, T* to) {
  const Columns columns(s, Vec::size, s.channels, s.C - s.channels);
  if (column >= columns.count) return;
  const uint32_t element = columns.element(s, Vec::size, column);
  for (int t0 = 0; t0 < s.T; t0 += kTile) {
    Vec frames[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i)
      frames[i] = load<Vec>(from + element, s.frame(), t0 + i, t0 + i < s.T);
#pragma unroll
    for (int i = 0; i < kTile; ++i)
      if (t0 + i < s.T) store(frames[i], to + element, s.frame(), t0 + i);
  }
}

// Writes dx and partial sums. For each frame of x these are its dot products with the two frames of
// the gradient that it went to, summed over a chunk, at partial[b, g, frame, chunk, 2]. Either dx
// or partial may be null.
//
// The reduction has two stages and uses no atomics, so that it gives the same bits on every run:
// this kernel writes one sum per chunk, and finish_kernel adds up the chunks in a fixed order.
template <typename Vec, typename T = typename Vec::T, typename A = typename Vec::A>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(const Shape s, const Plan plan, const T* __restrict__ grad,
                    const T* __restrict__ x, const A* __restrict__ offset,
                    const A* __restrict__ weight, T* __restrict__ dx, A* __restrict__ partial) {
  __shared__ A sums[2 * kSumTile][kThreads];
  const int blocks = plan.blocks(s), block = blockIdx.x % blocks, thread = threadIdx.x;
  const int64_t b = blockIdx.x / blocks, stride = s.frame(), clip = b * s.T * stride;
  // The last blocks of a clip only copy.
  if (block >= plan.summing(s)) {
    const uint32_t column = (block - plan.summing(s)) * kThreads + thread;
    return copy_column<Vec>(s, column, grad + clip, dx + clip);
  }
  // The other blocks take one chunk of the columns of the groups from `first`.
  const int chunk = block % plan.chunks, first = block / plan.chunks * plan.groups;
  const Columns columns(s, Vec::size, first * s.group_channels(), plan.groups * s.group_channels());
  // A thread must stay in one group, so that its sums belong to one offset. If a row is shorter
  // than the block, only as many threads work as make up whole rows, and a thread advances by whole
  // rows. Otherwise the block has a single group.
  const int row = columns.row, vectors = row / plan.groups;
  const int threads = row < kThreads ? kThreads - kThreads % row : kThreads;
  const int g = first + thread % row / vectors;
  const Shift<A> shift = split(offset[b * s.G + g], s.T);

  for (int t0 = 0; t0 < s.T; t0 += kSumTile) {
    // Read the weights of the tile's frames of the gradient. A frame of x in slot j went to frame
    // j - 1 of y as the near frame, and to frame j as the far frame.
    A weights[kSumTile + 1], nears[kSumTile] = {}, fars[kSumTile] = {};
#pragma unroll
    for (int i = 0; i <= kSumTile; ++i) {
      const int t = frame_slot(t0 + i, shift.whole) - 1;
      weights[i] = inside(t, s.T) ? weight[(b * s.T + t) * s.G + g] : A(0);
    }
    // Each thread goes over its columns of the chunk. It writes dx, and it keeps the dot products
    // of each frame of x with the two frames of the gradient in registers.
    uint32_t column = thread < threads ? chunk * threads + thread : columns.count;
    for (; column < columns.count; column += plan.chunks * threads) {
      const int64_t start = clip + columns.element(s, Vec::size, column);
      Vec grads[kSumTile + 1], values[kSumTile];
      // Issue all loads of the tile before the first arithmetic, which waits for their values.
#pragma unroll
      for (int i = 0; i < kSumTile; ++i)
        values[i] = load<Vec>(x + start, stride, t0 + i, partial && t0 + i < s.T);
#pragma unroll
      for (int i = 0; i <= kSumTile; ++i) {
        const int t = frame_slot(t0 + i, shift.whole) - 1;
        grads[i] = load<Vec>(grad + start, stride, t, t0 + i <= s.T && inside(t, s.T));
      }
#pragma unroll
      for (int i = 0; i < kSumTile; ++i) {
        const A near = near_gain(weights[i], shift.part);
        const A far = far_gain(weights[i + 1], shift.part);
        Vec out;
#pragma unroll
        for (int k = 0; k < Vec::size; ++k) {
          const A before = widen(grads[i].get(k)), after = widen(grads[i + 1].get(k));
          nears[i] += before * widen(values[i].get(k));
          fars[i] += after * widen(values[i].get(k));
          out.set(k, narrow<T>(near * before + far * after));
        }
        if (dx && t0 + i < s.T) store(out, dx + start, stride, t0 + i);
      }
    }
    // Put the sums of all threads into shared memory.
    if (!partial) continue;
#pragma unroll
    for (int i = 0; i < kSumTile; ++i) {
      sums[2 * i][thread] = nears[i];
      sums[2 * i + 1][thread] = fars[i];
    }
    __syncthreads();
    // Add up the sums of the threads of each group: a warp takes one group, one frame and one of
    // the two products after the other. `members` threads work on a group; `side` counts the
    // groups.
    const int lane = thread % kWarp, members = threads / plan.groups;
    for (int i = thread / kWarp; i < plan.groups * 2 * kSumTile; i += kWarps) {
      const int side = i / (2 * kSumTile), sum = i % (2 * kSumTile), frame = t0 + sum / 2;
      A total = 0;
      for (int m = lane; m < members; m += kWarp)
        total += sums[sum][m / vectors * row + side * vectors + m % vectors];
      total = warp_sum(total);
      const int64_t at = (b * s.G + first + side) * s.T + frame;
      if (lane == 0 && frame < s.T) partial[2 * (at * plan.chunks + chunk) + sum % 2] = total;
    }
    __syncthreads();  // before the next tile overwrites `sums`
  }
}

// Returns the sum over the chunks of a frame's near or far products, computed by a warp. It is 0
// for a frame outside of the clip.
template <typename A>
__device__ __forceinline__ double sum_of_chunks(const A* partial, int chunks, int frame, int T,
                                                bool far) {
  if (!inside(frame, T)) return 0;
  double total = 0;
  for (int i = threadIdx.x % kWarp; i < chunks; i += kWarp)
    total += partial[2 * (int64_t(frame) * chunks + i) + far];
  return warp_sum(total);
}

// Adds up the partial sums, and computes the gradients of offset and weight. A block takes one
// group of one clip, and a warp takes one frame after the other. The sums are in double, because
// the gradient of an offset is a small difference of large sums.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const Shape s, const int chunks, const A* __restrict__ offset,
                  const A* __restrict__ weight, const A* __restrict__ partial,
                  A* __restrict__ d_offset, A* __restrict__ d_weight) {
  __shared__ double shares[kWarps];
  const int64_t group = blockIdx.x, b = group / s.G, g = group % s.G;
  const Shift<A> shift = split(offset[group], s.T);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double share = 0;
  for (int t = warp; t < s.T; t += kWarps) {
    const A* chunked = partial + 2 * group * s.T * chunks;
    const double near = sum_of_chunks(chunked, chunks, slot_frame(t + 1, shift.whole), s.T, false);
    const double far = sum_of_chunks(chunked, chunks, slot_frame(t, shift.whole), s.T, true);
    const int64_t at = (b * s.T + t) * s.G + g;
    share += offset_gradient<double>(near, far, weight[at]);
    if (lane == 0) d_weight[at] = A(weight_gradient<double>(near, far, shift.part));
  }
  // Add up the shares of the warps in a fixed order.
  if (lane == 0) shares[warp] = share;
  __syncthreads();
  if (threadIdx.x > 0) return;
  double total = 0;
  for (int i = 0; i < kWarps; ++i) total += shares[i];
  d_offset[group] = A(total);
}

inline cudaLaunchConfig_t launch(int64_t blocks, void* stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  return config;
}

inline const char* text(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace
}  // namespace tin
