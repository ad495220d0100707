/* env.c - see env.h. */
#include "base/env.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "base/sl_assert.h"

uint64_t sl_env_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t sl_env_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

void sl_env_random(void *buf, size_t n)
{
    char *p = buf;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR) continue;
        SL_ASSERT(got > 0); /* blocks until seeded, cannot fail otherwise */
        p += got;
        n -= (size_t)got;
    }
}

const char *sl_env_get(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}
