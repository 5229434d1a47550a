// The interlace operator: shapes, index arithmetic and formulas, shared by CPU and CUDA.
//
//   y[b, t] = w[b, t, g] * ((1 - f) * x[b, t - k] + f * x[b, t - k - 1]),  k = floor(offset[b, g])
//
// Frames are read through slots. Slot j = 0..T of a group holds frame j - k - 1 of x, or zeros if
// that frame is outside of the clip. Output frame t blends slot t + 1, the near frame, with slot t,
// the far frame. Every frame belongs to one slot only.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define TIN_INLINE __host__ __device__ __forceinline__
#else
#define TIN_INLINE inline
#endif

namespace tin {

struct Shape {  // x is (B*T, C, inner), or (B*T, inner, C) if channels_last
  int B, T, C, inner;
  int channels, G;  // the first `channels` channels are interlaced, in G equal groups
  bool channels_last;
  TIN_INLINE int group_channels() const { return channels / G; }
  TIN_INLINE int64_t frame() const { return int64_t(C) * inner; }
};

enum class Type { float32, float64, float16, bfloat16 };  // of x, y and their gradients

struct Tensors {  // dense, on one device; tensors that a call does not need are null
  const void *x, *offset, *weight, *grad;
  void *y, *dx, *partial, *d_offset, *d_weight;
};

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename T>
struct Accumulator {  // type of sums, offsets and weights: float for the two half types
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename T>
using acc_t = typename Accumulator<T>::type;

template <typename To, typename From>
TIN_INLINE To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "both types must have the same size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// Conversions of the half types by their bits, which round to nearest, ties to even. F is float or
// a vector of floats, U is uint32_t or a vector of them. The code has no branches, so that it is
// the same for numbers and vectors.
template <typename F, typename U>
TIN_INLINE F bfloat16_to_float(U bits) {
  return same_bits<F>(U(bits << 16));
}
template <typename U, typename F>
TIN_INLINE U float_to_bfloat16(F value) {
  const U bits = same_bits<U>(value), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? (rounded & 0) + 0x7fc0 : rounded;
}
template <typename F, typename U>
TIN_INLINE F half_to_float(U bits) {
  const U shifted = (bits & 0x7fff) << 13, exponent = shifted & 0x0f800000;
  const U normal = shifted + 0x38000000, special = shifted + 0x70000000;  // infinite or NaN
  const U tiny = same_bits<U>(F(same_bits<F>(U(shifted + 0x38800000)) - 0x1p-14f));  // subnormal
  const U finite = exponent != 0 ? normal : tiny;
  return same_bits<F>(U((exponent == 0x0f800000 ? special : finite) | (bits & 0x8000) << 16));
}
template <typename U, typename F>
TIN_INLINE U float_to_half(F value) {
  const U bits = same_bits<U>(value) & 0x7fffffff, sign = same_bits<U>(value) >> 16 & 0x8000;
  const U normal = (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
  const U tiny = same_bits<U>(F(same_bits<F>(bits) + 0.5f)) - 0x3f000000;  // steps of 2^-24
  const U special = bits > 0x7f800000 ? (bits & 0) + 0x7e00 : (bits & 0) + 0x7c00;
  const U large = bits < 0x47800000 ? normal : special;
  return (bits < 0x38800000 ? tiny : large) | sign;
}

template <typename A>
struct Shift {  // an offset of `whole` frames and a `part` of a frame, 0 <= part < 1
  int whole;
  A part;
};

template <typename A>
TIN_INLINE Shift<A> split(A offset, int T) {
  const A limit = A(T + 1);  // beyond it all slots are outside of the clip
  const A near = offset < -limit ? -limit : offset > limit ? limit : offset;
  if (!(near == near)) return {0, near};  // a NaN makes the output NaN
  const int cut = int(near), whole = A(cut) > near ? cut - 1 : cut;
  return {whole, near - A(whole)};
}

TIN_INLINE int slot_frame(int slot, int whole) { return slot - whole - 1; }
TIN_INLINE int frame_slot(int frame, int whole) { return frame + whole + 1; }
TIN_INLINE bool inside(int index, int count) { return unsigned(index) < unsigned(count); }

template <typename V, typename A>  // V is A or a vector of A
TIN_INLINE V blend(V near, V far, A weight, A part) {
  return weight * ((A(1) - part) * near + part * far);
}

// The factors with which frame t of the gradient goes to the frame in its near slot (t + 1) and to
// the frame in its far slot (t).
template <typename A>
TIN_INLINE A near_gain(A weight, A part) {
  return weight * (A(1) - part);
}
template <typename A>
TIN_INLINE A far_gain(A weight, A part) {
  return weight * part;
}

// The gradients of weight and offset at frame t. `near` and `far` are the dot products of frame t
// of the gradient with the frames of x in its near and far slots.
template <typename A>
TIN_INLINE A weight_gradient(A near, A far, A part) {
  return (A(1) - part) * near + part * far;
}
template <typename A>
TIN_INLINE A offset_gradient(A near, A far, A weight) {
  return weight * (far - near);
}

}  // namespace tin
