#include "model.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

namespace cpm {

constexpr size_t HUGE_PAGE = size_t(1) << 21;

// Zeros that take no memory until they are written to.
Memory::Memory(size_t bytes) : size_(std::max(round_up(bytes, HUGE_PAGE), (long)HUGE_PAGE)) {
    int flags = MAP_PRIVATE | MAP_ANON;
#if defined(__linux__)
    flags |= MAP_NORESERVE;
#endif
    // room to align: huge pages begin at multiples of their size
    char* all = static_cast<char*>(mmap(nullptr, size_ + HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
    if (all == MAP_FAILED) throw std::bad_alloc();
    data_ = reinterpret_cast<char*>(round_up(reinterpret_cast<long>(all), HUGE_PAGE));
    if (data_ > all) munmap(all, data_ - all);
    if (data_ < all + HUGE_PAGE) munmap(data_ + size_, all + HUGE_PAGE - data_);
#if defined(__linux__)
    madvise(data_, size_, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() {
    if (data_) munmap(data_, size_);
}

Memory& Memory::operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

namespace {

// Hands out pieces of an arena; with no arena it only counts.
struct Cutter {
    char* base;
    long used = 0;

    template <class T>
    T* take(long count) {
        T* piece = base ? reinterpret_cast<T*>(base + used) : nullptr;
        used += round_up(count * (long)sizeof(T), 64);
        return piece;
    }
    float* vector(long n) { return take<float>(round_up(n, TILE)); }
    Matrix matrix(Format format, long outputs, long inputs) {
        Matrix m;
        m.format = format;
        m.outputs = outputs;
        m.inputs = inputs;
        m.data = take<char>(m.bytes());
        if (format == Format::i8) m.scale = vector(m.tiles() * TILE);
        return m;
    }
};

long lay_out(Model& m, char* base) {
    const cpm_sizes& s = m.sizes;
    const long h = s.hidden, a = m.attended();
    Cutter cut{base};
    m.positions = cut.take<float>((long)s.positions * h);
    m.final_norm_w = cut.vector(h);
    m.final_norm_b = cut.vector(h);
    for (Layer& l : m.layers) {
        for (float** v : {&l.norm1_w, &l.norm1_b, &l.norm2_w, &l.norm2_b, &l.dense_b, &l.down_b}) *v = cut.vector(h);
        l.qkv_b = cut.vector(3 * a);
        l.up_b = cut.vector(s.inner);
        l.qkv = cut.matrix(m.format, 3 * a, h);
        l.dense = cut.matrix(m.format, h, a);
        l.up = cut.matrix(m.format, s.inner, h);
        l.down = cut.matrix(m.format, h, s.inner);
    }
    m.words = cut.matrix(m.format, s.vocabulary, h);
    return cut.used;
}

}  // namespace

Model::Model(const cpm_sizes& sizes, const Ops& ops)
    : sizes(sizes),
      ops(ops),
      format(static_cast<Format>(sizes.format)),
      kv_format(static_cast<Format>(sizes.kv_format)),
      layers(sizes.layers),
      pool(sizes.threads, sizes.first_cpu) {
    arena = Memory(lay_out(*this, nullptr));
    lay_out(*this, arena.data());
}

Cache::Cache(const Model& model, int slots)
    : slot_bytes(head_bytes(model.kv_format, model.sizes.positions, model.sizes.head_dim) * model.sizes.heads),
      layer_bytes(slot_bytes * slots),
      memory(layer_bytes * model.sizes.layers) {}

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

void read_row(const void* data, int dtype, long at, long n, float* out) {
    if (dtype == CPM_FROM_F32) {
        std::memcpy(out, static_cast<const char*>(data) + at * 4, n * 4);
        return;
    }
    for (long i = 0; i < n; i++) {
        uint16_t h;  // a mapped file's tensors need not be aligned
        std::memcpy(&h, static_cast<const char*>(data) + (at + i) * 2, 2);
        out[i] = dtype == CPM_FROM_F16 ? from_half(h) : from_bf16(h);
    }
}

// One output's weights into its column of the tile.
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
            float most = 0;
            for (long i = 0; i < m.inputs; i++) most = std::max(most, std::fabs(x[i]));
            const float inverse = most > 1e-30f ? 127 / most : 0, scale = inverse > 0 ? most / 127 : 0;
            float odd = 0;  // NaN where a weight is NaN or infinite
            for (long i = 0; i < m.inputs; i++) {
                odd += x[i] * 0.0f;
                const float y = x[i] * inverse;
                const int q = y == y ? static_cast<int>(std::lrintf(std::min(127.0f, std::max(-127.0f, y)))) : 0;
                tile[at(i)] = static_cast<char>(q);
            }
            m.scale[row] = scale + odd;
            break;
        }
    }
}

struct Packing {
    Matrix* matrix;
    const void* data;
    int dtype;
    long stride;
    Pool* pool;
    bool failed;
};

void pack_matrix(void* context, int number) {
    Packing& p = *static_cast<Packing*>(context);
    std::unique_ptr<float[]> row(new (std::nothrow) float[p.matrix->inputs]);
    if (!row) {
        p.failed = true;
        return;
    }
    // whole tiles for each thread: their outputs share cache lines
    for (long tile = number; tile < p.matrix->tiles(); tile += p.pool->size()) {
        for (long r = tile * TILE; r < std::min((tile + 1) * TILE, p.matrix->outputs); r++) {
            read_row(p.data, p.dtype, r * p.stride, p.matrix->inputs, row.get());
            pack_row(*p.matrix, r, row.get());
        }
    }
}

}  // namespace

bool pack(Model& m, int tensor, int layer, const void* data, int dtype, long rows, long columns, long stride) {
    if (layer < 0 || layer >= (long)m.layers.size()) return false;
    Layer& l = m.layers[layer];
    Matrix* matrix = nullptr;
    float* vector = nullptr;
    long length = m.hidden();
    switch (tensor) {
        case CPM_WORDS: matrix = &m.words; break;
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
        if (rows * columns != length) return false;
        for (long r = 0; r < rows; r++) read_row(data, dtype, r * stride, columns, vector + r * columns);
        return true;
    }
    if (rows != matrix->outputs || columns != matrix->inputs) return false;
    Packing packing{matrix, data, dtype, stride, &m.pool, false};
    m.pool.run_all(pack_matrix, &packing);  // reads files
    if (packing.failed) throw std::bad_alloc();
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
