// Vectors of floats by the vector extensions of GCC and Clang, as wide as the instruction set's registers: one source for SSE,
// AVX2, AVX-512 and NEON. Included inside the namespace of the instruction set, after ops.h and <string.h>.

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a vector
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));

template <class V, class T>
inline V load(const T* p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class T>
inline void store(T* p, V v) {
    memcpy(p, &v, sizeof v);
}
inline vf broadcast(float x) { return x - vf{}; }
inline vi broadcast_int(int32_t x) { return x - vi{}; }
inline vf maximum(vf a, vf b) { return a > b ? a : b; }
inline vi maximum(vi a, vi b) { return a > b ? a : b; }
inline vf minimum(vf a, vf b) { return a < b ? a : b; }

template <class T, int N>
struct Lanes {
    typedef T type __attribute__((vector_size(N * 4)));
};
// Join the two halves of the lanes until one lane is left: log2(N) steps instead of N.
template <class T, int N = W, class Join>
inline T reduce_lanes(typename Lanes<T, N>::type v, Join join) {
    if constexpr (N > 4) {
        typename Lanes<T, N / 2>::type half[2];
        memcpy(half, &v, sizeof v);
        return reduce_lanes<T, N / 2>(join(half[0], half[1]), join);
    } else {
        return join(join(v[0], v[2]), join(v[1], v[3]));
    }
}
inline float sum(vf v) {
    return reduce_lanes<float>(v, [](auto a, auto b) { return a + b; });
}
inline int32_t sum(vi v) {
    return reduce_lanes<int32_t>(v, [](auto a, auto b) { return a + b; });
}
inline float max_lane(vf v) {
    return reduce_lanes<float>(v, [](auto a, auto b) { return a > b ? a : b; });
}
inline int32_t max_lane(vi v) {
    return reduce_lanes<int32_t>(v, [](auto a, auto b) { return a > b ? a : b; });
}

// e^x with a relative error under 2e-7 for x in [-87, 88]; 0 below, NaN for NaN. 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]
// (the minimax coefficients of Cephes' expf, S. Moshier).
inline vf exp_of(vf x) {
    const vf low = broadcast(-87.0f), high = broadcast(88.0f);
    vf y = minimum(maximum(x, low), high);
    const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const vf n = (y * 1.44269504088896341f + magic) - magic;
    y = y - n * 0.693359375f;
    y = y - n * -2.12194440e-4f;
    vf p = broadcast(1.9875691500e-4f);
    p = p * y + 1.3981999507e-3f;
    p = p * y + 8.3334519073e-3f;
    p = p * y + 4.1665795894e-2f;
    p = p * y + 1.6666665459e-1f;
    p = p * y + 5.0000001201e-1f;
    p = p * y * y + y + 1.0f;
    const vi bits = (__builtin_convertvector(n, vi) + 127) << 23;
    const vf e = x < low ? vf{} : p * (vf)bits;
    return x != x ? x : e;
}

// The tanh approximation of GELU, as torch's approximate="tanh": x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
inline vf gelu_of(vf x) {
    const vf u = 1.5957691216057308f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exp_of(-u));
}

// GELU by the error function: x * Phi(x). Phi(-|x|) is exp(-x^2 / 2) times t / 2 times a polynomial in t = 1 / (1 + |x| / sqrt 8), so that
// very negative x have no cancellation. The polynomial is a minimax fit of exp(z^2) erfc(z) / t for z up to 10; relative error 5e-8.
inline vf gelu_erf_of(vf x) {
    const vf size = x < 0.0f ? -x : x;
    const vf t = 1.0f / (1.0f + 0.353553391f * size);
    vf p = broadcast(-0.0590693317f);
    p = p * t + 0.284576744f;
    p = p * t - 0.487203419f;
    p = p * t + 0.278071046f;
    p = p * t - 0.0266282167f;
    p = p * t + 0.202687889f;
    p = p * t + 0.243103519f;
    p = p * t + 0.282375336f;
    p = p * t + 0.282086402f;
    const vf tail = 0.5f * t * p * exp_of(-0.5f * x * x);
    return x < 0.0f ? x * tail : x * (1.0f - tail);
}

// Round to the nearest bfloat16, ties to even; NaN stays NaN.
inline uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t x) {
    const uint32_t u = (uint32_t)x << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef int8_t vb __attribute__((vector_size(W)));
inline vh to_bf16(vf x) {
#if defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#endif
    const vu u = (vu)x;
    const vu rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
    return __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40 : rounded, vh);
}

// Write n floats times `scale` as bfloat16.
inline void to_bf16s(const float* x, long n, float scale, uint16_t* out) {
    const long whole = n / W * W;
    for (long i = 0; i < whole; i += W) store(out + i, to_bf16(load<vf>(x + i) * scale));
    for (long i = whole; i < n; i++) out[i] = to_bf16(x[i] * scale);
}

// Write W floats as f32 or bf16.
inline void store_as(char* out, vf x, Format format) {
    if (format == Format::f32) store(out, x);
    else store(out, to_bf16(x));
}
