// A checkpoint's tensors into packed matrices and vectors.
#pragma once

#include "model.h"

namespace cpm {

// Pack rows of one tensor of the checkpoint; as cpm_pack. Return false if there is no such tensor or its size differs.
// Throws std::bad_alloc.
bool pack(Model& model, int tensor, int layer, const void* data, int dtype, long first, long rows, long columns, long stride);

// One row of the word embedding as floats: `out` [words.inputs].
void embedding_row(const Matrix& words, long row, float* out);

}  // namespace cpm
