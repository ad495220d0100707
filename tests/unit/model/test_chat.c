/* test_chat.c - an OpenAI chat request to prompt text: what the template sees, and what is refused
 * and how. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
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
    struct sl_chat *c;
    struct sl_chat_options o = {.template_text = source};
    json_t *j = json_loads(request, JSON_DECODE_ANY, NULL), *before;
    assert_non_null(j);
    before = json_deep_copy(j);
    sl_buf_init(out, 1 << 20);
    int rc = sl_chat_open(w, &o, &c, err);
    if (rc == 0) {
        rc = sl_chat_render(c, j, out, err);
        sl_chat_close(c);
    }
    assert_true(json_equal(j, before)); /* the request is not changed */
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
    struct sl_chat *c;
    struct sl_err err = {0};
    struct sl_buf out;
    (void)state;
    sl_buf_init(&out, 1000);
    uint8_t *file = model(0, 1, "{{ bos_token }}!<tool_call>", &w);
    assert_int_equal(sl_chat_open(w, NULL, &c, &err), 0);
    assert_int_equal(sl_chat_style(c).tools, SL_TOOLS_HERMES);
    assert_ptr_equal(sl_chat_template(c, 0), sl_chat_template(c, 1));
    sl_chat_close(c);
    struct sl_chat_options o = {.tool_parser = "mistral", .reasoning_parser = "qwen3"};
    assert_int_equal(sl_chat_open(w, &o, &c, &err), 0);
    assert_int_equal(sl_chat_style(c).tools, SL_TOOLS_MISTRAL);
    assert_int_equal(sl_chat_style(c).reasoning, SL_REASONING_THINK);
    sl_chat_close(c);
    o.tool_parser = "what";
    assert_int_equal(sl_chat_open(w, &o, &c, &err), SL_EUSAGE);
    o = (struct sl_chat_options){.template_file = "/nowhere/x.jinja"};
    assert_int_equal(sl_chat_open(w, &o, &c, &err), SL_ENOTFOUND);
    sl_weights_close(w);
    free(file);

    file = model(0, 1, NULL, &w);
    assert_int_equal(sl_chat_open(w, NULL, &c, &err), SL_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "test.gguf has no chat template"));
    assert_non_null(strstr(err.msg, "--chat-template FILE"));
    sl_weights_close(w);
    free(file);

    file = model(0, 1, "{% if %}", &w);
    assert_int_equal(sl_chat_open(w, NULL, &c, &err), SL_EINPUT);
    sl_weights_close(w);
    free(file);
    sl_buf_close(&out);
}

/* ---- a Hugging Face folder ------------------------------------------------------------------- */

static char folder[] = "/tmp/sluice-chat-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
}

static void drop(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    remove(path);
}

/* What the folder's templates make of a message, without and with a tool; or the error. */
static void folder_gives(const char *want)
{
    static const char *const requests_[] = {
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"tools\":[{}]}"};
    struct sl_weights *w;
    struct sl_chat *c;
    struct sl_err err = {0};
    struct sl_buf out;
    sl_buf_init(&out, 4096);
    if (sl_weights_open(folder, &w, &err)) fail_msg("%s", err.msg);
    if (sl_chat_open(w, NULL, &c, &err)) {
        if (!strstr(err.msg, want)) fail_msg("got \"%s\"", err.msg);
    } else {
        for (int i = 0; i < 2; i++) {
            json_t *j = json_loads(requests_[i], 0, NULL);
            assert_int_equal(sl_chat_render(c, j, &out, &err), 0);
            sl_buf_puts(&out, i ? "" : "|");
            json_decref(j);
        }
        assert_string_equal(sl_buf_str(&out), want);
        sl_chat_close(c);
    }
    sl_weights_close(w);
    sl_buf_close(&out);
}

static void templates_of_a_folder(void **state)
{
    static const char head[] = "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    static const char length[8] = {sizeof head - 1}, data[4];
    (void)state;
    assert_non_null(mkdtemp(folder));
    put("config.json", "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"]}");
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *f = fopen(path, "wb");
    fwrite(length, 1, sizeof length, f);
    fwrite(head, 1, sizeof head - 1, f);
    fwrite(data, 1, sizeof data, f);
    fclose(f);
    folder_gives("has no chat template");
    put("chat_template.json", "{\"chat_template\": \"json {{ tools is none }}\"}");
    folder_gives("json True|json False");
    put("tokenizer_config.json",
        "{\"chat_template\": \"config {{ bos_token }}{{ eos_token }}\", \"bos_token\": \"<s>\","
        " \"eos_token\": {\"content\": \"</s>\", \"lstrip\": false}}");
    folder_gives("config <s></s>|config <s></s>");
    put("tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"T{{ eos_token }}\"}, "
        "{\"name\": \"default\", \"template\": \"D\"}], \"eos_token\": null}");
    folder_gives("D|T");
    put("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\"}]}");
    folder_gives("chat_template[0] must be an object with name and template");
    put("tokenizer_config.json", "{\"chat_template\": 7}");
    folder_gives("must be a text or a list");
    put("chat_template.jinja", "file");
    folder_gives("file|file");
    put("chat_template.jinja", "{% for %}");
    folder_gives("chat_template.jinja: ");
    static const char *const names[] = {"chat_template.jinja", "tokenizer_config.json",
                                        "chat_template.json", "config.json", "model.safetensors"};
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++) drop(names[i]);
    assert_int_equal(remove(folder), 0);
}

/* ---- calls of earlier turns -------------------------------------------------------------------
 */

static void arguments_as_wanted(void **state)
{
    static const char request[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"tool_"
        "calls\":"
        "[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
        "\"{\\\"a\\\":  1}\"}}]}]}";
    static const char *const rows[][2] = {
        {"{{ messages[1].tool_calls[0].function.arguments | tojson }}", "{\"a\": 1}"},
        {"{{ messages[1].tool_calls[0].function.arguments.a }}", "1"},
        {"{{ 'args ' + messages[1].tool_calls[0].function.arguments }}", "args {\"a\": 1}"},
        {"{{ messages[1].tool_calls[0].function.arguments }}", "{\"a\": 1}"},
        {"{{ messages[1].content is none }}", "True"},
        {"{{ 'x' in messages[1].content }}", "False"}, /* content is none at first */
        {"{{ messages[1].content + messages[1].tool_calls[0].function.arguments }}", "{\"a\": 1}"},
    };
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        struct sl_buf out;
        struct sl_err err = {0};
        if (prompt(rows[i][0], NULL, request, &out, &err)) fail_msg("%s", err.msg);
        assert_string_equal(sl_buf_str(&out), rows[i][1]);
        sl_buf_close(&out);
    }
}

static void reasoning_of_earlier_turns(void **state)
{
    static const char *const fields[] = {"reasoning", "reasoning_content", "thinking"};
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(fields); i++) {
        char request[256];
        struct sl_buf out;
        struct sl_err err = {0};
        snprintf(request, sizeof request,
                 "{\"messages\":[{\"role\":\"assistant\",\"content\":\"c\",\"%s\":\"why\"}]}",
                 fields[i]);
        if (prompt("{% set m = messages[0] %}{{ m.reasoning }} {{ m.reasoning_content }} "
                   "{{ m.thinking }}",
                   NULL, request, &out, &err))
            fail_msg("%s", err.msg);
        assert_string_equal(sl_buf_str(&out), "why why why");
        sl_buf_close(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests),
        cmocka_unit_test(refused),
        cmocka_unit_test(refused_by_template),
        cmocka_unit_test(tokens_from_model),
        cmocka_unit_test(template_from_model),
        cmocka_unit_test(templates_of_a_folder),
        cmocka_unit_test(arguments_as_wanted),
        cmocka_unit_test(reasoning_of_earlier_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
