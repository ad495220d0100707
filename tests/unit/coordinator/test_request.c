/* test_request.c - stop strings, end tokens, limits and checks of one request, with the toy
 * vocabulary. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/env.h"
#include "coordinator/request.h"
#include "tests/unit/coordinator/toy.h"

enum { END, SPECIAL, E1, E2, EACUTE, BAD, A, B, C, AB, BA, CA, ABC, AA };

static struct sl_submit basic(const char *stop0, const char *stop1)
{
    static const int32_t prompt[] = {A, B};
    struct sl_submit s = {.id = 1, .tokens = prompt, .n_tokens = 2, .max_tokens = 20};
    sl_sampling_default(&s.sampling);
    if (stop0) s.stops[s.n_stops++] = stop0;
    if (stop1) s.stops[s.n_stops++] = stop1;
    return s;
}

/* Feeds tokens until the answer ends; what was shown after each is joined with '|', the held-back
 * rest follows '+'. */
static void transcript(const struct sl_submit *s, const int32_t *tokens, int n, const char *want)
{
    struct sl_request *r;
    struct sl_request_out o = {.ended = 0};
    char got[256] = "";
    assert_int_equal(sl_request_create(s, 100, 16, 0, &r), 0);
    int i = 0;
    for (; i < n && !o.ended; i++) {
        assert_int_equal(sl_request_push(r, toy_tokenizer(), tokens[i], &o), 0);
        strncat(got, o.text, o.text_len);
        strcat(got, "|");
    }
    if (o.ended) {
        strcat(got, "+");
        strncat(got, o.rest, o.rest_len);
        strcat(got, o.reason == SL_FINISH_STOP ? " stop" : " length");
    }
    assert_string_equal(got, want);
    assert_int_equal(i, n); /* nothing ended too early */
    sl_request_destroy(r);
}
#define TRANSCRIPT(s, want, ...)                                                                   \
    transcript(s, (const int32_t[]){__VA_ARGS__}, (int)(sizeof((int32_t[]){__VA_ARGS__}) / 4), want)

static void test_stops(void **state)
{
    (void)state;
    struct sl_submit s = basic(NULL, NULL);
    TRANSCRIPT(&s, "a|b|ab|", A, B, AB);
    s = basic("abc", NULL);
    TRANSCRIPT(&s, "|+ stop", ABC);
    TRANSCRIPT(&s, "b||||+ stop", B, A, B, C);   /* split over tokens */
    TRANSCRIPT(&s, "||ab||+ stop", A, B, AB, C); /* the first ab is let go when the second comes */
    TRANSCRIPT(&s, "|ab||aba|", AB, A, B, AA);
    TRANSCRIPT(&s, "|||+ab stop", A, B, END); /* what was held back comes at the end */
}

static void test_stops_overlap(void **state)
{
    (void)state;
    struct sl_submit s = basic("aab", NULL);
    TRANSCRIPT(&s, "||a|a||+ stop", A, A, A, A, B); /* two a's are always held */
    s = basic("bab", "ca");
    TRANSCRIPT(&s, "|ba|c|+ stop", BA, C, CA); /* one stop's beginning gives way to another's */
    s = basic("bc", "abc");
    TRANSCRIPT(&s, "|+ stop", ABC); /* two match: the one that begins first counts */
}

static void test_unicode(void **state)
{
    (void)state;
    struct sl_submit s = basic("\xc3\xa9", NULL);
    TRANSCRIPT(&s, "a|||+ stop", A, E1, E2); /* a character in two tokens */
    TRANSCRIPT(&s, "|+ stop", EACUTE);
    s = basic("c\xc3\xa9", NULL);
    TRANSCRIPT(&s,
               "||c\xef\xbf\xbd"
               "a|",
               C, E1, A); /* it was no such character */
    s = basic("c\xc3\xa9", NULL);
    TRANSCRIPT(&s, "|||+ stop", C, E1, E2);
}

static void test_ends(void **state)
{
    (void)state;
    struct sl_submit s = basic(NULL, NULL);
    TRANSCRIPT(&s, "a||+ stop", A, END);
    s.ignore_eos = 1;
    TRANSCRIPT(&s, "a||b|", A, END, B);
    TRANSCRIPT(&s, "||a|", SPECIAL, END, A);
    s.max_tokens = 2;
    TRANSCRIPT(&s, "a||+\xef\xbf\xbd length", A, E1); /* half a character at the end */
    TRANSCRIPT(&s, "a|b|+ length", A, B);
    s = basic("abc", NULL);
    s.max_tokens = 1;
    TRANSCRIPT(&s, "|+a length", A);
}

/* Any tokens, any stops: shown text and rest together are the text up to the earliest stop. */
static void test_random(void **state)
{
    (void)state;
    static const char *const stops[] = {"abc", "aa",   "bab",        "ca", "\xc3\xa9",
                                        "aab", "abab", "cc\xc3\xa9", "bca"};
    uint64_t rng = 7;
    for (int round = 0; round < 20000; round++) {
        rng = sl_mix64(rng);
        struct sl_submit s = basic(stops[rng % 9], stops[rng / 16 % 9]);
        struct sl_request *r;
        struct sl_request_out o = {.ended = 0};
        struct sl_detok detok = {.n_pending = 0};
        struct sl_buf all, got;
        sl_buf_init(&all, 4096);
        sl_buf_init(&got, 4096);
        assert_int_equal(sl_request_create(&s, 100, 16, 0, &r), 0);
        const char *first = NULL;
        while (!o.ended) {
            rng = sl_mix64(rng);
            int32_t token = 2 + (int32_t)(rng % (TOY_VOCAB - 2));
            assert_int_equal(sl_request_push(r, toy_tokenizer(), token, &o), 0);
            assert_int_equal(sl_buf_add(&got, o.text, o.text_len), 0);
            assert_int_equal(sl_detok_push(&detok, toy_tokenizer(), token, 0, &all), 0);
            for (int k = 0; k < 2; k++) {
                const char *at = strstr(sl_buf_str(&all), s.stops[k]);
                if (at && (!first || at < first)) first = at;
            }
            assert_int_equal(o.ended, first != NULL || r->n_tokens == r->n_limit);
        }
        assert_int_equal(o.reason, first ? SL_FINISH_STOP : SL_FINISH_LENGTH);
        assert_int_equal(sl_buf_add(&got, o.rest, o.rest_len), 0);
        size_t n = first ? (size_t)(first - sl_buf_str(&all)) : 0;
        if (!first) {
            assert_int_equal(sl_detok_finish(&detok, &all), 0);
            n = all.len;
        }
        assert_int_equal(got.len, n);
        assert_memory_equal(sl_buf_str(&got), sl_buf_str(&all), n);
        sl_buf_close(&all);
        sl_buf_close(&got);
        sl_request_destroy(r);
    }
}

static void refused(const struct sl_submit *s, int code, const char *words)
{
    struct sl_err err = {.code = 0};
    assert_int_equal(sl_request_check(s, TOY_VOCAB, 2, 50, &err), code);
    if (!strstr(err.msg, words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}

static void test_check(void **state)
{
    (void)state;
    static int32_t many[60], wrong[] = {1, TOY_VOCAB};
    struct sl_submit s = basic("x", NULL), ok = s;
    assert_int_equal(sl_request_check(&ok, TOY_VOCAB, 2, 50, NULL), 0);
    s = ok, s.n_tokens = 0, refused(&s, SL_EINPUT, "empty");
    s = ok, s.tokens = wrong, refused(&s, SL_EINPUT, "token 24 at position 1");
    s = ok, s.tokens = many, s.n_tokens = 50, refused(&s, SL_ELIMIT, "50 tokens");
    s.n_tokens = 49;
    assert_int_equal(sl_request_check(&s, TOY_VOCAB, 2, 50, NULL), 0);
    s.n_tokens = 50, s.logits = 1;
    assert_int_equal(sl_request_check(&s, TOY_VOCAB, 2, 50, NULL), 0);
    s.score = 1, refused(&s, SL_EINPUT, "together");
    s = ok, s.adapter = 2;
    assert_int_equal(sl_request_check(&s, TOY_VOCAB, 2, 50, NULL), 0);
    s.adapter = 3, refused(&s, SL_EINPUT, "2 are loaded");
    s.adapter = -1, refused(&s, SL_EINPUT, "adapter -1");
    s = ok, s.max_tokens = -1, refused(&s, SL_EINPUT, "max_tokens");
    s = ok, s.stops[0] = "", refused(&s, SL_EINPUT, "empty");
    s = ok, s.n_stops = SL_STOPS_MAX + 1, refused(&s, SL_ELIMIT, "stop strings");
    s = ok, s.sampling.temperature = NAN, refused(&s, SL_EINPUT, "temperature");
    s = ok, s.sampling.top_p = 0, refused(&s, SL_EINPUT, "top_p");
    s = ok, s.sampling.repetition_penalty = 0, refused(&s, SL_EINPUT, "repetition_penalty");
    s = ok, s.sampling.n_top = 21, refused(&s, SL_EINPUT, "alternatives");
    s = ok, s.sampling.n_bias = 1, s.sampling.bias[0].token = -1,
    refused(&s, SL_EINPUT, "logit bias");
}

static void test_fit(void **state)
{
    (void)state;
    struct sl_submit s = basic(NULL, NULL);
    struct sl_err err;
    struct sl_request *r;
    s.max_tokens = 0;
    assert_int_equal(sl_request_create(&s, 100, 16, 0, &r), 0);
    assert_int_equal(r->n_limit, 100);
    assert_int_equal(sl_request_fit(r, 2, 16, &err), 0); /* to the end of what there is */
    assert_int_equal(r->n_limit, 33);
    sl_request_destroy(r);
    s.max_tokens = 40;
    assert_int_equal(sl_request_create(&s, 100, 16, 0, &r), 0);
    assert_int_equal(sl_request_fit(r, 3, 16, &err), 0);
    assert_int_equal(sl_request_fit(r, 2, 16, &err), SL_ELIMIT);
    assert_non_null(strstr(err.msg, "needs 3 KV blocks"));
    assert_non_null(strstr(err.msg, "has 2"));
    sl_request_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stops),   cmocka_unit_test(test_stops_overlap),
        cmocka_unit_test(test_unicode), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_random),  cmocka_unit_test(test_check),
        cmocka_unit_test(test_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
