// One step of the network: the same function on all threads, phase after phase, with barriers between.

#include <time.h>

#include <algorithm>
#include <cstring>

#include "model.h"

namespace cpm {
namespace {

constexpr long TILES_BYTES = 1 << 20;  // of weights in a core's second cache, beside rows

enum Spent { WEIGHTS, ATTENTION, HEAD, COMMUNICATION, REST };

// Where a segment's rows begin, and its keys and values.
struct Place {
    const cpm_segment* segment;
    long row;
    char* store;       // of layer 0; head after head
    long layer_bytes;  // 0: of segments without a slot, which keep one layer at a time
    long positions;    // that it has room for
};

struct Step {
    Model& m;
    std::vector<Place> places = {};
    const int32_t* ids = nullptr;
    cpm_all_reduce all_reduce = nullptr;
    float* hidden = nullptr;
    long rows = 0;
    // activations: [rows, ...], rows padded for AMX
    float *x = nullptr, *qkv = nullptr, *wide = nullptr, *part = nullptr;
    Rows narrow = {}, inner = {};  // inputs of products, in the format of weights
    float* inner_wide = nullptr;   // i8 in whole rows: the MLP's hidden layer before it is converted
    float* row_scratch = nullptr;  // hidden floats for each thread
    float* product_scratch = nullptr;
    char* attention_scratch_ = nullptr;
    long attention_bytes = 0;
    std::vector<long> queue = {};  // of phases: the next piece of work
    bool aborted = false;

    long x_stride() const { return round_up(m.hidden(), TILE); }
    long qkv_stride() const { return round_up(3 * m.attended(), TILE); }
    long wide_stride() const { return round_up(std::max(m.hidden(), m.attended()), TILE); }
    long inner_stride() const { return round_up(m.sizes.inner, TILE); }
};

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// A thread's way through a step.
struct Thread {
    Step& s;
    int number;
    size_t phase = 0;
    double since = 0;

    Model& m() const { return s.m; }

    // Rows that a thread takes at once, where each is little work.
    long some_rows() const { return std::max(1L, s.rows / (4L * s.m.pool.size())); }

    // All threads share pieces 0 .. pieces - 1, `some` at a time, whoever is free first; then wait for each other.
    template <class Work>
    void share(Spent spent, long pieces, long some, Work work) {
        long& queue = s.queue[phase++];
        for (;;) {
            const long from = __atomic_fetch_add(&queue, some, __ATOMIC_RELAXED);
            if (from >= pieces) break;
            for (long i = from; i < std::min(from + some, pieces); i++) work(i);
        }
        meet(spent);
    }

    void meet(Spent spent) {
        m().pool.barrier(number);
        if (number == 0) {
            const double t = now();
            m().seconds[spent] += t - since;
            since = t;
        }
    }

    void reduce(float* values, long count) {
        if (m().sizes.ranks == 1) return;
        if (number == 0 && m().pool.outside([&] { return s.all_reduce(values, count); }) != 0) s.aborted = true;
        meet(COMMUNICATION);
    }

    // into `out` [rows, stride], `columns` of each; where that is null into `next`
    void product(const Matrix& matrix, const Rows& in, const float* bias, After after, float* out, long stride, long columns,
                 Spent spent, const Rows& next = {}) {
        // tiles side by side are one stream of memory, and share a trip of the rows; few enough that threads end together
        const long fair = matrix.tiles() / (4L * m().pool.size());
        const long some = std::max(1L, std::min({8L, fair, TILES_BYTES / matrix.tile_bytes()}));
        share(spent, (matrix.tiles() + some - 1) / some, 1, [&](long i) {
            Product p;
            p.matrix = &matrix;
            p.tile = i * some;
            p.tiles = std::min(some, matrix.tiles() - p.tile);
            p.rows = s.rows;
            p.x = in;
            p.bias = bias;
            p.after = after;
            p.out = out;
            p.out_stride = stride;
            p.next = next;
            p.columns = columns;
            p.scratch = s.product_scratch + number * SCRATCH_ROWS * TILE;
            m().ops.product(p);
        });
    }

    void norm(const float* w, const float* b) {
        float* row = s.row_scratch + number * s.wide_stride();
        share(REST, s.rows, some_rows(), [&](long r) {
            m().ops.norm(s.x + r * s.x_stride(), m().hidden(), w, b, row);
            m().ops.convert(row, m().hidden(), m().format, s.narrow, r);
        });
    }

    void convert(const float* from, long n, long stride, const Rows& to) {
        share(REST, s.rows, some_rows(), [&](long r) { m().ops.convert(from + r * stride, n, m().format, to, r); });
    }

    // x += what the ranks' parts of a row-parallel product sum to, and its bias, once
    void add_product(const Matrix& matrix, const Rows& in, const float* bias) {
        if (m().sizes.ranks == 1) {
            product(matrix, in, bias, After::add, s.x, s.x_stride(), s.x_stride(), WEIGHTS);
            return;
        }
        const long h = m().hidden();
        product(matrix, in, nullptr, After::store, s.part, h, h, WEIGHTS);
        reduce(s.part, s.rows * h);
        share(REST, s.rows, some_rows(), [&](long r) {
            float* x = s.x + r * s.x_stride();
            for (long i = 0; i < h; i++) x[i] += s.part[r * h + i] + bias[i];
        });
    }

    void attention(long layer) {
        const long heads = m().sizes.heads, d = m().sizes.head_dim, a = m().attended();
        const long pieces = (long)s.places.size() * heads;
        const auto keys_of = [&](long i) {
            const Place& place = s.places[i / heads];
            return place.store + layer * place.layer_bytes + i % heads * head_bytes(m().kv_format, place.positions, d);
        };
        share_ahead(s.queue[phase++], pieces, m().pool.size(), [&](long i, long after) {
            const Place& place = s.places[i / heads];
            const long head = i % heads;
            Attention t;
            t.format = m().kv_format;
            t.rows = place.segment->count;
            t.start = place.segment->start;
            t.head_dim = d;
            t.stride = s.qkv_stride();
            t.q = s.qkv + place.row * t.stride + head * d;
            t.k = t.q + a;
            t.v = t.k + a;
            t.keys = keys_of(i);
            t.values = t.keys + key_bytes(m().kv_format, place.positions, d);
            if (after < pieces) {
                t.then = keys_of(after);
                t.then_bytes = key_bytes(m().kv_format, s.places[after / heads].segment->start, d);
            }
            // f32 and bf16 go where the product reads; i8 is converted when all heads are there
            t.out = m().format == Format::i8 ? s.wide + place.row * s.wide_stride() + head * d : nullptr;
            t.out_stride = s.wide_stride();
            t.next = s.narrow;
            t.next_format = m().format;
            t.row = place.row;
            t.column = head * d;
            t.scratch = s.attention_scratch_ + number * s.attention_bytes;
            m().ops.attend(t);
        });
        meet(ATTENTION);
        if (m().format == Format::i8) convert(s.wide, a, s.wide_stride(), s.narrow);
    }

    void embed() {
        const long h = m().hidden(), stride = m().sizes.ranks == 1 ? s.x_stride() : h;
        float* words = m().sizes.ranks == 1 ? s.x : s.part;
        share(REST, s.rows, 1, [&](long r) {
            const long row = s.ids[r] - m().sizes.first_row;
            if (row >= 0 && row < m().sizes.vocabulary) embedding_row(m().words, row, words + r * stride);
            else std::fill_n(words + r * stride, h, 0.0f);
        });
        reduce(words, s.rows * h);
        share(REST, (long)s.places.size(), 1, [&](long p) {
            const cpm_segment& segment = *s.places[p].segment;
            for (long t = 0; t < segment.count; t++) {
                const long r = s.places[p].row + t;
                float* x = s.x + r * s.x_stride();
                const float* word = words + r * stride;
                const float* position = m().positions + (segment.start + t) * h;
                for (long i = 0; i < h; i++) x[i] = word[i] + position[i];
                std::fill(x + h, x + s.x_stride(), 0.0f);
            }
        });
    }

    void run() {
        m().ops.begin();
        since = number == 0 ? now() : 0;
        embed();
        for (size_t n = 0; n < m().layers.size() && !s.aborted; n++) {
            const Layer& l = m().layers[n];
            norm(l.norm1_w, l.norm1_b);
            product(l.qkv, s.narrow, l.qkv_b, After::store, s.qkv, s.qkv_stride(), s.qkv_stride(), WEIGHTS);
            attention(n);
            add_product(l.dense, s.narrow, l.dense_b);
            if (s.aborted) break;
            norm(l.norm2_w, l.norm2_b);
            product(l.up, s.narrow, l.up_b, After::gelu, s.inner_wide, s.inner_stride(), s.inner_stride(), WEIGHTS, s.inner);
            if (s.inner_wide) convert(s.inner_wide, m().sizes.inner, s.inner_stride(), s.inner);
            add_product(l.down, s.inner, l.down_b);
        }
        if (!s.aborted) last_norm();
        m().ops.end();
    }

    void last_norm() {
        share(REST, (long)s.places.size(), 1, [&](long p) {
            const cpm_segment& segment = *s.places[p].segment;
            long at = 0;
            for (long before = 0; before < p; before++) at += s.places[before].segment->wanted;
            for (long t = segment.count - segment.wanted; t < segment.count; t++, at++) {
                m().ops.norm(s.x + (s.places[p].row + t) * s.x_stride(), m().hidden(), m().final_norm_w, m().final_norm_b,
                             s.hidden + at * m().hidden());
            }
        });
    }
};

// Pieces of the buffers, first counted, then cut.
struct Cutter {
    char* base;
    long used = 0;
    char* take(long bytes) {
        char* piece = base ? base + used : nullptr;
        used += round_up(bytes, 64);
        return piece;
    }
    float* floats(long n) { return reinterpret_cast<float*>(take(n * 4)); }
    Rows rows(Format f, long rows, long n) {
        const long line_stride = (rows * planes(f) + 1) * LINE;  // one more: a power of two would crowd a few sets of the cache
        return {take(round_up(n, 64) * element(f) / LINE * line_stride), line_stride, floats(rows)};
    }
};

// Threads' scratch is first, so that it is the same whatever the rows.
void grow(Memory& memory, long bytes) {
    if ((long)memory.size() >= bytes) return;
    memory = Memory();  // before its successor, not beside it
    memory = Memory(bytes);
}

long lay_out(Step& s, char* base, long room) {
    const Model& m = s.m;
    const long threads = m.pool.size(), rows = round_up(s.rows, ROW_BLOCK);
    Cutter cut{base};
    s.product_scratch = cut.floats(threads * SCRATCH_ROWS * TILE);
    s.attention_bytes = round_up(attention_scratch(room, m.sizes.head_dim), 64);
    s.attention_scratch_ = cut.take(threads * s.attention_bytes);
    s.row_scratch = cut.floats(threads * s.wide_stride());
    s.x = cut.floats(rows * s.x_stride());
    s.qkv = cut.floats(rows * s.qkv_stride());
    s.wide = cut.floats(rows * s.wide_stride());
    s.part = m.sizes.ranks > 1 ? cut.floats(rows * m.hidden()) : nullptr;
    s.narrow = cut.rows(m.format, rows, std::max(m.hidden(), m.attended()));
    s.inner = cut.rows(m.format, rows, m.sizes.inner);
    s.inner_wide = m.format == Format::i8 && !m.ops.groups ? cut.floats(rows * s.inner_stride()) : nullptr;
    return cut.used;
}

}  // namespace

int run_step(Model& m, Cache* cache, const cpm_segment* segments, int count, const int32_t* ids, cpm_all_reduce all_reduce,
             float* hidden) {
    Step s{m};
    s.ids = ids;
    s.all_reduce = all_reduce;
    s.hidden = hidden;
    const long d = m.sizes.head_dim;
    long scratch = 0, room = m.sizes.positions;
    for (int i = 0; i < count; i++) {
        Place place{&segments[i], s.rows, nullptr, 0, m.sizes.positions};
        if (segments[i].slot < 0) {
            place.positions = segments[i].count;
            place.store = reinterpret_cast<char*>(scratch);
            scratch += m.sizes.heads * head_bytes(m.kv_format, place.positions, d);
        } else {
            place.store = cache->memory.data() + segments[i].slot * cache->slot_bytes;
            place.layer_bytes = cache->layer_bytes;
        }
        s.places.push_back(place);
        s.rows += segments[i].count;
    }
    grow(m.scratch, scratch);
    for (Place& place : s.places)
        if (place.segment->slot < 0) place.store = m.scratch.data() + reinterpret_cast<long>(place.store);
    grow(m.buffers, lay_out(s, nullptr, room));
    lay_out(s, m.buffers.data(), room);
    s.queue.assign(m.layers.size() * 12 + 8, 0);
    m.pool.run([](void* context, int number) { Thread{*static_cast<Step*>(context), number}.run(); }, &s);
    return s.aborted ? CPM_ABORTED : CPM_OK;
}

void run_head(Model& m, const float* hidden, long rows, float* logits) {
    Step s{m};
    s.rows = rows;
    grow(m.buffers, lay_out(s, nullptr, m.sizes.positions));
    lay_out(s, m.buffers.data(), m.sizes.positions);
    s.queue.assign(2, 0);
    struct Call {
        Step& s;
        const float* hidden;
        float* logits;
    } call{s, hidden, logits};
    m.pool.run(
        [](void* context, int number) {
            Call& c = *static_cast<Call*>(context);
            const Model& m = c.s.m;
            Thread t{c.s, number};
            m.ops.begin();
            t.since = number == 0 ? now() : 0;
            t.share(HEAD, c.s.rows, 1, [&](long r) { m.ops.convert(c.hidden + r * m.hidden(), m.hidden(), m.format, c.s.narrow, r); });
            t.product(m.words, c.s.narrow, nullptr, After::store, c.logits, m.sizes.vocabulary, m.sizes.vocabulary, HEAD);
            m.ops.end();
        },
        &call);
}

}  // namespace cpm
