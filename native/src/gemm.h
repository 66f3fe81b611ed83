// Products of packed matrices. Included inside the namespace of the instruction set, after vec.h.
//
// A register block is R rows times S vectors of outputs. Each output of each row has one accumulator, to which its inputs are added
// in order. So a row's result has the same bits whatever R, S and the number of rows are, and however the inputs are divided into
// blocks.

// Rows to prefetch into the L2 cache during the arithmetic: `runs` runs of `run` bytes, `jump` bytes from one to the next, `lines`
// cache lines at each advance().
struct RowPrefetch {
    const char* at = nullptr;
    long run = 0, jump = 0, runs = 0;
    int lines = 0;
    long done = 0;  // bytes of the current run

    void advance() {
        for (int n = 0; n < lines && runs > 0; n++) {
            __builtin_prefetch(at + done, 0, 2);
            done += LINE;
            if (done >= run) {
                done = 0;
                at += jump;
                runs--;
            }
        }
    }
};

// Operands of a product over `lines` lines of 64 bytes of inputs, sixteen groups each. `x_stride`: bytes from one line of a row to
// its next; the same line of the next row is 64 bytes on (i8: 128). `w_stride`: bytes from one group's weights to the next group's.
struct GemmArgs {
    long lines;
    const char* x;
    long x_stride;
    const char* w;
    long w_stride;
    float* out;  // i8 with AMX: int32_t
    long out_stride;
    bool accumulate;  // add to the sums in `out`
    // What is read next: prefetched in the order of its addresses, spread over the whole product, so that memory and arithmetic work
    // at the same time. With each group of inputs `prefetch_lines` lines.
    const char* prefetch = nullptr;
    const char* prefetch_end = nullptr;
    int prefetch_lines = 4;
    RowPrefetch* row_prefetch = nullptr;  // AMX with many rows: it computes faster than they arrive from the L3 cache
};

#define UNROLL _Pragma("GCC unroll 24")

// For each format: add the product of one group of inputs (four bytes of `x`) with four bytes of each of W outputs to W accumulators.
template <Format F>
struct Dot;

template <>
struct Dot<Format::f32> {
    typedef vf Sum;
    typedef vf Input;
    static Input input(const char* x) { return broadcast(load<float>(x)); }
    static Sum add(Sum sum, Input x, const char* w) { return sum + x * load<vf>(w); }
};

#if defined(__AVX512BF16__)
template <>
struct Dot<Format::bf16> {
    typedef vf Sum;
    typedef vi Input;
    static Input input(const char* x) { return broadcast_int(load<int32_t>(x)); }
    static Sum add(Sum sum, Input x, const char* w) {
        return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)load<vi>(w));
    }
};
#else
template <>
struct Dot<Format::bf16> {
    typedef vf Sum;
    struct Input {
        vf even, odd;
    };
    static Input input(const char* x) {
        return {broadcast(from_bf16(load<uint16_t>(x))), broadcast(from_bf16(load<uint16_t>(x + 2)))};
    }
    static Sum add(Sum sum, Input x, const char* w) {
        const vu pair = load<vu>(w);
        sum = sum + x.even * (vf)(pair << 16);
        return sum + x.odd * (vf)(pair & 0xffff0000u);
    }
};
#endif

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
constexpr bool HAS_AMX = true;  // bf16 and i8 are multiplied by AMX
#else
constexpr bool HAS_AMX = false;
#endif

// Signed bytes times signed bytes, exactly.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int WEIGHT_OFFSET = 128;  // VNNI needs one unsigned operand: w + 128; sums start at -128 times the sum of x
template <>
struct Dot<Format::i8> {
    typedef vi Sum;
    typedef vi Input;
    static Input input(const char* x) { return broadcast_int(load<int32_t>(x)); }
    static Sum add(Sum sum, Input x, const char* w) {
        const vi weights = load<vi>(w) ^ (int32_t)0x80808080;
#if defined(__AVX512VNNI__)
        return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)x);
#else
        return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, (__m256i)x);
#endif
    }
};
#elif defined(__AVX512BW__) || defined(__AVX2__)
constexpr int WEIGHT_OFFSET = 0;
template <>
struct Dot<Format::i8> {
    typedef vi Sum;
    typedef vi Input;
    static Input input(const char* x) { return broadcast_int(load<int32_t>(x)); }
    // |x| and |w| <= 127, so the sum of two products fits in 16 bits
    static Sum add(Sum sum, Input x, const char* w) {
#if defined(__AVX512BW__)
        const __m512i weights = (__m512i)load<vi>(w), xs = (__m512i)x;
        const __m512i turned = _mm512_mask_sub_epi8(weights, _mm512_movepi8_mask(xs), _mm512_setzero_si512(), weights);
        const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(xs), turned);
        return sum + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#else
        const __m256i weights = (__m256i)load<vi>(w), xs = (__m256i)x;
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(xs), _mm256_sign_epi8(weights, xs));
        return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
    }
};
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int WEIGHT_OFFSET = 0;
template <>
struct Dot<Format::i8> {
    typedef vi Sum;
    typedef vi Input;
    static Input input(const char* x) { return broadcast_int(load<int32_t>(x)); }
    static Sum add(Sum sum, Input x, const char* w) {
        return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)load<vi>(w));
    }
};
#else
constexpr int WEIGHT_OFFSET = 0;
template <>
struct Dot<Format::i8> {
    typedef vi Sum;
    struct Input {
        vi x[4];
    };
    static Input input(const char* x) {
        return {{broadcast_int((int8_t)x[0]), broadcast_int((int8_t)x[1]), broadcast_int((int8_t)x[2]), broadcast_int((int8_t)x[3])}};
    }
    static Sum add(Sum sum, const Input& x, const char* w) {
        const vi four = load<vi>(w);  // each byte is sign-extended below
        sum += x.x[0] * ((four << 24) >> 24);
        sum += x.x[1] * ((four << 16) >> 24);
        sum += x.x[2] * ((four << 8) >> 24);
        return sum + x.x[3] * (four >> 24);
    }
};
#endif

// Bytes from one row to the next in a line of inputs.
template <Format F>
constexpr long ROW = F == Format::i8 ? 2 * LINE : LINE;

// The start value of a sum over a line of i8 inputs, and the scale that the sum is multiplied by.
inline vi sum_start(const char* x) { return WEIGHT_OFFSET ? broadcast_int(load<int32_t>(x + LINE + 4)) : vi{}; }
inline vf line_scale(const char* x) { return broadcast(load<float>(x + LINE)); }

// Add one line of inputs of R rows times S vectors of outputs to `sums`.
template <Format F, int R, int S>
inline void add_line(const GemmArgs& a, const char* x, const char* w, const char*& next, typename Dot<F>::Sum (&sums)[R][S]) {
    // the distance between lines is too large for the hardware prefetcher
    UNROLL for (int r = 0; r < R; r++) {
        __builtin_prefetch(x + a.x_stride + r * ROW<F>, 0, 3);
        if (ROW<F> > LINE) __builtin_prefetch(x + a.x_stride + r * ROW<F> + LINE, 0, 3);
    }
    for (int g = 0; g < 16; g++, w += a.w_stride) {
        if (next < a.prefetch_end)
            for (int n = 0; n < a.prefetch_lines; n++) __builtin_prefetch(next + n * LINE, 0, 3);
        next += a.prefetch_lines * LINE;
        UNROLL for (int r = 0; r < R; r++) {
            const typename Dot<F>::Input input = Dot<F>::input(x + r * ROW<F> + g * 4);
            UNROLL for (int s = 0; s < S; s++) sums[r][s] = Dot<F>::add(sums[r][s], input, w + s * W * 4);
        }
    }
}

// R rows times S vectors of outputs. i8: the sum over a line is an exact integer; multiplied by the line's scale it is added to the
// row's sum.
template <Format F, int R, int S>
inline void block(const GemmArgs& a, const char* w, float* out) {
    vf totals[R][S];
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int s = 0; s < S; s++) totals[r][s] = a.accumulate ? load<vf>(out + r * a.out_stride + s * W) : vf{};
    }
    const char* x = a.x;
    const char* next = a.prefetch;
    for (long line = 0; line < a.lines; line++, x += a.x_stride, w += 16 * a.w_stride) {
        if constexpr (F == Format::i8) {
            vi sums[R][S];
            UNROLL for (int r = 0; r < R; r++) {
                UNROLL for (int s = 0; s < S; s++) sums[r][s] = sum_start(x + r * ROW<F>);
            }
            add_line<F, R, S>(a, x, w, next, sums);
            UNROLL for (int r = 0; r < R; r++) {
                const vf scale = line_scale(x + r * ROW<F>);
                UNROLL for (int s = 0; s < S; s++) totals[r][s] += __builtin_convertvector(sums[r][s], vf) * scale;
            }
        } else {
            add_line<F, R, S>(a, x, w, next, totals);
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int s = 0; s < S; s++) store(out + r * a.out_stride + s * W, totals[r][s]);
    }
}

// Accumulators that fit in registers beside the inputs and weights. With 16 registers, blocks of f32 with more than 8 accumulators are
// slower: measured on AMD EPYC (Zen 3), 5 rows took 1.8 times as long as 4.
#if defined(__AVX512F__) || defined(__aarch64__)
template <Format F>
constexpr int REGISTERS = 24;
#else
template <Format F>
constexpr int REGISTERS = F == Format::f32 ? 8 : 12;
#endif
template <Format F>
constexpr int MAX_BLOCK_ROWS = REGISTERS<F> == 8 ? 4 : 6;

template <Format F, int R>
inline void rows_times_columns(GemmArgs a, long columns) {
    constexpr int FITS = REGISTERS<F> / R < TILE / W ? REGISTERS<F> / R : TILE / W;
    constexpr int S = FITS >= 16 ? 16 : FITS >= 8 ? 8 : FITS >= 4 ? 4 : 2;
    constexpr int ONE = 16 / W;  // columns are a multiple of 16
    const long passes = columns / (S * W) + columns % (S * W) / 16;
    const long prefetched = (a.prefetch_end - a.prefetch) / LINE, groups = a.lines * 16 * passes;
    a.prefetch_lines = prefetched <= groups ? 1 : prefetched <= 2 * groups ? 2 : 4;
    const long each = a.lines * 16 * a.prefetch_lines * LINE;
    long done = 0;
    for (; done + S * W <= columns; done += S * W, a.prefetch += each) block<F, R, S>(a, a.w + done * 4, a.out + done);
    for (; done < columns; done += 16, a.prefetch += each) block<F, R, ONE>(a, a.w + done * 4, a.out + done);
}

// Up to MAX_BLOCK_ROWS rows times `columns` (a multiple of 16, at most TILE) outputs.
template <Format F>
inline void row_block(const GemmArgs& a, int rows, long columns) {
    switch (rows) {
        case 1: return rows_times_columns<F, 1>(a, columns);
        case 2: return rows_times_columns<F, 2>(a, columns);
        case 3: return rows_times_columns<F, 3>(a, columns);
        case 4: return rows_times_columns<F, 4>(a, columns);
    }
    if constexpr (MAX_BLOCK_ROWS<F> > 4) {
        if (rows == 5) return rows_times_columns<F, 5>(a, columns);
        return rows_times_columns<F, 6>(a, columns);
    }
}

// Any number of rows, in registers.
template <Format F>
inline void simd_gemm(GemmArgs a, long rows, long columns) {
    // Blocks of nearly equal size, each of which prefetches an equal part; 16 rows are faster in four blocks than in three. With blocks
    // of four, whole ones first: three rows take as long as four, since their accumulators are too few for the multiplication's latency.
    constexpr bool FOURS = MAX_BLOCK_ROWS<F> == 4;
    const long least = (rows + MAX_BLOCK_ROWS<F> - 1) / MAX_BLOCK_ROWS<F>, blocks = least == 3 && !FOURS ? 4 : least;
    const long share = ((a.prefetch_end - a.prefetch) / LINE + blocks - 1) / blocks * LINE;
    for (long b = 0; b < blocks; b++) {
        const long from = FOURS ? 4 * b : rows * b / blocks;
        const long to = FOURS ? (from + 4 < rows ? from + 4 : rows) : rows * (b + 1) / blocks;
        GemmArgs part = a;
        part.x += from * ROW<F>;
        part.out += from * a.out_stride;
        part.prefetch += b * share;
        if (part.prefetch + share < part.prefetch_end) part.prefetch_end = part.prefetch + share;
        row_block<F>(part, (int)(to - from), columns);
    }
}

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#include "amx.h"
#endif

inline void gemm(Format format, const GemmArgs& a, long rows, long columns) {
    switch (format) {
        case Format::f32: return simd_gemm<Format::f32>(a, rows, columns);
#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
        case Format::bf16: return amx_gemm<Format::bf16>(a, rows, columns);
        case Format::i8: return amx_gemm<Format::i8>(a, rows, columns);
#else
        case Format::bf16: return simd_gemm<Format::bf16>(a, rows, columns);
        case Format::i8: return simd_gemm<Format::i8>(a, rows, columns);
#endif
    }
}
