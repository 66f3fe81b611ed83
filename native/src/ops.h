// The layouts of weights, activations, keys and values, and the table of kernels that each instruction set provides. The kernels'
// sources are compiled once for each instruction set (see CMakeLists.txt); the engine calls them through the table, so the machine
// executes no instruction that it lacks.
#pragma once

#include <cstdint>

namespace cpm {

enum class Format : int { f32 = 0, bf16 = 1, i8 = 2 };

// A packed matrix is divided into tiles of 64 outputs. In a tile, `group` consecutive inputs of one output fill four bytes, and
// these four bytes of all 64 outputs are adjacent. So a row times a matrix reads one linear stream, needs no sum across the lanes of
// a register, and the layout is the one that AMX requires.
constexpr int TILE = 64;
constexpr int TILE_BYTES = TILE * 4;  // bytes of one group of inputs

constexpr long group(Format f) { return f == Format::f32 ? 1 : f == Format::bf16 ? 2 : 4; }
constexpr long element_bytes(Format f) { return 4 / group(f); }
constexpr long round_up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

// Kernels read and write activations up to a multiple of this many rows.
constexpr long ROW_BLOCK = 32;
constexpr long LINE = 64;  // bytes of a cache line

// [outputs, inputs], packed. Inputs are padded with zeros to a multiple of 64, outputs to a multiple of TILE.
struct Matrix {
    Format format = Format::f32;
    long outputs = 0, inputs = 0;
    char* data = nullptr;
    float* scale = nullptr;  // i8: one for each output

    long padded_inputs() const { return round_up(inputs, 64); }
    long tiles() const { return (outputs + TILE - 1) / TILE; }
    long tile_bytes() const { return padded_inputs() / group(format) * TILE_BYTES; }
    long bytes() const { return tiles() * tile_bytes(); }
    const char* tile(long t) const { return data + t * tile_bytes(); }
};

// Activations as products read them: [inputs in lines of 64 bytes][rows][64 bytes], so that a kernel's rows are at fixed
// distances, and 16 of them form an AMX tile. Padded with zeros to a multiple of 64 inputs.
// i8: each line of a row takes two lines (to_groups in rowwise.h). AMX: two planes of bytes, x = scale * (256 * high + low).
// Others: 64 bytes, followed by the scale of these 64 inputs.
struct Rows {
    char* data;
    long line_stride;  // bytes
    float* scale;      // i8 with AMX: one for each row

    char* row(long r, long planes) const { return data + r * planes * LINE; }
};
constexpr long planes(Format f) { return f == Format::i8 ? 2 : 1; }

// applied to a product y: out = y, out = gelu(y) in its tanh form or its erf form, out += y
enum class Epilogue { store, gelu, add, gelu_erf };

// A product of all rows with some tiles of a matrix: y[row][column] = x[row] . w[column] + bias.
struct Product {
    const Matrix* matrix;
    long tile, tiles;  // the first, and their number
    long rows;
    Rows x;
    const float* bias;  // of the whole matrix, padded to whole tiles; or null
    Epilogue epilogue;
    float* out;       // [rows, out_stride]; if null, the outputs are written to `next`
    long out_stride;  // in elements
    Rows next;        // the next product's inputs; i8 requires Ops::grouped_scales
    long columns;     // outputs of the matrix to write
    float* scratch;   // SCRATCH_ROWS * TILE floats
};
constexpr long SCRATCH_ROWS = 192;

// Causal attention of one head over the rows of one segment, whose keys and values are stored first.
struct Attention {
    Format format;  // of keys and values
    long rows, start, head_dim;
    const float* q;  // of the first row, as k and v are
    const float* k;
    const float* v;
    long stride;     // floats between rows of q, k, v
    char* keys;      // of this head, see key_bytes
    char* values;
    float* out;      // of the first row; if null, the output is written to `next`
    long out_stride;
    Rows next;           // the next product's inputs
    Format next_format;  // f32 or bf16
    long row, column;    // where the first row's first output is written in `next`
    const char* prefetch = nullptr;  // what this thread reads next: the keys of another head
    long prefetch_bytes = 0;
    char* scratch;  // attention_scratch_bytes(), of the slot's capacity in positions
    float divisor = 1;  // of the scores, besides the square root of head_dim
};

// Keys of a head: a packed matrix [positions, head_dim], so that q . K is a product of packed matrices.
// Values of a head: a packed matrix [head_dim, positions], so that p . V is one too.
// i8: one scale for each position's key, and one for its value. The scales of 64 positions, keys before values, follow their tile of
// keys.
constexpr long key_depth(Format f, long head_dim) { return round_up(head_dim, f == Format::i8 ? 64 : 32); }
constexpr long value_width(long head_dim) { return round_up(head_dim, 16); }
constexpr long key_tile_bytes(Format f, long head_dim) {
    return TILE * (key_depth(f, head_dim) * element_bytes(f) + (f == Format::i8 ? 8 : 0));
}
constexpr long key_bytes(Format f, long positions, long head_dim) {
    return round_up(positions, TILE) / TILE * key_tile_bytes(f, head_dim);
}
constexpr long value_bytes(Format f, long positions, long head_dim) {
    return round_up(positions, TILE) * value_width(head_dim) * element_bytes(f);
}
constexpr long head_bytes(Format f, long positions, long head_dim) {
    return key_bytes(f, positions, head_dim) + value_bytes(f, positions, head_dim);
}
constexpr long QUERY_BLOCK = 16;  // queries computed together
constexpr long attention_scratch_bytes(long positions, long head_dim) {
    // a row, queries, weighted values, scores, probabilities, each at most 4 bytes an element
    return QUERY_BLOCK * 4 * (2 * round_up(head_dim, 64) + value_width(head_dim) + 2 * round_up(positions, TILE)) + 1024;
}

struct Ops {
    const char* name;
    bool grouped_scales;  // i8: inputs have a scale for each 64, which one tile of outputs completes; else one for each row
    void (*begin)();      // called on every thread before a step's other kernels (AMX keeps its tile configuration in the thread)
    void (*end)();        // and after them
    void (*product)(const Product&);
    void (*attend)(const Attention&);
    // out = norm(x) * weight + bias, n floats
    void (*norm)(const float* x, long n, const float* weight, const float* bias, float epsilon, float* out);
    // write n floats as row `row` of a product's inputs
    void (*convert)(const float* x, long n, Format format, const Rows& out, long row);
    // the logarithm of the sum of e^x of n floats
    double (*log_sum)(const float* x, long n);
};

// Defined if the compiler supports the instruction set, called only if the machine does (isa.cpp).
const Ops* ops_generic();
const Ops* ops_avx2();
const Ops* ops_avx2_vnni();
const Ops* ops_avx512();
const Ops* ops_avx512_vnni();
const Ops* ops_avx512_bf16();
const Ops* ops_amx();
const Ops* ops_dotprod();

}  // namespace cpm
