// Packing of a checkpoint's tensors, from every dtype, with strided rows and unaligned addresses.
#include "packed.h"

using namespace cpm;

namespace {

// A float16, by its definition.
double half(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 0x3ff;
    const double sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

Model small(Format format, int hidden, int vocabulary, int threads = 1) {
    return {cpm_sizes{2, hidden, 1, hidden, 4 * hidden, vocabulary, 0, 7, 1, (int)format, (int)format, threads, -1, 1e-5f, 0, 0, 0}, *supported_ops().back()};
}

// All 65536 patterns of 16 bits as the word embedding [250, 263], with a stride of 300, at an odd address.
void all_patterns(int dtype) {
    const long rows = 250, columns = 263, stride = 300;
    Buffer<char> data((rows * stride - stride + columns) * 2 + 1);
    const auto pattern = [&](long r, long c) { return (uint16_t)(r * columns + c); };
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < columns; c++) {
            const uint16_t h = pattern(r, c);
            std::memcpy(data.data() + 1 + (r * stride + c) * 2, &h, 2);
        }
    for (const Format f : {Format::f32, Format::bf16}) {
        where = std::string("pack ") + name_of(f) + " from dtype " + std::to_string(dtype);
        Model m = small(f, columns, rows, 3);
        CHECK(pack(m, CPM_WORDS, 0, data.data() + 1, dtype, 0, rows, columns, stride));
        const Packed packed(m.words);
        std::vector<float> row(columns);
        for (long r = 0; r < rows; r++) {
            embedding_row(m.words, r, row.data());
            for (long c = 0; c < columns; c++) {
                const uint16_t h = pattern(r, c);
                float want = dtype == CPM_FROM_F16 ? (float)half(h) : from_bf16(h);
                if (f == Format::bf16) want = from_bf16(nearest_bf16(want));
                const float got = (float)packed.stored(r, c);
                if (want != want) CHECK(got != got && row[c] != row[c], "%04x: %g, not NaN", h, got);
                else CHECK(bits(got) == bits(want) && bits(row[c]) == bits(want), "%04x: %g, not %g", h, got, want);
            }
            for (long c = columns; c < packed.matrix.padded_inputs(); c++) CHECK(packed.stored(r, c) == 0, "padding");
        }
        for (long r = rows; r < packed.matrix.tiles() * TILE; r++)
            for (long c = 0; c < columns; c++) CHECK(packed.stored(r, c) == 0, "padding");
    }
}

void rounding() {
    where = "pack bf16 from floats";
    Random random(8);
    const long rows = 70, columns = 130;
    std::vector<float> x(rows * columns);
    for (float& v : x) do v = as_float(random.engine()); while (v != v);  // of every exponent, subnormal too
    for (long i = 0; i < 64; i++) x[i] = as_float(0x3f7f8000u + (uint32_t)i * 0x4000);  // ties, and values beside them
    const Packed packed(Format::bf16, rows, columns, x);
    for (long i = 0; i < rows * columns; i++) {
        const double got = packed.stored(i / columns, i % columns);
        CHECK(got == from_bf16(nearest_bf16(x[i])), "%.9g: %.9g", x[i], got);
    }
}

void bytes() {
    where = "pack i8";
    const long rows = 150, columns = 263;
    Random random(8);
    std::vector<float> x(rows * columns);
    for (long i = 0; i < rows * columns; i++) x[i] = random.normal() * std::ldexp(1.0f, (int)(i / columns % 40) - 20);
    for (long i = 0; i < columns; i++) x[9 * columns + i] = 0;
    x[10 * columns + 5] = NAN;
    x[11 * columns] = -INFINITY;
    for (long i = 0; i < columns; i++) x[12 * columns + i] = i ? 0.0f : 1e-42f;
    const Packed packed(Format::i8, rows, columns, x);
    for (long r = 0; r < rows; r++) {
        const float scale = packed.matrix.scale[r];
        if (r == 10 || r == 11) {
            CHECK(scale != scale, "row %ld holds %g: scale %g", r, r == 10 ? NAN : INFINITY, scale);
            continue;
        }
        double most = 0;
        for (long i = 0; i < columns; i++) most = std::fmax(most, std::fabs(x[r * columns + i]));
        for (long i = 0; i < columns; i++) {
            const double q = packed.stored(r, i), wanted = x[r * columns + i];
            CHECK(std::fabs(q) <= 127, "row %ld: %g", r, q);
            const double bound = r == 12 ? most : most / 127 * 0.5001;
            CHECK(std::fabs(q * scale - wanted) <= bound, "row %ld input %ld: %g for %g", r, i, q * scale, wanted);
        }
        CHECK(r == 12 || std::fabs(scale * 127 - most) <= 2 * UNIT * most, "row %ld: scale %g, largest %g", r, scale, most);
    }
    for (long r = rows; r < packed.matrix.tiles() * TILE; r++)
        CHECK(packed.matrix.scale[r] == 0, "padding");
}

// Every tensor is packed into its own field, and only in the right size.
void tensors() {
    where = "pack tensors";
    Model m = small(Format::f32, 20, 30);
    std::vector<float> x(80 * 20 + 10);
    for (size_t i = 0; i < x.size(); i++) x[i] = (float)i;
    const struct {
        int tensor;
        long rows, columns;
        float* Layer::*vector;
        Matrix Layer::*matrix;
    } parts[] = {
        {CPM_NORM1_W, 1, 20, &Layer::norm1_w, nullptr}, {CPM_NORM1_B, 1, 20, &Layer::norm1_b, nullptr},
        {CPM_NORM2_W, 1, 20, &Layer::norm2_w, nullptr}, {CPM_NORM2_B, 1, 20, &Layer::norm2_b, nullptr},
        {CPM_QKV_B, 1, 60, &Layer::qkv_b, nullptr},     {CPM_DENSE_B, 1, 20, &Layer::dense_b, nullptr},
        {CPM_UP_B, 1, 80, &Layer::up_b, nullptr},       {CPM_DOWN_B, 1, 20, &Layer::down_b, nullptr},
        {CPM_QKV_W, 60, 20, nullptr, &Layer::qkv},      {CPM_DENSE_W, 20, 20, nullptr, &Layer::dense},
        {CPM_UP_W, 80, 20, nullptr, &Layer::up},        {CPM_DOWN_W, 20, 80, nullptr, &Layer::down},
    };
    for (const auto& part : parts) {
        CHECK(pack(m, part.tensor, 1, x.data() + 1, CPM_FROM_F32, 0, part.rows, part.columns, part.columns), "%d", part.tensor);
        CHECK(!pack(m, part.tensor, 1, x.data(), CPM_FROM_F32, 0, part.rows, part.columns + 1, part.columns + 1), "%d", part.tensor);
        CHECK(!pack(m, part.tensor, 2, x.data(), CPM_FROM_F32, 0, part.rows, part.columns, part.columns), "%d", part.tensor);
        CHECK(!pack(m, part.tensor, -1, x.data(), CPM_FROM_F32, 0, part.rows, part.columns, part.columns), "%d", part.tensor);
        for (long i = 0; i < part.rows * part.columns; i++) {
            const auto at = [&](const Layer& l) {
                return part.vector ? (l.*part.vector)[i] : (float)Packed(l.*part.matrix).stored(i / part.columns, i % part.columns);
            };
            if (part.matrix && i % 97) continue;  // Packed copies the matrix
            CHECK(at(m.layers[1]) == i + 1 && at(m.layers[0]) == 0, "tensor %d, %ld", part.tensor, i);
        }
    }
    CHECK(pack(m, CPM_POSITIONS, 0, x.data(), CPM_FROM_F32, 0, 7, 20, 25));
    for (long i = 0; i < 140; i++) CHECK(m.positions[i] == i / 20 * 25 + i % 20);
    CHECK(pack(m, CPM_FINAL_NORM_W, 0, x.data() + 2, CPM_FROM_F32, 0, 1, 20, 20) && m.final_norm_w[19] == 21);
    CHECK(pack(m, CPM_FINAL_NORM_B, 0, x.data() + 3, CPM_FROM_F32, 0, 1, 20, 20) && m.final_norm_b[19] == 22);
    CHECK(!pack(m, CPM_DOWN_B + 1, 0, x.data(), CPM_FROM_F32, 0, 1, 20, 20));
    CHECK(!pack(m, -1, 0, x.data(), CPM_FROM_F32, 0, 1, 20, 20));
    // a stride of 0 repeats the row
    CHECK(pack(m, CPM_WORDS, 0, x.data(), CPM_FROM_F32, 0, 30, 20, 0) && Packed(m.words).stored(29, 19) == 19);
}

// A matrix packed in any pieces of rows has the bytes of the whole; rows that are left out stay zero.
void pieces() {
    const long rows = 150, columns = 70;
    const std::vector<float> x = Random(3).normals(rows * columns);
    for (const Format f : {Format::f32, Format::bf16, Format::i8}) {
        where = std::string("pack pieces ") + name_of(f);
        Model whole = small(f, columns, rows, 3), parts = small(f, columns, rows, 3), most = small(f, columns, rows, 3);
        CHECK(pack(whole, CPM_WORDS, 0, x.data(), CPM_FROM_F32, 0, rows, columns, columns));
        for (const auto& [first, count] : {std::pair{64L, 64L}, {0L, 1L}, {1L, 63L}, {149L, 1L}, {128L, 21L}, {150L, 0L}})
            CHECK(pack(parts, CPM_WORDS, 0, x.data() + first * columns, CPM_FROM_F32, first, count, columns, columns));
        CHECK(std::memcmp(whole.words.data, parts.words.data, whole.words.bytes()) == 0);
        CHECK(pack(most, CPM_WORDS, 0, x.data(), CPM_FROM_F32, 0, rows - 2, columns, columns));
        const Packed packed(most.words), all(whole.words);
        for (long r = 0; r < rows; r++)
            for (long c = 0; c < columns; c++) CHECK(packed.stored(r, c) == (r < rows - 2 ? all.stored(r, c) : 0));
        if (f == Format::i8)
            for (long r = 0; r < rows; r++) CHECK(most.words.scale[r] == (r < rows - 2 ? whole.words.scale[r] : 0));
    }
}

// The head of a network that is not tied.
void own_head() {
    where = "pack head";
    Model tied = small(Format::f32, 20, 30), untied({2, 20, 1, 20, 80, 30, 0, 7, 1, 0, 0, 1, -1, 1e-5f, 0, 1, 0}, *supported_ops().back());
    const std::vector<float> x(30 * 20, 3.0f);
    CHECK(!pack(tied, CPM_HEAD, 0, x.data(), CPM_FROM_F32, 0, 30, 20, 20));
    CHECK(pack(untied, CPM_HEAD, 0, x.data(), CPM_FROM_F32, 0, 30, 20, 20));
    CHECK(Packed(untied.head()).stored(29, 19) == 3 && Packed(untied.words).stored(29, 19) == 0 && &tied.head() == &tied.words);
}

}  // namespace

void test_pack() {
    pieces();
    own_head();
    all_patterns(CPM_FROM_F16);
    all_patterns(CPM_FROM_BF16);
    rounding();
    bytes();
    tensors();
}
