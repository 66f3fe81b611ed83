// Products by AMX: 16 rows times 16 outputs times 64 bytes of inputs in one instruction. The 64 outputs of a packed tile are four
// adjacent AMX tiles in memory. Included by gemm.h.
//
// All row counts are computed this way, even one row (memory is slower than the tiles), so that a row's bits do not depend on the
// number of rows. `x` must be readable and `out` writable up to a multiple of 16 rows; of 32 with more than FEW_AMX_ROWS.

constexpr long FEW_AMX_ROWS = 64;  // up to this many rows, loading weights from memory takes most of the time

struct alignas(64) TileShape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// the compiler does not know that tile instructions read and write memory
#define CPM_FENCE() asm volatile("" ::: "memory")
#define CPM_DOT(c, a, b)                                             \
    do {                                                             \
        if constexpr (F == Format::bf16) _tile_dpbf16ps(c, a, b);    \
        else _tile_dpbssd(c, a, b);                                  \
    } while (0)

// Prefetch an AMX tile's worth of lines, at the same `line` and `column` of the weights to come.
inline void prefetch_tile(const GemmArgs& a, long line, long column) {
    const char* next = a.prefetch + line * 16 * TILE_BYTES;
    if (next < a.prefetch_end)
        for (int g = 0; g < 16; g++) __builtin_prefetch(next + g * TILE_BYTES + column * 4, 0, 3);
}

// 32 rows (tiles 4, 5) times 32 outputs (tiles 6, 7) into tiles 0-3.
template <Format F>
inline void two_by_two(const GemmArgs& a, long column) {
    float* out = a.out + column;
    const long row = a.out_stride * 4;
    float* low = out + 16 * a.out_stride;
    if (a.accumulate) {
        _tile_loadd(0, out, row);
        _tile_loadd(1, out + 16, row);
        _tile_loadd(2, low, row);
        _tile_loadd(3, low + 16, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long line = 0; line < a.lines; line++) {
        const char* x = a.x + line * a.x_stride;
        const char* b = a.w + line * 16 * a.w_stride + column * 4;
        prefetch_tile(a, line, column);
        if (a.row_prefetch) a.row_prefetch->advance();
        _tile_loadd(4, x, LINE);
        _tile_loadd(6, b, a.w_stride);
        CPM_DOT(0, 4, 6);
        prefetch_tile(a, line, column + 16);
        _tile_loadd(7, b + 64, a.w_stride);
        CPM_DOT(1, 4, 7);
        _tile_loadd(5, x + 16 * LINE, LINE);
        CPM_DOT(2, 5, 6);
        CPM_DOT(3, 5, 7);
    }
    _tile_stored(0, out, row);
    _tile_stored(1, out + 16, row);
    _tile_stored(2, low, row);
    _tile_stored(3, low + 16, row);
}

// 16 rows (tile 4) times up to 64 outputs (tiles 5-7) into tiles 0-3.
template <Format F>
inline void one_by_four(const GemmArgs& a, long columns) {
    const long row = a.out_stride * 4;
    if (a.accumulate) {
        _tile_loadd(0, a.out, row);
        if (columns > 16) _tile_loadd(1, a.out + 16, row);
        if (columns > 32) _tile_loadd(2, a.out + 32, row);
        if (columns > 48) _tile_loadd(3, a.out + 48, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long line = 0; line < a.lines; line++) {
        const char* b = a.w + line * 16 * a.w_stride;
        prefetch_tile(a, line, 0);
        _tile_loadd(4, a.x + line * a.x_stride, LINE);
        _tile_loadd(5, b, a.w_stride);
        CPM_DOT(0, 4, 5);
        if (columns <= 16) continue;
        prefetch_tile(a, line, 16);
        _tile_loadd(6, b + 64, a.w_stride);
        CPM_DOT(1, 4, 6);
        if (columns <= 32) continue;
        prefetch_tile(a, line, 32);
        _tile_loadd(7, b + 128, a.w_stride);
        CPM_DOT(2, 4, 7);
        if (columns <= 48) continue;
        prefetch_tile(a, line, 48);
        _tile_loadd(5, b + 192, a.w_stride);
        CPM_DOT(3, 4, 5);
    }
    _tile_stored(0, a.out, row);
    if (columns > 16) _tile_stored(1, a.out + 16, row);
    if (columns > 32) _tile_stored(2, a.out + 32, row);
    if (columns > 48) _tile_stored(3, a.out + 48, row);
}

template <Format F>
inline void amx_gemm(GemmArgs a, long rows, long columns) {
    CPM_FENCE();
    if (rows <= FEW_AMX_ROWS) {
        for (long r = 0; r < rows; r += 16) {
            one_by_four<F>(a, columns);
            a.prefetch_end = a.prefetch;
            a.x += 16 * LINE;
            a.out += 16 * a.out_stride;
        }
    } else {  // only weights, with all 64 columns: half of them stay in the L1 cache during the pass over the rows
        for (long column = 0; column < TILE; column += 32) {
            GemmArgs part = a;
            for (long r = 0; r < rows; r += 32) {
                two_by_two<F>(part, column);
                part.prefetch_end = part.prefetch;
                part.x += 32 * LINE;
                part.out += 32 * a.out_stride;
            }
        }
    }
    CPM_FENCE();
}
#undef CPM_DOT
#undef CPM_FENCE
