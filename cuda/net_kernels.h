// The CUDA kernels of the two nets, one for each direction. They add in a fixed order and use no
// atomics, so that they give the same bits on every run. A is float or double.
#pragma once
#include <cmath>

#include "kernels.h"
#include "nets.h"

namespace tin {
namespace {

constexpr int kMaxOffset = 2;             // MAX_OFFSET of tin/models/temporal.py
constexpr int kNetTile = 8;               // frames that a thread of the backward reads at once
constexpr int kNetFrames = 3 * kNetTile;  // frames whose gradients a warp keeps in shared memory
static_assert(kNetFrames + 2 <= kWarp, "a lane computes the gradients of one frame");

template <typename A>
__device__ __forceinline__ const A* parameter(const Nets& n, NetParameter which) {
  return static_cast<const A*>(n.parameters[which]);
}
template <typename A>
__device__ __forceinline__ A* gradient(const Nets& n, NetParameter which) {
  return static_cast<A*>(n.gradients[which]);
}

// The parts of the state of a clip.
template <typename A>
struct State {
  A *conv, *hidden, *offset_sigmoids, *weight_sigmoids;
  __device__ __forceinline__ State(const Nets& n, int64_t b)
      : conv(static_cast<A*>(n.state) + b * state_size(n.T)),
        hidden(conv + n.T),
        offset_sigmoids(hidden + n.T),
        weight_sigmoids(offset_sigmoids + 2) {}
};

template <typename A>
__device__ __forceinline__ A sigmoid(A value) {
  return A(1) / (A(1) + std::exp(-value));
}
template <typename A>
__device__ __forceinline__ A sigmoid_gradient(A sigmoid) {
  return sigmoid * (A(1) - sigmoid);
}

// Computes offset, weight and state. A block takes one clip.
template <typename A>
__global__ void __launch_bounds__(kThreads) nets_forward_kernel(const Nets n) {
  const int T = n.T, F = n.F, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t b = blockIdx.x;
  const A* pooled = static_cast<const A*>(n.pooled) + b * T * F;
  const State<A> state(n, b);

  // The two convolutions: a warp takes one frame after the other, and a lane takes some channels.
  const A* offset_conv = parameter<A>(n, kOffsetConv);
  const A* weight_conv = parameter<A>(n, kWeightConv);
  for (int t = warp; t < T; t += kWarps) {
    A sums[3] = {};
#pragma unroll 4
    for (int f = lane; f < F; f += kWarp) {
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        const int frame = t + k - 1;
        const A value = inside(frame, T) ? pooled[int64_t(frame) * F + f] : A(0);
        sums[0] += offset_conv[3 * f + k] * value;
        sums[1] += weight_conv[3 * f + k] * value;
        sums[2] += weight_conv[3 * (F + f) + k] * value;
      }
    }
#pragma unroll
    for (int o = 0; o < 3; ++o) sums[o] = warp_sum(sums[o]);
    if (lane > 0) continue;
    state.conv[t] = sums[0] + parameter<A>(n, kOffsetConvBias)[0];
    A* weight = static_cast<A*>(n.weight) + (b * T + t) * 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const A share = sigmoid(sums[1 + i] + parameter<A>(n, kWeightConvBias)[i]);
      state.weight_sigmoids[2 * t + i] = share;
      weight[i] = weight[2 + i] = 2 * share;  // the last two groups have the weights of the first
    }
  }
  __syncthreads();  // the block has written state.conv

  // The first linear layer: a thread takes one output.
  for (int t = threadIdx.x; t < T; t += kThreads) {
    A sum = parameter<A>(n, kFc1Bias)[t];
    for (int j = 0; j < T; ++j) sum += parameter<A>(n, kFc1)[int64_t(t) * T + j] * state.conv[j];
    state.hidden[t] = sum < 0 ? A(0) : sum;  // a NaN stays
  }
  __syncthreads();  // the block has written state.hidden

  // The second linear layer: a warp takes one of the two offsets.
  if (warp >= 2) return;
  A sum = 0;
  for (int j = lane; j < T; j += kWarp)
    sum += parameter<A>(n, kFc2)[warp * T + j] * state.hidden[j];
  sum = warp_sum(sum);
  if (lane > 0) return;
  const A share = sigmoid(sum + parameter<A>(n, kFc2Bias)[warp]);
  state.offset_sigmoids[warp] = share;
  A* offset = static_cast<A*>(n.offset) + 4 * b;
  offset[warp] = 2 * kMaxOffset * (share - A(0.5));
  offset[2 + warp] = -offset[warp];  // the last two groups mirror the offsets of the first
}

// Returns the gradient of the argument of one sigmoid of the offsets.
template <typename A>
__device__ __forceinline__ A offset_argument_gradient(const Nets& n, const State<A>& state,
                                                      int64_t b, int i) {
  const A* grad = static_cast<const A*>(n.grad_offset) + 4 * b;
  return 2 * kMaxOffset * (grad[i] - grad[2 + i]) * sigmoid_gradient(state.offset_sigmoids[i]);
}

// Returns the gradient of an output of fc1 before its activation.
template <typename A>
__device__ __forceinline__ A fc1_gradient(const Nets& n, const State<A>& state, int j, A first,
                                          A second) {
  const A* fc2 = parameter<A>(n, kFc2);
  return state.hidden[j] <= 0 ? A(0) : fc2[j] * first + fc2[n.T + j] * second;
}

// Computes the gradients of the three outputs of the convolutions at a frame.
template <typename A>
__device__ __forceinline__ void conv_gradients(const Nets& n, int64_t b, int t, A (&grads)[3]) {
  const State<A> state(n, b);
  const A first = offset_argument_gradient(n, state, b, 0);
  const A second = offset_argument_gradient(n, state, b, 1);
#pragma unroll 8
  for (int j = 0; j < n.T; ++j)
    grads[0] +=
        parameter<A>(n, kFc1)[int64_t(j) * n.T + t] * fc1_gradient(n, state, j, first, second);
  const A* grad = static_cast<const A*>(n.grad_weight) + (b * n.T + t) * 4;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    grads[1 + i] = 2 * (grad[i] + grad[2 + i]) * sigmoid_gradient(state.weight_sigmoids[2 * t + i]);
}

// Writes the gradients of the two linear layers. A thread takes one entry of their matrices: row r
// is an output of fc1, or for r >= T of fc2; column T is the bias.
template <typename A>
__device__ __forceinline__ void write_linear_gradients(const Nets& n, int64_t entry) {
  const int T = n.T, row = int(entry / (T + 1)), column = int(entry % (T + 1));
  if (row >= T + 2) return;
  A sum = 0;
#pragma unroll 4
  for (int64_t b = 0; b < n.B; ++b) {
    const State<A> state(n, b);
    const A first = offset_argument_gradient(n, state, b, 0);
    const A second = offset_argument_gradient(n, state, b, 1);
    const A* input = row < T ? state.conv : state.hidden;
    const A value = column < T ? input[column] : A(1);
    const A later = row == T ? first : second;
    sum += value * (row < T ? fc1_gradient(n, state, row, first, second) : later);
  }
  A* weight = row < T ? gradient<A>(n, kFc1) : gradient<A>(n, kFc2);
  A* bias = row < T ? gradient<A>(n, kFc1Bias) : gradient<A>(n, kFc2Bias);
  const int output = row < T ? row : row - T;
  (column < T ? weight[int64_t(output) * T + column] : bias[output]) = sum;
}

// Computes all gradients. The first blocks take kWarp channels each, a lane one channel, and write
// d_pooled and the gradients of the convolutions. A warp goes over every kWarps-th clip. The other
// blocks write the gradients of the linear layers.
template <typename A>
__global__ void __launch_bounds__(kThreads, 2)
    nets_backward_kernel(const Nets n, const int channel_blocks) {
  __shared__ A grads[kWarps][3][kNetFrames + 2];
  __shared__ A sums[kWarps][3][3 * kWarp], bias_sums[kWarps][3];
  const int T = n.T, F = n.F, thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp;
  if (int(blockIdx.x) >= channel_blocks)
    return write_linear_gradients<A>(n, int64_t(blockIdx.x - channel_blocks) * kThreads + thread);

  const int first = blockIdx.x * kWarp, f = first + lane;
  A kernels[3][3], d_kernels[3][3] = {}, d_bias[3] = {};
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    kernels[0][k] = f < F ? parameter<A>(n, kOffsetConv)[3 * f + k] : A(0);
    kernels[1][k] = f < F ? parameter<A>(n, kWeightConv)[3 * f + k] : A(0);
    kernels[2][k] = f < F ? parameter<A>(n, kWeightConv)[3 * (F + f) + k] : A(0);
  }
  // All warps run the same number of rounds, because they wait for each other.
  for (int64_t b0 = 0; b0 < n.B; b0 += kWarps) {
    const int64_t b = b0 + warp;
    for (int t0 = 0; t0 < T; t0 += kNetFrames) {
      // A lane computes the gradients of one frame, from the frame before the tile to the one after
      // it. They are 0 outside of the clip.
      const int t = t0 + lane - 1;
      const bool used = lane < kNetFrames + 2, inner = lane > 0 && lane <= kNetFrames;
      A frame_grads[3] = {};
      if (b < n.B && used && inside(t, T)) conv_gradients(n, b, t, frame_grads);
#pragma unroll
      for (int o = 0; o < 3; ++o) {
        if (used) grads[warp][o][lane] = frame_grads[o];
        if (inner) d_bias[o] += frame_grads[o];
      }
      __syncthreads();
      // A lane goes over the frames of its channel, and reads kNetTile of them at once.
      const int frames = b < n.B && f < F ? min(T - t0, kNetFrames) : 0;
      const int64_t start = (b * T + t0) * F + f;
      const A* pooled = static_cast<const A*>(n.pooled) + start;
      A* d_pooled = static_cast<A*>(n.d_pooled) + start;
      for (int i0 = 0; i0 < frames; i0 += kNetTile) {
        A values[kNetTile];
#pragma unroll
        for (int i = 0; i < kNetTile; ++i)
          values[i] = i0 + i < frames ? pooled[int64_t(i0 + i) * F] : A(0);
#pragma unroll
        for (int i = 0; i < kNetTile; ++i) {
          if (i0 + i >= frames) break;
          // Entry k of a kernel multiplied this frame for the output frame 1 - k frames later,
          // whose gradient is at i + 2 - k, because the tile begins one frame earlier.
          A sum = 0;
#pragma unroll
          for (int o = 0; o < 3; ++o)
#pragma unroll
            for (int k = 0; k < 3; ++k) {
              const A grad = grads[warp][o][i0 + i + 2 - k];
              sum += grad * kernels[o][k];
              d_kernels[o][k] += grad * values[i];
            }
          d_pooled[int64_t(i0 + i) * F] = sum;
        }
      }
      __syncthreads();  // before the next tile overwrites `grads`
    }
  }

  // Add up the sums of the warps in a fixed order.
#pragma unroll
  for (int o = 0; o < 3; ++o) {
#pragma unroll
    for (int k = 0; k < 3; ++k) sums[warp][o][3 * lane + k] = d_kernels[o][k];
    const A bias = warp_sum(d_bias[o]);
    if (lane == 0) bias_sums[warp][o] = bias;
  }
  __syncthreads();
  for (int i = thread; i < 3 * 3 * kWarp; i += kThreads) {
    const int o = i / (3 * kWarp), at = i % (3 * kWarp);
    A total = 0;
    for (int w = 0; w < kWarps; ++w) total += sums[w][o][at];
    A* conv = o ? gradient<A>(n, kWeightConv) + (o - 1) * 3 * F : gradient<A>(n, kOffsetConv);
    if (3 * first + at < 3 * F) conv[3 * first + at] = total;
  }
  if (blockIdx.x > 0 || thread >= 3) return;
  A total = 0;
  for (int w = 0; w < kWarps; ++w) total += bias_sums[w][thread];
  (thread ? gradient<A>(n, kWeightConvBias)[thread - 1] : *gradient<A>(n, kOffsetConvBias)) = total;
}

}  // namespace
}  // namespace tin
