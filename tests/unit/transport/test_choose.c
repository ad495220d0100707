/* test_choose.c - which transport two ends get, and the names by which they know each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "transport/link.h"

static void expect(const char *a, const char *b, int process, int host, const char *want)
{
    const char *one = sl_transport_choose(a, b, process, host),
               *two = sl_transport_choose(b, a, process, host);
    if (!want) {
        assert_null(one);
        assert_null(two);
        return;
    }
    assert_non_null(one);
    assert_string_equal(one, want);
    assert_string_equal(two, want);
}

static void test_choose(void **state)
{
    (void)state;
    const char *all = sl_transport_list();
    expect(all, all, 1, 1, "local");
    expect(all, all, 0, 1, "ucx-shm");
    expect(all, all, 0, 0, "ucx-tcp");
    expect(all, "ucx-tcp", 1, 1, "ucx-tcp"); /* forced by one end */
    expect(all, "ucx-shm", 0, 1, "ucx-shm");
    expect(all, "ucx-shm", 0, 0, NULL); /* there is no way */
    expect(all, "local", 0, 1, NULL);
    expect("ucx-tcp", "ucx-shm", 1, 1, NULL);
    expect(all, "", 1, 1, NULL);
    expect("ucx-tcp local", "local ucx-shm ucx-tcp", 1, 1,
           "local");                                    /* the best, whatever the order */
    expect("ucx-tcpx", "ucx-tcpx ucx-tcp", 0, 0, NULL); /* whole names */
}

static void expect_lane(const char *a, const char *b, const char *gpu_a, const char *gpu_b,
                        const char *transport, const char *want)
{
    assert_string_equal(sl_lane_choose(a, b, gpu_a, gpu_b, transport), want);
    assert_string_equal(sl_lane_choose(b, a, gpu_b, gpu_a, transport), want);
}

static void test_lanes(void **state)
{
    (void)state;
    const char *both = "local ucx-shm ucx-tcp nccl", *without = "local ucx-shm ucx-tcp";
    expect_lane(both, both, "GPU-a", "GPU-b", "ucx-shm", "nccl");
    expect_lane(both, both, "GPU-a", "GPU-b", "ucx-tcp", "nccl");
    expect_lane(both, both, "GPU-a", "GPU-b", "local", "nccl");
    expect_lane(both, without, "GPU-a", "GPU-b", "ucx-shm", "");
    expect_lane(both, both, "GPU-a", "GPU-a", "ucx-shm", ""); /* NCCL wants two cards */
    expect_lane(both, both, "GPU-a", "GPU-a", "local", "device");
    expect_lane(without, without, "GPU-a", "GPU-a", "local", "device");
    expect_lane(both, both, "GPU-a", "", "ucx-shm", ""); /* a stage on CPUs */
    expect_lane(both, both, "", "", "local", "");
}

static void test_activations(void **state)
{
    (void)state;
    static const struct {
        const char *wanted, *transport, *lane;
        double bandwidth;
        enum sl_dtype want;
    } rows[] = {
        {"auto", "local", "", 0, SL_F32},          {"auto", "ucx-shm", "", 1e8, SL_F32},
        {"auto", "ucx-tcp", "", 0, SL_F32},        {"auto", "ucx-tcp", "", 1e9 / 8, SL_BF16},
        {"auto", "ucx-tcp", "", 10e9 / 8, SL_F32}, {"auto", "ucx-tcp", "nccl", 1e9 / 8, SL_F32},
        {"f32", "ucx-tcp", "", 1e9 / 8, SL_F32},   {"bf16", "local", "", 0, SL_BF16},
        {"fp8", "ucx-tcp", "", 0, SL_F8_E4M3},     {"fp8", "ucx-shm", "nccl", 0, SL_F8_E4M3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(sl_activations_choose(rows[i].wanted, rows[i].transport, rows[i].lane,
                                               rows[i].bandwidth),
                         rows[i].want);
}

/* The ids of a child of ours, through a pipe. */
static void child_ids(char host[SL_ID_MAX], char process[SL_ID_MAX])
{
    int p[2], status;
    assert_int_equal(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char ids[2][SL_ID_MAX] = {{0}};
        int bad = sl_host_id(ids[0], SL_ID_MAX) || sl_process_id(ids[1], SL_ID_MAX) ||
                  write(p[1], ids, sizeof ids) != (ssize_t)sizeof ids;
        _exit(bad);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read(p[0], host, SL_ID_MAX), SL_ID_MAX);
    assert_int_equal(read(p[0], process, SL_ID_MAX), SL_ID_MAX);
    close(p[0]);
    close(p[1]);
}

static void test_ids(void **state)
{
    (void)state;
    char host[SL_ID_MAX], again[SL_ID_MAX], process[SL_ID_MAX], its_host[SL_ID_MAX],
        its_process[SL_ID_MAX];
    assert_int_equal(sl_host_id(host, sizeof host), 0);
    assert_int_equal(sl_host_id(again, sizeof again), 0);
    assert_string_equal(host, again);
    assert_int_equal(strlen(host), 32);
    assert_int_equal(sl_process_id(process, sizeof process), 0);
    assert_int_equal(sl_process_id(again, sizeof again), 0);
    assert_string_equal(process, again);
    assert_memory_equal(process, host, strlen(host)); /* and more */
    child_ids(its_host, its_process);
    assert_string_equal(host, its_host); /* shares memory with us */
    assert_string_not_equal(process, its_process);
    assert_int_equal(sl_host_id(host, 32), SL_ELIMIT);
    assert_int_equal(sl_process_id(process, 40), SL_ELIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_choose), cmocka_unit_test(test_lanes),
                                       cmocka_unit_test(test_activations),
                                       cmocka_unit_test(test_ids)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
