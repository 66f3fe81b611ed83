// Attention of one head against softmax in fp64, and its independence from how a context is cut into steps.
#include "check.h"

#include <algorithm>

using namespace cpm;

namespace {

constexpr long MOST = 200;  // positions
constexpr long GAP = 5;     // floats between a row's q, k and v

struct Head {
    const Ops& ops;
    Format format;
    long dim, stride;
    std::vector<float> qkv;  // [MOST, q | k | v]

    Head(const Ops& o, Format f, long d, uint32_t seed) : ops(o), format(f), dim(d), stride(3 * (d + GAP)) {
        Random random(seed);
        qkv = random.normals(MOST * stride, 1.5f);
    }
    const float* q(long t) const { return qkv.data() + t * stride; }
    const float* k(long t) const { return q(t) + dim + GAP; }
    const float* v(long t) const { return k(t) + dim + GAP; }

    // `store` holds keys and values for `room` positions
    void run(Buffer<char>& store, long room, long start, long rows, float* out, const Rows* next = nullptr,
             Format next_format = Format::f32) const {
        Buffer<char> scratch(attention_scratch(room, dim));
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

// As the kernels keep a number
double kept(Format f, float x) { return f == Format::f32 ? x : from_bf16(nearest_bf16(x)); }

// n numbers as they keep them; i8: whole numbers, with a scale for each `some` of them
struct Kept {
    std::vector<double> numbers, scales;

    Kept(Format f, const float* x, long n, long some) {
        for (long at = 0; at < n; at += some) {
            const long end = std::min(at + some, n);
            float most = 0;
            for (long i = at; i < end; i++) most = std::max(most, std::fabs(x[i]));
            scales.push_back(f == Format::i8 ? most / 127 : 1);
            for (long i = at; i < end; i++) numbers.push_back(f == Format::i8 ? std::nearbyint(x[i] * (127 / most)) : kept(f, x[i]));
        }
    }
    double value(long i, long some) const { return numbers[i] * scales[i / some]; }
};

// Probabilities (times a number) as i8 keeps them after `scales`; `doubt`: by how much one may differ, as those given are wrong by
// up to `relative`, so that one between two whole numbers may become either.
void round_chances(std::vector<double>& chances, const std::vector<double>& scales, double relative, std::vector<double>& doubt) {
    for (size_t at = 0; at < chances.size(); at += TILE) {
        const size_t end = std::min(at + TILE, chances.size());
        double most = 0;
        for (size_t i = at; i < end; i++) most = std::max(most, chances[i] * scales[i]);
        for (size_t i = at; i < end; i++) {
            const double y = chances[i] * scales[i] / most * 127;
            const double unit = most / 127 / scales[i];
            doubt[i] = std::fabs(y - std::floor(y) - 0.5) <= 2 * relative * y ? unit : 0;
            chances[i] = std::nearbyint(y) * unit;
        }
    }
}

void values(const Head& h, const std::vector<float>& got) {
    const long d = h.dim;
    const bool bytes = h.format == Format::i8;
    const float scale = 1.0f / std::sqrt((float)d);
    std::vector<Kept> keys, kept_values;
    for (long t = 0; t < MOST; t++) {
        keys.emplace_back(h.format, h.k(t), d, d);
        kept_values.emplace_back(h.format, h.v(t), d, d);
    }
    std::vector<double> value_scales;
    for (const Kept& v : kept_values) value_scales.push_back(v.scales[0]);
    for (long t = 0; t < MOST; t++) {
        std::vector<double> chances;
        std::vector<float> scaled(d);
        double most = -INFINITY, worst = 0;  // bytes: two scales more than others to be multiplied with
        for (long i = 0; i < d; i++) scaled[i] = bytes ? h.q(t)[i] : h.q(t)[i] * scale;
        const Kept q(h.format, scaled.data(), d, 64);
        for (long s = 0; s <= t; s++) {
            double score = 0, size = 0;
            for (long i = 0; i < d; i++) {
                const double product = q.value(i, 64) * keys[s].value(i, d) * (bytes ? scale : 1);
                score += product;
                size += std::fabs(product);
            }
            chances.push_back(score);
            most = std::max(most, score);
            worst = std::max(worst, (d + (bytes ? 4 : 2)) * UNIT * size + 2 * UNIT * std::fabs(score));
        }
        double total = 0;
        for (double& s : chances) total += s = std::exp(s - most);
        // a probability: its score's and the highest score's error, exp's, the sum's, its own rounding; then as many additions
        const double relative = 2 * worst + 1e-6 + 2 * (t + 4) * UNIT + (h.format == Format::bf16 ? 1.01 * BF16_UNIT : 0);
        std::vector<double> doubt(chances.size());
        if (bytes) round_chances(chances, value_scales, relative, doubt);
        for (long i = 0; i < d; i++) {
            double mixed = 0, bound = TINY;
            for (long s = 0; s <= t; s++) {
                const double value = kept_values[s].value(i, d) / total;
                mixed += chances[s] * value;
                bound += (relative * chances[s] + doubt[s]) * std::fabs(value);
            }
            CHECK(std::fabs(got[t * d + i] - mixed) <= bound, "position %ld, %ld: %.9g, not %.9g +- %.2g", t, i, got[t * d + i],
                  mixed, bound);
        }
    }
}

// Cut into steps; slots are full of NaN, or of what another sequence left there.
void cuts(const Head& h, const Head& other, const std::vector<float>& want) {
    std::vector<float> out(MOST * h.dim);
    for (int way = 0; way < 8; way++) {
        Random random(way);
        Buffer<char> store = h.store(MOST);
        if (way % 2) other.run(store, MOST, 0, MOST, out.data());
        for (long at = 0; at < MOST;) {
            const long sizes[] = {1, 1, 2, 7, 16, 17, 40, 100};
            const long n = way == 0 ? 1 : std::min(sizes[random.below(8)], MOST - at);
            h.run(store, MOST, at, n, out.data() + at * h.dim);
            at += n;
        }
        CHECK(std::memcmp(out.data(), want.data(), out.size() * 4) == 0, "cut in way %d", way);
        // back to 50, what came after still there
        h.run(store, MOST, 50, 20, out.data());
        CHECK(std::memcmp(out.data(), want.data() + 50 * h.dim, 20 * h.dim * 4) == 0, "back, way %d", way);
    }
}

// Into the next product's inputs, among other heads' and rows
void next(const Head& h, const std::vector<float>& want, Format format) {
    for (const long rows : {1L, 16L, 45L}) {
        Activations to(format, rows + 4, 4 * h.dim);
        std::vector<char> before(to.lines.data(), to.lines.data() + to.lines.bytes());
        Buffer<char> store = h.store(rows);
        h.run(store, rows, 0, rows, nullptr, &to.rows, format);
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < h.dim; i++) {
                const double y = kept(format, want[r * h.dim + i]), got = to.value(r + 2, 2 * h.dim + i);
                CHECK(got == y, "next: row %ld, %ld: %.9g, not %.9g", r, i, got, y);
                std::memset(to.lines.data() + (to.at(r + 2, 2 * h.dim + i) - to.lines.data()), 0xff, element(format));
            }
        CHECK(std::memcmp(before.data(), to.lines.data(), before.size()) == 0, "next: wrote elsewhere");
    }
}

}  // namespace

void test_attention() {
    for (const Ops* ops : runnable()) {
        const Ready ready(*ops);
        for (const Format f : {Format::f32, Format::bf16, Format::i8})
            for (const long dim : {4L, 20L, 64L, 80L}) {
                where = std::string("attention ") + ops->name + " " + name_of(f) + " " + std::to_string(dim);
                const Head h(*ops, f, dim, 1);
                const std::vector<float> want = h.whole(MOST);
                values(h, want);
                for (long rows = 1; rows < MOST; rows += dim == 20 ? 1 : 9)
                    CHECK(std::memcmp(h.whole(rows).data(), want.data(), rows * dim * 4) == 0, "%ld rows", rows);
                cuts(h, Head(*ops, f, dim, 2), want);
                for (const Format to : {Format::f32, Format::bf16}) next(h, want, to);
            }
    }
}
