// One step of the network: all threads run the same function, phase after phase, with a barrier after each.

#include <time.h>

#include <algorithm>

#include "pack.h"
#include "step_state.h"

namespace cpm {
namespace {

constexpr long CACHED_TILE_BYTES = 1 << 20;  // of weights that fit in a core's L2 cache, beside the rows

enum ProfilePart { WEIGHTS, ATTENTION, HEAD, COMMUNICATION, OTHER };  // in the order of cpm_profile

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// One thread's run through a step.
class StepThread {
public:
    StepThread(StepState& state, int number) : s(state), number(number) {}

    // The transformer, from ids to the rows that `hidden` receives.
    void run_layers() {
        start();
        embed();
        const Epilogue gelu = m().sizes.gelu == CPM_GELU_ERF ? Epilogue::gelu_erf : Epilogue::gelu;
        for (size_t n = 0; n < m().layers.size() && !s.aborted; n++) {
            const Layer& l = m().layers[n];
            norm(l.norm1_w, l.norm1_b);
            product(l.qkv, s.product_input, l.qkv_b, Epilogue::store, s.qkv, s.qkv_stride(), s.qkv_stride(), WEIGHTS);
            attention(n);
            add_product(l.dense, s.product_input, l.dense_b);
            if (s.aborted) break;
            norm(l.norm2_w, l.norm2_b);
            product(l.up, s.product_input, l.up_b, gelu, s.inner_f32, s.inner_stride(), s.inner_stride(), WEIGHTS,
                    s.inner_input);
            if (s.inner_f32) convert(s.inner_f32, m().sizes.inner, s.inner_stride(), s.inner_input, OTHER);
            add_product(l.down, s.inner_input, l.down_b);
        }
        if (!s.aborted) final_norm();
        m().ops.end();
    }

    // The output head, from hidden rows to `logits`.
    void run_head(const float* hidden, float* logits) {
        start();
        convert(hidden, m().hidden(), m().hidden(), s.product_input, HEAD);
        const long vocabulary = m().sizes.vocabulary;
        product(m().head(), s.product_input, nullptr, Epilogue::store, logits, vocabulary, vocabulary, HEAD);
        m().ops.end();
    }

private:
    StepState& s;
    const int number;
    long phase = 0;
    double phase_start = 0;  // thread 0 only

    Model& m() const { return s.m; }

    void start() {
        m().ops.begin();
        if (number == 0) phase_start = now();
    }

    // One phase: all threads take pieces 0 .. pieces - 1, `grain` at a time, then wait for each other.
    template <class Work>
    void phase_for(ProfilePart part, long pieces, long grain, Work work) {
        parallel_for(s.counters.enter(phase++, number), pieces, grain, work);
        barrier(part);
    }

    // Wait for the other threads; add the time since the last barrier to `part`.
    void barrier(ProfilePart part) {
        m().pool.barrier(number);
        if (number == 0) {
            const double t = now();
            m().seconds[part] += t - phase_start;
            phase_start = t;
        }
    }

    // Rows that a thread takes at once where one row is little work.
    long row_grain() const { return std::max(1L, s.rows / (4L * m().pool.size())); }

    void all_reduce(float* values, long count) {
        if (m().sizes.ranks == 1) return;
        if (number == 0 && m().pool.run_blocking([&] { return s.all_reduce(values, count); }) != 0) s.aborted = true;
        barrier(COMMUNICATION);
    }

    // A product into `out` [rows, stride], `columns` of each row; into `next` if `out` is null.
    void product(const Matrix& matrix, const Rows& in, const float* bias, Epilogue epilogue, float* out, long stride, long columns,
                 ProfilePart part, const Rows& next = {}) {
        // Adjacent tiles are one stream of memory and share one pass over the rows; few enough at a time that the threads finish
        // together.
        const long balanced = matrix.tiles() / (4L * m().pool.size());
        const long grain = std::max(1L, std::min({8L, balanced, CACHED_TILE_BYTES / matrix.tile_bytes()}));
        phase_for(part, (matrix.tiles() + grain - 1) / grain, 1, [&](long i) {
            Product p;
            p.matrix = &matrix;
            p.tile = i * grain;
            p.tiles = std::min(grain, matrix.tiles() - p.tile);
            p.rows = s.rows;
            p.x = in;
            p.bias = bias;
            p.epilogue = epilogue;
            p.out = out;
            p.out_stride = stride;
            p.next = next;
            p.columns = columns;
            p.scratch = s.product_scratch + number * SCRATCH_ROWS * TILE;
            m().ops.product(p);
        });
    }

    void norm(const float* w, const float* b) {
        float* row = s.norm_scratch + number * s.attended_stride();
        phase_for(OTHER, s.rows, row_grain(), [&](long r) {
            m().ops.norm(s.x + r * s.x_stride(), m().hidden(), w, b, m().sizes.epsilon, row);
            m().ops.convert(row, m().hidden(), m().format, s.product_input, r);
        });
    }

    void convert(const float* from, long n, long stride, const Rows& to, ProfilePart part) {
        phase_for(part, s.rows, row_grain(), [&](long r) { m().ops.convert(from + r * stride, n, m().format, to, r); });
    }

    // x += a row-parallel product, summed over the ranks, and its bias, added once.
    void add_product(const Matrix& matrix, const Rows& in, const float* bias) {
        if (m().sizes.ranks == 1) {
            product(matrix, in, bias, Epilogue::add, s.x, s.x_stride(), s.x_stride(), WEIGHTS);
            return;
        }
        const long h = m().hidden();
        product(matrix, in, nullptr, Epilogue::store, s.partial, h, h, WEIGHTS);
        all_reduce(s.partial, s.rows * h);
        phase_for(OTHER, s.rows, row_grain(), [&](long r) {
            float* x = s.x + r * s.x_stride();
            for (long i = 0; i < h; i++) x[i] += s.partial[r * h + i] + bias[i];
        });
    }

    // Piece i is head i % heads of segment i / heads.
    void attention(long layer) {
        const long heads = m().sizes.heads, d = m().sizes.head_dim, a = m().attended();
        const long pieces = (long)s.segments.size() * heads;
        const auto keys_of = [&](long i) {
            const PlacedSegment& placed = s.segments[i / heads];
            return placed.kv + layer * placed.layer_bytes + i % heads * head_bytes(m().kv_format, placed.positions, d);
        };
        parallel_for_prefetch(s.counters.enter(phase++, number), pieces, m().pool.size(), [&](long i, long next) {
            const PlacedSegment& placed = s.segments[i / heads];
            const long head = i % heads;
            Attention t;
            t.format = m().kv_format;
            t.rows = placed.segment->count;
            t.start = placed.segment->start;
            t.head_dim = d;
            t.stride = s.qkv_stride();
            t.q = s.qkv + placed.row * t.stride + head * d;
            t.k = t.q + a;
            t.v = t.k + a;
            t.keys = keys_of(i);
            t.values = t.keys + key_bytes(m().kv_format, placed.positions, d);
            if (next < pieces) {
                t.prefetch = keys_of(next);
                t.prefetch_bytes = key_bytes(m().kv_format, s.segments[next / heads].segment->start, d);
            }
            // f32 and bf16 are written as the product's inputs; i8 is converted when all heads are complete
            t.out = m().format == Format::i8 ? s.attended + placed.row * s.attended_stride() + head * d : nullptr;
            t.out_stride = s.attended_stride();
            t.next = s.product_input;
            t.next_format = m().format;
            t.row = placed.row;
            t.column = head * d;
            t.scratch = s.attention_scratch + number * s.attention_bytes;
            if (m().sizes.scale_by_layer) t.divisor = (float)(layer + 1);
            m().ops.attend(t);
        });
        barrier(ATTENTION);
        if (m().format == Format::i8) convert(s.attended, a, s.attended_stride(), s.product_input, OTHER);
    }

    // x = word embedding, summed over the ranks, + position embedding
    void embed() {
        const long h = m().hidden(), stride = m().sizes.ranks == 1 ? s.x_stride() : h;
        float* words = m().sizes.ranks == 1 ? s.x : s.partial;
        phase_for(OTHER, s.rows, 1, [&](long r) {
            const long row = s.ids[r] - m().sizes.first_row;
            if (row >= 0 && row < m().sizes.vocabulary) embedding_row(m().words, row, words + r * stride);
            else std::fill_n(words + r * stride, h, 0.0f);
        });
        all_reduce(words, s.rows * h);
        phase_for(OTHER, (long)s.segments.size(), 1, [&](long i) {
            const PlacedSegment& placed = s.segments[i];
            for (long t = 0; t < placed.segment->count; t++) {
                const long r = placed.row + t;
                float* x = s.x + r * s.x_stride();
                const float* word = words + r * stride;
                const float* position = m().positions + (placed.segment->start + t) * h;
                for (long c = 0; c < h; c++) x[c] = word[c] + position[c];
                std::fill(x + h, x + s.x_stride(), 0.0f);
            }
        });
    }

    // The last norm, of the wanted rows only, into `hidden`.
    void final_norm() {
        phase_for(OTHER, (long)s.segments.size(), 1, [&](long i) {
            const cpm_segment& segment = *s.segments[i].segment;
            long to = 0;
            for (long before = 0; before < i; before++) to += s.segments[before].segment->wanted;
            for (long t = segment.count - segment.wanted; t < segment.count; t++, to++) {
                m().ops.norm(s.x + (s.segments[i].row + t) * s.x_stride(), m().hidden(), m().final_norm_w, m().final_norm_b,
                             m().sizes.epsilon, s.hidden + to * m().hidden());
            }
        });
    }
};

// Run `work(thread)` on all threads of the pool.
template <class Work>
void run_on_pool(StepState& s, Work work) {
    struct Call {
        StepState& s;
        Work& work;
    } call{s, work};
    const auto body = [](void* context, int number) {
        Call& c = *static_cast<Call*>(context);
        StepThread thread(c.s, number);
        c.work(thread);
    };
    s.m.pool.run(body, &call);
}

}  // namespace

int run_step(Model& m, Cache* cache, const cpm_segment* segments, int count, const int32_t* ids, cpm_all_reduce all_reduce,
             float* hidden) {
    StepState s{m};
    s.ids = ids;
    s.all_reduce = all_reduce;
    s.hidden = hidden;
    s.place_segments(cache, segments, count);
    s.place_buffers();
    run_on_pool(s, [](StepThread& thread) { thread.run_layers(); });
    return s.aborted ? CPM_ABORTED : CPM_OK;
}

void run_head(Model& m, const float* hidden, long rows, float* logits) {
    StepState s{m};
    s.rows = rows;
    s.place_buffers();
    run_on_pool(s, [hidden, logits](StepThread& thread) { thread.run_head(hidden, logits); });
}

}  // namespace cpm
