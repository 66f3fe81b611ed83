// The kernels of one instruction set. This file is compiled once for each: CPM_VARIANT names it, the compiler's flags select it.
//
// All code is in a namespace of the instruction set, and calls no inline function of the standard library: the linker keeps one
// copy of such a function for the whole library, perhaps one with instructions that the machine lacks.
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#include "ops.h"

#define CPM_JOIN2(a, b) a##b
#define CPM_JOIN(a, b) CPM_JOIN2(a, b)
#define CPM_NAME2(a) #a
#define CPM_NAME(a) CPM_NAME2(a)

namespace cpm {
namespace CPM_VARIANT {
namespace {

#include "vec.h"

#include "gemm.h"

#include "rowwise.h"

#include "product.h"

#include "attention.h"

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
void begin() {
    static const TileShape shape;  // static: the compiler would remove stores that only this instruction reads
    _tile_loadconfig(&shape);
}
void end() { _tile_release(); }
#else
void begin() {}
void end() {}
#endif

const Ops ops = {CPM_NAME(CPM_VARIANT), !HAS_AMX, begin, end, product, attend, norm, convert, log_sum};

}  // namespace
}  // namespace CPM_VARIANT

const Ops* CPM_JOIN(ops_, CPM_VARIANT)() { return &CPM_VARIANT::ops; }

}  // namespace cpm
