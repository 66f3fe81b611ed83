#pragma once

#include <vector>

#include "ops.h"

namespace cpm {

// The kernels of this library that this machine can run, best first. Throws std::bad_alloc.
std::vector<const Ops*> supported_ops();

}  // namespace cpm
