/* test_metrics.c - what is observed of requests, and that the text is what Prometheus reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "coordinator/metrics.h"
#include "tests/lib/fake_service.h"

#define MS 1000000ull

static void test_request(void **state)
{
    (void)state;
    struct sl_metrics m;
    struct sl_track t;
    sl_metrics_init(&m);
    sl_track_start(&t, 1000 * MS);
    struct sl_effect token = {.kind = SL_FX_TOKEN};
    struct sl_effect done = {
        .kind = SL_FX_DONE,
        .done = {.reason = SL_FINISH_LENGTH, .timings = {.queue_ns = 400 * MS}}};
    sl_track_reply(&m, &t, &token, 1030 * MS); /* first token after 30 ms */
    sl_track_reply(&m, &t, &token, 1032 * MS); /* 2 ms and 8 ms between tokens */
    sl_track_reply(&m, &t, &token, 1040 * MS);
    sl_track_reply(&m, &t, &done, 1900 * MS);
    assert_int_equal(m.ttft.total, 1);
    assert_int_equal(m.itl.total, 2);
    assert_int_equal(m.e2e.total, 1);
    assert_true(m.ttft.sum > 0.0299 && m.ttft.sum < 0.0301);
    assert_true(m.itl.sum > 0.0099 && m.itl.sum < 0.0101);
    assert_true(m.e2e.sum > 0.899 && m.e2e.sum < 0.901);
    assert_true(m.queue.sum > 0.399 && m.queue.sum < 0.401);
    assert_int_equal(m.success[SL_FINISH_LENGTH], 1);
    struct sl_effect fail = {.kind = SL_FX_FAIL};
    sl_track_reply(&m, &t, &fail, 2000 * MS);
    sl_track_cancel(&m, &t);
    assert_int_equal(m.failed, 1);
    assert_int_equal(m.success[SL_FINISH_CANCELLED], 1);
    assert_int_equal(m.e2e.total, 1);
}

static void test_buckets(void **state)
{
    (void)state;
    static const double bounds[] = {1, 2, 4};
    struct sl_hist h = {.n = 3, .bounds = bounds};
    static const double values[] = {0, 1, 1.5, 2, 4, 4.0001, 100};
    for (size_t i = 0; i < SL_ARRAY_LEN(values); i++) sl_hist_observe(&h, values[i]);
    assert_int_equal(h.counts[0], 2); /* a bound belongs to its own bucket */
    assert_int_equal(h.counts[1], 2);
    assert_int_equal(h.counts[2], 1);
    assert_int_equal(h.counts[3], 2);
    assert_int_equal(h.total, 7);
}

/* Every line is a comment or NAME{labels} VALUE; each name is announced once, before its samples;
 * histograms are cumulative. */
static void check_text(char *text)
{
    char announced[128] = "", *line, *rest = text;
    long last = -1;
    int samples = 0;
    while ((line = strsep(&rest, "\n"))) {
        char name[128], labels[512], type[32];
        double value;
        if (!*line) {
            assert_null(rest); /* only after the last one */
            break;
        }
        if (!strncmp(line, "# HELP ", 7)) continue;
        if (sscanf(line, "# TYPE sluice:%127s %31s", name, type) == 2) {
            assert_true(!strcmp(type, "counter") || !strcmp(type, "gauge") ||
                        !strcmp(type, "histogram"));
            snprintf(announced, sizeof(announced), "%s", name);
            last = -1;
            continue;
        }
        if (sscanf(line, "sluice:%127[a-z0-9_]{%511[^}]} %lf", name, labels, &value) != 3)
            fail_msg("%s", line);
        assert_int_equal(strncmp(name, announced, strlen(announced)), 0);
        assert_non_null(strstr(labels, "model_name=\"Fake Model\""));
        if (strstr(name, "_bucket")) {
            assert_true(value >= (double)last);
            last = (long)value;
        }
        samples++;
    }
    assert_true(samples > 100);
}

static void test_text(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct sl_buf out;
    struct sl_metrics m;
    uv_loop_init(&loop);
    struct sl_service *s = fake_new(&loop);
    sl_metrics_init(&m);
    for (int i = 0; i < 1000; i++) sl_hist_observe(&m.ttft, i * 0.01);
    sl_buf_init(&out, SL_METRICS_MAX);
    assert_int_equal(sl_metrics_write(&m, s, &out), 0);
    static const char *const want[] = {
        "sluice:time_to_first_token_seconds_bucket{model_name=\"Fake Model\",le=\"0.1\"} 11\n",
        "sluice:time_to_first_token_seconds_bucket{model_name=\"Fake Model\",le=\"+Inf\"} 1000\n",
        "sluice:time_to_first_token_seconds_count{model_name=\"Fake Model\"} 1000\n",
        "sluice:inter_token_latency_seconds_count{model_name=\"Fake Model\"} 0\n",
        "sluice:e2e_request_latency_seconds_count",
        "sluice:request_queue_time_seconds_count",
        "sluice:num_requests_running{model_name=\"Fake Model\"} 0\n",
        "sluice:num_requests_waiting{",
        "sluice:num_preemptions_total{model_name=\"Fake Model\"} 3\n",
        "sluice:prompt_tokens_total{model_name=\"Fake Model\"} 1000\n",
        "sluice:generation_tokens_total{model_name=\"Fake Model\"} 2000\n",
        "sluice:request_success_total{model_name=\"Fake Model\",finished_reason=\"stop\"} 0\n",
        "sluice:stage_busy_ratio{model_name=\"Fake Model\",stage=\"0\",device=\"fake/0\"} 0.5\n",
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(want); i++)
        if (!strstr(out.data, want[i])) fail_msg("missing: %s", want[i]);
    check_text(out.data);
    sl_buf_close(&out);
    sl_buf_init(&out, 1000); /* a full buffer is an error, not a cut text */
    assert_int_equal(sl_metrics_write(&m, s, &out), SL_ELIMIT);
    sl_buf_close(&out);
    fake_close(s, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
