// Tiles of a matrix times all rows, and the epilogue. Included inside the namespace of the instruction set, after gemm.h.

// A tile is multiplied in pieces of some lines of inputs, each with all rows. Few rows are limited by memory: small pieces, so that
// the next one is prefetched during this one, and both stay in the L1 cache beside the rows. Many rows are limited by arithmetic: pieces
// of the L2 cache's size.
constexpr long FEW_SUMS = 64;
constexpr long FEW_LINES = 1;        // 4 KB
constexpr long MANY_LINES = 64;      // 256 KB
constexpr long STREAM_AHEAD = 4096;  // prefetch distance in bytes for rows that use each weight once

// AMX sums the two planes of bytes of an i8 row separately.
template <Format F>
constexpr long SUMS_PER_ROW = F == Format::i8 && HAS_AMX ? 2 : 1;

// W finished sums of a row: the scratch, multiplied by the scales of weights and inputs.
template <Format F>
inline vf scaled_sums(const Product& p, long tile, long from, long row, int s) {
    const float* scratch = p.scratch;
    if constexpr (F == Format::i8 && HAS_AMX) {
        const int32_t* sums = (const int32_t*)scratch + row * 2 * TILE + s * W;
        const vf high = __builtin_convertvector(load<vi>(sums), vf);
        const vf low = __builtin_convertvector(load<vi>(sums + TILE), vf);
        return (high * 256.0f + low) * load<vf>(p.matrix->scale + tile * TILE + s * W) * p.x.scale[from + row];
    } else if constexpr (F == Format::i8) {
        return load<vf>(scratch + row * TILE + s * W) * load<vf>(p.matrix->scale + tile * TILE + s * W);
    } else {
        return load<vf>(scratch + row * TILE + s * W);
    }
}

// Add the bias, apply the epilogue and write rows from .. from + rows of a tile.
template <Format F>
inline void apply_epilogue(const Product& p, long tile, long from, long rows) {
    const long first = tile * TILE;
    const long columns = p.columns - first < TILE ? p.columns - first : TILE;
    for (long r = 0; r < rows; r++) {
        float* out = p.out ? p.out + (from + r) * p.out_stride + first : nullptr;
        constexpr bool GROUP = F == Format::i8 && !HAS_AMX;
        float staged[TILE];  // a tile's outputs, if fewer than TILE columns are written or they are quantized together
        for (long s = 0; s < TILE / W; s++) {
            vf y = scaled_sums<F>(p, tile, from, r, s);
            if (p.bias) y = y + load<vf>(p.bias + first + s * W);
            if (p.epilogue == Epilogue::gelu) y = gelu_of(y);
            if (p.epilogue == Epilogue::gelu_erf) y = gelu_erf_of(y);
            const long at = (first + s * W) * element_bytes(F);  // byte offset in a row of the next product's inputs
            if (!out && GROUP) store(staged + s * W, y);
            else if (!out) store_as(p.next.row(from + r, 1) + at / LINE * p.next.line_stride + at % LINE, y, F);
            else if (columns < TILE) store(staged + s * W, y);
            else store(out + s * W, p.epilogue == Epilogue::add ? load<vf>(out + s * W) + y : y);
        }
        if (!out && GROUP) to_group(staged, TILE, p.next.row(from + r, 2) + tile * p.next.line_stride);
        if (out && columns < TILE)
            for (long c = 0; c < columns; c++) out[c] = p.epilogue == Epilogue::add ? out[c] + staged[c] : staged[c];
    }
}

// Rows from .. from + rows times one tile. `rows_after`: the number of rows after them to prefetch, an equal part with each tile.
template <Format F>
inline void product_tile(const Product& p, long tile, long from, long rows, long rows_after) {
    const Matrix& m = *p.matrix;
    const long lines = m.padded_inputs() / group(F) / 16;
    const long all = rows * SUMS_PER_ROW<F>;
    // Sums of a whole tile that fit in registers read its weights once, as one stream. Weights of four bytes that several passes read
    // should come from the L1 cache; for others, one piece less to add up is worth more.
    const bool amx = HAS_AMX && F != Format::f32;
    const bool one_stream = amx ? all <= 16 : all * (TILE / W) <= REGISTERS<F>;
    const bool single_pass = one_stream || (F != Format::f32 && !amx && all <= MAX_BLOCK_ROWS<F>);
    const long step = single_pass ? lines : all <= FEW_SUMS ? FEW_LINES : MANY_LINES;
    const bool last = tile + 1 == m.tiles();
    for (long line = 0; line < lines; line += step) {
        GemmArgs a;
        a.lines = lines - line < step ? lines - line : step;
        a.x = p.x.row(from, planes(F)) + line * p.x.line_stride;
        a.x_stride = p.x.line_stride;
        a.w = m.tile(tile) + line * 16 * TILE_BYTES;
        a.w_stride = TILE_BYTES;
        a.out = p.scratch;
        a.out_stride = TILE;
        a.accumulate = line > 0;
        // prefetch the next piece, after the last one the next tile's first; from the second chunk of rows on it is in the L2 cache
        const long piece = a.lines * 16 * TILE_BYTES;
        a.prefetch = a.w + (one_stream ? STREAM_AHEAD : piece);
        a.prefetch_end = from > 0 || (last && !one_stream && line + step >= lines) ? a.prefetch : a.prefetch + piece;
        RowPrefetch fetch;
        if (HAS_AMX && F != Format::f32 && rows_after > 0) {
            const long each = (lines + p.tiles - 1) / p.tiles;  // lines of inputs to prefetch during this tile
            const long first = (tile - p.tile) * each + line * each / lines;
            const long past = (tile - p.tile) * each + (line + a.lines) * each / lines;
            fetch.at = p.x.row(from + rows, planes(F)) + first * p.x.line_stride;
            fetch.run = rows_after * planes(F) * LINE;
            fetch.jump = p.x.line_stride;
            fetch.runs = (past < lines ? past : lines) - first;
            const long turns = (all + 31) / 32 * 2 * a.lines;
            fetch.lines = (int)((fetch.runs * fetch.run / LINE + turns - 1) / turns);
            if (fetch.runs > 0) a.row_prefetch = &fetch;
        }
        gemm(F, a, all, TILE);
    }
    apply_epilogue<F>(p, tile, from, rows);
}

// Chunks of rows that stay in the L2 cache while they are multiplied by the tiles, which also stay there (step.cpp limits their
// number).
template <Format F>
inline void product_in(const Product& p) {
    const long chunk = SCRATCH_ROWS / SUMS_PER_ROW<F>;
    for (long from = 0; from < p.rows; from += chunk) {
        const long rows = p.rows - from < chunk ? p.rows - from : chunk;
        const long left = p.rows - from - rows, rows_after = left < chunk ? left : chunk;
        for (long tile = p.tile; tile < p.tile + p.tiles; tile++) product_tile<F>(p, tile, from, rows, rows_after);
    }
}

inline void product(const Product& p) {
    switch (p.matrix->format) {
        case Format::f32: return product_in<Format::f32>(p);
        case Format::bf16: return product_in<Format::bf16>(p);
        case Format::i8: return product_in<Format::i8>(p);
    }
}
