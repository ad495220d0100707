/* host.c - see host.h. */
#include "base/host.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

/* The number in a file that holds one: 1, or 0 when there is none ("max" means no limit). */
static int read_number(const char *dir, const char *name, uint64_t *v)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    int ok = fscanf(f, "%" SCNu64, v) == 1;
    fclose(f);
    return ok;
}

/* The value of a line "key value" of a file, 0 when it has none. */
static uint64_t read_key(const char *path, const char *key)
{
    char line[256], name[64];
    uint64_t v;
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%63s %" SCNu64, name, &v) != 2 || strcmp(name, key) != 0) continue;
        fclose(f);
        return v;
    }
    fclose(f);
    return 0;
}

/* What a cgroup leaves of its limit. Cached file pages count as used there but are given back when
 * memory is wanted. */
static uint64_t left_in(const char *dir)
{
    char stat[1200];
    uint64_t limit, used;
    if (!read_number(dir, "memory.max", &limit) || !read_number(dir, "memory.current", &used))
        return UINT64_MAX;
    snprintf(stat, sizeof stat, "%s/memory.stat", dir);
    uint64_t cache = read_key(stat, "inactive_file") + read_key(stat, "active_file");
    used -= SL_MIN(used, cache);
    return limit > used ? limit - used : 0;
}

uint64_t sl_host_memory_available(void)
{
    uint64_t bytes = read_key("/proc/meminfo", "MemAvailable:") * 1024, left = UINT64_MAX;
    char line[1024], dir[1100] = CGROUP_ROOT;
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0) continue; /* the one line of version 2 */
        line[strcspn(line, "\n")] = 0;
        snprintf(dir, sizeof dir, CGROUP_ROOT "%s", line + 3);
    }
    if (f) fclose(f);
    for (;;) { /* every group above limits this one, too */
        left = SL_MIN(left, left_in(dir));
        char *slash = strrchr(dir, '/');
        if (strlen(dir) <= strlen(CGROUP_ROOT) || !slash) break;
        *slash = 0;
    }
    if (left == UINT64_MAX) return bytes;
    return bytes ? SL_MIN(bytes, left) : left;
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
