/* host.h - facts of this machine: memory that may be used and the CPUs this process may run on. */
#ifndef SL_BASE_HOST_H
#define SL_BASE_HOST_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes this process could still allocate: MemAvailable, or less when a cgroup (v2) limits it. 0
 * when unknown. */
uint64_t sl_host_memory_available(void);

#define SL_HOST_CPUS_MAX 1024 /* logical CPUs of one host that are looked at */

/* The logical CPUs of this process's affinity mask, ascending, at most max; returns the count,
 * >= 1. */
int sl_host_cpus(int *cpus, int max);

#ifdef __cplusplus
}
#endif
#endif
