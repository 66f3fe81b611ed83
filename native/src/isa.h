#pragma once

#include <vector>

#include "ops.h"

namespace cpm {

// The kernels in this library that this machine can run, best first.
std::vector<const Ops*> runnable();

}  // namespace cpm
