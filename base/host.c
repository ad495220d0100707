/* host.c - see host.h. */
#include "base/host.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"

static int read_u64(const char *path, uint64_t *v)
{
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    int ok = fscanf(f, "%" SCNu64, v) == 1; /* "max" means no limit */
    fclose(f);
    return ok;
}

uint64_t sl_host_memory_available(void)
{
    uint64_t kib = 0, limit, used;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "r");
    if (f) {
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1) break;
        fclose(f);
    }
    uint64_t bytes = kib * 1024;
    if (read_u64("/sys/fs/cgroup/memory.max", &limit) && read_u64("/sys/fs/cgroup/memory.current", &used)) {
        uint64_t left = limit > used ? limit - used : 0;
        bytes = bytes ? SL_MIN(bytes, left) : left;
    }
    return bytes;
}

int sl_host_cpus(int *cpus, int max)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    int n = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int i = 0; i < CPU_SETSIZE && n < max; i++)
            if (CPU_ISSET(i, &set)) cpus[n++] = i;
    if (n == 0) cpus[n++] = 0;
    return n;
}
