/* test_api_json.c - request bodies: what is read, what is refused, and that the refusal names the
 * field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "coordinator/api_json.h"

#define M "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"

static struct sl_api_request chat(const char *body)
{
    struct sl_api_request r;
    struct sl_api_error e;
    if (sl_api_read_chat(body, strlen(body), &r, &e)) fail_msg("%s: %s", body, e.message);
    return r;
}

static struct sl_api_request completion(const char *body)
{
    struct sl_api_request r;
    struct sl_api_error e;
    if (sl_api_read_completion(body, strlen(body), &r, &e)) fail_msg("%s: %s", body, e.message);
    return r;
}

static void test_defaults(void **state)
{
    (void)state;
    struct sl_api_request r = chat("{" M "}");
    assert_true(r.sampling.temperature == 1 && r.sampling.top_p == 1 && r.sampling.min_p == 0);
    assert_true(r.sampling.repetition_penalty == 1 && r.sampling.presence_penalty == 0);
    assert_int_equal(r.max_tokens, -1);
    assert_int_equal(r.n, 1);
    assert_false(r.has_seed || r.stream || r.include_usage || r.logprobs || r.echo || r.ignore_eos);
    assert_null(r.model);
    sl_api_request_close(&r);
    r = completion("{\"prompt\":\"x\"}");
    assert_int_equal(r.max_tokens, SL_API_TOKENS_DEFAULT);
    assert_int_equal(r.n_prompts, 1);
    sl_api_request_close(&r);
}

static void test_everything(void **state)
{
    (void)state;
    struct sl_api_request r =
        chat("{" M ",\"model\":\"m\",\"temperature\":0,\"top_p\":0.5,\"top_k\":-1,\"max_tokens\":7,"
             "\"max_completion_tokens\":7,"
             "\"n\":8,\"stop\":[\"a\",\"b\"],\"seed\":9223372036854775807,\"logit_bias\":{\"0\":-"
             "100,\"50256\":100},\"logprobs\":true,"
             "\"top_logprobs\":20,\"stream\":true,\"stream_options\":{\"include_usage\":true},"
             "\"user\":\"u\","
             "\"response_format\":{\"type\":\"text\"},\"tools\":[{\"type\":\"function\"}],\"tool_"
             "choice\":\"auto\","
             "\"store\":true,\"metadata\":{\"unknown\":[1]},\"service_tier\":\"auto\"}");
    assert_string_equal(r.model, "m");
    assert_int_equal(r.n, 8);
    assert_int_equal(r.max_tokens, 7);
    assert_int_equal(r.n_stops, 2);
    assert_string_equal(r.stops[1], "b");
    assert_true(r.has_seed && r.sampling.seed == INT64_MAX);
    assert_int_equal(r.sampling.n_bias, 2);
    assert_int_equal(r.sampling.bias[1].token, 50256);
    assert_int_equal(r.sampling.n_top, 20);
    assert_true(r.stream && r.include_usage && r.logprobs);
    assert_int_equal(r.sampling.top_k, 0);
    assert_non_null(json_object_get(r.root, "tools"));
    sl_api_request_close(&r);
    r = chat("{" M ",\"tools\":[{}],\"tool_choice\":\"none\",\"seed\":-1,\"stop\":\"end\"}");
    assert_null(json_object_get(r.root, "tools"));
    assert_false(r.has_seed);
    assert_string_equal(r.stops[0], "end");
    sl_api_request_close(&r);
    r = chat("{" M ",\"temperature\":null,\"n\":null,\"stop\":null,\"tools\":null,\"logit_bias\":"
             "null,\"stream_options\":null,"
             "\"response_format\":null,\"tool_choice\":null,\"max_tokens\":null,\"seed\":null,"
             "\"user\":null}");
    assert_int_equal(r.n, 1); /* null is absent */
    sl_api_request_close(&r);
}

static void test_prompts(void **state)
{
    (void)state;
    const char *text;
    const json_t *ids;
    size_t n;
    struct sl_api_request r = completion("{\"prompt\":[\"a\",\"bc\"]}");
    assert_int_equal(r.n_prompts, 2);
    sl_api_prompt(&r, 1, &text, &n, &ids);
    assert_null(ids);
    assert_string_equal(text, "bc");
    assert_int_equal(n, 2);
    sl_api_request_close(&r);
    r = completion("{\"prompt\":[1,2,3]}");
    assert_int_equal(r.n_prompts, 1);
    sl_api_prompt(&r, 0, &text, &n, &ids);
    assert_null(text);
    assert_int_equal(json_array_size(ids), 3);
    sl_api_request_close(&r);
    r = completion("{\"prompt\":[[1,2],[3]],\"echo\":true,\"max_tokens\":0,\"logprobs\":0}");
    assert_int_equal(r.n_prompts, 2);
    sl_api_prompt(&r, 1, &text, &n, &ids);
    assert_int_equal(json_integer_value(json_array_get(ids, 0)), 3);
    assert_true(r.logprobs && r.sampling.n_top == 0 && r.max_tokens == 0);
    sl_api_request_close(&r);
}

struct wrong {
    const char *body, *param, *says;
};

static void check_wrong(int (*read)(const char *, size_t, struct sl_api_request *,
                                    struct sl_api_error *),
                        const struct wrong *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct sl_api_request r;
        struct sl_api_error e;
        if (!read(w[i].body, strlen(w[i].body), &r, &e)) fail_msg("accepted: %s", w[i].body);
        assert_int_equal(e.status, 400);
        if (strcmp(e.param, w[i].param) || !strstr(e.message, w[i].says))
            fail_msg("%s: param '%s', %s", w[i].body, e.param, e.message);
        json_t *o = sl_api_error_json(&e);
        assert_non_null(json_object_get(o, "error"));
        json_decref(o);
    }
}

static void test_wrong_chat(void **state)
{
    (void)state;
    static const struct wrong w[] = {
        {"", "", "no body"},
        {"{", "", "line 1"},
        {"[1]", "", "an array"},
        {"{}", "messages", "missing"},
        {"{\"messages\":{}}", "messages", "an object"},
        {"{\"messages\":[]}", "messages", "empty"},
        {"{\"messages\":[1]}", "messages", "messages[0]"},
        {"{\"messages\":[{\"role\":\"user\"},{\"content\":\"x\"}]}", "messages",
         "messages[1].role"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages", "messages[0].content"},
        {"{" M ",\"temperature\":\"hot\"}", "temperature", "a string"},
        {"{" M ",\"temperature\":-0.1}", "temperature", "between 0"},
        {"{" M ",\"temperature\":1e400}", "", "real number overflow"},
        {"{" M ",\"top_p\":1.5}", "top_p", "between 0 and 1"},
        {"{" M ",\"min_p\":-1}", "min_p", "between"},
        {"{" M ",\"top_k\":1.5}", "top_k", "an integer"},
        {"{" M ",\"top_k\":-2}", "top_k", "between"},
        {"{" M ",\"presence_penalty\":2.5}", "presence_penalty", "between -2 and 2"},
        {"{" M ",\"frequency_penalty\":[]}", "frequency_penalty", "a number"},
        {"{" M ",\"repetition_penalty\":0}", "repetition_penalty", "between"},
        {"{" M ",\"max_tokens\":0}", "max_tokens", "at least 1"},
        {"{" M ",\"max_tokens\":-5}", "max_tokens", "between"},
        {"{" M ",\"max_tokens\":1.0}", "max_tokens", "an integer"},
        {"{" M ",\"max_tokens\":5,\"max_completion_tokens\":6}", "max_completion_tokens", "differ"},
        {"{" M ",\"n\":0}", "n", "between 1 and 8"},
        {"{" M ",\"n\":9}", "n", "between 1 and 8"},
        {"{" M ",\"stop\":5}", "stop", "a string or an array"},
        {"{" M ",\"stop\":[\"a\",1]}", "stop", "stop[1]"},
        {"{" M ",\"stop\":\"\"}", "stop", "0 bytes"},
        {"{" M ",\"seed\":1.5}", "seed", "an integer"},
        {"{" M ",\"seed\":9223372036854775808}", "", "too big"},
        {"{" M ",\"logit_bias\":[]}", "logit_bias", "an object"},
        {"{" M ",\"logit_bias\":{\"x\":1}}", "logit_bias", "'x'"},
        {"{" M ",\"logit_bias\":{\"\":1}}", "logit_bias", "token id"},
        {"{" M ",\"logit_bias\":{\"-1\":1}}", "logit_bias", "token id"},
        {"{" M ",\"logit_bias\":{\"99999999999\":1}}", "logit_bias", "token id"},
        {"{" M ",\"logit_bias\":{\"1\":101}}", "logit_bias", "between -100 and 100"},
        {"{" M ",\"logit_bias\":{\"1\":\"a\"}}", "logit_bias", "between -100 and 100"},
        {"{" M ",\"logprobs\":1}", "logprobs", "true or false"},
        {"{" M ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", "between 0 and 20"},
        {"{" M ",\"top_logprobs\":1}", "top_logprobs", "needs"},
        {"{" M ",\"stream\":\"yes\"}", "stream", "true or false"},
        {"{" M ",\"stream_options\":{}}", "stream_options", "stream"},
        {"{" M ",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", "include_usage",
         "true or false"},
        {"{" M ",\"user\":1}", "user", "a string"},
        {"{" M ",\"model\":{}}", "model", "a string"},
        {"{" M ",\"response_format\":{\"type\":\"json_object\"}}", "response_format",
         "json_object"},
        {"{" M ",\"response_format\":\"text\"}", "response_format", "an object"},
        {"{" M ",\"tools\":{}}", "tools", "an array"},
        {"{" M ",\"tools\":[1]}", "tools", "tools[0]"},
        {"{" M ",\"tool_choice\":\"required\"}", "tool_choice", "there are no"},
        {"{" M ",\"tools\":[],\"tool_choice\":\"any\"}", "tool_choice", "required"},
        {"{" M ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":"
         "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}",
         "tool_choice", "'g', which is not in 'tools'"},
        {"{" M ",\"parallel_tool_calls\":1}", "parallel_tool_calls", "true or false"},
        {"{" M ",\"include_reasoning\":\"no\"}", "include_reasoning", "true or false"},
        {"{" M ",\"tool_choice\":{}}", "tool_choice", "auto"},
        {"{" M ",\"priority\":\"high\"}", "priority", "an integer"},
        {"{" M ",\"ignore_eos\":0}", "ignore_eos", "true or false"},
    };
    check_wrong(sl_api_read_chat, w, SL_ARRAY_LEN(w));
}

static void test_wrong_completion(void **state)
{
    (void)state;
    static const struct wrong w[] = {
        {"{}", "prompt", "missing"},
        {"{\"prompt\":5}", "prompt", "an integer"},
        {"{\"prompt\":[]}", "prompt", "empty"},
        {"{\"prompt\":[null]}", "prompt", "prompt[0]"},
        {"{\"prompt\":[\"a\",1]}", "prompt", "prompt[1]"},
        {"{\"prompt\":[1,\"a\"]}", "prompt", "index 1"},
        {"{\"prompt\":[1,-1]}", "prompt", "index 1"},
        {"{\"prompt\":[[1],[2.5]]}", "prompt", "index 0"},
        {"{\"prompt\":[2147483648]}", "prompt", "index 0"},
        {"{\"prompt\":\"x\",\"logprobs\":true}", "logprobs", "an integer"},
        {"{\"prompt\":\"x\",\"logprobs\":21}", "logprobs", "between 0 and 20"},
        {"{\"prompt\":\"x\",\"echo\":1}", "echo", "true or false"},
        {"{\"prompt\":\"x\",\"max_tokens\":0}", "max_tokens", "echo"},
        {"{\"prompt\":\"x\",\"best_of\":3}", "best_of", "not supported"},
        {"{\"prompt\":\"x\",\"suffix\":\"y\"}", "suffix", "not supported"},
    };
    check_wrong(sl_api_read_completion, w, SL_ARRAY_LEN(w));
}

static void test_too_many(void **state)
{
    (void)state;
    struct sl_api_request r;
    struct sl_api_error e;
    char *body = malloc(1 << 16), *p;
    p = body + sprintf(body, "{\"prompt\":[\"x\"");
    for (int i = 0; i < SL_API_PROMPTS_MAX; i++) p += sprintf(p, ",\"x\"");
    sprintf(p, "]}");
    assert_int_equal(sl_api_read_completion(body, strlen(body), &r, &e), -1);
    assert_string_equal(e.param, "prompt");
    p = body + sprintf(body, "{\"prompt\":\"x\",\"stop\":[\"x\"");
    for (int i = 0; i < SL_STOPS_MAX; i++) p += sprintf(p, ",\"x\"");
    sprintf(p, "]}");
    assert_int_equal(sl_api_read_completion(body, strlen(body), &r, &e), -1);
    assert_string_equal(e.param, "stop");
    p = body + sprintf(body, "{\"prompt\":\"x\",\"logit_bias\":{\"0\":1");
    for (int i = 1; i <= SL_LOGIT_BIAS_MAX; i++) p += sprintf(p, ",\"%d\":1", i);
    sprintf(p, "}}");
    assert_int_equal(sl_api_read_completion(body, strlen(body), &r, &e), -1);
    assert_string_equal(e.param, "logit_bias");
    p = body + sprintf(body, "{\"prompt\":\"x\",\"stop\":\"");
    for (int i = 0; i <= SL_STOP_LEN_MAX; i++) *p++ = 'x';
    sprintf(p, "\"}");
    assert_int_equal(sl_api_read_completion(body, strlen(body), &r, &e), -1);
    assert_string_equal(e.param, "stop");
    free(body);
}

static void test_codes(void **state)
{
    (void)state;
    static const struct {
        int code, status;
        const char *name;
    } cases[] = {
        {SL_EBUSY, 429, "queue_full"},
        {SL_ERETRY, 503, "retry"},
        {SL_ELIMIT, 400, "context_length_exceeded"},
        {SL_EINPUT, 400, NULL},
        {SL_EUNSUPPORTED, 400, NULL},
        {SL_EAUTH, 401, "invalid_api_key"},
        {SL_ENOMEM, 500, NULL},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        struct sl_api_error e;
        assert_int_equal(sl_api_from_code(&e, cases[i].code, "a \"quoted\" \xff text"), -1);
        assert_int_equal(e.status, cases[i].status);
        json_t *o = sl_api_error_json(&e), *inner = json_object_get(o, "error");
        assert_non_null(strstr(json_string_value(json_object_get(inner, "message")), "quoted"));
        const char *code = json_string_value(json_object_get(inner, "code"));
        if (cases[i].name)
            assert_string_equal(code, cases[i].name);
        else
            assert_null(code);
        assert_true(json_is_null(json_object_get(inner, "param")));
        json_decref(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_wrong_chat),
        cmocka_unit_test(test_wrong_completion),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
