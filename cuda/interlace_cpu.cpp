// The interlace operator on the CPU. A clip is split into pieces that fit into the cache; a piece
// covers a part of each frame, for all frames. Pieces do not depend on each other, so the result
// has the same bits with any number of threads. Sums are kept for each lane of a vector, so it also
// has the same bits with any instruction set.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "interlace.h"

// A function with this attribute is compiled once for each instruction set. The dynamic loader
// picks the version for the processor.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define TIN_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default"), flatten))
#else
#define TIN_EACH_CPU
#endif

namespace tin {
namespace {

constexpr int64_t kPiece = 16384;  // about how many elements of a frame a piece has
constexpr int64_t kGrain = 32768;  // number of elements for which a thread pays off

struct Run {  // `length` consecutive elements from `start` of a row
  int64_t start, length;
};

// Says which part of a frame each piece is. With channels_last a piece has all channels of some
// pixels, and each pixel is a row. Otherwise a piece is one row: a part of one group, and an equal
// share of the channels that are only copied.
struct Pieces {
  Shape s;
  int64_t chunks;  // pieces that share a group

  explicit Pieces(const Shape& shape) : s(shape) {
    const int64_t size = s.channels_last ? s.frame() : group_size();
    chunks = std::clamp<int64_t>(size / kPiece, 1, s.channels_last ? s.inner : size);
  }
  int64_t count() const { return s.channels_last ? chunks : chunks * s.G; }
  int64_t chunk(int64_t piece) const { return piece % chunks; }
  int first_group(int64_t piece) const { return s.channels_last ? 0 : int(piece / chunks); }
  int end_group(int64_t piece) const { return s.channels_last ? s.G : first_group(piece) + 1; }
  int64_t row_stride() const { return s.channels_last ? s.C : 0; }
  int64_t first_row(int64_t piece) const { return s.channels_last ? s.inner * piece / chunks : 0; }
  int64_t rows(int64_t piece) const {
    return s.channels_last ? first_row(piece + 1) - first_row(piece) : 1;
  }
  Run group(int64_t piece, int g) const {
    if (s.channels_last) return {int64_t(g) * s.group_channels(), s.group_channels()};
    return share(g * group_size(), group_size(), chunk(piece), chunks);
  }
  Run rest(int64_t piece) const {
    // If at least half of the channels are copied, copy whole rows, and write the groups over the
    // copy afterwards: one long copy is faster than many short ones.
    if (s.channels_last && 2 * s.channels <= s.C) return {0, s.C};
    if (s.channels_last) return {s.channels, s.C - s.channels};
    const int64_t start = int64_t(s.channels) * s.inner;
    return share(start, s.frame() - start, piece, count());
  }
  int64_t longest_group() const { return (s.channels_last ? s.C : group_size() / chunks) + 16; }

 private:
  int64_t group_size() const { return int64_t(s.group_channels()) * s.inner; }
  static Run share(int64_t start, int64_t size, int64_t i, int64_t n) {
    const auto cut = [=](int64_t k) { return k == n ? size : size * k / n / 16 * 16; };
    return {start + cut(i), cut(i + 1) - cut(i)};
  }
};

template <typename T>
struct Rows {  // the rows of a piece in one frame; with stride 0 they are all the same row
  T* data;
  int64_t stride;
  T* at(int64_t row, int64_t i) const { return data + row * stride + i; }
};

template <typename T>
struct Frames {  // the rows of a piece in all frames of a clip
  T* data;
  int64_t stride, row_stride;
  Rows<T> at(int t, Run run) const { return {data + t * stride + run.start, row_stride}; }
};

// L numbers that are computed together; with L = 1 a plain number. The vectors are explicit because
// compilers vectorize only some loops. The compiler splits vectors that are wider than those of the
// processor. A vector needs no more alignment than a number.
template <typename A, int L>
struct Lanes {
  typedef A type __attribute__((vector_size(sizeof(A) * L), aligned(alignof(A))));
};
template <typename A>
struct Lanes<A, 1> {
  using type = A;
};
template <typename A, int L>
using lanes = typename Lanes<A, L>::type;

template <typename To, typename From>
inline To convert(const From& from) {
  if constexpr (std::is_arithmetic_v<From>) return To(from);
  else return __builtin_convertvector(from, To);
}

template <int L, typename T>
inline lanes<acc_t<T>, L> load(const T* data) {
  constexpr bool half = sizeof(T) == 2;
  lanes<std::conditional_t<half, uint16_t, T>, L> value;
  memcpy(&value, data, sizeof(value));
  if constexpr (!half) return value;
  else {
    const auto bits = convert<lanes<uint32_t, L>>(value);
    if constexpr (std::is_same_v<T, Half>) return half_to_float<lanes<float, L>>(bits);
    else return bfloat16_to_float<lanes<float, L>>(bits);
  }
}

template <int L, typename T>
inline void store(lanes<acc_t<T>, L> value, T* data) {
  if constexpr (std::is_same_v<T, Half>) {
    const auto bits = convert<lanes<uint16_t, L>>(float_to_half<lanes<uint32_t, L>>(value));
    memcpy(data, &bits, sizeof(bits));
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    const auto bits = convert<lanes<uint16_t, L>>(float_to_bfloat16<lanes<uint32_t, L>>(value));
    memcpy(data, &bits, sizeof(bits));
  } else {
    memcpy(data, &value, sizeof(value));
  }
}

template <int L>
using Width = std::integral_constant<int, L>;

// Calls body(row, i, width) for all elements 0..length of all rows, `width` elements per call. The
// branches are few and simple, so that they do not dominate the time of a row of four channels.
template <typename Body>
inline void each(int64_t rows, int64_t length, const Body& body) {
  if (length % 16 == 0) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < length; i += 16) body(row, i, Width<16>());
  } else if (length == 4) {
    for (int64_t row = 0; row < rows; ++row) body(row, 0, Width<4>());
  } else {
    for (int64_t row = 0; row < rows; ++row) {
      int64_t i = 0;
      for (; i + 16 <= length; i += 16) body(row, i, Width<16>());
      for (; i < length; ++i) body(row, i, Width<1>());
    }
  }
}

template <typename T>
inline void copy(int64_t rows, int64_t length, Rows<T> to, Rows<T> from) {
  if (rows == 1 || length == from.stride) {
    memcpy(to.at(0, 0), from.at(0, 0), rows * length * sizeof(T));
    return;
  }
  each(rows, length, [=](int64_t row, int64_t i, auto width) {
    lanes<char, width * sizeof(T)> value;
    memcpy(&value, from.at(row, i), sizeof(value));
    memcpy(to.at(row, i), &value, sizeof(value));
  });
}

template <typename A>
struct Sum {  // a sum of products, kept separately for each width and lane
  lanes<A, 16> wide = {};
  lanes<A, 4> narrow = {};
  A one = 0;
  void add(lanes<A, 16> product) { wide += product; }
  void add(lanes<A, 4> product) { narrow += product; }
  void add(A product) { one += product; }
  A total() const {
    A total = one;
    for (int lane = 0; lane < 4; ++lane) total += narrow[lane];
    for (int lane = 0; lane < 16; ++lane) total += wide[lane];
    return total;
  }
};

template <typename T>
class Operator {
  using A = acc_t<T>;

 public:
  Operator(const Shape& shape, const Tensors& tensors)
      : s(shape),
        p(tensors),
        pieces(shape),
        offset(static_cast<const A*>(tensors.offset)),
        weight(static_cast<const A*>(tensors.weight)),
        no_frame(pieces.longest_group()) {}

  void forward(const Parallel& parallel) const {
    run(parallel, [this](int b, int64_t piece) { forward_piece(b, piece); });
  }

  void backward(const Parallel& parallel) const {
    run(parallel, [this](int b, int64_t piece) {
      if (p.partial) clear_partials(b, piece);
      if (p.dx && p.partial) backward_piece<true, true>(b, piece);
      else if (p.dx) backward_piece<true, false>(b, piece);
      else if (p.partial) backward_piece<false, true>(b, piece);
    });
    if (p.partial) sum_partials();
  }

 private:
  Shape s;
  Tensors p;
  Pieces pieces;
  const A *offset, *weight;
  std::vector<T> no_frame;  // zeros, which stand for a frame outside of the clip

  template <typename Body>
  void run(const Parallel& parallel, const Body& body) const {
    const int64_t count = pieces.count(), size = s.T * s.frame() / count;
    parallel(s.B * count, kGrain / std::clamp<int64_t>(size, 1, kGrain),
             [&](int64_t begin, int64_t end) {
               for (int64_t i = begin; i < end; ++i) body(int(i / count), i % count);
             });
  }

  Frames<T> frames(const void* tensor, int b, int64_t piece) const {
    T* clip = static_cast<T*>(const_cast<void*>(tensor)) + b * s.T * s.frame();
    return {clip + pieces.first_row(piece) * pieces.row_stride(), s.frame(), pieces.row_stride()};
  }
  Rows<T> frame_or_zeros(const Frames<T>& frames, int t, Run run) const {
    return inside(t, s.T) ? frames.at(t, run) : Rows<T>{const_cast<T*>(no_frame.data()), 0};
  }
  Shift<A> shift_of(int b, int g) const { return split(offset[int64_t(b) * s.G + g], s.T); }
  A weight_of(int b, int t, int g) const { return weight[(int64_t(b) * s.T + t) * s.G + g]; }
  A* partial_of(int b, int g, int t, int64_t chunk) const {
    const int64_t index = ((int64_t(b) * s.G + g) * s.T + t) * pieces.chunks + chunk;
    return static_cast<A*>(p.partial) + 2 * index;
  }

  TIN_EACH_CPU void forward_piece(int b, int64_t piece) const {
    const Frames<T> x = frames(p.x, b, piece), y = frames(p.y, b, piece);
    const int64_t rows = pieces.rows(piece);
    const Run rest = pieces.rest(piece);
    for (int t = 0; t < s.T; ++t) {
      copy(rows, rest.length, y.at(t, rest), x.at(t, rest));
      for (int g = pieces.first_group(piece); g < pieces.end_group(piece); ++g) {
        const Run run = pieces.group(piece, g);
        const Shift<A> shift = shift_of(b, g);
        const Rows<T> near = frame_or_zeros(x, slot_frame(t + 1, shift.whole), run);
        const Rows<T> far = frame_or_zeros(x, slot_frame(t, shift.whole), run);
        const Rows<T> to = y.at(t, run);
        const A gain = weight_of(b, t, g), part = shift.part;
        each(rows, run.length, [=](int64_t row, int64_t i, auto width) {
          const auto n = load<width>(near.at(row, i)), f = load<width>(far.at(row, i));
          store<width>(blend(n, f, gain, part), to.at(row, i));
        });
      }
    }
  }

  // Computes dx and the partial sums of one piece. Each frame of x went into two output frames:
  // `before`, as the near frame, and `after` = `before` + 1, as the far frame. So one pass over the
  // frames of x reads every frame of x and of the gradient while it is in the cache.
  template <bool Dx, bool Small>
  TIN_EACH_CPU void backward_piece(int b, int64_t piece) const {
    const Frames<T> x = frames(p.x, b, piece), grad = frames(p.grad, b, piece);
    const Frames<T> dx = Dx ? frames(p.dx, b, piece) : x;
    const int64_t rows = pieces.rows(piece), chunk = pieces.chunk(piece);
    const Run rest = pieces.rest(piece);
    for (int frame = 0; frame < s.T; ++frame) {
      if (Dx) copy(rows, rest.length, dx.at(frame, rest), grad.at(frame, rest));
      for (int g = pieces.first_group(piece); g < pieces.end_group(piece); ++g) {
        const Run run = pieces.group(piece, g);
        const Shift<A> shift = shift_of(b, g);
        const int after = frame_slot(frame, shift.whole), before = after - 1;
        const bool has_before = inside(before, s.T), has_after = inside(after, s.T);
        const Rows<T> near = frame_or_zeros(grad, before, run);
        const Rows<T> far = frame_or_zeros(grad, after, run);
        const A n_gain = has_before ? near_gain(weight_of(b, before, g), shift.part) : A(0);
        const A f_gain = has_after ? far_gain(weight_of(b, after, g), shift.part) : A(0);
        const Rows<T> from = x.at(frame, run), to = dx.at(frame, run);
        // Write dx, and add up the dot products of x with the two frames of the gradient.
        Sum<A> nears, fars;
        each(rows, run.length, [&](int64_t row, int64_t i, auto width) {
          const auto n = load<width>(near.at(row, i)), f = load<width>(far.at(row, i));
          if constexpr (Small) {
            const auto value = load<width>(from.at(row, i));
            nears.add(n * value);
            fars.add(f * value);
          }
          if constexpr (Dx) store<width>(n_gain * n + f_gain * f, to.at(row, i));
        });
        if (Small && has_before) partial_of(b, g, before, chunk)[0] = nears.total();
        if (Small && has_after) partial_of(b, g, after, chunk)[1] = fars.total();
      }
    }
  }

  // Sets the partial sums of a piece to zero: those of outputs whose near or far frame is outside
  // of the clip are not written otherwise.
  void clear_partials(int b, int64_t piece) const {
    for (int g = pieces.first_group(piece); g < pieces.end_group(piece); ++g)
      for (int t = 0; t < s.T; ++t) std::fill_n(partial_of(b, g, t, pieces.chunk(piece)), 2, A(0));
  }

  // Adds up the partial sums of all pieces in a fixed order. The sums are in double, because the
  // gradient of an offset is a small difference of large sums.
  void sum_partials() const {
    for (int b = 0; b < s.B; ++b)
      for (int g = 0; g < s.G; ++g) {
        const double part = shift_of(b, g).part;
        double d_offset = 0;
        for (int t = 0; t < s.T; ++t) {
          const A* partial = partial_of(b, g, t, 0);
          double near = 0, far = 0;
          for (int64_t chunk = 0; chunk < pieces.chunks; ++chunk) {
            near += partial[2 * chunk];
            far += partial[2 * chunk + 1];
          }
          d_offset += offset_gradient<double>(near, far, weight_of(b, t, g));
          A* d_weight = static_cast<A*>(p.d_weight) + (int64_t(b) * s.T + t) * s.G + g;
          *d_weight = A(weight_gradient(near, far, part));
        }
        static_cast<A*>(p.d_offset)[int64_t(b) * s.G + g] = A(d_offset);
      }
  }
};

template <typename Body>
void with_type(Type type, const Body& body) {
  switch (type) {
    case Type::float32: return body(float());
    case Type::float64: return body(double());
    case Type::float16: return body(Half());
    case Type::bfloat16: return body(BFloat16());
  }
}

}  // namespace

void forward_cpu(const Shape& s, Type type, const Tensors& tensors, const Parallel& parallel) {
  with_type(type, [&](auto one) { Operator<decltype(one)>(s, tensors).forward(parallel); });
}

void backward_cpu(const Shape& s, Type type, const Tensors& tensors, const Parallel& parallel) {
  with_type(type, [&](auto one) { Operator<decltype(one)>(s, tensors).backward(parallel); });
}

int64_t partials_cpu(const Shape& s) { return 2 * int64_t(s.B) * s.G * s.T * Pieces(s).chunks; }

}  // namespace tin
