// Products of packed matrices against sums in double of the numbers that the kernels read.
#include "packed.h"

using namespace cpm;

namespace {

constexpr long MAX_ROWS = 200;  // rows; more than SCRATCH_ROWS, so that every format divides them into chunks

// The operands of a product, and its expected sums.
struct Case {
    Format format;
    long outputs, inputs, columns;  // columns: outputs, padded to whole tiles
    Packed weights;
    Activations x;
    Buffer<float> bias;
    std::vector<double> sums;    // [MAX_ROWS, outputs] without bias; i8: without the weights' scales
    std::vector<double> sizes;   // the same of absolute values

    Case(const Ops& ops, Format f, long n, long k, const std::vector<float>& w, const std::vector<float>& input)
        : format(f), outputs(n), inputs(k), columns(round_up(n, TILE)), weights(f, n, k, w), x(f, MAX_ROWS, k), bias(columns) {
        for (long r = 0; r < MAX_ROWS; r++) ops.convert(input.data() + r * k, k, f, x.rows, r);
        Random random(5);
        for (long c = 0; c < columns; c++) bias[c] = c < outputs ? random.normal() : 0.0f;
        std::vector<double> row(k);
        x.planes = in_planes(ops);
        std::vector<std::vector<double>> all(n, std::vector<double>(k));
        for (long c = 0; c < n; c++)
            for (long i = 0; i < k; i++) all[c][i] = weights.stored(c, i);
        for (long r = 0; r < MAX_ROWS; r++) {
            for (long i = 0; i < k; i++) row[i] = f == Format::i8 ? (double)x.whole(r, i) * x.scale(r, i) : x.value(r, i);
            for (long c = 0; c < n; c++) {
                double sum = 0, size = 0;
                for (long i = 0; i < k; i++) sum += row[i] * all[c][i], size += std::fabs(row[i] * all[c][i]);
                sums.push_back(sum);
                sizes.push_back(size);
            }
        }
    }

    Product product(long rows, float* out, long stride, long wide, float* scratch) const {
        Product p = {};
        p.matrix = &weights.matrix;
        p.tile = 0;
        p.tiles = weights.matrix.tiles();
        p.rows = rows;
        p.x = x.rows;
        p.epilogue = Epilogue::store;
        p.out = out;
        p.out_stride = stride;
        p.columns = wide;
        p.scratch = scratch;
        return p;
    }

    double scale(long c) const {
        return format == Format::i8 ? weights.matrix.scale[c] : 1.0;
    }
    double exact(long r, long c) const { return sums[r * outputs + c] * scale(c); }
    // each addition rounds once, relative to at most the sum of absolute values; i8 rounds once at the end, or once for each line
    double bound(long r, long c) const {
        const double roundings = format == Format::i8 ? 6 + (x.planes ? 0 : inputs / 64) : inputs + 2;
        return roundings * UNIT * sizes[r * outputs + c] * scale(c) + TINY;
    }
};

// the tanh approximation, in a form without cancellation for very negative x
double gelu(double x) { return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
// The slope of GELU is below 1.13; to this come the error of exp, and the error of its argument, times the argument's size.
double gelu_bound(double x, double bound) {
    const double u = std::fmin(90, 1.6 * (std::fabs(x) + 0.045 * std::fabs(x * x * x)));
    return 1.13 * bound + std::fabs(gelu(x)) * (1e-6 + 6 * UNIT * u) + TINY;
}

double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2)); }
// Its slope is below 1.13, too.
double gelu_erf_bound(double x, double bound) {
    return 1.13 * bound + std::fabs(gelu_erf(x)) * (1e-6 + 6 * UNIT * std::fmin(90, x * x / 2)) + TINY;
}

// Every epilogue on `rows` rows, against double.
void values(const Ops& ops, const Case& c, long rows) {
    const long stride = c.columns + 3;
    Buffer<float> scratch(SCRATCH_ROWS * TILE);
    const Random seed(9);
    for (const bool biased : {false, true})
        for (const Epilogue epilogue : {Epilogue::store, Epilogue::add, Epilogue::gelu, Epilogue::gelu_erf}) {
            Random random = seed;
            Buffer<float> out(rows * stride);
            std::vector<float> before(rows * stride);
            for (float& b : before) b = random.normal();
            std::memcpy(out.data(), before.data(), out.bytes());
            Product p = c.product(rows, out.data(), stride, c.outputs, scratch.data());
            p.bias = biased ? c.bias.data() : nullptr;
            p.epilogue = epilogue;
            ops.product(p);
            for (long r = 0; r < rows; r++) {
                for (long i = 0; i < c.outputs; i++) {
                    const float got = out[r * stride + i], old = before[r * stride + i];
                    double want = c.exact(r, i) + (biased ? c.bias[i] : 0.0f);
                    double bound = c.bound(r, i) + 2 * UNIT * std::fabs(want);
                    if (epilogue == Epilogue::gelu) bound = gelu_bound(want, bound), want = gelu(want);
                    if (epilogue == Epilogue::gelu_erf) bound = gelu_erf_bound(want, bound), want = gelu_erf(want);
                    if (epilogue == Epilogue::add) want += old, bound += UNIT * std::fabs(want);
                    CHECK(std::fabs(got - want) <= bound, "row %ld output %ld: %.9g, not %.9g +- %.2g (epilogue %d, bias %d)", r, i,
                          got, want, bound, (int)epilogue, biased);
                }
                for (long i = c.outputs; i < stride; i++)
                    CHECK(out[r * stride + i] == before[r * stride + i], "row %ld, beyond the columns: %ld", r, i);
            }
        }
}

// i8 with AMX: sums are integers, so the exact float is known.
void exact_sums(const Ops& ops, const Case& c, long rows) {
    Buffer<float> scratch(SCRATCH_ROWS * TILE), out(rows * c.columns);
    ops.product(c.product(rows, out.data(), c.columns, c.columns, scratch.data()));
    for (long r = 0; r < rows; r++)
        for (long o = 0; o < c.outputs; o++) {
            int64_t high = 0, low = 0;
            for (long i = 0; i < c.inputs; i++) {
                const int w = (int)c.weights.stored(o, i);
                high += c.x.high(r, i) * w;
                low += c.x.low(r, i) * w;
            }
            const float sum = (float)high * 256.0f + (float)low;
            const float want = sum * c.weights.matrix.scale[o] * c.x.rows.scale[r];
            const float got = out[r * c.columns + o];
            CHECK(bits(got) == bits(want), "row %ld output %ld: %.9g, not %.9g", r, o, got, want);
        }
}

// A row's bits are the same whatever the number of rows, the tiles of one call, and the destination.
void same_bits(const Ops& ops, const Case& c, const std::vector<long>& counts) {
    const long wide = c.columns;
    Buffer<float> scratch(SCRATCH_ROWS * TILE), whole(MAX_ROWS * wide), out(MAX_ROWS * wide);
    Product p = c.product(MAX_ROWS, whole.data(), wide, wide, scratch.data());
    p.bias = c.bias.data();
    p.epilogue = Epilogue::gelu;
    ops.product(p);
    for (long r = 0; r < MAX_ROWS; r++)  // padded outputs: weights and bias of zero
        for (long i = c.outputs; i < wide; i++) CHECK(whole[r * wide + i] == 0.0f, "row %ld padding %ld", r, i);
    p.out = out.data();
    for (const long rows : counts) {
        std::memset(out.data(), 0xff, out.bytes());
        p.rows = rows;
        ops.product(p);
        CHECK(std::memcmp(out.data(), whole.data(), rows * wide * 4) == 0, "%ld rows", rows);
        for (long i = rows * wide; i < out.size(); i++) CHECK(bits(out[i]) == ~0u, "%ld rows: wrote beyond", rows);
    }
    // the same rows at another place
    for (const long from : {1L, 31L, 64L, MAX_ROWS - 1}) {
        p.x.data = c.x.rows.data + from * planes(c.format) * LINE;
        p.x.scale = c.x.rows.scale + from;
        p.rows = std::min(3L, MAX_ROWS - from);
        ops.product(p);
        CHECK(std::memcmp(out.data(), whole.data() + from * wide, p.rows * wide * 4) == 0, "rows from %ld", from);
    }
    p.x = c.x.rows;
    // one tile alone
    p.rows = 37;
    p.tile = c.weights.matrix.tiles() - 1;
    p.tiles = 1;
    std::memset(out.data(), 0xff, out.bytes());
    ops.product(p);
    for (long r = 0; r < p.rows; r++)
        for (long i = 0; i < wide; i++) {
            const uint32_t want = i < p.tile * TILE ? ~0u : bits(whole[r * wide + i]);
            CHECK(bits(out[r * wide + i]) == want, "one tile: row %ld output %ld", r, i);
        }
    if (c.format == Format::i8 && !ops.grouped_scales) return;
    // as the next product's inputs
    p.tile = 0;
    p.tiles = c.weights.matrix.tiles();
    p.out = nullptr;
    for (const long rows : {1L, 5L, 70L, MAX_ROWS}) {
        Activations next(c.format, rows, c.outputs);
        p.rows = rows;
        p.next = next.rows;
        ops.product(p);
        if (c.format == Format::i8) {  // as if converted from floats
            Activations converted(c.format, rows, c.outputs);
            for (long r = 0; r < rows; r++) {
                ops.convert(&whole[r * wide], c.outputs, c.format, converted.rows, r);
                for (long line = 0; line < next.padded / 64; line++)
                    CHECK(std::memcmp(next.at(r, line * 64), converted.at(r, line * 64), LINE + 8) == 0, "next: row %ld group %ld", r, line);
            }
            continue;
        }
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < next.padded; i++) {
                const float y = whole[r * wide + i];
                const float want = c.format == Format::f32 ? y : from_bf16(nearest_bf16(y));
                CHECK(next.value(r, i) == want || std::fabs(y) < TINY, "next: row %ld output %ld: %.9g, not %.9g", r, i,
                      next.value(r, i), want);
            }
    }
}

// Small integers have exact sums in every format, so that a missing or exchanged pair shows in a long sum too.
void whole_numbers(const Ops& ops, Format format, long outputs, long inputs) {
    Random random(3);
    std::vector<float> w(outputs * inputs), x(MAX_ROWS * inputs);
    for (float& v : w) v = (float)(random.below(15) - 7);
    for (float& v : x) v = (float)(random.below(15) - 7);
    if (format == Format::i8) {  // so that scales are 1
        for (long o = 0; o < outputs; o++) w[o * inputs + o % inputs] = 127;
        const bool planes = in_planes(ops);
        for (long r = 0; r < MAX_ROWS; r++)
            for (long from = 0; from < (planes ? 1 : inputs); from += 64)
                x[r * inputs + std::min(from + r % 64, inputs - 1)] = planes ? 32639 : 127;
    }
    const Case c(ops, format, outputs, inputs, w, x);
    Buffer<float> scratch(SCRATCH_ROWS * TILE), out(MAX_ROWS * outputs);
    std::vector<double> sums(MAX_ROWS * outputs);  // of the original numbers, not of the packed ones
    for (long r = 0; r < MAX_ROWS; r++)
        for (long o = 0; o < outputs; o++)
            for (long i = 0; i < inputs; i++) sums[r * outputs + o] += (double)x[r * inputs + i] * w[o * inputs + i];
    for (const long rows : {1L, 6L, 33L, 97L, MAX_ROWS}) {
        ops.product(c.product(rows, out.data(), outputs, outputs, scratch.data()));
        for (long r = 0; r < rows; r++)
            for (long o = 0; o < outputs; o++) {
                const double want = sums[r * outputs + o];
                // planes: 127 * 32639 and more: above 2^24 a float rounds
                CHECK(std::fabs(out[r * outputs + o] - want) <= (format == Format::i8 && c.x.planes ? 2 * UNIT * std::fabs(want) + 4 : 0),
                      "%ld rows, row %ld output %ld: %.9g, not %.9g", rows, r, o, out[r * outputs + o], want);
            }
    }
}

// GELU, in either form, of a product with 1.
void gelu_values(const Ops& ops, Epilogue epilogue, double (*gelu)(double), double (*gelu_bound)(double, double)) {
    Random random(1);
    std::vector<float> x(MAX_ROWS);
    for (long i = 0; i < MAX_ROWS; i++) x[i] = i < 40 ? (float)(i - 20) : 6 * random.normal();
    x[40] = 1e30f, x[41] = -1e30f, x[42] = 1e-30f, x[43] = 0, x[44] = NAN, x[45] = -60, x[46] = 60, x[47] = INFINITY;
    const Case c(ops, Format::f32, 1, 1, {1.0f}, x);
    Buffer<float> scratch(SCRATCH_ROWS * TILE), out(MAX_ROWS);
    Product p = c.product(MAX_ROWS, out.data(), 1, 1, scratch.data());
    p.epilogue = epilogue;
    ops.product(p);
    for (long i = 0; i < MAX_ROWS; i++) {
        if (i == 44) CHECK(std::isnan(out[i]), "gelu(NaN) is %g", out[i]);
        else if (i == 47) CHECK(out[i] == INFINITY, "gelu(inf) is %g", out[i]);
        else if (i == 41) CHECK(std::fabs(out[i]) < 1e-7, "gelu(-1e30) is %g", out[i]);
        else CHECK(std::fabs(out[i] - gelu(x[i])) <= gelu_bound(x[i], 0), "gelu(%g) is %.9g, not %.9g", x[i], out[i], gelu(x[i]));
    }
}

// The largest bytes with both signs, which overflow sums of fewer bits than needed.
void largest_bytes(const Ops& ops) {
    const long outputs = 66, inputs = 10240;
    std::vector<float> w(outputs * inputs), x(MAX_ROWS * inputs);
    for (size_t i = 0; i < w.size(); i++) w[i] = i / inputs % 2 ? 127.0f : -127.0f;
    for (size_t i = 0; i < x.size(); i++) x[i] = (i / inputs % 4 < 2 ? 1.0f : -1.0f) * (i / inputs % 2 ? 32639.0f : 32512.0f - 128);
    for (long r = 0; r < MAX_ROWS; r++) x[r * inputs] = 32639;  // so that the scale is 1 and the others have low bytes of -128, 127
    const Case c(ops, Format::i8, outputs, inputs, w, x);
    if (c.x.planes) exact_sums(ops, c, 9);
    values(ops, c, 9);
}

}  // namespace

void test_product() {
    std::vector<long> all;
    for (long rows = 1; rows <= 70; rows++) all.push_back(rows);
    const std::vector<long> some = {1, 2, 7, 16, 17, 32, 33, 64, 65, 96, 97, 193};
    // inputs and outputs of whole tiles, of less than one, and with a remainder; the last so long that many rows divide it into pieces
    const long shapes[][2] = {{64, 64}, {1, 1}, {70, 100}, {130, 200}, {65, 1030}, {70, 4200}};
    for (const Ops* ops : supported_ops()) {
        const KernelScope scope(*ops);
        where = std::string("product ") + ops->name + " gelu";
        gelu_values(*ops, Epilogue::gelu, gelu, gelu_bound);
        where = std::string("product ") + ops->name + " gelu_erf";
        gelu_values(*ops, Epilogue::gelu_erf, gelu_erf, gelu_erf_bound);
        where = std::string("product ") + ops->name + " i8 largest";
        largest_bytes(*ops);
        for (const Format f : {Format::f32, Format::bf16, Format::i8})
            for (const auto& shape : shapes) {
                const long outputs = shape[0], inputs = shape[1];
                where = std::string("product ") + ops->name + " " + name_of(f) + " " + std::to_string(outputs) + "x" +
                        std::to_string(inputs);
                Random random(7);
                const Case c(*ops, f, outputs, inputs, random.normals(outputs * inputs, 0.3f), random.normals(MAX_ROWS * inputs));
                values(*ops, c, 67);
                values(*ops, c, MAX_ROWS);
                if (f == Format::i8 && c.x.planes) exact_sums(*ops, c, 50);
                same_bits(*ops, c, inputs <= 200 ? all : some);
                whole_numbers(*ops, f, outputs, inputs);
            }
    }
}
