/* cpu.h - what this CPU can do, tested at run time (CPUID, XGETBV, and for AMX the kernel's
 * permission). */
#ifndef SL_BASE_CPU_H
#define SL_BASE_CPU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sl_cpu_cap {
    SL_CPU_AVX2 = 1 << 0,   /* with FMA and F16C */
    SL_CPU_AVX512 = 1 << 1, /* F, BW, DQ, VL */
    SL_CPU_AVX512_VNNI = 1 << 2,
    SL_CPU_AVX512_BF16 = 1 << 3,
    SL_CPU_AVX512_VBMI = 1 << 4,
    SL_CPU_AMX_INT8 =
        1 << 5, /* CPUID, OS state enabled and arch_prctl(ARCH_REQ_XCOMP_PERM, 18) granted */
    SL_CPU_AMX_BF16 = 1 << 6,
    SL_CPU_AVX_VNNI = 1 << 7, /* VEX-encoded VNNI on parts without AVX-512 */
};

/* OR of enum sl_cpu_cap; computed once, thread safe. The first call asks the kernel for AMX. */
uint32_t sl_cpu_caps(void);

/* The model name of /proc/cpuinfo, "unknown CPU" when it has none. Static storage. */
const char *sl_cpu_name(void);

#ifdef __cplusplus
}
#endif
#endif
