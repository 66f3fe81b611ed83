// Many arrays in one block of memory.
#pragma once

#include "memory.h"
#include "ops.h"

namespace cpm {

// Takes consecutive arrays, each at a multiple of 64 bytes, from a block of memory. Without a block it only adds up their sizes
// and returns null pointers.
class Arena {
public:
    explicit Arena(char* base = nullptr) : base_(base) {}

    long used() const { return used_; }  // bytes

    template <class T>
    T* take(long count) {
        T* array = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        used_ += round_up(count * (long)sizeof(T), 64);
        return array;
    }

    // n floats, padded to a whole tile
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

    // `count` rows of n inputs of a product
    Rows rows(Format format, long count, long n) {
        // one line more than the rows need: with a stride of a power of two all lines would map to a few sets of the cache
        const long line_stride = (count * planes(format) + 1) * LINE;
        char* data = take<char>(round_up(n, 64) * element_bytes(format) / LINE * line_stride);
        return {data, line_stride, take<float>(count)};
    }

private:
    char* base_;
    long used_ = 0;
};

// Place the arrays that `lay_out(arena)` takes in `memory`: it is called first to measure them, then, with the memory grown to
// their size, to place them.
template <class LayOut>
void place(Memory& memory, LayOut lay_out) {
    Arena measured;
    lay_out(measured);
    memory.reserve(measured.used());
    Arena arena(memory.data());
    lay_out(arena);
}

}  // namespace cpm
