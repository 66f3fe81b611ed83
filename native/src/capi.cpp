// The C interface: checks the arguments, selects the kernels, and turns exceptions into a status.

#include <cstring>
#include <new>
#include <string>

#include "choice.h"
#include "cpm_native.h"
#include "isa.h"
#include "model.h"
#include "pack.h"

struct cpm_model : cpm::Model {
    using Model::Model;
};
struct cpm_cache : cpm::Cache {
    using Cache::Cache;
};

extern "C" {

int cpm_abi(void) { return CPM_ABI; }

const char* cpm_kernels(void) {
    static const std::string names = [] {
        std::string all;
        for (const cpm::Ops* ops : cpm::supported_ops()) all += (all.empty() ? "" : " ") + std::string(ops->name);
        return all;
    }();
    return names.c_str();
}

cpm_model* cpm_create(const cpm_sizes* sizes, const char* kernels) {
    if (sizes->threads > CPM_MAX_THREADS) return nullptr;  // before any thread is started
    try {
        for (const cpm::Ops* ops : cpm::supported_ops())
            if (!kernels || std::strcmp(kernels, ops->name) == 0) return new cpm_model(*sizes, *ops);
    } catch (const std::exception&) {  // no memory, or no more threads
    }
    return nullptr;
}

void cpm_destroy(cpm_model* model) { delete model; }

const char* cpm_model_kernels(const cpm_model* model) { return model->ops.name; }

int cpm_pack(cpm_model* model, int tensor, int layer, const void* data, int dtype, int64_t first, int64_t rows, int64_t columns,
             int64_t stride) {
    try {
        return cpm::pack(*model, tensor, layer, data, dtype, first, rows, columns, stride) ? CPM_OK : CPM_MISMATCH;
    } catch (const std::bad_alloc&) {
        return CPM_NO_MEMORY;
    }
}

int64_t cpm_weight_bytes(const cpm_model* model) {
    int64_t bytes = model->head().bytes();  // of an embedding that is not the head a step reads a few rows
    for (const cpm::Layer& l : model->layers) bytes += l.qkv.bytes() + l.dense.bytes() + l.up.bytes() + l.down.bytes();
    return bytes;
}

cpm_cache* cpm_cache_create(const cpm_model* model, int32_t slots) {
    try {
        return new cpm_cache(*model, slots);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void cpm_cache_destroy(cpm_cache* cache) { delete cache; }

int64_t cpm_cache_bytes(const cpm_cache* cache) { return cache->memory.size(); }

void cpm_cache_copy(cpm_model* model, cpm_cache* cache, int32_t source, int32_t target, int32_t positions) {
    cache->copy(*model, source, target, positions);
}

int cpm_step(cpm_model* model, cpm_cache* cache, const cpm_segment* segments, int32_t count, const int32_t* ids,
             cpm_all_reduce all_reduce, float* hidden) {
    try {
        return cpm::run_step(*model, cache, segments, count, ids, all_reduce, hidden);
    } catch (const std::bad_alloc&) {
        return CPM_NO_MEMORY;
    }
}

int cpm_head(cpm_model* model, const float* hidden, int64_t rows, float* logits) {
    try {
        cpm::run_head(*model, hidden, rows, logits);
        return CPM_OK;
    } catch (const std::bad_alloc&) {
        return CPM_NO_MEMORY;
    }
}

void cpm_choose(cpm_model* model, const float* logits, int64_t vocabulary, const cpm_pick* picks, int32_t count) {
    cpm::choose(*model, logits, vocabulary, picks, count);
}

void cpm_log_sums(cpm_model* model, const float* logits, int64_t rows, int64_t vocabulary, double* sums) {
    cpm::log_sums(*model, logits, rows, vocabulary, sums);
}

void cpm_profile(const cpm_model* model, double seconds[5]) { std::memcpy(seconds, model->seconds, sizeof model->seconds); }

}  // extern "C"
