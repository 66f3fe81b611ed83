/* The native CPU engine: one rank's part of a CPM network, its weights packed once, run a step at a time.
 *
 * A plain C interface, made for ctypes. A step takes tokens of several sequences side by side ("segments") and returns final
 * hidden rows; cpm_head turns rows into logits. What a row gives does not depend on the other rows of the step: the same bits,
 * alone or among others, in one chunk or in many.
 *
 * Functions that return int return 0, or a cpm_status. Nothing is thread-safe: one caller at a time for each model.
 */
#ifndef CPM_NATIVE_H
#define CPM_NATIVE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define CPM_API __declspec(dllexport)
#else
#define CPM_API __attribute__((visibility("default")))
#endif

#define CPM_ABI 2 /* raised with every change of this file; cpm_gen/networks/native/library.py holds the same number */

typedef struct cpm_model cpm_model;
typedef struct cpm_cache cpm_cache;

enum cpm_format { CPM_F32 = 0, CPM_BF16 = 1, CPM_I8 = 2 }; /* of packed weights, of keys and values */
enum cpm_dtype { CPM_FROM_F32 = 0, CPM_FROM_F16 = 1, CPM_FROM_BF16 = 2 }; /* of a checkpoint's tensors */
enum cpm_status {
    CPM_OK = 0,
    CPM_NO_MEMORY = 1,
    CPM_ABORTED = 2, /* by the all-reduce */
    CPM_MISMATCH = 3 /* no such tensor, or not of this size */
};

/* A rank's sizes. Local: of this rank alone. */
typedef struct {
    int32_t layers, hidden;
    int32_t heads;      /* local */
    int32_t head_dim;
    int32_t inner;      /* local width of the MLP's hidden layer */
    int32_t vocabulary; /* local rows of the word embedding */
    int32_t first_row;  /* the id of the first of them */
    int32_t positions;
    int32_t ranks;      /* 1: no all-reduce is called */
    int32_t format;     /* cpm_format */
    int32_t kv_format;  /* cpm_format */
    int32_t threads;
    int32_t first_cpu;  /* threads are pinned to the allowed CPUs from this one on; -1: not pinned */
} cpm_sizes;

/* Which tensor a call means; of the whole network, then of a layer. */
enum cpm_tensor {
    CPM_WORDS, CPM_POSITIONS, CPM_FINAL_NORM_W, CPM_FINAL_NORM_B,
    CPM_NORM1_W, CPM_NORM1_B, CPM_QKV_W, CPM_QKV_B, CPM_DENSE_W, CPM_DENSE_B,
    CPM_NORM2_W, CPM_NORM2_B, CPM_UP_W, CPM_UP_B, CPM_DOWN_W, CPM_DOWN_B
};

/* Consecutive tokens of one sequence. No two segments of a step may share a slot. */
typedef struct {
    int32_t count;  /* tokens; their ids follow those of the segment before */
    int32_t start;  /* position of the first; positions 0 .. start - 1 are in the slot */
    int32_t slot;   /* -1: no cache, start is 0 */
    int32_t wanted; /* how many of its last rows to return */
} cpm_segment;

/* Sum `count` floats over the ranks, in place, on the calling thread; other than 0 ends the step with CPM_ABORTED. */
typedef int (*cpm_all_reduce)(float *values, int64_t count);

CPM_API int cpm_abi(void);

/* Kernels that this machine can run, best first, separated by spaces: "amx avx512_bf16 avx512 avx2 generic". */
CPM_API const char *cpm_kernels(void);

/* `kernels` names one of cpm_kernels(); NULL takes the best. NULL is returned where there is no memory, or no such kernels. */
CPM_API cpm_model *cpm_create(const cpm_sizes *sizes, const char *kernels);
CPM_API void cpm_destroy(cpm_model *model);
CPM_API const char *cpm_model_kernels(const cpm_model *model);

/* Pack a tensor [rows, columns] (a vector: one row). `stride` is in elements, between rows; columns lie side by side. */
CPM_API int cpm_pack(cpm_model *model, int tensor, int layer, const void *data, int dtype, int64_t rows, int64_t columns,
                     int64_t stride);

/* Bytes of packed matrices; of those, what one decode step reads besides keys and values. */
CPM_API int64_t cpm_weight_bytes(const cpm_model *model);

CPM_API cpm_cache *cpm_cache_create(const cpm_model *model, int32_t slots);
CPM_API void cpm_cache_destroy(cpm_cache *cache);
CPM_API int64_t cpm_cache_bytes(const cpm_cache *cache);

/* Run segments; `hidden` receives [sum of wanted, hidden] floats after the last norm. `cache` may be NULL without slots. */
CPM_API int cpm_step(cpm_model *model, cpm_cache *cache, const cpm_segment *segments, int32_t count, const int32_t *ids,
                     cpm_all_reduce all_reduce, float *hidden);

/* Logits [rows, local vocabulary] of rows of cpm_step. */
CPM_API int cpm_head(cpm_model *model, const float *hidden, int64_t rows, float *logits);

/* Seconds spent so far: 0 weights, 1 attention, 2 head, 3 all-reduce, 4 the rest (norms, embedding, quantising). */
CPM_API void cpm_profile(const cpm_model *model, double seconds[5]);

#ifdef __cplusplus
}
#endif
#endif
