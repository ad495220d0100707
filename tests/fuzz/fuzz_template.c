/* fuzz_template.c - hostile chat templates: compile and render with a fixed conversation; nothing
 * may crash or hang.
 *
 * Bounds of one run are the interpreter's own; libFuzzer's -timeout and -rss_limit_mb check that
 * they hold. */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "model/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be "
    "brief.\"},{\"role\":\"user\",\"content\":\"h\\u00e9 "
    "\\ud83d\\ude42\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"type\":"
    "\"function\",\"function\":"
    "{\"name\":\"f\",\"arguments\":{\"x\":[1,2.5,true]}}}]}],\"tools\":[{\"type\":\"function\","
    "\"function\":{\"name\":"
    "\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"array\"}}}}}],"
    "\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</"
    "s>\",\"n\":7,\"f\":0.5,\"now\":"
    "\"2025-08-06T14:30:05\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static json_t *vars;
    struct sl_template *t;
    struct sl_err err;
    struct sl_buf out;
    if (!vars) vars = json_loads(conversation, 0, NULL);
    if (sl_template_compile((const char *)data, n, &t, &err)) return 0;
    sl_buf_init(&out, SL_TEMPLATE_OUTPUT_MAX);
    sl_template_render(t, vars, &out, &err);
    sl_buf_close(&out);
    sl_template_free(t);
    return 0;
}
