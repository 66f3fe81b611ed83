// A rank's packed weights, its cache, and the buffers of a step.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "cpm_native.h"
#include "ops.h"
#include "threads.h"

namespace cpm {

// Zeroed memory from the system, in huge pages where it has them; throws std::bad_alloc.
class Memory {
public:
    Memory() = default;
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(Memory&& other) noexcept { *this = static_cast<Memory&&>(other); }
    Memory& operator=(Memory&& other) noexcept;

    char* data() const { return data_; }
    size_t size() const { return size_; }

private:
    char* data_ = nullptr;
    size_t size_ = 0;
};

struct Layer {
    float *norm1_w, *norm1_b, *norm2_w, *norm2_b;
    float *qkv_b, *dense_b, *up_b, *down_b;
    Matrix qkv, dense, up, down;
};

struct Model {
    Model(const cpm_sizes& sizes, const Ops& ops);

    cpm_sizes sizes;
    const Ops& ops;
    Format format;     // of weights
    Format kv_format;
    Matrix words;      // the word embedding, also the output head
    float *positions, *final_norm_w, *final_norm_b;
    std::vector<Layer> layers;
    double seconds[5] = {};

    long hidden() const { return sizes.hidden; }
    long attended() const { return (long)sizes.heads * sizes.head_dim; }  // local

    Memory arena;
    Memory buffers;  // of a step, grown as needed
    Memory scratch;  // keys and values of segments without a slot, grown as needed
    Pool pool;
};

struct Cache {
    Cache(const Model& model, int slots);
    long slot_bytes;  // of one layer
    long layer_bytes;
    Memory memory;
};

// Pack one tensor of the checkpoint; false where sizes disagree.
bool pack(Model& model, int tensor, int layer, const void* data, int dtype, long rows, long columns, long stride);

// One row of the word embedding as floats.
void embedding_row(const Matrix& words, long row, float* out);

int run_step(Model& model, Cache* cache, const cpm_segment* segments, int count, const int32_t* ids,
             cpm_all_reduce all_reduce, float* hidden);
void run_head(Model& model, const float* hidden, long rows, float* logits);

}  // namespace cpm
