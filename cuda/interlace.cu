// Launches the kernels of the interlace operator: chooses types, vectors and blocks.
#include <algorithm>
#include <initializer_list>

#include "interlace.h"
#include "kernels.h"

namespace tin {
namespace {

constexpr int kSumming = 1024;  // about how many blocks of a call sum: a few per multiprocessor

int size_of(Type type) {
  switch (type) {
    case Type::float32: return 4;
    case Type::float64: return 8;
    default: return 2;
  }
}

// Returns the number of elements of a vector: 16 or 8 bytes if all vectors are aligned and inside
// of one group, else one element.
int vector_size(const Shape& s, Type type, std::initializer_list<const void*> tensors) {
  const int64_t inner = s.channels_last ? 1 : s.inner;
  for (const int bytes : {16, 8}) {
    const int size = bytes / size_of(type);
    const auto aligned = [=](const void* p) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; };
    if (s.group_channels() * inner % size == 0 && s.C * inner % size == 0 &&
        std::all_of(tensors.begin(), tensors.end(), aligned))
      return size;
  }
  return 1;
}

// Returns how many groups a block of a channels_last call works on: the largest divisor of G for
// which the vectors of one pixel fit into a block. A single group with few channels would use only
// a part of each memory sector that is read.
int groups_of_block(const Shape& s, int size) {
  if (!s.channels_last) return 1;
  int groups = s.G;
  while (groups > 1 && (s.G % groups || groups * s.group_channels() / size > kThreads)) --groups;
  return groups;
}

// Returns into how many chunks the sums of a group are split. It must not depend on pointers,
// because it also determines the size of `partial`, which is allocated before the call.
int chunks_of(const Shape& s, Type type) {
  const int size = vector_size(s, type, {}), groups = groups_of_block(s, size);
  const int64_t columns = int64_t(groups) * s.group_channels() * s.inner / size;
  const int64_t most = std::max<int64_t>(1, kSumming / (int64_t(s.B) * (s.G / groups)));
  return int(std::min((columns + kThreads - 1) / kThreads, most));
}

// Calls body with a vector of the type and size. These are all the vectors that kernels exist for.
template <typename Body>
cudaError_t with_vector(Type type, int size, const Body& body) {
  switch (type) {
    case Type::float32:
      if (size == 4) return body(Vector<float, 4>());
      return size == 2 ? body(Vector<float, 2>()) : body(Vector<float, 1>());
    case Type::float64: return size == 2 ? body(Vector<double, 2>()) : body(Vector<double, 1>());
    case Type::float16:
      if (size == 8) return body(Vector<Half, 8>());
      return size == 4 ? body(Vector<Half, 4>()) : body(Vector<Half, 1>());
    case Type::bfloat16:
      if (size == 8) return body(Vector<BFloat16, 8>());
      return size == 4 ? body(Vector<BFloat16, 4>()) : body(Vector<BFloat16, 1>());
  }
  return cudaErrorInvalidValue;
}

template <typename Vec>
cudaError_t forward(const Shape& s, const Tensors& p, void* stream) {
  using T = typename Vec::T;
  using A = typename Vec::A;
  const int64_t threads = s.frame() / Vec::size, blocks = (threads + kThreads - 1) / kThreads;
  const cudaLaunchConfig_t config = launch(s.B * blocks, stream);
  return cudaLaunchKernelEx(&config, forward_kernel<Vec>, s, int(blocks),
                            static_cast<const T*>(p.x), static_cast<const A*>(p.offset),
                            static_cast<const A*>(p.weight), static_cast<T*>(p.y));
}

template <typename Vec>
cudaError_t backward(const Shape& s, int chunks, const Tensors& p, void* stream) {
  using T = typename Vec::T;
  using A = typename Vec::A;
  const auto *offset = static_cast<const A*>(p.offset), *weight = static_cast<const A*>(p.weight);
  // The first blocks of a clip sum, the others copy the channels that are not interlaced.
  const uint32_t copied = Columns(s, Vec::size, s.channels, s.C - s.channels).count;
  const int copying = p.dx ? int((copied + kThreads - 1) / kThreads) : 0;
  const Plan plan{groups_of_block(s, Vec::size), chunks, copying};
  const cudaLaunchConfig_t config = launch(int64_t(s.B) * plan.blocks(s), stream);
  auto* partial = static_cast<A*>(p.partial);
  const cudaError_t error = cudaLaunchKernelEx(
      &config, backward_kernel<Vec>, s, plan, static_cast<const T*>(p.grad),
      static_cast<const T*>(p.x), offset, weight, static_cast<T*>(p.dx), partial);
  // Add up the partial sums, unless only dx is needed.
  if (error != cudaSuccess || !partial) return error;
  const cudaLaunchConfig_t finish = launch(int64_t(s.B) * s.G, stream);
  return cudaLaunchKernelEx(&finish, finish_kernel<A>, s, chunks, offset, weight,
                            static_cast<const A*>(partial), static_cast<A*>(p.d_offset),
                            static_cast<A*>(p.d_weight));
}

}  // namespace
}  // namespace tin

const char* tin_forward_cuda(const tin::Shape* s, tin::Type type, const tin::Tensors* p,
                             void* stream) {
  const int size = tin::vector_size(*s, type, {p->x, p->y});
  return tin::text(tin::with_vector(
      type, size, [=](auto vector) { return tin::forward<decltype(vector)>(*s, *p, stream); }));
}

const char* tin_backward_cuda(const tin::Shape* s, tin::Type type, const tin::Tensors* p,
                              void* stream) {
  const int size = tin::vector_size(*s, type, {p->grad, p->x, p->dx});
  return tin::text(tin::with_vector(type, size, [=](auto vector) {
    return tin::backward<decltype(vector)>(*s, tin::chunks_of(*s, type), *p, stream);
  }));
}

int64_t tin_partials_cuda(const tin::Shape* s, tin::Type type) {
  return 2 * int64_t(s->B) * s->G * s->T * tin::chunks_of(*s, type);
}
