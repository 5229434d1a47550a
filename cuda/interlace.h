// Entry points of the two operators; what they are given was checked by binding.cpp.
#pragma once
#include <functional>

#include "core.h"

namespace tin {

// Runs body(begin, end) over 0..tasks in parallel, at least `grain` tasks at a time.
using Parallel = std::function<void(int64_t tasks, int64_t grain,
                                    const std::function<void(int64_t, int64_t)>& body)>;

void forward_cpu(const Shape&, Type, const Tensors&, const Parallel&);
void backward_cpu(const Shape&, Type, const Tensors&, const Parallel&);
int64_t partials_cpu(const Shape&);  // how many accumulators `partial` of a backward call holds

}  // namespace tin

extern "C" {  // also called by the tests; on the current device; an error as text, else null
const char* tin_forward_cuda(const tin::Shape*, tin::Type, const tin::Tensors*, void* stream);
const char* tin_backward_cuda(const tin::Shape*, tin::Type, const tin::Tensors*, void* stream);
int64_t tin_partials_cuda(const tin::Shape*, tin::Type);
}
