// Launches the kernels of the two nets.
#include "net_kernels.h"
#include "nets.h"

namespace tin {
namespace {

template <typename A>
cudaError_t nets_forward(const Nets& n, void* stream) {
  const cudaLaunchConfig_t config = launch(n.B, stream);
  return cudaLaunchKernelEx(&config, nets_forward_kernel<A>, n);
}

template <typename A>
cudaError_t nets_backward(const Nets& n, void* stream) {
  const int channel_blocks = (n.F + kWarp - 1) / kWarp;
  const int64_t linear = int64_t(n.T + 2) * (n.T + 1);  // entries of both linear layers
  const int64_t blocks = channel_blocks + (linear + kThreads - 1) / kThreads;
  const cudaLaunchConfig_t config = launch(blocks, stream);
  return cudaLaunchKernelEx(&config, nets_backward_kernel<A>, n, channel_blocks);
}

}  // namespace
}  // namespace tin

const char* tin_nets_forward_cuda(const tin::Nets* n, tin::Type type, void* stream) {
  return tin::text(type == tin::Type::float64 ? tin::nets_forward<double>(*n, stream)
                                              : tin::nets_forward<float>(*n, stream));
}

const char* tin_nets_backward_cuda(const tin::Nets* n, tin::Type type, void* stream) {
  return tin::text(type == tin::Type::float64 ? tin::nets_backward<double>(*n, stream)
                                              : tin::nets_backward<float>(*n, stream));
}
