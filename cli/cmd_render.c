/* cmd_render.c - `sluice render`: a chat request as JSON on stdin to the prompt text on stdout.
 *
 * The members of the request are the template's variables as they are (messages, tools,
 * add_generation_prompt, ...), so that a template can be tried with anything; what the HTTP API
 * makes of a request is model/chat.h. "now" fixes the time that strftime_now formats;
 * chat_template_kwargs are merged in. */
#include "cli/cmd.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/conf.h"
#include "base/sl_assert.h"
#include "cli/resolve.h"
#include "model/chat.h"
#include "model/template.h"
#include "model/weights.h"

#define REQUEST_MAX (64u << 20) /* bytes on stdin */

struct settings {
    const char *model, *template_file;
};

#define AT(member) offsetof(struct settings, member)

static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "-m --model", "MODEL", AT(model),
     "the model whose template and tokens to use: a .gguf file, a Hugging Face "
     "folder, or smollm2",
     0, 0},
    {SL_CONF_STRING, "--template --chat-template --chat-template-file", "FILE", AT(template_file),
     "a Jinja template, instead of the model's own", 0, 0},
};

static int read_request(json_t **vars, struct sl_err *err)
{
    struct sl_buf b;
    json_error_t e;
    sl_buf_init(&b, REQUEST_MAX);
    int rc = sl_buf_read(&b, stdin);
    if (rc == SL_EIO)
        sl_err_set(err, rc, "stdin: reading failed");
    else if (rc)
        rc = sl_err_set(err, SL_EINPUT, "stdin: more than %zu bytes", b.max);
    if (rc == 0 && !(*vars = json_loadb(sl_buf_str(&b), b.len, JSON_ALLOW_NUL, &e)))
        rc = sl_err_set(err, SL_EINPUT, "stdin: line %d, column %d: %s; a JSON object was expected",
                        e.line, e.column, e.text);
    if (rc == 0 && !json_is_object(*vars))
        rc = sl_err_set(err, SL_EINPUT,
                        "stdin: a JSON object was expected, like {\"messages\": [...]}");
    sl_buf_close(&b);
    return rc;
}

static int render(const struct sl_chat *c, struct sl_err *err)
{
    json_t *vars = NULL;
    struct sl_buf out;
    sl_buf_init(&out, SL_TEMPLATE_OUTPUT_MAX);
    int rc = read_request(&vars, err);
    if (rc == 0) rc = sl_chat_merge_kwargs(vars, err);
    if (rc == 0) rc = sl_chat_set_tokens(c, vars, err);
    int tools = json_array_size(json_object_get(vars, "tools")) > 0;
    if (rc == 0) rc = sl_template_render(sl_chat_template(c, tools), vars, &out, err);
    if (rc == 0 && (fwrite(sl_buf_str(&out), 1, out.len, stdout) != out.len || fflush(stdout) != 0))
        rc = sl_err_set(err, SL_EIO, "stdout: writing failed");
    sl_buf_close(&out);
    json_decref(vars);
    return rc;
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const struct settings *set = settings;
    (void)words;
    if (!set->model && !set->template_file)
        return sl_err_set(err, SL_EUSAGE, "no template; give one with -m MODEL or --template FILE");
    char path[PATH_MAX];
    struct sl_weights *w = NULL;
    struct sl_chat *c = NULL;
    int rc = 0;
    if (set->model) {
        rc = sl_model_resolve(set->model, path, sizeof path, err);
        if (rc == 0) rc = sl_weights_open(path, &w, err);
    }
    struct sl_chat_options o = {.template_file = set->template_file};
    if (rc == 0) rc = sl_chat_open(w, &o, &c, err);
    if (rc == 0) rc = render(c, err);
    sl_chat_close(c);
    sl_weights_close(w);
    return rc;
}

int sl_cmd_render(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "render",
        .usage = "usage: sluice render (-m MODEL | --template FILE) < REQUEST.json\n"
                 "\n"
                 "The prompt text that a chat template makes of a request: a JSON object with "
                 "messages, tools,\n"
                 "add_generation_prompt and whatever else the template asks for. \"now\": "
                 "\"2025-08-06T14:30:05\"\n"
                 "fixes its clock.\n"
                 "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 0,
        .work = run,
    };
    struct settings s = {0};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
