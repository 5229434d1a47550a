// The two nets of a TemporalInterlace: OffsetNet and WeightNet of tin/models/temporal.py, which
// define what the kernels compute. Entry points; binding.cpp checks the arguments before it calls
// them.
#pragma once
#include "core.h"

namespace tin {

// The parameters in the order in which the operators take them. The convolutions have a kernel of
// three frames.
enum NetParameter {
  kOffsetConv,  // (1, F, 3)
  kOffsetConvBias,
  kFc1,  // (T, T)
  kFc1Bias,
  kFc2,  // (2, T)
  kFc2Bias,
  kWeightConv,  // (2, F, 3)
  kWeightConvBias,
  kNetParameters,
};

struct Nets {  // dense tensors of one type on one device; those that a call does not need are null
  int B, T, F;
  const void *pooled, *grad_offset, *grad_weight;  // (B*T, F), (B, 4), (B, T, 4)
  const void* parameters[kNetParameters];
  void *offset, *weight, *state, *d_pooled;  // (B, 4), (B, T, 4), (B, state_size), (B*T, F)
  void* gradients[kNetParameters];           // of the parameters
};

// The forward keeps in the state of a clip what the backward needs: the input of fc1 and its
// activated output for each frame, two sigmoids of the offsets, two sigmoids per frame of the
// weights.
TIN_INLINE int state_size(int T) { return 4 * T + 2; }

}  // namespace tin

// These run on the current device and return the text of an error, or null. Tests call them too.
extern "C" {
const char* tin_nets_forward_cuda(const tin::Nets*, tin::Type, void* stream);
const char* tin_nets_backward_cuda(const tin::Nets*, tin::Type, void* stream);
}
