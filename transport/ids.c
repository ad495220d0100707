/* ids.c - names that tell whether two processes share memory, or are one.
 *
 * UCX's shared memory needs one kernel, one IPC namespace (sysv), one /dev/shm (posix: the mount
 * namespace) and one PID namespace (reading each other's memory). A false "different" only costs
 * speed (ucx-tcp works everywhere), a false "same" costs the link, so everything that matters goes
 * into the hash. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/err.h"
#include "transport/link.h"

/* Reads a small file; its length, or -1. */
static ssize_t read_file(const char *path, char *out, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = read(fd, out, cap - 1);
    close(fd);
    if (n >= 0) out[n] = 0;
    return n;
}

int sl_host_id(char *out, size_t cap)
{
    static const char *const namespaces[] = {"/proc/self/ns/ipc", "/proc/self/ns/pid",
                                             "/proc/self/ns/mnt"};
    char text[512];
    ssize_t n = read_file("/proc/sys/kernel/random/boot_id", text, 128);
    if (n <= 0) return SL_ESYS;
    size_t len = (size_t)n;
    for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++) {
        n = readlink(namespaces[i], text + len, 96);
        if (n <= 0) return SL_ESYS;
        len += (size_t)n;
    }
    XXH128_hash_t h = XXH3_128bits(text, len);
    int made = snprintf(out, cap, "%016llx%016llx", (unsigned long long)h.high64,
                        (unsigned long long)h.low64);
    return made >= 0 && (size_t)made < cap ? 0 : SL_ELIMIT;
}

int sl_process_id(char *out, size_t cap)
{
    char host[SL_ID_MAX], stat[1024];
    unsigned long long start;
    int rc = sl_host_id(host, sizeof host);
    if (rc) return rc;
    if (read_file("/proc/self/stat", stat, sizeof stat) <= 0) return SL_ESYS;
    /* the second field is the program's name in brackets and may contain anything; start time is
     * the 22nd */
    const char *p = strrchr(stat, ')');
    if (!p ||
        sscanf(p + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &start) != 1)
        return SL_ESYS;
    int made = snprintf(out, cap, "%s-%d-%llu", host, (int)getpid(), start);
    return made >= 0 && (size_t)made < cap ? 0 : SL_ELIMIT;
}
