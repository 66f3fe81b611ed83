// What every instruction set must provide. The same sources are compiled once for each of them (see CMakeLists.txt); the
// engine calls through a table, so no instruction is used that the machine lacks.
#pragma once

#include <cstdint>

namespace cpm {

enum class Format : int { f32 = 0, bf16 = 1, i8 = 2 };

// Packed matrices come in tiles of 64 outputs. Inside, `group` consecutive inputs of one output fill four bytes, and the 64
// outputs' four bytes lie side by side: one linear stream for a row times a matrix, no sum across a register at its end, and
// just the layout that AMX wants.
constexpr int TILE = 64;
constexpr int TILE_BYTES = TILE * 4;  // of one group of inputs

constexpr long group(Format f) { return f == Format::f32 ? 1 : f == Format::bf16 ? 2 : 4; }
constexpr long element(Format f) { return 4 / group(f); }
constexpr long round_up(long n, long to) { return (n + to - 1) / to * to; }

// Kernels read and write activations up to a multiple of this many rows.
constexpr long ROW_BLOCK = 32;
constexpr long LINE = 64;  // bytes

// [outputs, inputs], packed. Inputs are padded with zeros to a multiple of 64, outputs to a multiple of TILE.
struct Matrix {
    Format format = Format::f32;
    long outputs = 0, inputs = 0;
    char* data = nullptr;
    float* scale = nullptr;     // i8: of each output

    long padded_inputs() const { return round_up(inputs, 64); }
    long tiles() const { return (outputs + TILE - 1) / TILE; }
    long tile_bytes() const { return padded_inputs() / group(format) * TILE_BYTES; }
    long bytes() const { return tiles() * tile_bytes(); }
    const char* tile(long t) const { return data + t * tile_bytes(); }
};

// Activations as products read them: [inputs in lines of 64 bytes][rows][64 bytes], so that a kernel's rows lie at fixed
// distances, and 16 of them are an AMX tile. Padded with zeros to a multiple of 64 inputs.
// i8: a row's line is two lines, as the instruction set multiplies them (to_groups in rowwise.h). AMX: two planes of bytes, x = scale
// * (256 * high + low). Others: 64 bytes, and behind them the scale of these 64 inputs.
struct Rows {
    char* data;
    long line_stride;  // bytes
    float* scale;      // i8 with AMX: of each row

    char* row(long r, long planes) const { return data + r * planes * LINE; }
};
constexpr long planes(Format f) { return f == Format::i8 ? 2 : 1; }

enum class After { store, gelu, add };  // what becomes of a product: out = y, out = gelu(y), out += y

// Tiles of outputs for all rows: out[row][column] from x[row] . w[column] + bias.
struct Product {
    const Matrix* matrix;
    long tile, tiles;  // the first, and how many
    long rows;
    Rows x;
    const float* bias;  // of the whole matrix, padded; or null
    After after;
    float* out;       // [rows, stride]; or null:
    long out_stride;  // in elements
    Rows next;        // then the outputs go here, as the next product's inputs; i8 only where Ops::groups
    long columns;     // of the matrix that are written
    float* scratch;   // SCRATCH_ROWS * TILE
};
constexpr long SCRATCH_ROWS = 192;

// Attention of one head over the rows of one segment; stores their keys and values first.
struct Attention {
    Format format;  // of keys and values
    long rows, start, head_dim;
    const float* q;  // first row; k and v likewise
    const float* k;
    const float* v;
    long stride;     // floats between rows of q, k, v
    char* keys;      // this head's, see key_bytes
    char* values;
    float* out;      // first row's; or null:
    long out_stride;
    Rows next;       // then it goes here, as the product's inputs
    Format next_format;  // f32 or bf16
    long row, column;  // of the first row's first output there
    const char* then = nullptr;  // what this thread reads next: another head's keys
    long then_bytes = 0;
    char* scratch;   // attention_scratch bytes
};

// Keys of a head: a packed matrix of [positions, head_dim], so that q . K is a product as any other.
// Values of a head: packed [head_dim, positions], so that p . V is one too.
// i8: each position's key has a scale, and so has its value; those of 64 positions, the keys' first, lie behind their tile of keys.
constexpr long key_depth(Format f, long head_dim) { return round_up(head_dim, f == Format::i8 ? 64 : 32); }
constexpr long value_width(long head_dim) { return round_up(head_dim, 16); }
constexpr long key_tile_bytes(Format f, long head_dim) {
    return TILE * (key_depth(f, head_dim) * element(f) + (f == Format::i8 ? 8 : 0));
}
constexpr long key_bytes(Format f, long positions, long head_dim) {
    return round_up(positions, TILE) / TILE * key_tile_bytes(f, head_dim);
}
constexpr long value_bytes(Format f, long positions, long head_dim) {
    return round_up(positions, TILE) * value_width(head_dim) * element(f);
}
constexpr long head_bytes(Format f, long positions, long head_dim) {
    return key_bytes(f, positions, head_dim) + value_bytes(f, positions, head_dim);
}
constexpr long QUERIES = 16;  // at a time
constexpr long attention_scratch(long positions, long head_dim) {
    // a row, queries, mixed values, scores, probabilities, each at most 4 bytes an element
    return QUERIES * 4 * (2 * round_up(head_dim, 64) + value_width(head_dim) + 2 * round_up(positions, TILE)) + 1024;
}

struct Ops {
    const char* name;
    bool groups;  // whether i8's inputs have a scale for each 64, so that a tile of outputs is whole; else one for a row
    void (*begin)();  // of a step, on every thread (AMX keeps its tiles' shape in the thread)
    void (*end)();
    void (*product)(const Product&);
    void (*attend)(const Attention&);
    // out = norm(x) * weight + bias, n floats
    void (*norm)(const float* x, long n, const float* weight, const float* bias, float* out);
    // n floats as row `row` of a product's inputs
    void (*convert)(const float* x, long n, Format format, const Rows& out, long row);
};

// Defined where the build could compile them, asked for only where the machine can run them.
const Ops* ops_generic();
const Ops* ops_avx2();
const Ops* ops_avx2_vnni();
const Ops* ops_avx512();
const Ops* ops_avx512_vnni();
const Ops* ops_avx512_bf16();
const Ops* ops_amx();
const Ops* ops_dotprod();

}  // namespace cpm
