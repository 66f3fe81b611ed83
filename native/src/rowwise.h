// What is done to one row: layer norm, conversion to a format. Included inside the instruction set's own namespace.

// n floats as columns `from` .. of a row of a product's inputs, f32 or bf16. `from` and n: whole fours of bytes.
inline void put_columns(const float* x, long n, Format format, const Rows& out, long row, long from) {
    const long size = element(format);
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

// W of n floats, zeros after the last.
inline vf some_of(const float* x, long n, long at) {
    if (at + W <= n) return load<vf>(x + at);
    float rest[W] = {};
    if (at < n) memcpy(rest, x + at, (n - at) * 4);
    return load<vf>(rest);
}

// What n numbers are multiplied with so that the largest becomes `most`, and what undoes that: NaN where one of
// them is NaN or infinite. Both 0 where they are too small.
struct Scale {
    float up, down;
};
inline Scale scale_for(const float* x, long n, float most) {
    vi top = {};  // as whole numbers absolute values have the same order, and infinity and NaN come after all others
    for (long i = 0; i < n; i += W) top = larger((vi)some_of(x, n, i) & all_int(0x7fffffff), top);
    const int32_t bits = highest(top);
    float highest_;
    memcpy(&highest_, &bits, 4);
    if (bits >= 0x7f800000) return {0, __builtin_nanf("")};
    if (highest_ <= 1e-30f) return {0, 0};  // the quotient would be infinite
    return {most / highest_, highest_ / most};
}
inline vi whole(vf x, float most) {
    const vf y = smaller(larger(x, all(-most)), all(most));
    return __builtin_convertvector((y + 12582912.0f) - 12582912.0f, vi);
}

// n floats as bytes in [-127, 127], zeros up to a multiple of W
inline void to_bytes(const float* x, long n, float up, char* out) {
    for (long i = 0; i < n; i += W) store(out + i, __builtin_convertvector(whole(some_of(x, n, i) * up, 127), vb));
}

// AMX: as two planes of bytes, high in [-127, 127], low in [-128, 127], with one scale: 16 bits.
inline void to_planes(const float* x, long n, const Rows& out, long row) {
    constexpr float MOST = 32639;  // 127 * 256 + 127
    const Scale scale = scale_for(x, n, MOST);
    char* line = out.row(row, 2);
    for (long at = 0; at < n; at += LINE, line += out.line_stride) {
        for (long i = 0; i < LINE; i += W) {
            const vi q = whole(some_of(x, n, at + i) * scale.up, MOST);
            const vi low = ((q + 128) & 255) - 128;
            store(line + i, __builtin_convertvector((q - low) >> 8, vb));
            store(line + LINE + i, __builtin_convertvector(low, vb));
        }
    }
    out.scale[row] = scale.down;
}

// Elsewhere, where a second product for more bits is no cheaper than another, and in attention: bytes in [-127, 127], and behind each 64 of them their
// scale and what a sum of their products begins with (see Dot). Up to 64 of n floats, those after the last are zeros.
inline void to_group(const float* x, long n, char* line) {
    constexpr float MOST = 127;
    const Scale scale = scale_for(x, n < LINE ? n : LINE, MOST);
    vi total = {};
    for (long i = 0; i < LINE; i += W) {
        const vi q = whole(some_of(x, n, i) * scale.up, MOST);
        store(line + i, __builtin_convertvector(q, vb));
        total += q;
    }
    const int32_t start = -UNSIGNED * sum(total);
    memcpy(line + LINE, &scale.down, 4);
    memcpy(line + LINE + 4, &start, 4);
}

inline void to_groups(const float* x, long n, const Rows& out, long row) {
    if (TILED) return to_planes(x, n, out, row);
    char* line = out.row(row, 2);
    for (long at = 0; at < n; at += LINE, line += out.line_stride) to_group(x + at, n - at, line);
}

inline void convert(const float* x, long n, Format format, const Rows& out, long row) {
    if (format == Format::i8) return to_groups(x, n, out, row);
    put_columns(x, n, format, out, row, 0);
    static const float zeros[LINE] = {};
    put_columns(zeros, round_up(n, 64) - n, format, out, row, n);
}

// Mean and variance in two passes, eps 1e-5 (CPM's), sums of W lanes.
inline void norm(const float* x, long n, const float* weight, const float* bias, float* out) {
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
    const float factor = 1.0f / __builtin_sqrtf(total / n + 1e-5f);
    for (long i = 0; i < whole; i += W) {
        store(out + i, (load<vf>(x + i) - mean) * factor * load<vf>(weight + i) + load<vf>(bias + i));
    }
    for (long i = whole; i < n; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}
