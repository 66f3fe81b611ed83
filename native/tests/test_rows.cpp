// Kernels of one row: layer norm, conversion to the formats that products read.
#include "check.h"

#include <algorithm>

using namespace cpm;

namespace {

void norms(const Ops& ops) {
    for (const long n : {1L, 3L, 4L, 15L, 16L, 17L, 31L, 32L, 64L, 100L, 1030L, 2560L})
        for (const float offset : {0.0f, 3.0f, -50.0f}) {
            const float epsilon = offset > 0 ? 1e-2f : 1e-5f;
            Random random((uint32_t)n);
            Buffer<float> x(n), w(n), b(n), out(n);
            double mean = 0, variance = 0, size = 0;
            for (long i = 0; i < n; i++) {
                x[i] = offset + random.normal();
                w[i] = 1 + 0.3f * random.normal();
                b[i] = random.normal();
                mean += x[i] / (double)n;
                size += std::fabs(x[i]) / n;
            }
            for (long i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / n;
            const double factor = 1 / std::sqrt(variance + epsilon);
            ops.norm(x.data(), n, w.data(), b.data(), epsilon, out.data());
            for (long i = 0; i < n; i++) {
                const double z = (x[i] - mean) * factor, want = z * w[i] + b[i];
                // n additions in the mean and in the variance; the error of the mean is relative to |x|, not to its deviation
                const double bound = ((n + 8) * UNIT * (size * factor * (1 + std::fabs(z)) + std::fabs(z)) + 4 * UNIT * std::fabs(z)) *
                                         std::fabs(w[i]) + 2 * UNIT * (std::fabs(want) + std::fabs(b[i]));
                CHECK(std::fabs(out[i] - want) <= bound, "norm of %ld, %ld: %.9g, not %.9g +- %.2g", n, i, out[i], want, bound);
            }
            x[n / 2] = NAN;
            ops.norm(x.data(), n, w.data(), b.data(), epsilon, out.data());
            for (long i = 0; i < n; i++) CHECK(std::isnan(out[i]), "norm of %ld with a NaN", n);
        }
}

std::vector<float> special(long n) {
    Random random(4);
    std::vector<float> x = random.normals(n);
    const float values[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1.00390625f, 1.01171875f, 65504.0f};
    for (long i = 0; i < std::min(n, 10L); i++) x[i * 7 % n] = values[i];
    return x;
}

void floats(const Ops& ops, Format f) {
    for (const long n : {1L, 5L, 32L, 63L, 64L, 65L, 200L, 1030L}) {
        Activations a(f, 40, n);
        const std::vector<float> x = special(n);
        ops.convert(x.data(), n, f, a.rows, 37);
        for (long i = 0; i < a.padded; i++) {
            const float want = i >= n ? 0 : f == Format::f32 ? x[i] : from_bf16(nearest_bf16(x[i])), got = a.value(37, i);
            CHECK(bits(got) == bits(want) || (got != got && want != want), "%ld of %ld: %g, not %g", i, n, got, want);
        }
        for (const long row : {36L, 38L})
            for (long i = 0; i < n; i++) CHECK(std::isnan(a.value(row, i)), "wrote into row %ld", row);
    }
}

// Quantize `x` as row 9 of 17, and return the values that it represents.
std::vector<double> in_bytes(const Ops& ops, const std::vector<float>& x, std::vector<float>* scales = nullptr) {
    const long n = (long)x.size();
    Activations a(Format::i8, 17, n);
    a.planes = in_planes(ops);
    Buffer<float> exact(n);  // exactly the row's size, for the sanitizer
    std::memcpy(exact.data(), x.data(), exact.bytes());
    ops.convert(exact.data(), n, Format::i8, a.rows, 9);
    std::vector<double> y;
    long padding = 0;
    for (long i = 0; i < a.padded; i++) {
        CHECK(a.high(9, i) >= -127, "-128 in the high plane");
        if (i < n) y.push_back((double)a.whole(9, i) * a.scale(9, i));
        else padding += a.whole(9, i) != 0;
        if (scales) scales->push_back(a.scale(9, i));
    }
    CHECK(padding == 0, "%ld numbers of the padding of a row of %ld are not zero", padding, n);
    for (const long row : {8L, 10L})
        for (long i = 0; i < a.padded; i++) CHECK(a.high(row, i) == -1 && a.low(row, i) == -1, "wrote into row %ld", row);
    return y;
}

void bytes(const Ops& ops) {
    const bool planes = in_planes(ops);
    for (const long n : {1L, 5L, 63L, 64L, 65L, 200L, 1030L})
        for (const float size : {1.0f, 1e-28f, 1e30f, 3e37f}) {
            Random random((uint32_t)n);
            const std::vector<float> x = random.normals(n, size);
            const std::vector<double> y = in_bytes(ops, x);
            for (long i = 0; i < n; i++) {
                double most = 0;  // of the numbers with the same scale
                for (long j = planes ? 0 : i / 64 * 64; j < (planes ? n : std::min(n, i / 64 * 64 + 64)); j++)
                    most = std::max(most, (double)std::fabs(x[j]));
                // half a step, and the error of multiplying by a rounded inverse
                CHECK(std::fabs(y[i] - x[i]) <= most / (planes ? 32639 : 127) * (0.5 + 0.01), "%ld of %ld: %.9g for %.9g", i, n,
                      y[i], x[i]);
            }
        }
    std::vector<float> scales;
    for (double y : in_bytes(ops, std::vector<float>(70, 0.0f), &scales)) CHECK(y == 0, "of a row of zeros: %g", y);
    for (float scale : scales) CHECK(scale == 0, "of a row of zeros: %g", scale);
    for (const float value : {(float)NAN, INFINITY, -INFINITY})
        for (const long at : {0L, 33L, 69L}) {
            std::vector<float> x(70, 1.0f);
            x[at] = value;
            scales.clear();
            in_bytes(ops, x, &scales);
            CHECK(std::isnan(scales[at]), "scale %g with %g in the row", scales[at], value);
            CHECK(planes || !std::isnan(scales[at < 64 ? 69 : 0]), "%g in a group spoils another", value);
        }
    // so small that 1 / largest is infinite: zeros stay zero, the others may become zero
    std::vector<float> small(70, 0.0f);
    small[3] = 1e-36f;
    long wrong = 0;
    const std::vector<double> tiny = in_bytes(ops, small);
    for (long i = 0; i < 70; i++) wrong += std::fabs(tiny[i] - small[i]) > std::fabs(small[i]);
    CHECK(wrong == 0, "%ld numbers of a tiny row, the first %g", wrong, tiny[0]);
}

void log_sums(const Ops& ops) {
    for (const long n : {1L, 3L, 4L, 8L, 15L, 16L, 17L, 1030L, 30000L})
        for (const float scale : {1.0f, 30.0f}) {
            Random random((uint32_t)n);
            const std::vector<float> x = random.normals(n, scale);
            const double largest = *std::max_element(x.begin(), x.end());
            double total = 0;
            for (const float value : x) total += std::exp(value - largest);
            const double got = ops.log_sum(x.data(), n), want = largest + std::log(total);
            CHECK(std::fabs(got - want) <= 1e-6 * (1 + std::fabs(want)), "of %ld: %.9g, not %.9g", n, got, want);
        }
    std::vector<float> x(100, 1.0f);
    x[7] = -INFINITY;  // a banned token weighs nothing
    CHECK(std::fabs(ops.log_sum(x.data(), 100) - (1 + std::log(99.0))) < 1e-6, "with -inf: %g", ops.log_sum(x.data(), 100));
    x[99] = NAN;
    CHECK(std::isnan(ops.log_sum(x.data(), 100)), "with NaN: %g", ops.log_sum(x.data(), 100));
}

}  // namespace

void test_rows() {
    for (const Ops* ops : supported_ops()) {
        where = std::string("rows ") + ops->name + " norm";
        norms(*ops);
        for (const Format f : {Format::f32, Format::bf16}) {
            where = std::string("rows ") + ops->name + " " + name_of(f);
            floats(*ops, f);
        }
        where = std::string("rows ") + ops->name + " i8";
        bytes(*ops);
        where = std::string("rows ") + ops->name + " log_sum";
        log_sums(*ops);
    }
}
