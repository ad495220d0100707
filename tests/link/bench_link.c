/* bench_link.c - round-trip times between two processes: bench_link ucx-shm|ucx-tcp [bytes...].
 * Prints median and 99th percentile of a frame there and back, and the bytes per second one way
 * that the median means. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "tests/link/rig.h"

enum { WARM_UP = 50, ROUNDS = 1000 };

static void drop(struct rig *r, struct sl_frame *f)
{
    (void)r;
    sl_frame_free(f);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void bench(struct rig *r, struct sl_link *l, size_t bytes)
{
    static uint64_t took[ROUNDS];
    int rounds = bytes > 1000000 ? ROUNDS / 10 : ROUNDS;
    struct sl_frame *model = frame_make(1, bytes);
    for (int i = -WARM_UP; i < rounds; i++) {
        struct sl_frame *f = sl_frame_alloc(&model->head);
        SL_ASSERT(f);
        uint64_t start = sl_env_now_ns();
        r->received = 0;
        SL_ASSERT(sl_link_send(l, f) == 0);
        rig_wait(r, &r->received, 1);
        if (i >= 0) took[i] = sl_env_now_ns() - start;
    }
    sl_frame_free(model);
    qsort(took, (size_t)rounds, sizeof *took, by_value);
    double median = (double)took[rounds / 2];
    printf("%10zu B  median %8.1f us  p99 %8.1f us  %6.2f GB/s\n", bytes, median / 1e3,
           (double)took[rounds * 99 / 100] / 1e3, 2 * (double)bytes / median);
}

int main(int argc, char **argv)
{
    static const size_t usual[] = {2300, 65536, 589824, 4194304, 16777216};
    struct rig r;
    struct child c;
    if (argc == 4 && strcmp(argv[1], "--child") == 0) return child_main(argv[2], argv[3]);
    if (argc < 2) {
        fprintf(stderr, "usage: bench_link ucx-shm|ucx-tcp [bytes...]\n");
        return 2;
    }
    rig_open(&r, argv[1]);
    r.on_frame = drop;
    child_start(&c, &r, argv[1], "echo");
    struct sl_link *l = rig_link(&r, &c.address);
    for (int i = 2; i < argc; i++) bench(&r, l, (size_t)strtoull(argv[i], NULL, 10));
    for (size_t i = 0; argc == 2 && i < SL_ARRAY_LEN(usual); i++) bench(&r, l, usual[i]);
    sl_link_close(l);
    child_end(&c);
    rig_close(&r);
    return 0;
}
