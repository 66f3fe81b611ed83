#include "step_state.h"

#include "arena.h"

namespace cpm {

void StepState::place_segments(Cache* cache, const cpm_segment* first, int count) {
    for (const cpm_segment* segment = first; segment < first + count; segment++) {
        PlacedSegment placed{segment, rows, nullptr, 0, m.sizes.positions};
        if (segment->slot < 0) {
            placed.positions = segment->count;
        } else {
            placed.kv = cache->memory.data() + segment->slot * cache->slot_bytes;
            placed.layer_bytes = cache->layer_bytes;
        }
        segments.push_back(placed);
        rows += segment->count;
    }
    place(m.scratch, [this](Arena& arena) {
        for (PlacedSegment& placed : segments) {
            if (placed.segment->slot >= 0) continue;
            placed.kv = arena.take<char>(m.sizes.heads * head_bytes(m.kv_format, placed.positions, m.sizes.head_dim));
        }
    });
}

void StepState::place_buffers() {
    place(m.buffers, [this](Arena& arena) { lay_out(arena); });
}

void StepState::lay_out(Arena& arena) {
    const long threads = m.pool.size(), padded = round_up(rows, ROW_BLOCK);
    // the threads' scratch first, so that it lies in the same pages whatever the number of rows
    product_scratch = arena.take<float>(threads * SCRATCH_ROWS * TILE);
    attention_bytes = round_up(attention_scratch_bytes(m.sizes.positions, m.sizes.head_dim), 64);
    attention_scratch = arena.take<char>(threads * attention_bytes);
    norm_scratch = arena.take<float>(threads * attended_stride());
    x = arena.take<float>(padded * x_stride());
    qkv = arena.take<float>(padded * qkv_stride());
    attended = arena.take<float>(padded * attended_stride());
    partial = m.sizes.ranks > 1 ? arena.take<float>(padded * m.hidden()) : nullptr;
    product_input = arena.rows(m.format, padded, std::max(m.hidden(), m.attended()));
    inner_input = arena.rows(m.format, padded, m.sizes.inner);
    inner_f32 = m.format == Format::i8 && !m.ops.grouped_scales ? arena.take<float>(padded * inner_stride()) : nullptr;
}

}  // namespace cpm
