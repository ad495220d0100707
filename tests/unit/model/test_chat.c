/* test_chat.c - an OpenAI chat request to prompt text: what the template sees, and what is refused
 * and how. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/chat.h"
#include "model/template.h"
#include "model/weights.h"
#include "tests/lib/gguf_writer.h"

/* Prints all that a request can set, so that one template checks everything. */
static const char show[] =
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    "({{ c.function.name }} {{ c.function.arguments|tojson }}){% endfor %};{% endfor %}"
    "{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} {{ bos_token }} {{ "
    "eos_token }} "
    "{{ reasoning_effort }} {{ extra }}";

static int prompt(const char *source, const struct sl_weights *w, const char *request,
                  struct sl_buf *out, struct sl_err *err)
{
    struct sl_template *t;
    json_t *j = json_loads(request, JSON_DECODE_ANY, NULL), *before;
    assert_non_null(j);
    before = json_deep_copy(j);
    assert_int_equal(sl_template_compile(source, strlen(source), &t, err), 0);
    sl_buf_init(out, 1 << 20);
    int rc = sl_chat_prompt(t, w, j, out, err);
    assert_true(json_equal(j, before)); /* the request is not changed */
    sl_template_free(t);
    json_decref(before);
    json_decref(j);
    return rc;
}

static void expect(const struct sl_weights *w, const char *request, const char *want)
{
    struct sl_buf out;
    struct sl_err err = {0};
    if (prompt(show, w, request, &out, &err)) fail_msg("%s", err.msg);
    assert_string_equal(sl_buf_str(&out), want);
    sl_buf_close(&out);
}

static void requests(void **state)
{
    (void)state;
    expect(NULL, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
           "user:hi;True True True    ");
    expect(
        NULL,
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
        "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":null,\"tool_"
        "calls\":["
        "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\": [1]}\"}},"
        "{\"function\":{\"name\":\"g\",\"arguments\":\"not json\"}}]}],"
        "\"tools\":[{\"type\":\"function\"}],\"add_generation_prompt\":false,\"reasoning_effort\":"
        "\"low\","
        "\"temperature\":0.5,\"chat_template_kwargs\":{\"extra\":[1]}}",
        "user:a\nb;assistant:None(f {\"x\": [1]})(g \"not json\");False True False   low [1]");
    expect(NULL, "{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"tools\":[],\"extra\":1}",
           "user:;True True True    ");
}

static void refused(void **state)
{
    static const char *const rows[][2] = {
        {"[]", "must be a JSON object"},
        {"{}", "messages must be an array"},
        {"{\"messages\":[]}", "at least one message"},
        {"{\"messages\":\"hi\"}", "messages must be an array"},
        {"{\"messages\":[1]}", "messages[0] must be an object"},
        {"{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role must be a string"},
        {"{\"messages\":[{\"role\":1,\"content\":\"x\"}]}", "messages[0].role must be a string"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content is missing"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":7}]}", "messages[0].content must be"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]}",
         "content[0] must be an object"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
         "content[0].text must be a string"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
         "type 'image_url'"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":1}]}",
         "tool_calls must be an array"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}", "tool_calls[0].function"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"tools\":{}}",
         "tools must be an array"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"add_generation_prompt\":1}",
         "true or false"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"chat_template_kwargs\":[]}",
         "must be an object"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"chat_template_kwargs\":{"
         "\"messages\":[]}}",
         "cannot replace the messages"},
    };
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        struct sl_buf out;
        struct sl_err err = {0};
        assert_int_equal(prompt(show, NULL, rows[i][0], &out, &err), SL_EINPUT);
        if (!strstr(err.msg, rows[i][1])) fail_msg("%s: got \"%s\"", rows[i][0], err.msg);
        assert_int_equal(out.len, 0);
        sl_buf_close(&out);
    }
}

static void refused_by_template(void **state)
{
    struct sl_buf out;
    struct sl_err err = {0};
    (void)state;
    assert_int_equal(prompt("{{ raise_exception('no ' ~ messages[0].role) }}", NULL,
                            "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", &out, &err),
                     SL_EINPUT);
    assert_string_equal(err.msg, "no tool");
    sl_buf_close(&out);
}

/* A vocabulary of three tokens with the given ids; template NULL: none. */
static uint8_t *model(uint32_t bos, uint32_t eos, const char *source, struct sl_weights **w)
{
    static const char *const tokens[] = {"<s>", "</s>", "x"};
    struct gguf_writer g;
    struct sl_err err = {0};
    size_t len;
    gguf_init(&g);
    gguf_string(&g, "general.architecture", "llama");
    gguf_array(&g, "tokenizer.ggml.tokens", GGUF_STRING, 3, tokens);
    gguf_u32(&g, "tokenizer.ggml.bos_token_id", bos);
    gguf_u32(&g, "tokenizer.ggml.eos_token_id", eos);
    if (source) gguf_string(&g, "tokenizer.chat_template", source);
    uint8_t *file = gguf_build(&g, &len, NULL, NULL);
    gguf_close(&g);
    if (sl_weights_open_memory("test.gguf", file, len, w, &err)) fail_msg("%s", err.msg);
    return file;
}

static const char hi[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";

static void tokens_from_model(void **state)
{
    struct sl_weights *w;
    uint8_t *file = model(0, 1, NULL, &w);
    (void)state;
    expect(w, hi, "user:hi;True True True <s> </s>  ");
    sl_weights_close(w);
    free(file);

    struct sl_buf out;
    struct sl_err err = {0};
    file = model(0, 3, NULL, &w);
    assert_int_equal(prompt(show, w, hi, &out, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "eos_token_id is 3"));
    sl_buf_close(&out);
    sl_weights_close(w);
    free(file);
}

static void template_from_model(void **state)
{
    struct sl_weights *w;
    struct sl_template *t;
    struct sl_err err = {0};
    (void)state;
    uint8_t *file = model(0, 1, "{{ bos_token }}!", &w);
    assert_int_equal(sl_chat_template(w, &t, &err), 0);
    sl_template_free(t);
    sl_weights_close(w);
    free(file);

    file = model(0, 1, NULL, &w);
    assert_int_equal(sl_chat_template(w, &t, &err), SL_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "test.gguf has no chat template"));
    sl_weights_close(w);
    free(file);

    file = model(0, 1, "{% if %}", &w);
    assert_int_equal(sl_chat_template(w, &t, &err), SL_EINPUT);
    sl_weights_close(w);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests),
        cmocka_unit_test(refused),
        cmocka_unit_test(refused_by_template),
        cmocka_unit_test(tokens_from_model),
        cmocka_unit_test(template_from_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
