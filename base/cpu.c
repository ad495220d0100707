/* cpu.c - see cpu.h. */
#include "base/cpu.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint32_t caps;
static char name[128] = "unknown CPU";

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static uint64_t xgetbv0(void)
{
    uint32_t a, d;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (uint64_t)d << 32 | a;
}

static uint32_t detect(void)
{
    unsigned a, b, c, d, b7, c7, d7, a71 = 0, eax;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    int fma = (c & bit_FMA) != 0, f16c = (c & bit_F16C) != 0;
    if (!__get_cpuid_count(7, 0, &eax, &b7, &c7, &d7)) return 0;
    if (eax >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    uint64_t x = xgetbv0();
    uint32_t out = 0;
    if ((x & 0x6) != 0x6 || !(b7 & bit_AVX2) || !fma || !f16c) return 0;
    out |= SL_CPU_AVX2;
    if (a71 & (1u << 4)) out |= SL_CPU_AVX_VNNI;
    unsigned need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((x & 0xe6) != 0xe6 || (b7 & need) != need) return out;
    out |= SL_CPU_AVX512;
    if (c7 & bit_AVX512VNNI) out |= SL_CPU_AVX512_VNNI;
    if (c7 & bit_AVX512VBMI) out |= SL_CPU_AVX512_VBMI;
    if (a71 & (1u << 5)) out |= SL_CPU_AVX512_BF16;
    /* Without the permission the first tile load is a SIGILL although CPUID and XCR0 promise AMX.
     */
    if ((x & 0x60000) == 0x60000 && (d7 & (1u << 24)) &&
        syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0) {
        if (d7 & (1u << 25)) out |= SL_CPU_AMX_INT8;
        if (d7 & (1u << 22)) out |= SL_CPU_AMX_BF16;
    }
    return out;
}
#else
static uint32_t detect(void)
{
    return 0;
}
#endif

static void fill(void)
{
    caps = detect();
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    char line[256];
    while (fgets(line, sizeof line, f)) {
        char *colon = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (!colon) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(name, sizeof name, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    fclose(f);
}

uint32_t sl_cpu_caps(void)
{
    pthread_once(&once, fill);
    return caps;
}

const char *sl_cpu_name(void)
{
    pthread_once(&once, fill);
    return name;
}
