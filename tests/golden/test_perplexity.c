/* test_perplexity.c - the perplexity of texts under a tiny model, window by window, against
 * float32: tokenizer, model and the sum together.
 *
 * usage: test_golden_perplexity [ROW]. perplexity.json says how the texts are cut. A difference in
 * one logit of 1e-3 standard deviations (3) moves a mean over hundreds of tokens far less than
 * 1e-4. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/sl_assert.h"
#include "model/tokenizer.h"
#include "tests/golden/models.h"
#include "tests/lib/engine.h"

#define LIMIT 1e-4
#define SKIPPED 77

static const char *row = "cpu";
static const char *model;

static size_t integer(const json_t *o, const char *key)
{
    return (size_t)json_integer_value(json_object_get(o, key));
}

/* The first bytes of a text as ids. */
static struct sl_ids read_ids(const struct sl_tokenizer *t, const json_t *text)
{
    const char *file = json_string_value(json_object_get(text, "file"));
    const char *path = engine_data(file);
    size_t n = integer(text, "first_bytes");
    struct sl_ids ids = {0};
    struct sl_err e = {0};
    char *bytes = malloc(n);
    FILE *f = path ? fopen(path, "rb") : NULL;
    assert_true(bytes && f);
    assert_int_equal(fread(bytes, 1, n, f), n);
    fclose(f);
    if (sl_tokenizer_encode(t, bytes, n, 0, &ids, &e)) fail_msg("%s", e.msg);
    free(bytes);
    return ids;
}

/* Minus the logarithm of the probability of `next`. */
static double loss(const float *logits, int n, int32_t next)
{
    double best = (double)logits[0], sum = 0;
    for (int i = 1; i < n; i++)
        if ((double)logits[i] > best) best = (double)logits[i];
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - best);
    return best + log(sum) - (double)logits[next];
}

static void check_text(struct pipeline *p, const struct sl_tokenizer *t, const json_t *text,
                       int n_vocab)
{
    const json_t *means = json_object_get(text, "mean_nll_per_window");
    size_t window = integer(text, "window"), n = integer(text, "windows"), scored = 0, late = 0;
    struct sl_ids ids = read_ids(t, text);
    float *logits = malloc(window * (size_t)n_vocab * sizeof *logits);
    double sum = 0, half = 0, worst = 0;
    assert_non_null(logits);
    assert_int_equal(ids.len, integer(text, "tokens"));
    assert_int_equal(ids.len / window, n);
    for (size_t w = 0; w < n; w++) {
        const int32_t *from = ids.data + w * window;
        double own = 0;
        pipeline_logits(p, from, (int)window, 0, (int)window, logits, n_vocab);
        for (size_t i = 0; i + 1 < window; i++, scored++) {
            double x = loss(logits + i * (size_t)n_vocab, n_vocab, from[i + 1]);
            own += x;
            if (i < window / 2) continue;
            half += x;
            late++;
        }
        double off = fabs(own / (double)(window - 1) - json_real_value(json_array_get(means, w)));
        if (!(off <= worst)) worst = off;
        sum += own;
    }
    const json_t *second = json_object_get(text, "second_half");
    double off = fabs(sum / (double)scored - json_real_value(json_object_get(text, "mean_nll")));
    double off_half =
        fabs(half / (double)late - json_real_value(json_object_get(second, "mean_nll")));
    assert_int_equal(scored, integer(text, "scored_tokens"));
    assert_int_equal(late, integer(second, "scored_tokens"));
    print_message("%s %s: off by %.2g, second halves by %.2g, a window by %.2g at most\n", row,
                  json_string_value(json_object_get(text, "file")), off, off_half, worst);
    assert_true(off <= LIMIT && off_half <= LIMIT && worst <= LIMIT);
    free(logits);
    free(ids.data);
}

static void test_perplexity(void **state)
{
    (void)state;
    static struct sl_config c;
    static const char *const texts[] = {"english", "italian"};
    struct sl_backend_params params = {.kind = row, .n_threads = 2};
    struct sl_backend *backend;
    struct sl_tokenizer *tokenizer;
    struct sl_weights *weights;
    struct sl_err e = {0};
    struct pipeline p;
    json_t *golden = json_load_file(engine_data("models/llama/perplexity.json"), 0, NULL);
    assert_non_null(golden);
    if (sl_weights_open(model, &weights, &e) || sl_config_read(weights, &c, &e) ||
        sl_tokenizer_open(weights, &tokenizer, &e) || sl_backend_create(&params, &backend, &e))
        fail_msg("%s", e.msg);
    pipeline_open(&p, backend, model, 2);
    for (size_t i = 0; i < SL_ARRAY_LEN(texts); i++)
        check_text(&p, tokenizer, json_object_get(golden, texts[i]), c.n_vocab);
    pipeline_close(&p);
    sl_backend_destroy(backend);
    sl_tokenizer_close(tokenizer);
    sl_weights_close(weights);
    json_decref(golden);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_perplexity)};
    if (argc > 1) row = argv[1];
    model = engine_data("models/llama");
    if (!model || !engine_data("models/llama/perplexity.json") || !engine_has_row(row)) {
        printf("skipped: no model or no row %s\n", row);
        return SKIPPED;
    }
    return cmocka_run_group_tests_name("golden_perplexity", tests, NULL, NULL);
}
