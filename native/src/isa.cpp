#include "isa.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

namespace cpm {
namespace {

#if defined(__x86_64__) && defined(CPM_HAVE_AMX)
bool has_amx() {
#if defined(__linux__)
    // a process must request the tile registers from Linux (arch_prctl ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA)
    unsigned a = 7, b = 0, c = 0, d = 0;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    const bool bf16 = d >> 22 & 1, tile = d >> 24 & 1, int8 = d >> 25 & 1;
    return bf16 && tile && int8 && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return false;
#endif
}
#endif

#if defined(__x86_64__) && defined(CPM_HAVE_AVX_VNNI)
bool has_avx_vnni() {
    unsigned a = 7, b = 0, c = 1, d = 0;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return a >> 4 & 1;
}
#endif

}  // namespace

std::vector<const Ops*> supported_ops() {
    std::vector<const Ops*> found;
#if defined(__x86_64__)
    // __builtin_cpu_supports also checks that the operating system saves the registers
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
#if defined(CPM_HAVE_AMX)
    if (bf16 && has_amx()) found.push_back(ops_amx());
#endif
#if defined(CPM_HAVE_AVX512_BF16)
    if (bf16) found.push_back(ops_avx512_bf16());
#endif
#if defined(CPM_HAVE_AVX512_VNNI)
    if (vnni) found.push_back(ops_avx512_vnni());
#endif
#if defined(CPM_HAVE_AVX512)
    if (avx512) found.push_back(ops_avx512());
#endif
#if defined(CPM_HAVE_AVX_VNNI)
    if (avx2 && has_avx_vnni()) found.push_back(ops_avx2_vnni());
#endif
#if defined(CPM_HAVE_AVX2)
    if (avx2) found.push_back(ops_avx2());
#endif
#elif defined(__aarch64__) && defined(__linux__)
#if defined(CPM_HAVE_DOTPROD)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found.push_back(ops_dotprod());
#endif
#elif defined(__aarch64__) && defined(__APPLE__)
#if defined(CPM_HAVE_DOTPROD)
    found.push_back(ops_dotprod());  // every Apple processor has the instruction
#endif
#endif
    found.push_back(ops_generic());
    return found;
}

}  // namespace cpm
