#include "model.h"

#include <cstring>

#include "arena.h"

namespace cpm {

Model::Model(const cpm_sizes& sizes, const Ops& ops)
    : sizes(sizes),
      ops(ops),
      format(static_cast<Format>(sizes.format)),
      kv_format(static_cast<Format>(sizes.kv_format)),
      layers(sizes.layers),
      pool(sizes.threads, sizes.first_cpu) {
    place(weights, [this](Arena& arena) { lay_out(arena); });
}

void Model::lay_out(Arena& arena) {
    const long h = hidden(), a = attended(), inner = sizes.inner;
    positions = arena.take<float>((long)sizes.positions * h);
    final_norm_w = arena.vector(h);
    final_norm_b = arena.vector(h);
    for (Layer& l : layers) {
        for (float** v : {&l.norm1_w, &l.norm1_b, &l.norm2_w, &l.norm2_b, &l.dense_b, &l.down_b}) *v = arena.vector(h);
        l.qkv_b = arena.vector(3 * a);
        l.up_b = arena.vector(inner);
        l.qkv = arena.matrix(format, 3 * a, h);
        l.dense = arena.matrix(format, h, a);
        l.up = arena.matrix(format, inner, h);
        l.down = arena.matrix(format, h, inner);
    }
    words = arena.matrix(format, sizes.vocabulary, h);
    if (sizes.untied) own_head = arena.matrix(format, sizes.vocabulary, h);
}

Cache::Cache(const Model& model, int slots)
    : slot_bytes(head_bytes(model.kv_format, model.sizes.positions, model.sizes.head_dim) * model.sizes.heads),
      layer_bytes(slot_bytes * slots),
      memory(layer_bytes * model.sizes.layers) {}

void Cache::copy(Model& model, int source, int target, int count) {
    const Format f = model.kv_format;
    const long positions = model.sizes.positions, d = model.sizes.head_dim, head = head_bytes(f, positions, d);
    // of a head the keys come first, then the values, both in the order of their positions
    const long values = key_bytes(f, positions, d), new_keys = key_bytes(f, count, d), new_values = value_bytes(f, count, d);
    share(model.pool, model.sizes.layers, [&](long layer) {
        char* base = memory.data() + layer * layer_bytes;
        for (long h = 0; h < model.sizes.heads; h++) {
            const char* from = base + source * slot_bytes + h * head;
            char* to = base + target * slot_bytes + h * head;
            std::memcpy(to, from, new_keys);
            std::memcpy(to + values, from + values, new_values);
        }
    });
}

}  // namespace cpm
