#include "pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

namespace cpm {
namespace {

float from_half(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    float magnitude;
    uint32_t bits;
    if (exponent == 31) bits = 0x7f800000u | (fraction << 13);
    else if (exponent) bits = ((exponent + 112) << 23) | (fraction << 13);
    else {
        magnitude = std::ldexp((float)fraction, -24);
        std::memcpy(&bits, &magnitude, 4);
    }
    bits |= sign;
    std::memcpy(&magnitude, &bits, 4);
    return magnitude;
}

float from_bf16(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

uint16_t to_bf16(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

// Elements at .. at + n of a tensor of this dtype, as floats.
void read_row(const void* data, int dtype, long at, long n, float* out) {
    if (dtype == CPM_FROM_F32) {
        std::memcpy(out, static_cast<const char*>(data) + at * 4, n * 4);
        return;
    }
    for (long i = 0; i < n; i++) {
        uint16_t h;  // by memcpy: tensors of a mapped file need not be aligned
        std::memcpy(&h, static_cast<const char*>(data) + (at + i) * 2, 2);
        out[i] = dtype == CPM_FROM_F16 ? from_half(h) : from_bf16(h);
    }
}

// Write the weights of output `row` into its column of a tile.
void pack_row(Matrix& m, long row, const float* x) {
    char* tile = m.data + row / TILE * m.tile_bytes();
    const long column = row % TILE, g = group(m.format);
    const auto at = [&](long i) { return (i / g * TILE + column) * g + i % g; };
    switch (m.format) {
        case Format::f32:
            for (long i = 0; i < m.inputs; i++) reinterpret_cast<float*>(tile)[at(i)] = x[i];
            break;
        case Format::bf16:
            for (long i = 0; i < m.inputs; i++) reinterpret_cast<uint16_t*>(tile)[at(i)] = to_bf16(x[i]);
            break;
        case Format::i8: {
            float largest = 0;
            for (long i = 0; i < m.inputs; i++) largest = std::max(largest, std::fabs(x[i]));
            const float inverse = largest > 1e-30f ? 127 / largest : 0, scale = inverse > 0 ? largest / 127 : 0;
            float not_finite = 0;  // NaN if a weight is NaN or infinite
            for (long i = 0; i < m.inputs; i++) {
                not_finite += x[i] * 0.0f;
                const float y = x[i] * inverse;
                const int q = y == y ? static_cast<int>(std::lrintf(std::min(127.0f, std::max(-127.0f, y)))) : 0;
                tile[at(i)] = static_cast<char>(q);
            }
            m.scale[row] = scale + not_finite;
            break;
        }
    }
}

// What the threads need to pack one matrix.
struct PackJob {
    Matrix* matrix;
    const void* data;
    int dtype;
    long first, rows;  // of the matrix that `data` holds
    long stride;
    ThreadPool* pool;
    std::atomic<bool> failed;  // no memory on one of the threads
};

void pack_matrix(void* context, int number) {
    PackJob& p = *static_cast<PackJob*>(context);
    std::unique_ptr<float[]> row(new (std::nothrow) float[p.matrix->inputs]);
    if (!row) {
        p.failed = true;
        return;
    }
    // each thread packs whole tiles: the outputs of a tile share cache lines
    const long end = p.first + p.rows;
    for (long tile = p.first / TILE + number; tile * TILE < end; tile += p.pool->size()) {
        for (long r = std::max(tile * TILE, p.first); r < std::min((tile + 1) * TILE, end); r++) {
            read_row(p.data, p.dtype, (r - p.first) * p.stride, p.matrix->inputs, row.get());
            pack_row(*p.matrix, r, row.get());
        }
    }
}

}  // namespace

bool pack(Model& m, int tensor, int layer, const void* data, int dtype, long first, long rows, long columns, long stride) {
    if (layer < 0 || layer >= (long)m.layers.size()) return false;
    Layer& l = m.layers[layer];
    Matrix* matrix = nullptr;
    float* vector = nullptr;
    long length = m.hidden();
    switch (tensor) {
        case CPM_WORDS: matrix = &m.words; break;
        case CPM_HEAD:
            if (!m.sizes.untied) return false;
            matrix = &m.own_head;
            break;
        case CPM_QKV_W: matrix = &l.qkv; break;
        case CPM_DENSE_W: matrix = &l.dense; break;
        case CPM_UP_W: matrix = &l.up; break;
        case CPM_DOWN_W: matrix = &l.down; break;
        case CPM_POSITIONS: vector = m.positions; length *= m.sizes.positions; break;
        case CPM_FINAL_NORM_W: vector = m.final_norm_w; break;
        case CPM_FINAL_NORM_B: vector = m.final_norm_b; break;
        case CPM_NORM1_W: vector = l.norm1_w; break;
        case CPM_NORM1_B: vector = l.norm1_b; break;
        case CPM_NORM2_W: vector = l.norm2_w; break;
        case CPM_NORM2_B: vector = l.norm2_b; break;
        case CPM_QKV_B: vector = l.qkv_b; length = 3 * m.attended(); break;
        case CPM_DENSE_B: vector = l.dense_b; break;
        case CPM_UP_B: vector = l.up_b; length = m.sizes.inner; break;
        case CPM_DOWN_B: vector = l.down_b; break;
        default: return false;
    }
    if (vector) {
        if (first != 0 || rows * columns != length) return false;
        for (long r = 0; r < rows; r++) read_row(data, dtype, r * stride, columns, vector + r * columns);
        return true;
    }
    if (first < 0 || rows < 0 || rows > matrix->outputs - first || columns != matrix->inputs) return false;
    PackJob job{matrix, data, dtype, first, rows, stride, &m.pool, {false}};
    m.pool.run_all(pack_matrix, &job);  // not `run`: reading a mapped file may sleep
    if (job.failed) throw std::bad_alloc();
    return true;
}

void embedding_row(const Matrix& m, long row, float* out) {
    const char* tile = m.tile(row / TILE);
    const long column = row % TILE, g = group(m.format);
    for (long i = 0; i < m.inputs; i++) {
        const long at = (i / g * TILE + column) * g + i % g;
        switch (m.format) {
            case Format::f32: out[i] = reinterpret_cast<const float*>(tile)[at]; break;
            case Format::bf16: out[i] = from_bf16(reinterpret_cast<const uint16_t*>(tile)[at]); break;
            case Format::i8: out[i] = m.scale[row] * static_cast<signed char>(tile[at]); break;
        }
    }
}

}  // namespace cpm
