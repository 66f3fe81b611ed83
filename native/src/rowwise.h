// What is done to one row: layer norm, conversion to a format. Included inside the instruction set's own namespace.

constexpr float MOST = 32639;  // 127 * 256 + 127

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

// As two planes of bytes: high in [-127, 127], low in [-128, 127], both 128 more where products want them unsigned.
inline void to_bytes(const float* x, long n, const Rows& out, long row) {
    constexpr int PLUS = FROM_MINUS_128 ? 128 : 0;
    const vi sign = all_int(0x7fffffff);
    const auto vector = [&](long at) {  // with zeros after the last
        if (at + W <= n) return load<vf>(x + at);
        float rest[W] = {};
        if (at < n) memcpy(rest, x + at, (n - at) * 4);
        return load<vf>(rest);
    };
    vf most = {}, odd = {};
    for (long i = 0; i < n; i += W) {
        const vf v = vector(i);
        most = larger((vf)((vi)v & sign), most);
        odd += v * 0.0f;  // NaN where x is NaN or infinite
    }
    const float top = highest(most);
    const float scale = top > 1e-30f ? MOST / top : 0;  // below, the quotient would be infinite: zeros, then
    char* line = out.row(row, 2);
    for (long at = 0; at < n; at += LINE, line += out.line_stride) {
        for (long i = 0; i < LINE; i += W) {
            const vf y = smaller(larger(vector(at + i) * scale, all(-MOST)), all(MOST));
            const vi q = __builtin_convertvector((y + 12582912.0f) - 12582912.0f, vi);
            const vi low = ((q + 128) & 255) - 128;
            store(line + i, __builtin_convertvector(((q - low) >> 8) + PLUS, vb));
            store(line + LINE + i, __builtin_convertvector(low + PLUS, vb));
        }
    }
    out.scale[row] = (scale > 0 ? top / MOST : 0) + sum(odd);
}

inline void convert(const float* x, long n, Format format, const Rows& out, long row) {
    if (format == Format::i8) return to_bytes(x, n, out, row);
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
