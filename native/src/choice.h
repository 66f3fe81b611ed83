// The choice of tokens from logits, and the logarithm of the sum of their exponentials. Rows are independent: the threads of the model
// share them, and a row's result does not depend on the others.
#pragma once

#include "model.h"

namespace cpm {

// As cpm_choose and cpm_log_sums.
void choose(Model& m, const float* logits, long vocabulary, const cpm_pick* picks, int count);
void log_sums(Model& m, const float* logits, long rows, long vocabulary, double* sums);

}  // namespace cpm
