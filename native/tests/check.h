// Shared by all tests: checks, reproducible random numbers, and buffers whose bounds a sanitizer checks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "isa.h"
#include "ops.h"

inline int failures = 0;
inline std::string where;  // the current case, for the message

// A failed check is counted and does not end the program, so that the other kernels are still tested. The first 20 are printed.
#define CHECK(condition, ...)                                                              \
    do {                                                                                   \
        if (!(condition) && ++failures <= 20) {                                            \
            std::fprintf(stderr, "%s:%d: %s: %s", __FILE__, __LINE__, where.c_str(), #condition); \
            std::fprintf(stderr, " " __VA_ARGS__);                                         \
            std::fprintf(stderr, "\n");                                                    \
        }                                                                                  \
    } while (0)

constexpr double UNIT = 1.0 / (1 << 24);      // largest relative error of rounding to float
constexpr double BF16_UNIT = 1.0 / (1 << 8);  // of rounding to bfloat16
constexpr double TINY = 1e-36;                // bf16 instructions flush subnormal numbers to zero

inline const char* name_of(cpm::Format f) {
    return f == cpm::Format::f32 ? "f32" : f == cpm::Format::bf16 ? "bf16" : "i8";
}

inline uint32_t bits(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return u;
}
inline float as_float(uint32_t u) {
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}
inline float from_bf16(uint16_t h) { return as_float((uint32_t)h << 16); }

// Round to the nearest bfloat16, ties to even; computed in another way than the code under test.
inline uint16_t nearest_bf16(float x) {
    if (x != x) return 0x7fc0;
    const uint16_t down = (uint16_t)(bits(x) >> 16);
    if (std::isinf(x)) return down;
    // above the largest value the next neighbour is the next power of two, as if the exponent had more bits
    const double low = from_bf16(down), high = down % 0x8000 == 0x7f7f ? std::copysign(std::ldexp(1.0, 128), x) : from_bf16(down + 1);
    const double below = std::fabs(x - low), above = std::fabs(high - x);
    return below < above || (below == above && down % 2 == 0) ? down : (uint16_t)(down + 1);
}

// Not std::normal_distribution, which differs between standard libraries.
struct Random {
    std::mt19937 engine;
    explicit Random(uint32_t seed) : engine(seed) {}
    float uniform() { return (float)((engine() >> 8) * 0x1p-23 - 1.0); }  // [-1, 1)
    float normal() { return uniform() + uniform() + uniform(); }          // roughly normal, variance 1
    long below(long n) { return (long)(engine() % (uint32_t)n); }
    std::vector<float> normals(long n, float scale = 1.0f) {
        std::vector<float> v(n);
        for (float& x : v) x = scale * normal();
        return v;
    }
};

// Exactly `count` elements at a multiple of 64 bytes, filled with bytes 0xff (NaN), so that a read of uninitialized data shows.
template <class T>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(long count) : count_(count), data_((T*)std::aligned_alloc(64, cpm::round_up(bytes() + 1, 64))) {
        std::memset((void*)data_, 0xff, bytes());
    }
    Buffer(Buffer&& o) noexcept { *this = (Buffer&&)o; }
    Buffer& operator=(Buffer&& o) noexcept {
        std::swap(count_, o.count_);
        std::swap(data_, o.data_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    T* data() const { return data_; }
    T& operator[](long i) const { return data_[i]; }
    long size() const { return count_; }
    long bytes() const { return count_ * (long)sizeof(T); }

private:
    long count_ = 0;
    T* data_ = nullptr;
};

// Activations of at most `count` rows of `n` inputs, padded to the rows that kernels access.
struct Activations {
    cpm::Format format;
    long padded;
    Buffer<char> lines;
    Buffer<float> scales;
    cpm::Rows rows;

    Activations(cpm::Format f, long count, long n)
        : format(f), padded(cpm::round_up(n, 64)) {
        const long room = cpm::round_up(count, cpm::ROW_BLOCK);
        const long line_stride = room * cpm::planes(f) * cpm::LINE;
        lines = Buffer<char>(padded * cpm::element_bytes(f) / cpm::LINE * line_stride);
        scales = Buffer<float>(room);
        rows = {lines.data(), line_stride, scales.data()};
    }
    const char* at(long row, long i, int plane = 0) const {
        const long byte = i * cpm::element_bytes(format);
        return lines.data() + byte / cpm::LINE * rows.line_stride + (row * cpm::planes(format) + plane) * cpm::LINE +
               byte % cpm::LINE;
    }
    // f32, bf16
    float value(long row, long i) const {
        float x;
        uint16_t h;
        if (format == cpm::Format::f32) std::memcpy(&x, at(row, i), 4);
        else std::memcpy(&h, at(row, i), 2), x = from_bf16(h);
        return x;
    }
    // i8 with AMX: two planes of bytes and one scale for each row; else bytes, and a scale for each 64
    bool planes = false;
    int high(long row, long i) const { return (signed char)*at(row, i, 0); }
    int low(long row, long i) const { return (signed char)*at(row, i, 1); }
    int whole(long row, long i) const { return planes ? 256 * high(row, i) + low(row, i) : high(row, i); }
    float scale(long row, long i) const {
        float x;
        std::memcpy(&x, at(row, i / 64 * 64, 1), 4);
        return planes ? scales[row] : x;
    }
};

inline bool in_planes(const cpm::Ops& ops) { return !ops.grouped_scales; }

// The scope in which a thread may call kernels: AMX needs its tile configuration.
struct KernelScope {
    const cpm::Ops& ops;
    explicit KernelScope(const cpm::Ops& o) : ops(o) { ops.begin(); }
    ~KernelScope() { ops.end(); }
};

void test_pack();
void test_rows();
void test_choice();
void test_product();
void test_attention();
void test_step();
void test_thread_pool();
