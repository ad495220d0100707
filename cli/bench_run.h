/* bench_run.h - one measurement of `sluice bench`: a test repeated on a running session. */
#ifndef SL_CLI_BENCH_RUN_H
#define SL_CLI_BENCH_RUN_H

#include "cli/session.h"

/* What is measured: prefill of `prompt` tokens (generate 0), or decode of `generate` tokens after
 * `depth` tokens, by `parallel` requests at once. */
struct sl_bench_test {
    int prompt, generate, depth, parallel;
};

struct sl_bench_result {
    struct sl_bench_test test;
    int repeats;
    double mean, sd; /* tokens per second, over the repeats */
    int n_stages;
    double busy[SL_DEVICES_MAX]; /* share of the measured time each stage computed */
    double gigabytes_per_s;      /* weights streamed by all stages, per second of computing */
};

/* Runs the test once unmeasured, then `repeats` times. */
int sl_bench_run(struct sl_session *s, const struct sl_bench_test *t, int repeats,
                 struct sl_bench_result *out, struct sl_err *err);

/* "pp512", "tg128", "tg128 @ d4096 x8": llama-bench's names, with the number of requests where it
 * is not one. */
void sl_bench_name(const struct sl_bench_test *t, char *out, size_t cap);

#endif
