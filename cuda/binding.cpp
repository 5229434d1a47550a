// Binds the operators to torch through libtorch's stable ABI (2.11). A library that was built with
// one version of torch can be loaded by later versions, and a library with CUDA kernels can also be
// loaded by a torch without CUDA.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <limits>
#include <tuple>

#include "interlace.h"
#include "nets.h"
#ifdef TIN_WITH_CUDA
#include <dlfcn.h>
#endif

namespace {

using tin::Tensors;
using tin::Type;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Type::float32;
    case ScalarType::Double: return Type::float64;
    case ScalarType::Half: return Type::float16;
    case ScalarType::BFloat16: return Type::bfloat16;
    default: STD_TORCH_CHECK(false, "interlace: x must be a float tensor"); throw;
  }
}

// Whether x is channels_last and not contiguous. The stride of a dimension of size 1 is free.
bool channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  const auto fits = [&x](int64_t dim, int64_t stride) {
    return x.size(dim) == 1 || x.stride(dim) == stride;
  };
  STD_TORCH_CHECK(fits(1, 1) && fits(3, C) && fits(2, W * C) && fits(0, H * W * C),
                  "interlace: x and its gradient must be contiguous or channels_last");
  return true;
}

// Returns the shape of the arguments, or raises an error. tin.op.interlace checks its arguments
// with messages for users; the checks here keep other callers from accessing foreign memory.
tin::Shape checked_shape(const Tensor& x, const Tensor& offset, const Tensor& weight,
                         int64_t channels) {
  STD_TORCH_CHECK(x.dim() == 4 && offset.dim() == 2 && weight.dim() == 3,
                  "interlace: x must have 4 dimensions, offset 2 and weight 3");
  const int64_t B = offset.size(0), T = weight.size(1), G = offset.size(1), C = x.size(1);
  STD_TORCH_CHECK(x.size(0) == B * T && weight.size(0) == B && weight.size(2) == G,
                  "interlace: x (B*T, C, H, W), offset (B, G) and weight (B, T, G) differ in size");
  STD_TORCH_CHECK(G > 0 && channels > 0 && channels <= C && channels % G == 0, "interlace: ", G,
                  " groups must divide ", channels, " channels, at most ", C);
  const auto small = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  for (const Tensor* other : {&offset, &weight}) {
    STD_TORCH_CHECK(other->scalar_type() == small && other->is_contiguous() &&
                        other->is_cuda() == x.is_cuda() && other->get_device() == x.get_device(),
                    "interlace: offset and weight must be contiguous float32 (float64 with a "
                    "float64 x), on the device of x");
  }
  const int64_t inner = x.size(2) * x.size(3), most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(C * inner <= most && B * G <= most, "interlace: a frame of ", C * inner,
                  " elements is too large");
  return {int(B), int(T), int(C), int(inner), int(channels), int(G), channels_last(x)};
}

void parallel(int64_t tasks, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(0, tasks, grain, body);
}

#ifdef TIN_WITH_CUDA
// Returns the current CUDA stream. The function is looked up at run time in the torch that is
// loaded: if it were linked, this library could not be loaded by a torch without CUDA.
void* current_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    void* found = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<Get>(found);
  }();
  STD_TORCH_CHECK(get != nullptr, "interlace: this torch was built without CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(get(device, &stream) == 0, "interlace: cannot get the current CUDA stream");
  return stream;
}

void check_cuda(const char* error) {
  STD_TORCH_CHECK(error == nullptr, "interlace: CUDA: ", error);
}
#endif

// Cpu and Cuda offer the same functions, so that the two operators below are written once.
struct Cpu {
  explicit Cpu(const Tensor&) {}
  int64_t partials(const tin::Shape& s, Type) { return tin::partials_cpu(s); }
  void forward(const tin::Shape& s, Type type, const Tensors& tensors) {
    tin::forward_cpu(s, type, tensors, parallel);
  }
  void backward(const tin::Shape& s, Type type, const Tensors& tensors) {
    tin::backward_cpu(s, type, tensors, parallel);
  }
};

#ifdef TIN_WITH_CUDA
struct Cuda {
  torch::stable::accelerator::DeviceGuard guard;
  void* stream;
  explicit Cuda(const Tensor& x) : guard(x.get_device()), stream(current_stream(x.get_device())) {}
  int64_t partials(const tin::Shape& s, Type type) { return tin_partials_cuda(&s, type); }
  void forward(const tin::Shape& s, Type type, const Tensors& tensors) {
    check_cuda(tin_forward_cuda(&s, type, &tensors, stream));
  }
  void backward(const tin::Shape& s, Type type, const Tensors& tensors) {
    check_cuda(tin_backward_cuda(&s, type, &tensors, stream));
  }
};
#endif

template <typename Device>
Tensor forward(const Tensor& x, const Tensor& offset, const Tensor& weight, int64_t channels) {
  const tin::Shape s = checked_shape(x, offset, weight, channels);
  Tensor y = torch::stable::empty_like(x);
  if (x.numel() == 0) return y;
  Tensors tensors{};
  tensors.x = x.const_data_ptr();
  tensors.offset = offset.const_data_ptr();
  tensors.weight = weight.const_data_ptr();
  tensors.y = y.mutable_data_ptr();
  Device(x).forward(s, type_of(x), tensors);
  return y;
}

// Returns dx, d_offset and d_weight. Gradients that are not needed are empty tensors.
template <typename Device>
Gradients backward(const Tensor& grad, const Tensor& x, const Tensor& offset, const Tensor& weight,
                   int64_t channels, bool need_x, bool need_small) {
  const tin::Shape s = checked_shape(x, offset, weight, channels);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.scalar_type() == x.scalar_type() &&
                      grad.is_cuda() == x.is_cuda() && grad.get_device() == x.get_device(),
                  "interlace_backward: grad must have the type and the device of x");
  for (int i = 0; i < 4; ++i)
    STD_TORCH_CHECK(grad.size(i) == x.size(i), "interlace_backward: grad must have the shape of x");
  STD_TORCH_CHECK(channels_last(grad) == s.channels_last,
                  "interlace_backward: grad must have the layout of x");
  Device device(x);
  const auto empty = [](const Tensor& like, bool needed) {
    return needed ? torch::stable::empty_like(like) : torch::stable::new_empty(like, {0});
  };
  Tensor dx = empty(x, need_x);
  Tensor d_offset = empty(offset, need_small), d_weight = empty(weight, need_small);
  if (x.numel() == 0) {
    if (need_small) torch::stable::zero_(d_offset), torch::stable::zero_(d_weight);
    return {dx, d_offset, d_weight};
  }
  // The kernels write partial sums first and then add them up in a fixed order: the result does not
  // depend on how threads are scheduled.
  const Type type = type_of(x);
  const int64_t partials = need_small ? device.partials(s, type) : 0;
  Tensor partial = torch::stable::new_empty(offset, {partials});
  Tensors tensors{};
  tensors.x = x.const_data_ptr();
  tensors.offset = offset.const_data_ptr();
  tensors.weight = weight.const_data_ptr();
  tensors.grad = grad.const_data_ptr();
  if (need_x) tensors.dx = dx.mutable_data_ptr();
  if (need_small) {
    tensors.partial = partial.mutable_data_ptr();
    tensors.d_offset = d_offset.mutable_data_ptr();
    tensors.d_weight = d_weight.mutable_data_ptr();
  }
  device.backward(s, type, tensors);
  return {dx, d_offset, d_weight};
}

#ifdef TIN_WITH_CUDA
using Parameters = std::array<Tensor, tin::kNetParameters>;
using AllGradients =  // of pooled and of the eight parameters
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Stops a call whose tensors would make a kernel access foreign memory.
void check_net_tensor(const Tensor& tensor, const Tensor& pooled, int64_t size) {
  STD_TORCH_CHECK(tensor.scalar_type() == pooled.scalar_type() && tensor.is_cuda() &&
                      tensor.get_device() == pooled.get_device() && tensor.is_contiguous() &&
                      tensor.numel() == size,
                  "interlace_nets: expected contiguous tensors of one type and GPU; found ",
                  tensor.numel(), " elements, expected ", size);
}

// Returns the sizes and the input of the nets, or raises an error.
tin::Nets checked_nets(const Tensor& pooled, const Tensor& fc1) {
  STD_TORCH_CHECK(pooled.dim() == 2 && fc1.dim() == 2 && fc1.size(0) > 0,
                  "interlace_nets: pooled and the weight of fc1 must have 2 dimensions");
  const int64_t T = fc1.size(0), F = pooled.size(1), B = pooled.size(0) / T;
  const int64_t most = std::numeric_limits<int32_t>::max() / 6;
  STD_TORCH_CHECK(B * T == pooled.size(0) && F > 0 && F <= most && B <= most && T <= 1 << 14,
                  "interlace_nets: pooled must be (B*T, F), found ", pooled.size(0), " frames of ",
                  F, " channels and T = ", T);
  const auto type = pooled.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "interlace_nets: pooled must be float32 or float64");
  check_net_tensor(pooled, pooled, B * T * F);
  tin::Nets n{};
  n.B = int(B), n.T = int(T), n.F = int(F);
  n.pooled = pooled.const_data_ptr();
  return n;
}

int64_t net_parameter_size(const tin::Nets& n, int which) {
  const int64_t T = n.T, F = n.F;
  const int64_t sizes[] = {3 * F, 1, T * T, T, 2 * T, 2, 6 * F, 2};
  return sizes[which];
}

// Returns offset, weight, and the state that the backward needs.
Gradients nets_forward(const Tensor& pooled, const Tensor& offset_conv,
                       const Tensor& offset_conv_bias, const Tensor& fc1, const Tensor& fc1_bias,
                       const Tensor& fc2, const Tensor& fc2_bias, const Tensor& weight_conv,
                       const Tensor& weight_conv_bias) {
  tin::Nets n = checked_nets(pooled, fc1);
  const Tensor* parameters[] = {&offset_conv, &offset_conv_bias, &fc1,         &fc1_bias,
                                &fc2,         &fc2_bias,         &weight_conv, &weight_conv_bias};
  for (int i = 0; i < tin::kNetParameters; ++i) {
    check_net_tensor(*parameters[i], pooled, net_parameter_size(n, i));
    n.parameters[i] = parameters[i]->const_data_ptr();
  }
  Cuda device(pooled);
  Tensor offset = torch::stable::new_empty(pooled, {n.B, 4});
  Tensor weight = torch::stable::new_empty(pooled, {n.B, n.T, 4});
  Tensor state = torch::stable::new_empty(pooled, {n.B, tin::state_size(n.T)});
  n.offset = offset.mutable_data_ptr();
  n.weight = weight.mutable_data_ptr();
  n.state = state.mutable_data_ptr();
  if (n.B > 0) check_cuda(tin_nets_forward_cuda(&n, type_of(pooled), device.stream));
  return {offset, weight, state};
}

// Returns the gradients of pooled and of the eight parameters.
AllGradients nets_backward(const Tensor& grad_offset, const Tensor& grad_weight,
                           const Tensor& pooled, const Tensor& offset_conv, const Tensor& fc1,
                           const Tensor& fc2, const Tensor& weight_conv, const Tensor& state) {
  tin::Nets n = checked_nets(pooled, fc1);
  const int64_t B = n.B, T = n.T, F = n.F;
  const std::tuple<tin::NetParameter, const Tensor*> parameters[] = {
      {tin::kOffsetConv, &offset_conv},
      {tin::kFc1, &fc1},
      {tin::kFc2, &fc2},
      {tin::kWeightConv, &weight_conv}};
  for (const auto& [which, parameter] : parameters) {
    check_net_tensor(*parameter, pooled, net_parameter_size(n, which));
    n.parameters[which] = parameter->const_data_ptr();
  }
  check_net_tensor(grad_offset, pooled, B * 4);
  check_net_tensor(grad_weight, pooled, B * T * 4);
  check_net_tensor(state, pooled, B * tin::state_size(n.T));
  Cuda device(pooled);
  const auto empty = [&](std::initializer_list<int64_t> sizes) {
    return torch::stable::new_empty(pooled, sizes);
  };
  Tensor d_pooled = empty({B * T, F});
  Parameters made = {empty({1, F, 3}), empty({1}), empty({T, T}),    empty({T}),
                     empty({2, T}),    empty({2}), empty({2, F, 3}), empty({2})};
  n.grad_offset = grad_offset.const_data_ptr();
  n.grad_weight = grad_weight.const_data_ptr();
  n.state = const_cast<void*>(state.const_data_ptr());  // the backward only reads it
  n.d_pooled = d_pooled.mutable_data_ptr();
  for (int i = 0; i < tin::kNetParameters; ++i) n.gradients[i] = made[i].mutable_data_ptr();
  check_cuda(tin_nets_backward_cuda(&n, type_of(pooled), device.stream));
  return std::tuple_cat(std::make_tuple(d_pooled), made);
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tin, CPU, library) {
  library.impl("interlace", TORCH_BOX(&forward<Cpu>));
  library.impl("interlace_backward", TORCH_BOX(&backward<Cpu>));
}
#ifdef TIN_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(tin, CUDA, library) {
  library.impl("interlace", TORCH_BOX(&forward<Cuda>));
  library.impl("interlace_backward", TORCH_BOX(&backward<Cuda>));
  library.impl("interlace_nets", TORCH_BOX(&nets_forward));
  library.impl("interlace_nets_backward", TORCH_BOX(&nets_backward));
}
#endif
