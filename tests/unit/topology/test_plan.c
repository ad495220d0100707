/* test_plan.c - the cut is exact: against brute force on small random instances; pins, errors,
 * sanity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "topology/plan.h"

#define LAYERS_MAX 7
#define DEVICES_MAX 4

static const char *const names[] = {"alpha/0", "alpha/1", "beta/0", "beta/1"};
static uint64_t rng;

static int rnd(int n)
{
    rng = sl_mix64(rng);
    return (int)(rng % (uint64_t)n);
}

struct instance {
    uint64_t layer_bytes[LAYERS_MAX];
    struct sl_plan_model m;
    struct sl_plan_device d[DEVICES_MAX];
    int n_devices;
    struct sl_plan_load load;
};

static void make(struct instance *x)
{
    memset(x, 0, sizeof *x);
    x->m.n_layers = 1 + rnd(LAYERS_MAX);
    x->m.layer_bytes = x->layer_bytes;
    for (int i = 0; i < x->m.n_layers; i++) x->layer_bytes[i] = (uint64_t)(50 + rnd(100));
    x->m.embed_bytes = (uint64_t)rnd(200);
    x->m.head_bytes = (uint64_t)rnd(200);
    x->m.kv_bytes_per_token = (uint64_t)(1 + rnd(3));
    x->n_devices = 1 + rnd(DEVICES_MAX);
    for (int i = 0; i < x->n_devices; i++)
        x->d[i] = (struct sl_plan_device){(uint64_t)(100 + rnd(1500)), 1 + rnd(50), -1, -1};
    x->load = (struct sl_plan_load){
        .context = 8 + rnd(20), .sequences = 1 + rnd(6), .block_tokens = 4, .max_rows = 100};
    if (rnd(3) == 0) { /* a pin, which may or may not leave a way */
        int i = rnd(x->n_devices), from = rnd(x->m.n_layers);
        x->d[i].layer_from = from;
        x->d[i].layer_to = from + 1 + rnd(x->m.n_layers - from);
    }
}

/* ---- brute force: every cut of the layers over every subset of the devices, in file order ---- */

struct best {
    int found, n_used;
    double slowest_s;
};

static int per_sequence(const struct instance *x)
{
    return (x->load.context + 3) / 4;
}

static void try_rest(const struct instance *x, int device, int layer, int n_used, double slowest_s,
                     int n_blocks, struct best *b)
{
    if (device >= x->n_devices || device >= DEVICES_MAX) {
        if (layer < x->m.n_layers) return;
        if (b->found && (n_used < b->n_used || (n_used == b->n_used && slowest_s >= b->slowest_s)))
            return;
        *b = (struct best){1, n_used, slowest_s};
        return;
    }
    const struct sl_plan_device *d = &x->d[device];
    uint64_t bytes = 0;
    double read = 0;
    if (d->layer_from < 0) try_rest(x, device + 1, layer, n_used, slowest_s, n_blocks, b);
    for (int to = layer + 1; to <= x->m.n_layers; to++) {
        bytes += x->layer_bytes[to - 1];
        read = (double)bytes + (to == x->m.n_layers ? (double)x->m.head_bytes : 0);
        uint64_t need = bytes + (layer == 0 ? x->m.embed_bytes : 0) +
                        (to == x->m.n_layers ? x->m.head_bytes : 0) +
                        (uint64_t)(to - layer) * (uint64_t)n_blocks * 4 * x->m.kv_bytes_per_token;
        if (need > d->memory_bytes ||
            (d->layer_from >= 0 && (d->layer_from != layer || d->layer_to != to)))
            continue;
        try_rest(x, device + 1, to, n_used + 1, fmax(slowest_s, read / d->bandwidth), n_blocks, b);
    }
}

static struct best brute(const struct instance *x)
{
    struct best all = {0};
    double score = 0;
    for (int k = 1; k <= x->load.sequences; k++) {
        struct best b = {0};
        try_rest(x, 0, 0, 0, 0, k * per_sequence(x), &b);
        if (!b.found || (all.found && k / b.slowest_s < score)) continue;
        if (all.found && k / b.slowest_s == score && b.n_used < all.n_used) continue;
        score = k / b.slowest_s;
        all = b;
    }
    return all;
}

/* ---- what every plan must be ----------------------------------------------------------------- */

static void check_plan(const struct instance *x, const struct sl_plan *p)
{
    int layer = 0;
    assert_in_range(p->n_stages, 1, x->n_devices);
    assert_in_range(p->n_blocks, per_sequence(x), per_sequence(x) * x->load.sequences);
    int tight = p->n_blocks == per_sequence(x) * x->load.sequences;
    for (int s = 0; s < p->n_stages; s++) {
        const struct sl_plan_stage *st = &p->stages[s];
        const struct sl_plan_device *d = &x->d[st->device];
        uint64_t block = (uint64_t)(st->layer_to - st->layer_from) * 4 * x->m.kv_bytes_per_token;
        assert_int_equal(st->layer_from, layer);
        assert_true(st->layer_to > layer);
        layer = st->layer_to;
        assert_true(st->weight_bytes + st->kv_bytes <= d->memory_bytes);
        assert_int_equal(st->kv_bytes, block * (uint64_t)p->n_blocks);
        tight |= st->weight_bytes + st->kv_bytes + block > d->memory_bytes;
        if (d->layer_from >= 0) assert_int_equal(st->layer_from, d->layer_from);
        if (d->layer_from >= 0) assert_int_equal(st->layer_to, d->layer_to);
    }
    assert_int_equal(layer, x->m.n_layers);
    assert_true(tight); /* not one block more */
    assert_true(p->micro_batches == p->n_stages && p->chunk == 100 && p->max_rows == 100);
    assert_true(p->tokens_per_s_1 > 0 && p->tokens_per_s_n > 0);
}

static void test_brute_force(void **state)
{
    (void)state;
    int fitted = 0, not = 0;
    for (int i = 0; i < 20000; i++) {
        struct instance x;
        struct sl_plan p;
        struct sl_err err;
        rng = (uint64_t)i;
        make(&x);
        struct best b = brute(&x);
        int rc = sl_plan_make(&x.m, x.d, names, x.n_devices, &x.load, &p, &err);
        if (rc) {
            assert_true(!b.found && (rc == SL_ELIMIT || rc == SL_EINPUT) && err.msg[0]);
            not += 1;
            continue;
        }
        fitted++;
        double slowest = 0;
        for (int s = 0; s < p.n_stages; s++) slowest = fmax(slowest, p.stages[s].step_ns / 1e9);
        check_plan(&x, &p);
        if (!b.found || p.n_stages != b.n_used || fabs(slowest - b.slowest_s) > 1e-9 * slowest)
            fail_msg("instance %d: %d stages, slowest %.9f; brute force %d, %.9f", i, p.n_stages,
                     slowest, b.n_used, b.slowest_s);
    }
    assert_true(fitted > 4000 && not > 4000);
}

/* Twice the bandwidth everywhere is the same cut in half the time; what fitted fits with more
 * memory. */
static void test_monotone(void **state)
{
    (void)state;
    for (int i = 0; i < 5000; i++) {
        struct instance x;
        struct sl_plan a, b;
        rng = (uint64_t)i + 1000000;
        make(&x);
        if (sl_plan_make(&x.m, x.d, names, x.n_devices, &x.load, &a, NULL) != 0) continue;
        for (int q = 0; q < x.n_devices; q++)
            x.d[q].bandwidth *= 2; /* all alike: twice as fast, the same cut */
        assert_int_equal(sl_plan_make(&x.m, x.d, names, x.n_devices, &x.load, &b, NULL), 0);
        assert_int_equal(a.n_stages, b.n_stages);
        for (int s = 0; s < a.n_stages; s++) {
            assert_int_equal(a.stages[s].layer_to, b.stages[s].layer_to);
            assert_true(fabs(a.stages[s].step_ns / b.stages[s].step_ns - 2) < 1e-9);
        }
        x.d[rnd(x.n_devices)].memory_bytes += 1000;
        assert_int_equal(sl_plan_make(&x.m, x.d, names, x.n_devices, &x.load, &b, NULL), 0);
    }
}

/* ---- by hand --------------------------------------------------------------------------------- */

static uint64_t equal_layers[130];

static struct sl_plan_model model(int n_layers)
{
    for (int i = 0; i < n_layers; i++) equal_layers[i] = 1000;
    return (struct sl_plan_model){
        .n_layers = n_layers, .layer_bytes = equal_layers, .kv_bytes_per_token = 1};
}

static const struct sl_plan_load small = {
    .context = 16, .sequences = 2, .block_tokens = 16, .max_rows = 1024};

static void fails(const struct sl_plan_model *m, const struct sl_plan_device *d, int n, int code,
                  const char *words, const char *more)
{
    struct sl_plan p;
    struct sl_err err = {.code = 0};
    assert_int_equal(sl_plan_make(m, d, names, n, &small, &p, &err), code);
    if (!strstr(err.msg, words) || !strstr(err.msg, more))
        fail_msg("\"%s\" does not say \"%s\" and \"%s\"", err.msg, words, more);
}

static void test_proportional(void **state)
{
    (void)state;
    struct sl_plan_model m = model(12);
    struct sl_plan_device d[] = {
        {1 << 20, 300, -1, -1}, {1 << 20, 100, -1, -1}, {1 << 20, 200, -1, -1}};
    struct sl_plan p;
    assert_int_equal(sl_plan_make(&m, d, names, 3, &small, &p, NULL), 0);
    static const int want[] = {6, 8, 12};
    for (int s = 0; s < 3; s++) assert_int_equal(p.stages[s].layer_to, want[s]);
    assert_true(p.micro_batches == 3 && p.chunk == 256 && p.n_blocks == 2);
    assert_int_equal(sl_plan_make(&m, d, names, 1, &small, &p, NULL), 0);
    assert_true(p.micro_batches == 1 && p.chunk == 512);
    m.head_bytes = 4000; /* the output matrix weighs on the last stage */
    assert_int_equal(sl_plan_make(&m, d, names, 3, &small, &p, NULL), 0);
    assert_true(p.stages[2].layer_to - p.stages[2].layer_from < 4);
}

static void test_more_devices_than_layers(void **state)
{
    (void)state;
    struct sl_plan_model m = model(2);
    struct sl_plan_device d[] = {
        {1 << 20, 100, -1, -1}, {1 << 20, 50, -1, -1}, {1 << 20, 300, -1, -1}};
    struct sl_plan p;
    assert_int_equal(sl_plan_make(&m, d, names, 3, &small, &p, NULL), 0);
    assert_int_equal(p.n_stages, 2);
    assert_true(p.stages[0].device == 0 && p.stages[1].device == 2); /* the slowest is left out */
}

static void test_pins(void **state)
{
    (void)state;
    struct sl_plan_model m = model(12);
    struct sl_plan p;
    /* Pinned against the file's order: the pipeline follows the layers. */
    struct sl_plan_device d[] = {
        {1 << 20, 100, 8, 12}, {1 << 20, 100, -1, -1}, {1 << 20, 100, 0, 3}};
    assert_int_equal(sl_plan_make(&m, d, names, 3, &small, &p, NULL), 0);
    assert_true(p.stages[0].device == 2 && p.stages[1].device == 1 && p.stages[2].device == 0);
    assert_true(p.stages[1].layer_from == 3 && p.stages[1].layer_to == 8);
    d[1].layer_from = 3, d[1].layer_to = 9;
    fails(&m, d, 3, SL_EINPUT, "alpha/1: layers [3, 8] overlap [8, 11] of alpha/0", "");
    d[1].layer_to = 7;
    fails(&m, d, 3, SL_EINPUT, "layers 7 to 7 belong to no device", "");
    d[1].layer_to = 8, d[0].layer_to = 13;
    fails(&m, d, 3, SL_EINPUT, "alpha/0: layers [8, 12]", "layers 0 to 11");
    d[0].layer_to = 11;
    fails(&m, d, 3, SL_EINPUT, "layers 11 to 11 belong to no device", "alpha/0");
}

static void test_does_not_fit(void **state)
{
    (void)state;
    struct sl_plan_model m = model(12);
    struct sl_plan_device d[] = {{5000, 100, -1, -1}, {5000, 100, -1, -1}};
    /* A layer with the cache of one sequence takes 1016 bytes: four for the first, eight (8128
     * bytes) are left. */
    fails(&m, d, 2, SL_ELIMIT, "alpha/1 is 3.1 KiB short", "layers 4 to 11 need 7.9 KiB");
    d[0] = (struct sl_plan_device){5000, 100, 0, 6};
    fails(&m, d, 2, SL_ELIMIT, "alpha/0 is 1.1 KiB short: its layers 0 to 5 need 6.0 KiB",
          "fewer layers");
    d[0] = (struct sl_plan_device){5000, 100, 8, 12}; /* before the pinned one: layers 0 to 8 */
    d[1] = (struct sl_plan_device){5000, 100, -1, -1};
    struct sl_plan_device swapped[] = {d[1], d[0]};
    fails(&m, swapped, 2, SL_ELIMIT, "alpha/0 is 3.1 KiB short", "layers 0 to 7");
    d[0] = (struct sl_plan_device){5000, 0, -1, -1};
    fails(&m, d, 2, SL_EINPUT, "alpha/0", "bandwidth");
}

static void test_print_and_large(void **state)
{
    (void)state;
    struct sl_plan_model m = model(130);
    struct sl_plan_device d[SL_DEVICES_MAX];
    const char *many[SL_DEVICES_MAX];
    struct sl_plan p;
    for (int i = 0; i < SL_DEVICES_MAX; i++) {
        d[i] = (struct sl_plan_device){40000 + (uint64_t)i, 100 + i, -1, -1};
        many[i] = "device/0";
    }
    struct sl_plan_load load = small;
    load.sequences = 1024;
    uint64_t from = sl_env_now_ns();
    assert_int_equal(sl_plan_make(&m, d, many, SL_DEVICES_MAX, &load, &p, NULL), 0);
    printf("64 devices, 130 layers: %.1f ms\n", (double)(sl_env_now_ns() - from) / 1e6);
    assert_int_equal(p.n_stages, SL_DEVICES_MAX);
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    sl_plan_print(&p, many, f);
    fclose(f);
    int lines = 0;
    for (char *c = text; *c; c++) lines += *c == '\n';
    assert_int_equal(lines, SL_DEVICES_MAX + 2);
    assert_non_null(strstr(text, "KV blocks"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brute_force),
        cmocka_unit_test(test_monotone),
        cmocka_unit_test(test_proportional),
        cmocka_unit_test(test_more_devices_than_layers),
        cmocka_unit_test(test_pins),
        cmocka_unit_test(test_does_not_fit),
        cmocka_unit_test(test_print_and_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
