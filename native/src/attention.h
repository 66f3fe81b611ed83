// Causal attention of one head. Included inside the instruction set's own namespace, after gemm.h.
//
// Scores are q times the packed keys, the mixed values p times the packed values: the products of gemm.h, each query's sums
// in the order of positions, so that a query's result does not depend on the queries beside it.
//
// i8: a position's key is bytes times a scale, and so is its value. A query has a scale for each 64 of its numbers; probabilities,
// multiplied with their values' scales, have one for each 64 positions. AMX would want one for all, so registers multiply there too.

// n floats times `scale`, in the format
template <Format F>
inline void scaled(const float* x, long n, float scale, char* out) {
    if (F == Format::f32)
        for (long i = 0; i < n; i++) ((float*)out)[i] = x[i] * scale;
    else
        to_bf16s(x, n, scale, (uint16_t*)out);
}

// Scales of the 64 positions of which `at` is one: of their keys, then of their values.
inline float* scales_at(const Attention& a, long at) {
    const long tile = key_tile_bytes(Format::i8, a.head_dim);
    return (float*)(a.keys + (at / TILE + 1) * tile) - 2 * TILE;
}

// Key of position `at` into its column of a tile of 64 positions; `row` is scratch.
template <Format F>
inline void store_key(const Attention& a, const float* k, long at, char* row) {
    const long depth = key_depth(F, a.head_dim);
    char* column = a.keys + at / TILE * key_tile_bytes(F, a.head_dim) + at % TILE * 4;
    if constexpr (F == Format::i8) {
        const Scale scale = scale_for(k, a.head_dim, 127);
        to_bytes(k, a.head_dim, scale.up, row);
        scales_at(a, at)[at % TILE] = scale.down;
    } else {
        scaled<F>(k, a.head_dim, 1.0f, row);
    }
    memset(row + a.head_dim * element(F), 0, (depth - a.head_dim) * element(F));
    for (long g = 0; g < depth / group(F); g++) memcpy(column + g * TILE_BYTES, row + g * 4, 4);
}

// A product of values looks at positions up to a multiple of this.
template <Format F>
constexpr long LOOKED_AT = F == Format::i8 ? 64 : 32;

// Value of position `at`. The positions after it are zero as far as products look: what an earlier sequence left there, NaN perhaps,
// must not be multiplied by a probability of 0.
template <Format F>
inline void store_value(const Attention& a, const float* v, long at, char* row) {
    const long width = value_width(a.head_dim);
    if (at % LOOKED_AT<F> == 0) memset(a.values + at * width * element(F), 0, LOOKED_AT<F> * width * element(F));
    char* to = a.values + at / group(F) * width * 4;
    if constexpr (F == Format::f32) {
        memcpy(to, v, a.head_dim * 4);
    } else if constexpr (F == Format::bf16) {
        scaled<F>(v, a.head_dim, 1.0f, row);
        for (long d = 0; d < a.head_dim; d++) memcpy(to + d * 4 + at % 2 * 2, row + d * 2, 2);
    } else {
        float* scales = scales_at(a, at) + TILE;
        if (at % TILE == 0) memset(scales, 0, TILE * 4);
        const Scale scale = scale_for(v, a.head_dim, 127);
        to_bytes(v, a.head_dim, scale.up, row);
        for (long d = 0; d < a.head_dim; d++) to[d * 4 + at % 4] = row[d];
        scales[at % TILE] = scale.down;
    }
}

// scores [padded] -> probabilities times their sum, in lines; returns the sum. Positions from `valid` on get 0. i8: scores come as
// products of bytes, to be multiplied with their keys' scales and `scale`.
template <Format F>
inline float softmax(const Attention& a, float* scores, float scale, long valid, long padded, char* lines) {
    constexpr long PER_LINE = LINE / element(F);
    if constexpr (F == Format::i8) {
        for (long at = 0; at < padded; at += TILE) {
            const float* scales = scales_at(a, at);
            for (long i = 0; i < TILE; i += W) store(scores + at + i, load<vf>(scores + at + i) * (load<vf>(scales + i) * scale));
        }
    }
    for (long i = valid; i < padded; i++) scores[i] = -__builtin_inff();
    vf top = load<vf>(scores);
    for (long i = W; i < padded; i += W) top = larger(load<vf>(scores + i), top);
    const float most = highest(top);
    vf total = {};
    float some[PER_LINE];  // of probabilities
    for (long i = 0; i < padded; i += W) {
        const vf e = exp_of(load<vf>(scores + i) - most);
        total += e;
        char* line = lines + i / PER_LINE * QUERIES * ROW<F>;
        char* to = line + i % PER_LINE * element(F);
        if constexpr (F == Format::f32) {
            store((float*)to, e);
        } else if constexpr (F == Format::bf16) {
            store((uint16_t*)to, to_bf16(e));
        } else {
            store(some + i % TILE, e * load<vf>(scales_at(a, i) + TILE + i % TILE));
            if ((i + W) % TILE == 0) to_group(some, TILE, line);
        }
    }
    return sum(total);
}

template <Format F>
inline void times(const Walk& w, long rows, long columns) {
    if constexpr (F == Format::i8) vector_rows<F>(w, rows, columns);
    else multiply(F, w, rows, columns);
}

template <Format F>
inline void attend_in(const Attention& a) {
    constexpr long G = group(F), E = element(F);
    const long depth = key_depth(F, a.head_dim), width = value_width(a.head_dim);
    const long padded = round_up(a.start + a.rows, TILE);
    // the first keys; from then on the stream is the prefetcher's
    for (long line = 0; line < depth * TILE * E; line += 64) __builtin_prefetch(a.keys + line, 0, 3);
    char* row = (char*)round_up((long)(intptr_t)a.scratch, 64);
    char* q = row + depth * 4;
    float* mixed = (float*)(q + QUERIES * depth * 4);
    float* scores = mixed + QUERIES * width;
    char* chances = (char*)(scores + QUERIES * padded);
    for (long t = 0; t < a.rows; t++) {
        // rows are kilobytes apart
        for (long d = 0; d < a.head_dim; d += LINE / 4) {
            __builtin_prefetch(a.k + (t + 8) * a.stride + d, 0, 3);
            __builtin_prefetch(a.v + (t + 8) * a.stride + d, 0, 3);
        }
        store_key<F>(a, a.k + t * a.stride, a.start + t, row);
        store_value<F>(a, a.v + t * a.stride, a.start + t, row);
    }
    const float scale = 1.0f / __builtin_sqrtf((float)a.head_dim);
    for (long from = 0; from < a.rows; from += QUERIES) {
        const long rows = a.rows - from < QUERIES ? a.rows - from : QUERIES;
        const long seen = a.start + from + rows;  // by the last of them
        for (long r = 0; r < rows; r++) {
            for (long d = 0; d < a.head_dim; d += LINE / 4)
                __builtin_prefetch(a.q + (from + r + QUERIES) * a.stride + d, 0, 3);
            const float* x = a.q + (from + r) * a.stride;
            if constexpr (F == Format::i8) {
                for (long at = 0; at < a.head_dim; at += LINE)
                    to_group(x + at, a.head_dim - at, q + (at / LINE * QUERIES + r) * ROW<F>);
            } else {
                scaled<F>(x, a.head_dim, scale, row);
                memset(row + a.head_dim * E, 0, (depth - a.head_dim) * E);
                for (long line = 0; line < depth * E / LINE; line++)
                    memcpy(q + (line * QUERIES + r) * LINE, row + line * LINE, LINE);
            }
        }
        Walk w;
        w.more = false;
        w.x = q;
        w.x_stride = QUERIES * ROW<F>;
        w.lines = depth * E / LINE;
        w.w_stride = TILE_BYTES;
        w.out_stride = padded;
        for (long tile = 0; tile * TILE < seen; tile++) {
            w.w = a.keys + tile * key_tile_bytes(F, a.head_dim);
            w.out = scores + tile * TILE;
            w.next = a.values + tile * TILE * width * E;  // wanted next
            w.until = from == 0 ? w.next + TILE * width * E : w.next;
            times<F>(w, rows, TILE);
        }
        float sums[QUERIES];
        const long upto = round_up(seen, TILE);
        for (long r = 0; r < rows; r++)
            sums[r] = softmax<F>(a, scores + r * padded, scale, a.start + from + r + 1, upto, chances + r * ROW<F>);
        w.x = chances;
        w.lines = round_up(seen, LOOKED_AT<F>) / G / 16;
        w.w_stride = width * 4;
        w.out_stride = width;
        w.next = a.then ? a.then : a.values;
        w.until = a.then && from + rows == a.rows ? w.next + a.then_bytes : w.next;
        for (long c = 0; c < width; c += TILE) {
            w.w = a.values + c * 4;
            w.out = mixed + c;
            times<F>(w, rows, width - c < TILE ? width - c : TILE);
            w.until = w.next;
        }
        for (long r = 0; r < rows; r++) {
            const float norm = 1.0f / sums[r];
            float* to = a.out ? a.out + (from + r) * a.out_stride : mixed + r * width;
            scaled<Format::f32>(mixed + r * width, a.head_dim, norm, (char*)to);
            if (!a.out) put_columns(to, a.head_dim, a.next_format, a.next, a.row + from + r, a.column);
        }
    }
}

inline void attend(const Attention& a) {
    switch (a.format) {
        case Format::f32: return attend_in<Format::f32>(a);
        case Format::bf16: return attend_in<Format::bf16>(a);
        case Format::i8: return attend_in<Format::i8>(a);
    }
}
