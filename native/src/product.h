// A tile of a matrix times all rows, with what follows. Included inside the instruction set's own namespace, after gemm.h.

// How much of a tile meets all rows before the walk goes on. Few rows wait for weights: small pieces, so that the next one comes
// in meanwhile. Many rows compute: pieces for the second cache.
constexpr long FEW = 64;
constexpr long FEW_LINES = 4;     // 16 KB
constexpr long MANY_LINES = 64;      // 256 KB
constexpr long STREAM_AHEAD = 4096;  // bytes; for rows that meet each weight once

// AMX sums a row's two planes of bytes apart.
template <Format F>
constexpr long SUMS = F == Format::i8 && TILED ? 2 : 1;

template <Format F>
inline vf finished(const Product& p, long tile, long from, long row, int s) {
    const float* scratch = p.scratch;
    if constexpr (F == Format::i8 && TILED) {
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

template <Format F>
inline void finish(const Product& p, long tile, long from, long rows) {
    const long first = tile * TILE;
    const long columns = p.columns - first < TILE ? p.columns - first : TILE;
    for (long r = 0; r < rows; r++) {
        float* out = p.out ? p.out + (from + r) * p.out_stride + first : nullptr;
        constexpr bool GROUP = F == Format::i8 && !TILED;
        float cut[TILE];  // the matrix's last columns, where fewer than a tile's are wanted; a group to be
        for (long s = 0; s < TILE / W; s++) {
            vf y = finished<F>(p, tile, from, r, s);
            if (p.bias) y = y + load<vf>(p.bias + first + s * W);
            if (p.after == After::gelu) y = gelu_of(y);
            const long at = (first + s * W) * element(F);  // bytes, in a row of the next product's inputs
            if (!out && GROUP) store(cut + s * W, y);
            else if (!out) put(p.next.row(from + r, 1) + at / LINE * p.next.line_stride + at % LINE, y, F);
            else if (columns < TILE) store(cut + s * W, y);
            else store(out + s * W, p.after == After::add ? load<vf>(out + s * W) + y : y);
        }
        if (!out && GROUP) to_group(cut, TILE, p.next.row(from + r, 2) + tile * p.next.line_stride);
        if (out && columns < TILE)
            for (long c = 0; c < columns; c++) out[c] = p.after == After::add ? out[c] + cut[c] : cut[c];
    }
}

// Rows from .. from + rows with one tile; `after`: rows that follow them, to be fetched meanwhile, an equal part with each tile.
template <Format F>
inline void tile_of(const Product& p, long tile, long from, long rows, long after) {
    const Matrix& m = *p.matrix;
    const long lines = m.padded_inputs() / group(F) / 16;
    const long all = rows * SUMS<F>;
    const bool once = all <= (TILED && F != Format::f32 ? 16 : MOST_ROWS);
    const long step = once ? lines : all <= FEW ? FEW_LINES : MANY_LINES;
    const bool last = tile + 1 == m.tiles();
    for (long line = 0; line < lines; line += step) {
        Walk a;
        a.lines = lines - line < step ? lines - line : step;
        a.x = p.x.row(from, planes(F)) + line * p.x.line_stride;
        a.x_stride = p.x.line_stride;
        a.w = m.tile(tile) + line * 16 * TILE_BYTES;
        a.w_stride = TILE_BYTES;
        a.out = p.scratch;
        a.out_stride = TILE;
        a.more = line > 0;
        // the piece after this one, the next tile's first among them; it is in the second cache already where more rows follow
        const long piece = a.lines * 16 * TILE_BYTES;
        a.next = a.w + (once ? STREAM_AHEAD : piece);
        a.until = from > 0 || (last && !once && line + step >= lines) ? a.next : a.next + piece;
        Fetch fetch;
        if (TILED && F != Format::f32 && after > 0) {
            const long each = (lines + p.tiles - 1) / p.tiles;  // lines of inputs, of all pieces of this tile
            const long first = (tile - p.tile) * each + line * each / lines;
            const long past = (tile - p.tile) * each + (line + a.lines) * each / lines;
            fetch.at = p.x.row(from + rows, planes(F)) + first * p.x.line_stride;
            fetch.run = after * planes(F) * LINE;
            fetch.jump = p.x.line_stride;
            fetch.runs = (past < lines ? past : lines) - first;
            const long turns = (all + 31) / 32 * 2 * a.lines;
            fetch.lines = (int)((fetch.runs * fetch.run / LINE + turns - 1) / turns);
            if (fetch.runs > 0) a.rows_ahead = &fetch;
        }
        multiply(F, a, all, TILE);
    }
    finish<F>(p, tile, from, rows);
}

// Rows in chunks that stay in the second cache while they meet the tiles, and so do the tiles (few enough of them, see step.cpp).
template <Format F>
inline void product_of(const Product& p) {
    const long chunk = SCRATCH_ROWS / SUMS<F>;
    for (long from = 0; from < p.rows; from += chunk) {
        const long rows = p.rows - from < chunk ? p.rows - from : chunk;
        const long left = p.rows - from - rows, after = left < chunk ? left : chunk;
        for (long tile = p.tile; tile < p.tile + p.tiles; tile++) tile_of<F>(p, tile, from, rows, after);
    }
}

inline void product(const Product& p) {
    switch (p.matrix->format) {
        case Format::f32: return product_of<Format::f32>(p);
        case Format::bf16: return product_of<Format::bf16>(p);
        case Format::i8: return product_of<Format::i8>(p);
    }
}
