// Attention of one head against softmax in double; the same bits however a context is divided into steps.
#include "check.h"

#include <algorithm>

using namespace cpm;

namespace {

constexpr long MAX_POSITIONS = 200;  // positions
constexpr long GAP = 5;     // floats between a row's q, k and v

struct Head {
    const Ops& ops;
    Format format;
    long dim, stride;
    std::vector<float> qkv;  // [MAX_POSITIONS, q | k | v]

    Head(const Ops& o, Format f, long d, uint32_t seed) : ops(o), format(f), dim(d), stride(3 * (d + GAP)) {
        Random random(seed);
        qkv = random.normals(MAX_POSITIONS * stride, 1.5f);
    }
    const float* q(long t) const { return qkv.data() + t * stride; }
    const float* k(long t) const { return q(t) + dim + GAP; }
    const float* v(long t) const { return k(t) + dim + GAP; }

    // `store` holds keys and values for `room` positions
    void run(Buffer<char>& store, long room, long start, long rows, float* out, const Rows* next = nullptr,
             Format next_format = Format::f32) const {
        Buffer<char> scratch(attention_scratch_bytes(room, dim));
        Attention a = {};
        a.format = format;
        a.rows = rows;
        a.start = start;
        a.head_dim = dim;
        a.q = q(start);
        a.k = k(start);
        a.v = v(start);
        a.stride = stride;
        a.keys = store.data();
        a.values = a.keys + key_bytes(format, room, dim);
        a.out = out;
        a.out_stride = dim;
        if (next) {
            a.next = *next;
            a.next_format = next_format;
            a.row = 2;
            a.column = 2 * dim;
        }
        a.scratch = scratch.data();
        ops.attend(a);
    }
    Buffer<char> store(long room) const { return Buffer<char>(head_bytes(format, room, dim)); }
    std::vector<float> whole(long rows) const {
        std::vector<float> out(rows * dim);
        Buffer<char> fresh = store(rows);
        run(fresh, rows, 0, rows, out.data());
        return out;
    }
};

// A number as the kernels store it: rounded to the format, f32 or bf16.
double rounded(Format f, float x) { return f == Format::f32 ? x : from_bf16(nearest_bf16(x)); }

// n numbers as the kernels store them; i8: integers, with a scale for each `group` of them.
struct Stored {
    std::vector<double> numbers, scales;

    Stored(Format f, const float* x, long n, long group) {
        for (long at = 0; at < n; at += group) {
            const long end = std::min(at + group, n);
            float most = 0;
            for (long i = at; i < end; i++) most = std::max(most, std::fabs(x[i]));
            scales.push_back(f == Format::i8 ? most / 127 : 1);
            for (long i = at; i < end; i++) numbers.push_back(f == Format::i8 ? std::nearbyint(x[i] * (127 / most)) : rounded(f, x[i]));
        }
    }
    double value(long i, long group) const { return numbers[i] * scales[i / group]; }
};

// Round unnormalized probabilities as i8 stores them after multiplication by `scales`. `tie_error`: the additional error of each:
// the probabilities have an error of up to `relative`, so one near the middle of two integers may be rounded to either.
void quantize_probabilities(std::vector<double>& probabilities, const std::vector<double>& scales, double relative,
                            std::vector<double>& tie_error) {
    for (size_t at = 0; at < probabilities.size(); at += TILE) {
        const size_t end = std::min(at + TILE, probabilities.size());
        double most = 0;
        for (size_t i = at; i < end; i++) most = std::max(most, probabilities[i] * scales[i]);
        for (size_t i = at; i < end; i++) {
            const double y = probabilities[i] * scales[i] / most * 127;
            const double unit = most / 127 / scales[i];
            tie_error[i] = std::fabs(y - std::floor(y) - 0.5) <= 2 * relative * y ? unit : 0;
            probabilities[i] = std::nearbyint(y) * unit;
        }
    }
}

void values(const Head& h, const std::vector<float>& got) {
    const long d = h.dim;
    const bool bytes = h.format == Format::i8;
    const float scale = 1.0f / std::sqrt((float)d);
    std::vector<Stored> keys, stored_values;
    for (long t = 0; t < MAX_POSITIONS; t++) {
        keys.emplace_back(h.format, h.k(t), d, d);
        stored_values.emplace_back(h.format, h.v(t), d, d);
    }
    std::vector<double> value_scales;
    for (const Stored& v : stored_values) value_scales.push_back(v.scales[0]);
    for (long t = 0; t < MAX_POSITIONS; t++) {
        std::vector<double> probabilities;
        std::vector<float> scaled(d);
        double most = -INFINITY, worst = 0;  // i8 multiplies by two more scales
        for (long i = 0; i < d; i++) scaled[i] = bytes ? h.q(t)[i] : h.q(t)[i] * scale;
        const Stored q(h.format, scaled.data(), d, 64);
        for (long s = 0; s <= t; s++) {
            double score = 0, size = 0;
            for (long i = 0; i < d; i++) {
                const double product = q.value(i, 64) * keys[s].value(i, d) * (bytes ? scale : 1);
                score += product;
                size += std::fabs(product);
            }
            probabilities.push_back(score);
            most = std::max(most, score);
            worst = std::max(worst, (d + (bytes ? 4 : 2)) * UNIT * size + 2 * UNIT * std::fabs(score));
        }
        double total = 0;
        for (double& s : probabilities) total += s = std::exp(s - most);
        // the errors of a probability: of its score and the largest score, exp, the sum, rounding; and of as many additions
        const double relative = 2 * worst + 1e-6 + 2 * (t + 4) * UNIT + (h.format == Format::bf16 ? 1.01 * BF16_UNIT : 0);
        std::vector<double> tie_error(probabilities.size());
        if (bytes) quantize_probabilities(probabilities, value_scales, relative, tie_error);
        for (long i = 0; i < d; i++) {
            double mixed = 0, bound = TINY;
            for (long s = 0; s <= t; s++) {
                const double value = stored_values[s].value(i, d) / total;
                mixed += probabilities[s] * value;
                bound += (relative * probabilities[s] + tie_error[s]) * std::fabs(value);
            }
            CHECK(std::fabs(got[t * d + i] - mixed) <= bound, "position %ld, %ld: %.9g, not %.9g +- %.2g", t, i, got[t * d + i],
                  mixed, bound);
        }
    }
}

// The context divided into steps; slots hold NaN, or keys and values of another sequence.
void steps(const Head& h, const Head& other, const std::vector<float>& want) {
    std::vector<float> out(MAX_POSITIONS * h.dim);
    for (int trial = 0; trial < 8; trial++) {
        Random random(trial);
        Buffer<char> store = h.store(MAX_POSITIONS);
        if (trial % 2) other.run(store, MAX_POSITIONS, 0, MAX_POSITIONS, out.data());
        for (long at = 0; at < MAX_POSITIONS;) {
            const long sizes[] = {1, 1, 2, 7, 16, 17, 40, 100};
            const long n = trial == 0 ? 1 : std::min(sizes[random.below(8)], MAX_POSITIONS - at);
            h.run(store, MAX_POSITIONS, at, n, out.data() + at * h.dim);
            at += n;
        }
        CHECK(std::memcmp(out.data(), want.data(), out.size() * 4) == 0, "steps of trial %d", trial);
        // back to position 50, with later positions still stored
        h.run(store, MAX_POSITIONS, 50, 20, out.data());
        CHECK(std::memcmp(out.data(), want.data() + 50 * h.dim, 20 * h.dim * 4) == 0, "back to 50, trial %d", trial);
    }
}

// Written as the next product's inputs, between those of other heads and rows.
void next(const Head& h, const std::vector<float>& want, Format format) {
    for (const long rows : {1L, 16L, 45L}) {
        Activations to(format, rows + 4, 4 * h.dim);
        std::vector<char> before(to.lines.data(), to.lines.data() + to.lines.bytes());
        Buffer<char> store = h.store(rows);
        h.run(store, rows, 0, rows, nullptr, &to.rows, format);
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < h.dim; i++) {
                const double y = rounded(format, want[r * h.dim + i]), got = to.value(r + 2, 2 * h.dim + i);
                CHECK(got == y, "next: row %ld, %ld: %.9g, not %.9g", r, i, got, y);
                std::memset(to.lines.data() + (to.at(r + 2, 2 * h.dim + i) - to.lines.data()), 0xff, element_bytes(format));
            }
        CHECK(std::memcmp(before.data(), to.lines.data(), before.size()) == 0, "next: wrote elsewhere");
    }
}

}  // namespace

void test_attention() {
    for (const Ops* ops : supported_ops()) {
        const KernelScope scope(*ops);
        for (const Format f : {Format::f32, Format::bf16, Format::i8})
            for (const long dim : {4L, 20L, 64L, 80L}) {
                where = std::string("attention ") + ops->name + " " + name_of(f) + " " + std::to_string(dim);
                const Head h(*ops, f, dim, 1);
                const std::vector<float> want = h.whole(MAX_POSITIONS);
                values(h, want);
                for (long rows = 1; rows < MAX_POSITIONS; rows += dim == 20 ? 1 : 9)
                    CHECK(std::memcmp(h.whole(rows).data(), want.data(), rows * dim * 4) == 0, "%ld rows", rows);
                steps(h, Head(*ops, f, dim, 2), want);
                for (const Format to : {Format::f32, Format::bf16}) next(h, want, to);
            }
    }
}
