// What the threads of one step share: its segments, its activations, and the counters of its phases.
#pragma once

#include <algorithm>
#include <vector>

#include "model.h"

namespace cpm {

class Arena;

// A segment's rows, and where its keys and values are.
struct PlacedSegment {
    const cpm_segment* segment;
    long row;          // its first
    char* kv;          // of layer 0; one head after the other
    long layer_bytes;  // from one layer to the next; 0 for a segment without a slot, which keeps one layer at a time
    long positions;    // capacity
};

struct StepState {
    Model& m;
    std::vector<PlacedSegment> segments = {};
    const int32_t* ids = nullptr;
    cpm_all_reduce all_reduce = nullptr;
    float* hidden = nullptr;  // the result, as of cpm_step
    long rows = 0;
    PhaseCounters counters = {};
    bool aborted = false;  // written by thread 0, read after a barrier

    // Activations, [rows, *_stride()]; rows are padded to a multiple of ROW_BLOCK.
    float *x = nullptr, *qkv = nullptr;
    float* attended = nullptr;                // i8: the output of attention before it is converted
    float* partial = nullptr;                 // [rows, hidden], with several ranks: this rank's part of a sum
    float* inner_f32 = nullptr;               // i8 with one scale for each row: the MLP's hidden layer before it is converted
    Rows product_input = {}, inner_input = {};  // inputs of products, in the format of the weights
    // Scratch of each thread
    float* norm_scratch = nullptr;       // hidden floats
    float* product_scratch = nullptr;    // SCRATCH_ROWS * TILE floats
    char* attention_scratch = nullptr;   // attention_bytes
    long attention_bytes = 0;

    long x_stride() const { return round_up(m.hidden(), TILE); }
    long qkv_stride() const { return round_up(3 * m.attended(), TILE); }
    long attended_stride() const { return round_up(std::max(m.hidden(), m.attended()), TILE); }
    long inner_stride() const { return round_up(m.sizes.inner, TILE); }

    // Add the segments, and find their keys and values in `cache` or, without a slot, in the model's scratch memory.
    void place_segments(Cache* cache, const cpm_segment* first, int count);

    // Place the activations of `rows` rows in the model's buffers.
    void place_buffers();

private:
    void lay_out(Arena& arena);
};

}  // namespace cpm
