// Products of packed matrices. Included inside the instruction set's own namespace, after vec.h.
//
// A register block is R rows times S vectors of outputs; each output of each row is one accumulator that walks its inputs in
// order. So a row's result is the same bits whatever R, S, the number of rows, and how the walk is cut into blocks.

// Rows to fetch into the second cache beside the arithmetic: `runs` stretches of `run` bytes, `jump` bytes from one to the next,
// `lines` cache lines a turn.
struct Fetch {
    const char* at = nullptr;
    long run = 0, jump = 0, runs = 0;
    int lines = 0;
    long done = 0;  // bytes of this run

    void turn() {
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

// The walk over `lines` lines of 64 bytes of inputs, sixteen groups each. A row's next line is `x_stride` bytes on, the next
// row's 64. Weights of the next group are `w_stride` bytes on.
struct Walk {
    long lines;
    const char* x;
    long x_stride;
    const char* w;
    long w_stride;
    float* out;  // i8 with AMX: int32_t
    long out_stride;
    bool more;         // go on from what `out` holds
    const char* next = nullptr;  // what to prefetch: with each group `ahead` lines, then `next_step` bytes on
    const char* until = nullptr;
    int ahead = 4, next_step = TILE_BYTES;
    Fetch* rows_ahead = nullptr;  // AMX with many rows, which is faster than they come from the third cache
};

#define UNROLL _Pragma("GCC unroll 24")

// How each format adds one group of inputs (four bytes of `x`) times four bytes of W outputs to W accumulators.
template <Format F>
struct Dot;

template <>
struct Dot<Format::f32> {
    typedef vf Sum;
    typedef vf Input;
    static Input input(const char* x) { return all(load<float>(x)); }
    static Sum add(Sum sum, Input x, const char* w) { return sum + x * load<vf>(w); }
};

#if defined(__AVX512BF16__)
template <>
struct Dot<Format::bf16> {
    typedef vf Sum;
    typedef vi Input;
    static Input input(const char* x) { return all_int(load<int32_t>(x)); }
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
        return {all(from_bf16(load<uint16_t>(x))), all(from_bf16(load<uint16_t>(x + 2)))};
    }
    static Sum add(Sum sum, Input x, const char* w) {
        const vu pair = load<vu>(w);
        sum = sum + x.even * (vf)(pair << 16);
        return sum + x.odd * (vf)(pair & 0xffff0000u);
    }
};
#endif

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
constexpr bool TILED = true;  // bf16 and i8 go through AMX
#else
constexpr bool TILED = false;
#endif

// Signed bytes times signed bytes, exact.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int UNSIGNED = 128;  // VNNI wants one side unsigned: weights are w + 128, and sums begin at -128 times the sum of x
template <>
struct Dot<Format::i8> {
    typedef vi Sum;
    typedef vi Input;
    static Input input(const char* x) { return all_int(load<int32_t>(x)); }
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
constexpr int UNSIGNED = 0;
template <>
struct Dot<Format::i8> {
    typedef vi Sum;
    typedef vi Input;
    static Input input(const char* x) { return all_int(load<int32_t>(x)); }
    // |x| and |w| <= 127, so a pair of products stays within 16 bits
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
constexpr int UNSIGNED = 0;
template <>
struct Dot<Format::i8> {
    typedef vi Sum;
    typedef vi Input;
    static Input input(const char* x) { return all_int(load<int32_t>(x)); }
    static Sum add(Sum sum, Input x, const char* w) {
        return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)load<vi>(w));
    }
};
#else
constexpr int UNSIGNED = 0;
template <>
struct Dot<Format::i8> {
    typedef vi Sum;
    struct Input {
        vi x[4];
    };
    static Input input(const char* x) {
        return {{all_int((int8_t)x[0]), all_int((int8_t)x[1]), all_int((int8_t)x[2]), all_int((int8_t)x[3])}};
    }
    static Sum add(Sum sum, const Input& x, const char* w) {
        const vi four = load<vi>(w);  // sign-extended one after the other
        sum += x.x[0] * ((four << 24) >> 24);
        sum += x.x[1] * ((four << 16) >> 24);
        sum += x.x[2] * ((four << 8) >> 24);
        return sum + x.x[3] * (four >> 24);
    }
};
#endif

// From one row to the next in a line of inputs.
template <Format F>
constexpr long ROW = F == Format::i8 ? 2 * LINE : LINE;

// What a sum over a line of i8 inputs begins with, and what it is multiplied with.
inline vi start_of(const char* x) { return UNSIGNED ? all_int(load<int32_t>(x + LINE + 4)) : vi{}; }
inline vf scale_of(const char* x) { return all(load<float>(x + LINE)); }

// A line of inputs: R rows times S vectors of outputs added to `sums`.
template <Format F, int R, int S>
inline void line_of(const Walk& a, const char* x, const char* w, const char*& next, typename Dot<F>::Sum (&sums)[R][S]) {
    // too far from line to line for the machine to foresee
    UNROLL for (int r = 0; r < R; r++) {
        __builtin_prefetch(x + a.x_stride + r * ROW<F>, 0, 3);
        if (ROW<F> > LINE) __builtin_prefetch(x + a.x_stride + r * ROW<F> + LINE, 0, 3);
    }
    for (int g = 0; g < 16; g++, w += a.w_stride) {
        if (next < a.until)
            for (int n = 0; n < a.ahead; n++) __builtin_prefetch(next + n * LINE, 0, 3);
        next += a.next_step;
        UNROLL for (int r = 0; r < R; r++) {
            const typename Dot<F>::Input input = Dot<F>::input(x + r * ROW<F> + g * 4);
            UNROLL for (int s = 0; s < S; s++) sums[r][s] = Dot<F>::add(sums[r][s], input, w + s * W * 4);
        }
    }
}

// R rows times S vectors of outputs. i8: a line's sum is exact, and its scale makes it a part of the row's.
template <Format F, int R, int S>
inline void block(const Walk& a, const char* w, float* out) {
    vf totals[R][S];
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int s = 0; s < S; s++) totals[r][s] = a.more ? load<vf>(out + r * a.out_stride + s * W) : vf{};
    }
    const char* x = a.x;
    const char* next = a.next;
    for (long line = 0; line < a.lines; line++, x += a.x_stride, w += 16 * a.w_stride) {
        if constexpr (F == Format::i8) {
            vi sums[R][S];
            UNROLL for (int r = 0; r < R; r++) {
                UNROLL for (int s = 0; s < S; s++) sums[r][s] = start_of(x + r * ROW<F>);
            }
            line_of<F, R, S>(a, x, w, next, sums);
            UNROLL for (int r = 0; r < R; r++) {
                const vf scale = scale_of(x + r * ROW<F>);
                UNROLL for (int s = 0; s < S; s++) totals[r][s] += __builtin_convertvector(sums[r][s], vf) * scale;
            }
        } else {
            line_of<F, R, S>(a, x, w, next, totals);
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int s = 0; s < S; s++) store(out + r * a.out_stride + s * W, totals[r][s]);
    }
}

// Vectors of outputs that R rows can keep in registers beside the inputs and weights.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 24;
#else
constexpr int REGISTERS = 12;
#endif
constexpr int MOST_ROWS = 6;

template <Format F, int R>
inline void rows_times_columns(Walk a, long columns) {
    constexpr int FITS = REGISTERS / R < TILE / W ? REGISTERS / R : TILE / W;
    constexpr int S = FITS >= 16 ? 16 : FITS >= 8 ? 8 : FITS >= 4 ? 4 : 2;
    long done = 0;
    for (; done + S * W <= columns; done += S * W) {
        block<F, R, S>(a, a.w + done * 4, a.out + done);
        a.until = a.next;  // once is enough
    }
    constexpr int ONE = 16 / W;  // columns come in sixteens
    for (; done < columns; done += 16) {
        block<F, R, ONE>(a, a.w + done * 4, a.out + done);
        a.until = a.next;
    }
}

// Up to MOST_ROWS rows times `columns` (a multiple of 16, at most TILE) outputs.
template <Format F>
inline void few_rows(const Walk& a, int rows, long columns) {
    switch (rows) {
        case 1: return rows_times_columns<F, 1>(a, columns);
        case 2: return rows_times_columns<F, 2>(a, columns);
        case 3: return rows_times_columns<F, 3>(a, columns);
        case 4: return rows_times_columns<F, 4>(a, columns);
        case 5: return rows_times_columns<F, 5>(a, columns);
        default: return rows_times_columns<F, 6>(a, columns);
    }
}

// Any number of rows.
template <Format F>
inline void vector_rows(Walk a, long rows, long columns) {
    // as equal as can be; never three, which do not share a group's four lines well
    const long least = (rows + MOST_ROWS - 1) / MOST_ROWS;
    const long blocks = least == 3 ? 4 : least;
    for (long b = 0; b < blocks; b++) {
        const long from = rows * b / blocks, to = rows * (b + 1) / blocks;
        Walk part = a;
        part.x += from * ROW<F>;
        part.out += from * a.out_stride;
        if (blocks == 2) {  // each prefetches half of each group's lines
            part.next += b * 2 * LINE;
            part.ahead = 2;
        } else if (blocks > 2) {  // each a stretch of its own, one stream beside the arithmetic
            const long stretch = (a.until - a.next) / LINE;
            part.next = a.next + stretch * b / blocks * LINE;
            part.until = a.next + stretch * (b + 1) / blocks * LINE;
            part.ahead = 1;
            part.next_step = LINE;
        }
        few_rows<F>(part, (int)(to - from), columns);
    }
}

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#include "amx.h"
#endif

inline void multiply(Format format, const Walk& a, long rows, long columns) {
    switch (format) {
        case Format::f32: return vector_rows<Format::f32>(a, rows, columns);
#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
        case Format::bf16: return amx_rows<Format::bf16>(a, rows, columns);
        case Format::i8: return amx_rows<Format::i8>(a, rows, columns);
#else
        case Format::bf16: return vector_rows<Format::bf16>(a, rows, columns);
        case Format::i8: return vector_rows<Format::i8>(a, rows, columns);
#endif
    }
}
