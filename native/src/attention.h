// Causal attention of one head. Included inside the namespace of the instruction set, after gemm.h and rowwise.h.
//
// Scores are q times the packed keys; the output is p (the probabilities) times the packed values. Both are the products of gemm.h,
// and each query's sums are in the order of positions, so a query's result does not depend on the other queries of the block.
//
// i8: a key is bytes times one scale, and so is a value. A query has a scale for each 64 of its numbers; the probabilities, multiplied
// by the scales of their values, have one for each 64 positions. AMX products need one scale for a whole row, so i8 is multiplied in
// registers there too.

// Write n floats times `scale` in the format, f32 or bf16.
template <Format F>
inline void scale_into(const float* x, long n, float scale, char* out) {
    if (F == Format::f32)
        for (long i = 0; i < n; i++) ((float*)out)[i] = x[i] * scale;
    else
        to_bf16s(x, n, scale, (uint16_t*)out);
}

// The scales of the 64 keys of the tile that holds position `at`, followed by the scales of the 64 values.
inline float* scales_at(const Attention& a, long at) {
    const long tile = key_tile_bytes(Format::i8, a.head_dim);
    return (float*)(a.keys + (at / TILE + 1) * tile) - 2 * TILE;
}

// Store the key of position `at` in its column of a tile of 64 positions. `row` is scratch.
template <Format F>
inline void store_key(const Attention& a, const float* k, long at, char* row) {
    const long depth = key_depth(F, a.head_dim);
    char* column = a.keys + at / TILE * key_tile_bytes(F, a.head_dim) + at % TILE * 4;
    if constexpr (F == Format::i8) {
        const Scale scale = scale_for(k, a.head_dim, 127);
        quantize(k, a.head_dim, scale.quantize, row);
        scales_at(a, at)[at % TILE] = scale.dequantize;
    } else {
        scale_into<F>(k, a.head_dim, 1.0f, row);
    }
    memset(row + a.head_dim * element_bytes(F), 0, (depth - a.head_dim) * element_bytes(F));
    for (long g = 0; g < depth / group(F); g++) memcpy(column + g * TILE_BYTES, row + g * 4, 4);
}

// A product with values reads positions up to a multiple of this.
template <Format F>
constexpr long VALUE_BLOCK = F == Format::i8 ? 64 : 32;

// Store the value of position `at`. The positions after it, up to a multiple of VALUE_BLOCK, are set to zero: a NaN that an earlier
// sequence left there would survive a probability of 0.
template <Format F>
inline void store_value(const Attention& a, const float* v, long at, char* row) {
    const long width = value_width(a.head_dim);
    if (at % VALUE_BLOCK<F> == 0) memset(a.values + at * width * element_bytes(F), 0, VALUE_BLOCK<F> * width * element_bytes(F));
    char* to = a.values + at / group(F) * width * 4;
    if constexpr (F == Format::f32) {
        memcpy(to, v, a.head_dim * 4);
    } else if constexpr (F == Format::bf16) {
        scale_into<F>(v, a.head_dim, 1.0f, row);
        for (long d = 0; d < a.head_dim; d++) memcpy(to + d * 4 + at % 2 * 2, row + d * 2, 2);
    } else {
        float* scales = scales_at(a, at) + TILE;
        if (at % TILE == 0) memset(scales, 0, TILE * 4);
        const Scale scale = scale_for(v, a.head_dim, 127);
        quantize(v, a.head_dim, scale.quantize, row);
        for (long d = 0; d < a.head_dim; d++) to[d * 4 + at % 4] = row[d];
        scales[at % TILE] = scale.dequantize;
    }
}

// Write exp(score - largest score) of `scores` [padded] to `lines`, and return the sum of these; from position `valid` on they are 0.
// i8: the scores are products of bytes, still to be multiplied by the scales of their keys and by `scale`; what is written is
// multiplied by the scales of the values and quantized.
template <Format F>
inline float softmax(const Attention& a, float* scores, float scale, long valid, long padded, char* lines) {
    constexpr long PER_LINE = LINE / element_bytes(F);
    if constexpr (F == Format::i8) {
        for (long at = 0; at < padded; at += TILE) {
            const float* scales = scales_at(a, at);
            for (long i = 0; i < TILE; i += W) store(scores + at + i, load<vf>(scores + at + i) * (load<vf>(scales + i) * scale));
        }
    }
    for (long i = valid; i < padded; i++) scores[i] = -__builtin_inff();
    vf top = load<vf>(scores);
    for (long i = W; i < padded; i += W) top = maximum(load<vf>(scores + i), top);
    const float largest = max_lane(top);
    vf total = {};
    float staged[PER_LINE];  // 64 probabilities, quantized together
    for (long i = 0; i < padded; i += W) {
        const vf e = exp_of(load<vf>(scores + i) - largest);
        total += e;
        char* line = lines + i / PER_LINE * QUERY_BLOCK * ROW<F>;
        char* to = line + i % PER_LINE * element_bytes(F);
        if constexpr (F == Format::f32) {
            store((float*)to, e);
        } else if constexpr (F == Format::bf16) {
            store((uint16_t*)to, to_bf16(e));
        } else {
            store(staged + i % TILE, e * load<vf>(scales_at(a, i) + TILE + i % TILE));
            if ((i + W) % TILE == 0) to_group(staged, TILE, line);
        }
    }
    return sum(total);
}

// A product with keys or values: by AMX where there is AMX, but i8 always in registers.
template <Format F>
inline void attention_gemm(const GemmArgs& w, long rows, long columns) {
    if constexpr (F == Format::i8) simd_gemm<F>(w, rows, columns);
    else gemm(F, w, rows, columns);
}

template <Format F>
inline void attend_in(const Attention& a) {
    constexpr long G = group(F), E = element_bytes(F);
    const long depth = key_depth(F, a.head_dim), width = value_width(a.head_dim);
    const long padded = round_up(a.start + a.rows, TILE);
    // the first keys; the hardware prefetcher continues the stream
    for (long line = 0; line < depth * TILE * E; line += 64) __builtin_prefetch(a.keys + line, 0, 3);
    char* row = (char*)round_up((long)(intptr_t)a.scratch, 64);
    char* q = row + depth * 4;
    float* weighted = (float*)(q + QUERY_BLOCK * depth * 4);
    float* scores = weighted + QUERY_BLOCK * width;
    char* probabilities = (char*)(scores + QUERY_BLOCK * padded);
    for (long t = 0; t < a.rows; t++) {
        // prefetch here: rows are kilobytes apart
        for (long d = 0; d < a.head_dim; d += LINE / 4) {
            __builtin_prefetch(a.k + (t + 8) * a.stride + d, 0, 3);
            __builtin_prefetch(a.v + (t + 8) * a.stride + d, 0, 3);
        }
        store_key<F>(a, a.k + t * a.stride, a.start + t, row);
        store_value<F>(a, a.v + t * a.stride, a.start + t, row);
    }
    const float scale = 1.0f / __builtin_sqrtf((float)a.head_dim) / a.divisor;
    for (long from = 0; from < a.rows; from += QUERY_BLOCK) {
        const long rows = a.rows - from < QUERY_BLOCK ? a.rows - from : QUERY_BLOCK;
        const long context = a.start + from + rows;  // positions that the last of these queries attends to
        for (long r = 0; r < rows; r++) {
            for (long d = 0; d < a.head_dim; d += LINE / 4)
                __builtin_prefetch(a.q + (from + r + QUERY_BLOCK) * a.stride + d, 0, 3);
            const float* x = a.q + (from + r) * a.stride;
            if constexpr (F == Format::i8) {
                for (long at = 0; at < a.head_dim; at += LINE)
                    to_group(x + at, a.head_dim - at, q + (at / LINE * QUERY_BLOCK + r) * ROW<F>);
            } else {
                scale_into<F>(x, a.head_dim, scale, row);
                memset(row + a.head_dim * E, 0, (depth - a.head_dim) * E);
                for (long line = 0; line < depth * E / LINE; line++)
                    memcpy(q + (line * QUERY_BLOCK + r) * LINE, row + line * LINE, LINE);
            }
        }
        GemmArgs w;
        w.accumulate = false;
        w.x = q;
        w.x_stride = QUERY_BLOCK * ROW<F>;
        w.lines = depth * E / LINE;
        w.w_stride = TILE_BYTES;
        w.out_stride = padded;
        for (long tile = 0; tile * TILE < context; tile++) {
            w.w = a.keys + tile * key_tile_bytes(F, a.head_dim);
            w.out = scores + tile * TILE;
            w.prefetch = a.values + tile * TILE * width * E;  // read after the scores
            w.prefetch_end = from == 0 ? w.prefetch + TILE * width * E : w.prefetch;
            attention_gemm<F>(w, rows, TILE);
        }
        float sums[QUERY_BLOCK];
        const long padded_context = round_up(context, TILE);
        for (long r = 0; r < rows; r++)
            sums[r] = softmax<F>(a, scores + r * padded, scale, a.start + from + r + 1, padded_context, probabilities + r * ROW<F>);
        w.x = probabilities;
        w.lines = round_up(context, VALUE_BLOCK<F>) / G / 16;
        w.w_stride = width * 4;
        w.out_stride = width;
        w.prefetch = a.prefetch ? a.prefetch : a.values;
        w.prefetch_end = a.prefetch && from + rows == a.rows ? w.prefetch + a.prefetch_bytes : w.prefetch;
        for (long c = 0; c < width; c += TILE) {
            w.w = a.values + c * 4;
            w.out = weighted + c;
            attention_gemm<F>(w, rows, width - c < TILE ? width - c : TILE);
            w.prefetch_end = w.prefetch;
        }
        for (long r = 0; r < rows; r++) {
            const float norm = 1.0f / sums[r];
            float* to = a.out ? a.out + (from + r) * a.out_stride : weighted + r * width;
            scale_into<Format::f32>(weighted + r * width, a.head_dim, norm, (char*)to);
            if (!a.out) store_columns(to, a.head_dim, a.next_format, a.next, a.row + from + r, a.column);
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
