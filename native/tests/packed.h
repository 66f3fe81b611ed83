// A packed matrix in buffers of exactly its size, and its numbers.
#pragma once

#include "check.h"
#include "pack.h"

struct Packed {
    cpm::Matrix matrix;
    Buffer<char> data;
    Buffer<float> scales;

    // `weights` [outputs, inputs], packed by the library as the word embedding of a minimal network
    Packed(cpm::Format format, long outputs, long inputs, const std::vector<float>& weights) {
        const cpm_sizes sizes = {1, (int)inputs, 1, 1, 1, (int)outputs, 0, 1, 1, (int)format, (int)format, 1, -1, 1e-5f, 0, 0, 0};
        cpm::Model model(sizes, *cpm::supported_ops().back());
        const bool fits = cpm::pack(model, CPM_WORDS, 0, weights.data(), CPM_FROM_F32, 0, outputs, inputs, inputs);
        CHECK(fits);
        copy(model.words);
    }
    explicit Packed(const cpm::Matrix& from) { copy(from); }

    // without the scale of i8
    double stored(long output, long input) const {
        const long g = cpm::group(matrix.format);
        const char* at = matrix.tile(output / cpm::TILE) + (input / g * cpm::TILE + output % cpm::TILE) * 4 +
                         input % g * cpm::element_bytes(matrix.format);
        float x;
        uint16_t h;
        switch (matrix.format) {
            case cpm::Format::f32: std::memcpy(&x, at, 4); return x;
            case cpm::Format::bf16: std::memcpy(&h, at, 2); return from_bf16(h);
            case cpm::Format::i8: return *(const signed char*)at;
        }
        return NAN;
    }
    double value(long output, long input) const {
        return stored(output, input) * (matrix.format == cpm::Format::i8 ? matrix.scale[output] : 1.0);
    }

private:
    void copy(const cpm::Matrix& from) {
        matrix = from;
        data = Buffer<char>(from.bytes());
        std::memcpy(data.data(), from.data, data.bytes());
        matrix.data = data.data();
        if (from.format != cpm::Format::i8) return;
        scales = Buffer<float>(from.tiles() * cpm::TILE);
        std::memcpy(scales.data(), from.scale, scales.bytes());
        matrix.scale = scales.data();
    }
};
