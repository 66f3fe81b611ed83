/* The native CPU engine: one rank's part of a CPM network. Weights are packed once; the network runs one step at a time.
 *
 * A plain C interface for ctypes. A step takes tokens of several sequences ("segments") and returns hidden rows after the final
 * norm; cpm_head computes their logits. A row's result has the same bits whatever other rows the step has, and whether its
 * context is computed in one step or in many.
 *
 * Functions that return int return a cpm_status, except cpm_abi. Not thread-safe: one call at a time for each model.
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

#define CPM_ABI 6 /* raised when a declaration or its meaning changes; cpm_gen/networks/native/library.py holds the same number */

#define CPM_MAX_THREADS 1024 /* of a model */

typedef struct cpm_model cpm_model;
typedef struct cpm_cache cpm_cache;

enum cpm_format { CPM_F32 = 0, CPM_BF16 = 1, CPM_I8 = 2 }; /* of packed weights, and of keys and values */
enum cpm_dtype { CPM_FROM_F32 = 0, CPM_FROM_F16 = 1, CPM_FROM_BF16 = 2 }; /* of a checkpoint's tensors */
enum cpm_status {
    CPM_OK = 0,
    CPM_NO_MEMORY = 1,
    CPM_ABORTED = 2, /* the all-reduce failed */
    CPM_MISMATCH = 3 /* no such tensor, or of another size */
};
enum cpm_gelu { CPM_GELU_TANH = 0, CPM_GELU_ERF = 1 };

/* The sizes of a rank's part. Local: of this rank only. */
typedef struct {
    int32_t layers, hidden;
    int32_t heads;      /* local */
    int32_t head_dim;
    int32_t inner;      /* local width of the MLP's hidden layer */
    int32_t vocabulary; /* local rows of the word embedding */
    int32_t first_row;  /* the token id of the first of them */
    int32_t positions;
    int32_t ranks;      /* with 1, the all-reduce is not called */
    int32_t format;     /* cpm_format */
    int32_t kv_format;  /* cpm_format */
    int32_t threads;    /* at most CPM_MAX_THREADS; the caller's is one of them */
    int32_t first_cpu;  /* pin threads to the allowed CPUs from this index on; -1: do not pin */
    /* what differs between GPT-2 networks */
    float epsilon;          /* of the layer norms; 1e-5 in CPM-1 */
    int32_t gelu;           /* cpm_gelu */
    int32_t untied;         /* 1: the output head has weights of its own, CPM_HEAD; 0: it is the word embedding */
    int32_t scale_by_layer; /* 1: the attention scores of layer i (from 0) are divided by i + 1 */
} cpm_sizes;

/* A tensor of the checkpoint: first those of the whole network, from CPM_NORM1_W on those of a layer. */
enum cpm_tensor {
    CPM_WORDS, CPM_POSITIONS, CPM_FINAL_NORM_W, CPM_FINAL_NORM_B, CPM_HEAD,
    CPM_NORM1_W, CPM_NORM1_B, CPM_QKV_W, CPM_QKV_B, CPM_DENSE_W, CPM_DENSE_B,
    CPM_NORM2_W, CPM_NORM2_B, CPM_UP_W, CPM_UP_B, CPM_DOWN_W, CPM_DOWN_B
};

/* Consecutive tokens of one sequence. Two segments of a step must not use the same slot. */
typedef struct {
    int32_t count;  /* tokens; their ids follow the ids of the segment before */
    int32_t start;  /* position of the first token; the slot holds positions 0 .. start - 1 */
    int32_t slot;   /* of the KV cache; -1: none, and start is 0 */
    int32_t wanted; /* number of rows to return, the last ones of the segment */
} cpm_segment;

/* Sum `count` floats over the ranks, in place. Called on the thread that called cpm_step. A result other than 0 ends the step with
 * CPM_ABORTED. */
typedef int (*cpm_all_reduce)(float *values, int64_t count);

CPM_API int cpm_abi(void);

/* The kernels that this machine can run, best first, separated by spaces: "amx avx512_bf16 avx512 avx2 generic". */
CPM_API const char *cpm_kernels(void);

/* Create a model; its weights are zero until packed. `kernels`: one name of cpm_kernels(), or NULL for the best. Returns NULL if there
 * is not enough memory, a thread cannot be started, `threads` exceeds CPM_MAX_THREADS, or there are no such kernels. */
CPM_API cpm_model *cpm_create(const cpm_sizes *sizes, const char *kernels);
CPM_API void cpm_destroy(cpm_model *model);
CPM_API const char *cpm_model_kernels(const cpm_model *model);

/* Pack `rows` rows of a matrix [.., columns], from row `first` on; a vector is one row, and `first` is 0. Rows that are never packed
 * stay zero. `dtype`: a cpm_dtype. `layer`: 0 for tensors of the whole network. `stride`: elements from one row to the next; the columns
 * of a row are adjacent. */
CPM_API int cpm_pack(cpm_model *model, int tensor, int layer, const void *data, int dtype, int64_t first, int64_t rows,
                     int64_t columns, int64_t stride);

/* Bytes of the packed matrices: what one decode step reads besides keys and values. */
CPM_API int64_t cpm_weight_bytes(const cpm_model *model);

/* Create a KV cache of `slots` windows of `positions` tokens. Returns NULL if there is not enough memory. */
CPM_API cpm_cache *cpm_cache_create(const cpm_model *model, int32_t slots);
CPM_API void cpm_cache_destroy(cpm_cache *cache);
CPM_API int64_t cpm_cache_bytes(const cpm_cache *cache);

/* Copy the first `positions` positions of slot `source` to slot `target`, which is another one. */
CPM_API void cpm_cache_copy(cpm_model *model, cpm_cache *cache, int32_t source, int32_t target, int32_t positions);

/* Run one step of `count` segments. `hidden` receives floats [sum of wanted, hidden], after the final norm. `cache` may be NULL if no
 * segment has a slot. */
CPM_API int cpm_step(cpm_model *model, cpm_cache *cache, const cpm_segment *segments, int32_t count, const int32_t *ids,
                     cpm_all_reduce all_reduce, float *hidden);

/* Compute the logits [rows, local vocabulary] of rows that cpm_step returned. */
CPM_API int cpm_head(cpm_model *model, const float *hidden, int64_t rows, float *logits);

/* Draws of tokens from a row of logits: after bias and bans those not below the `top_k`-th greatest, of these the fewest, heaviest first,
 * that hold `top_p` of the weight, of these the ones that weigh at least `min_p` of the greatest. A weight is exp(logit / temperature). */
typedef struct {
    int32_t row;            /* of the logits */
    int32_t top_k;          /* at least 1, less than the number of ids that may come */
    int64_t count;          /* number of `allowed` */
    const int64_t *allowed; /* ids that may come, ascending; NULL: all */
    const float *bias;      /* [count], added to their logits; NULL: nothing */
    int64_t banned_count;
    const int64_t *banned;  /* ids that may not come, in any order */
    double temperature;     /* above 0 */
    double top_p;           /* 0 and 1: all */
    double min_p;           /* 0: all */
    int32_t draws;
    const double *numbers;  /* [draws], in [0, 1): where in the cumulative distribution the tokens are, in the order of their ids */
    int64_t *tokens;        /* [draws] receives the tokens; all -1 if the greatest logit is not finite, or there is no memory */
} cpm_pick;

/* Draw from `count` picks. The logits [rows, vocabulary] hold no NaN. */
CPM_API void cpm_choose(cpm_model *model, const float *logits, int64_t vocabulary, const cpm_pick *picks, int32_t count);

/* The logarithm of the sum of the exponentials of each row of `logits` [rows, vocabulary]. */
CPM_API void cpm_log_sums(cpm_model *model, const float *logits, int64_t rows, int64_t vocabulary, double *sums);

/* Seconds spent since cpm_create: 0 weights, 1 attention, 2 head, 3 all-reduce, 4 other (norms, embedding, conversions). */
CPM_API void cpm_profile(const cpm_model *model, double seconds[5]);

#ifdef __cplusplus
}
#endif
#endif
