// Products by AMX: 16 rows times 16 outputs times 64 bytes of inputs in one instruction. A packed tile's 64 outputs are four
// of its tiles side by side, as they lie. Included by gemm.h.
//
// All row counts go this way, one row too (memory is slower than the tiles), so that a row's bits do not depend on how many
// others there are. `x` and `out` must be readable and writable up to a multiple of 16 rows, beyond FEW_TILED of 32.

constexpr long FEW_TILED = 64;  // rows up to which the weights' way from memory is what takes time

struct alignas(64) TileShape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// the compiler does not know that tiles read and write memory
#define CPM_FENCE() asm volatile("" ::: "memory")
#define CPM_DOT(c, a, b)                                             \
    do {                                                             \
        if constexpr (F == Format::bf16) _tile_dpbf16ps(c, a, b);    \
        else _tile_dpbssd(c, a, b);                                  \
    } while (0)

// What will be the tile at `column` of outputs when the walk is there: as many lines at a time as it takes itself.
inline void prefetch_tile(const Walk& a, long line, long column) {
    const char* next = a.next + line * 16 * TILE_BYTES;
    if (next < a.until)
        for (int g = 0; g < 16; g++) __builtin_prefetch(next + g * TILE_BYTES + column * 4, 0, 3);
}

// 32 rows (tiles 4, 5) times 32 outputs (tiles 6, 7) into tiles 0-3.
template <Format F>
inline void two_by_two(const Walk& a, long column) {
    float* out = a.out + column;
    const long row = a.out_stride * 4;
    float* low = out + 16 * a.out_stride;
    if (a.more) {
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
        if (a.rows_ahead) a.rows_ahead->turn();
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
inline void one_by_four(const Walk& a, long columns) {
    const long row = a.out_stride * 4;
    if (a.more) {
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
inline void amx_rows(Walk a, long rows, long columns) {
    CPM_FENCE();
    if (rows <= FEW_TILED) {
        for (long r = 0; r < rows; r += 16) {
            one_by_four<F>(a, columns);
            a.until = a.next;
            a.x += 16 * LINE;
            a.out += 16 * a.out_stride;
        }
    } else {  // only matrices meet so many rows: 64 columns, half of whose weights stay in the first cache while all rows pass
        for (long column = 0; column < TILE; column += 32) {
            Walk part = a;
            for (long r = 0; r < rows; r += 32) {
                two_by_two<F>(part, column);
                part.until = part.next;
                part.x += 32 * LINE;
                part.out += 32 * a.out_stride;
            }
        }
    }
    CPM_FENCE();
}
#undef CPM_DOT
#undef CPM_FENCE
