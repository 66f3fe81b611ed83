// Kernels of one row: layer norm, conversion to a format. Included inside the namespace of the instruction set, after vec.h.

// Write n floats as columns from .. from + n of a row of a product's inputs, f32 or bf16. `from` and n: multiples of group(format).
inline void store_columns(const float* x, long n, Format format, const Rows& out, long row, long from) {
    const long size = element_bytes(format);
    char* to = out.row(row, 1);
    uint16_t narrow[LINE / 2];
    for (long i = 0; i < n;) {
        const long at = (from + i) * size, room = (LINE - at % LINE) / size;
        const long count = n - i < room ? n - i : room;
        char* line = to + at / LINE * out.line_stride + at % LINE;
        if (format == Format::f32) {
            memcpy(line, x + i, count * 4);
        } else {
            to_bf16s(x + i, count, 1.0f, narrow);
            memcpy(line, narrow, count * 2);
        }
        i += count;
    }
}

// W floats at `at` of n, zeros after the last.
inline vf load_padded(const float* x, long n, long at) {
    if (at + W <= n) return load<vf>(x + at);
    float rest[W] = {};
    if (at < n) memcpy(rest, x + at, (n - at) * 4);
    return load<vf>(rest);
}

// `quantize`: the factor that makes the largest absolute value of a group of numbers `limit`. `dequantize`: its inverse, NaN if one of
// the numbers is NaN or infinite. Both are 0 if all numbers are too small.
struct Scale {
    float quantize, dequantize;
};
inline Scale scale_for(const float* x, long n, float limit) {
    vi top = {};  // as integers, absolute values have the same order; infinity and NaN are the largest
    for (long i = 0; i < n; i += W) top = maximum((vi)load_padded(x, n, i) & broadcast_int(0x7fffffff), top);
    const int32_t bits = max_lane(top);
    float largest;
    memcpy(&largest, &bits, 4);
    if (bits >= 0x7f800000) return {0, __builtin_nanf("")};
    if (largest <= 1e-30f) return {0, 0};  // the quotient would be infinite
    return {limit / largest, largest / limit};
}
// Round to the nearest integer and clamp to [-limit, limit].
inline vi to_int(vf x, float limit) {
    const vf y = minimum(maximum(x, broadcast(-limit)), broadcast(limit));
    return __builtin_convertvector((y + 12582912.0f) - 12582912.0f, vi);
}

// Write n floats times `factor` as bytes in [-127, 127], with zeros up to a multiple of W.
inline void quantize(const float* x, long n, float factor, char* out) {
    for (long i = 0; i < n; i += W) store(out + i, __builtin_convertvector(to_int(load_padded(x, n, i) * factor, 127), vb));
}

// AMX: quantize a row to 16 bits with one scale, as two planes of bytes, high in [-127, 127] and low in [-128, 127].
inline void to_planes(const float* x, long n, const Rows& out, long row) {
    constexpr float LIMIT = 32639;  // 127 * 256 + 127
    const Scale scale = scale_for(x, n, LIMIT);
    char* line = out.row(row, 2);
    for (long at = 0; at < n; at += LINE, line += out.line_stride) {
        for (long i = 0; i < LINE; i += W) {
            const vi q = to_int(load_padded(x, n, at + i) * scale.quantize, LIMIT);
            const vi low = ((q + 128) & 255) - 128;
            store(line + i, __builtin_convertvector((q - low) >> 8, vb));
            store(line + LINE + i, __builtin_convertvector(low, vb));
        }
    }
    out.scale[row] = scale.dequantize;
}

// Other instruction sets, where a second plane would double the work, and attention: quantize up to 64 of n floats to bytes in
// [-127, 127] with one scale, with zeros after the last. The scale and the start value of a sum of their products (see Dot) follow
// the 64 bytes.
inline void to_group(const float* x, long n, char* line) {
    constexpr float LIMIT = 127;
    const Scale scale = scale_for(x, n < LINE ? n : LINE, LIMIT);
    vi total = {};
    for (long i = 0; i < LINE; i += W) {
        const vi q = to_int(load_padded(x, n, i) * scale.quantize, LIMIT);
        store(line + i, __builtin_convertvector(q, vb));
        total += q;
    }
    const int32_t start = -WEIGHT_OFFSET * sum(total);
    memcpy(line + LINE, &scale.dequantize, 4);
    memcpy(line + LINE + 4, &start, 4);
}

// Quantize a row as the products of this instruction set read it.
inline void to_groups(const float* x, long n, const Rows& out, long row) {
    if (HAS_AMX) return to_planes(x, n, out, row);
    char* line = out.row(row, 2);
    for (long at = 0; at < n; at += LINE, line += out.line_stride) to_group(x + at, n - at, line);
}

// Write n floats as a row of a product's inputs, padded with zeros to a multiple of 64.
inline void convert(const float* x, long n, Format format, const Rows& out, long row) {
    if (format == Format::i8) return to_groups(x, n, out, row);
    store_columns(x, n, format, out, row, 0);
    static const float zeros[LINE] = {};
    store_columns(zeros, round_up(n, 64) - n, format, out, row, n);
}

// Layer norm: mean and variance in two passes, sums in W lanes.
inline void norm(const float* x, long n, const float* weight, const float* bias, float epsilon, float* out) {
    const long whole = n / W * W;
    vf lanes = {};
    for (long i = 0; i < whole; i += W) lanes += load<vf>(x + i);
    float total = sum(lanes);
    for (long i = whole; i < n; i++) total += x[i];
    const float mean = total / n;
    lanes = vf{};
    for (long i = 0; i < whole; i += W) {
        const vf d = load<vf>(x + i) - mean;
        lanes += d * d;
    }
    total = sum(lanes);
    for (long i = whole; i < n; i++) total += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / __builtin_sqrtf(total / n + epsilon);
    for (long i = 0; i < whole; i += W) {
        store(out + i, (load<vf>(x + i) - mean) * factor * load<vf>(weight + i) + load<vf>(bias + i));
    }
    for (long i = whole; i < n; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

// The logarithm of the sum of e^x. Sums of floats are short, so that the error does not grow with n.
inline double log_sum(const float* x, long n) {
    constexpr long SHORT = 64 * W;
    const long whole = n / W * W;
    vf top = broadcast(-__builtin_inff());
    for (long i = 0; i < whole; i += W) top = maximum(load<vf>(x + i), top);
    float largest = max_lane(top);
    for (long i = whole; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    double total = 0;
    for (long from = 0; from < whole; from += SHORT) {
        const long to = from + SHORT < whole ? from + SHORT : whole;
        vf lanes = {};
        for (long i = from; i < to; i += W) lanes += exp_of(load<vf>(x + i) - largest);
        total += sum(lanes);
    }
    for (long i = whole; i < n; i++) {
        float lanes[W];
        store(lanes, exp_of(broadcast(x[i] - largest)));
        total += lanes[0];
    }
    return largest + __builtin_log(total);
}
