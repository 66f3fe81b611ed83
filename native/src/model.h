// A rank's packed weights, and its KV cache.
#pragma once

#include <vector>

#include "cpm_native.h"
#include "memory.h"
#include "ops.h"
#include "thread_pool.h"

namespace cpm {

class Arena;

struct Layer {
    float *norm1_w, *norm1_b, *norm2_w, *norm2_b;
    float *qkv_b, *dense_b, *up_b, *down_b;
    Matrix qkv, dense, up, down;
};

// Weights are zero until they are packed (pack.h).
struct Model {
    Model(const cpm_sizes& sizes, const Ops& ops);

    cpm_sizes sizes;
    const Ops& ops;
    Format format;     // of weights
    Format kv_format;  // of keys and values
    Matrix words;      // the word embedding, also the output head if that is tied
    Matrix own_head;   // the output head if it is not
    float *positions, *final_norm_w, *final_norm_b;
    std::vector<Layer> layers;
    double seconds[5] = {};  // of cpm_profile

    const Matrix& head() const { return sizes.untied ? own_head : words; }
    long hidden() const { return sizes.hidden; }
    long attended() const { return (long)sizes.heads * sizes.head_dim; }  // width of the local heads together

    Memory weights;
    Memory buffers;  // of a step, grown as needed
    Memory scratch;  // keys and values of segments without a slot, grown as needed
    ThreadPool pool;

private:
    void lay_out(Arena& arena);
};

// Keys and values: [layer][slot][head], a head's as in ops.h.
struct Cache {
    Cache(const Model& model, int slots);
    long slot_bytes;  // of one layer
    long layer_bytes;
    Memory memory;

    void copy(Model& model, int source, int target, int count);  // as cpm_cache_copy
};

// Run one step; as cpm_step.
int run_step(Model& model, Cache* cache, const cpm_segment* segments, int count, const int32_t* ids,
             cpm_all_reduce all_reduce, float* hidden);
// Compute logits; as cpm_head.
void run_head(Model& model, const float* hidden, long rows, float* logits);

}  // namespace cpm
