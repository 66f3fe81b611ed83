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
    void run(Buffer<char>& store, long room, long start, long rows, float* out, const Rows* next = nullptr) const {
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
            a.row = 2;
            a.column = 2 * dim;
        }
        a.scratch = scratch.data();
        ops.attend(a);
    }
    Buffer<char> store(long room) const { return Buffer<char>(key_bytes(format, room, dim) + value_bytes(format, room, dim)); }
    std::vector<float> whole(long rows) const {
        std::vector<float> out(rows * dim);
        Buffer<char> fresh = store(rows);
        run(fresh, rows, 0, rows, out.data());
        return out;
    }
};

// As the kernels keep a number
double kept(Format f, float x) { return f == Format::f32 ? x : from_bf16(nearest_bf16(x)); }

void values(const Head& h, const std::vector<float>& got) {
    const long d = h.dim;
    const bool narrow = h.format == Format::bf16;
    const float scale = 1.0f / std::sqrt((float)d);
    for (long t = 0; t < MOST; t++) {
        std::vector<double> scores, q(d);
        double most = -INFINITY, worst = 0;
        for (long i = 0; i < d; i++) q[i] = kept(h.format, h.q(t)[i] * scale);
        for (long s = 0; s <= t; s++) {
            double score = 0, size = 0;
            for (long i = 0; i < d; i++) {
                const double product = q[i] * kept(h.format, h.k(s)[i]);
                score += product;
                size += std::fabs(product);
            }
            scores.push_back(score);
            most = std::max(most, score);
            worst = std::max(worst, (d + 2) * UNIT * size + 2 * UNIT * std::fabs(score));
        }
        double total = 0;
        for (double& s : scores) total += s = std::exp(s - most);
        // a probability: its score's and the highest score's error, exp's, the sum's, its own rounding; then as many additions
        const double relative = 2 * worst + 1e-6 + 2 * (t + 4) * UNIT + (narrow ? 1.01 * BF16_UNIT : 0);
        for (long i = 0; i < d; i++) {
            double mixed = 0, size = 0;
            for (long s = 0; s <= t; s++) {
                const double part = scores[s] / total * kept(h.format, h.v(s)[i]);
                mixed += part;
                size += std::fabs(part);
            }
            const double bound = relative * size + TINY;
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
void next(const Head& h, const std::vector<float>& want) {
    for (const long rows : {1L, 16L, 45L}) {
        Activations to(h.format, rows + 4, 4 * h.dim);
        std::vector<char> before(to.lines.data(), to.lines.data() + to.lines.bytes());
        Buffer<char> store = h.store(rows);
        h.run(store, rows, 0, rows, nullptr, &to.rows);
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < h.dim; i++) {
                const double y = kept(h.format, want[r * h.dim + i]), got = to.value(r + 2, 2 * h.dim + i);
                CHECK(got == y, "next: row %ld, %ld: %.9g, not %.9g", r, i, got, y);
                std::memset(to.lines.data() + (to.at(r + 2, 2 * h.dim + i) - to.lines.data()), 0xff, element(h.format));
            }
        CHECK(std::memcmp(before.data(), to.lines.data(), before.size()) == 0, "next: wrote elsewhere");
    }
}

}  // namespace

void test_attention() {
    for (const Ops* ops : runnable()) {
        const Ready ready(*ops);
        for (const Format f : {Format::f32, Format::bf16})
            for (const long dim : {4L, 20L, 64L, 80L}) {
                where = std::string("attention ") + ops->name + " " + name_of(f) + " " + std::to_string(dim);
                const Head h(*ops, f, dim, 1);
                const std::vector<float> want = h.whole(MOST);
                values(h, want);
                for (long rows = 1; rows < MOST; rows += dim == 20 ? 1 : 9)
                    CHECK(std::memcmp(h.whole(rows).data(), want.data(), rows * dim * 4) == 0, "%ld rows", rows);
                cuts(h, Head(*ops, f, dim, 2), want);
                next(h, want);
            }
    }
}
