// Entry points of the two operators. binding.cpp checks the arguments before it calls them.
#pragma once
#include <functional>

#include "core.h"

namespace tin {

// Splits the tasks 0..tasks into ranges of at least `grain` tasks, and calls body(begin, end) for
// each range, in parallel.
using Parallel = std::function<void(int64_t tasks, int64_t grain,
                                    const std::function<void(int64_t, int64_t)>& body)>;

void forward_cpu(const Shape&, Type, const Tensors&, const Parallel&);
void backward_cpu(const Shape&, Type, const Tensors&, const Parallel&);
int64_t partials_cpu(const Shape&);  // number of accumulators in `partial` of a backward call

}  // namespace tin

// These run on the current device and return the text of an error, or null. Tests call them too.
extern "C" {
const char* tin_forward_cuda(const tin::Shape*, tin::Type, const tin::Tensors*, void* stream);
const char* tin_backward_cuda(const tin::Shape*, tin::Type, const tin::Tensors*, void* stream);
int64_t tin_partials_cuda(const tin::Shape*, tin::Type);
}
