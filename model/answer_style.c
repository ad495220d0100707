/* answer_style.c - the table of styles: their names, their marks, how a template gives them away,
 * and how an answer that must call a tool begins. */
#include <string.h>

#include "base/sl_assert.h"
#include "model/answer_part.h"
#include "model/template.h"

/* ---- names ----------------------------------------------------------------------------------- */

/* The first name of a style is ours, the others are those of other servers. */
static const struct {
    const char *name;
    enum sl_tool_style style;
} tool_names[] = {
    {"none", SL_TOOLS_NONE},
    {"hermes", SL_TOOLS_HERMES},
    {"qwen", SL_TOOLS_HERMES},
    {"qwen25", SL_TOOLS_HERMES},
    {"qwen3", SL_TOOLS_HERMES},
    {"qwen3_coder", SL_TOOLS_QWEN_CODER},
    {"qwen3_xml", SL_TOOLS_QWEN_CODER},
    {"glm45", SL_TOOLS_GLM},
    {"llama3_json", SL_TOOLS_LLAMA},
    {"llama3", SL_TOOLS_LLAMA},
    {"llama4_json", SL_TOOLS_LLAMA},
    {"deepseek_v3", SL_TOOLS_DEEPSEEK},
    {"deepseek_v31", SL_TOOLS_DEEPSEEK},
    {"deepseek_r1", SL_TOOLS_DEEPSEEK},
    {"mistral", SL_TOOLS_MISTRAL},
    {"openai", SL_TOOLS_HARMONY},
    {"harmony", SL_TOOLS_HARMONY},
    {"gpt_oss", SL_TOOLS_HARMONY},
    {"granite", SL_TOOLS_GRANITE},
    {"phi4_mini_json", SL_TOOLS_PHI},
};

static const struct {
    const char *name;
    enum sl_reasoning_style style;
} reasoning_names[] = {
    {"none", SL_REASONING_NONE},
    {"think", SL_REASONING_THINK},
    {"qwen3", SL_REASONING_THINK},
    {"deepseek_r1", SL_REASONING_THINK},
    {"deepseek_v3", SL_REASONING_THINK},
    {"glm45", SL_REASONING_THINK},
    {"mistral", SL_REASONING_MISTRAL},
    {"openai", SL_REASONING_HARMONY},
    {"harmony", SL_REASONING_HARMONY},
    {"gpt_oss", SL_REASONING_HARMONY},
    {"openai_gptoss", SL_REASONING_HARMONY},
};

const char *sl_answer_tools_name(enum sl_tool_style s)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(tool_names); i++)
        if (tool_names[i].style == s) return tool_names[i].name;
    return "none";
}

const char *sl_answer_reasoning_name(enum sl_reasoning_style s)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(reasoning_names); i++)
        if (reasoning_names[i].style == s) return reasoning_names[i].name;
    return "none";
}

static int set_tools(struct sl_answer_style *s, const char *name, struct sl_err *err)
{
    if (!name || strcmp(name, "auto") == 0) return 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(tool_names); i++) {
        if (strcmp(name, tool_names[i].name) != 0) continue;
        s->tools = tool_names[i].style;
        return 0;
    }
    return sl_err_set(err, SL_EUSAGE,
                      "tool parser '%.40s' is none of auto, none, hermes, qwen3_coder, glm45, "
                      "llama3_json, deepseek_v3, mistral, openai, granite, phi4_mini_json",
                      name);
}

static int set_reasoning(struct sl_answer_style *s, const char *name, struct sl_err *err)
{
    if (!name || strcmp(name, "auto") == 0) return 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(reasoning_names); i++) {
        if (strcmp(name, reasoning_names[i].name) != 0) continue;
        s->reasoning = reasoning_names[i].style;
        return 0;
    }
    return sl_err_set(err, SL_EUSAGE,
                      "reasoning parser '%.40s' is none of auto, none, qwen3, deepseek_r1, "
                      "mistral, openai",
                      name);
}

int sl_answer_style_name(struct sl_answer_style *s, const char *tool_parser,
                         const char *reasoning_parser, struct sl_err *err)
{
    int rc = set_tools(s, tool_parser, err);
    if (rc == 0) rc = set_reasoning(s, reasoning_parser, err);
    /* Harmony's two halves are one grammar. */
    if (rc == 0 && s->tools == SL_TOOLS_HARMONY && s->reasoning != SL_REASONING_HARMONY)
        s->reasoning = SL_REASONING_HARMONY;
    return rc;
}

/* ---- marks ----------------------------------------------------------------------------------- */

static const struct sl_answer_row rows[] = {
    [SL_TOOLS_NONE] = {{NULL}, NULL},
    [SL_TOOLS_HERMES] = {{"<tool_call>"}, sl_answer_read_hermes},
    [SL_TOOLS_QWEN_CODER] = {{"<tool_call>", "<function="}, sl_answer_read_elements},
    [SL_TOOLS_GLM] = {{"<tool_call>"}, sl_answer_read_elements},
    [SL_TOOLS_LLAMA] = {{"<|python_tag|>"}, sl_answer_read_python},
    [SL_TOOLS_DEEPSEEK] = {{DS_CALLS, DS_CALL, DS_CALLS_END}, sl_answer_read_deepseek},
    [SL_TOOLS_MISTRAL] = {{"[TOOL_CALLS]"}, sl_answer_read_mistral},
    [SL_TOOLS_HARMONY] = {{NULL}, NULL},
    [SL_TOOLS_GRANITE] = {{"<|tool_call|>", "<tool_call>"}, sl_answer_read_array},
    [SL_TOOLS_PHI] = {{"functools", "<|tool_call|>"}, sl_answer_read_array},
};

/* Marks that never begin a call, which the parser must see nevertheless. */
static const char *const more_marks[][8] = {
    [SL_TOOLS_NONE] = {NULL},
    [SL_TOOLS_HERMES] = {"</tool_call>"},
    [SL_TOOLS_QWEN_CODER] = {"</tool_call>"},
    [SL_TOOLS_GLM] = {"</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"},
    [SL_TOOLS_LLAMA] = {NULL},
    [SL_TOOLS_DEEPSEEK] = {DS_SEP, DS_CALL_END},
    [SL_TOOLS_MISTRAL] = {"[ARGS]", "[CALL_ID]"},
    [SL_TOOLS_HARMONY] = {"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>",
                          "<|call|>", "<|return|>"},
    [SL_TOOLS_GRANITE] = {NULL},
    [SL_TOOLS_PHI] = {"<|/tool_call|>"},
};

const struct sl_answer_row *sl_answer_row(enum sl_tool_style s)
{
    SL_ASSERT((size_t)s < SL_ARRAY_LEN(rows));
    return &rows[s];
}

int sl_answer_think(enum sl_reasoning_style s, const char **open, const char **end)
{
    *open = s == SL_REASONING_MISTRAL ? "[THINK]" : "<think>";
    *end = s == SL_REASONING_MISTRAL ? "[/THINK]" : "</think>";
    return s == SL_REASONING_THINK || s == SL_REASONING_MISTRAL;
}

int sl_answer_marks(struct sl_answer_style s, const char *marks[SL_ANSWER_MARKS_MAX])
{
    const char *open, *end;
    int n = 0;
    if (s.reasoning == SL_REASONING_HARMONY) s.tools = SL_TOOLS_HARMONY;
    for (int i = 0; rows[s.tools].marks[i]; i++) marks[n++] = rows[s.tools].marks[i];
    for (int i = 0; more_marks[s.tools][i]; i++) marks[n++] = more_marks[s.tools][i];
    if (sl_answer_think(s.reasoning, &open, &end)) {
        marks[n++] = open;
        marks[n++] = end;
    }
    SL_ASSERT(n <= SL_ANSWER_MARKS_MAX);
    return n;
}

/* ---- which style a template speaks --------------------------------------------------------------
 */

static int has(const struct sl_template *t, const char *mark)
{
    size_t n, m = strlen(mark);
    const char *s = sl_template_source(t, &n);
    for (const char *p = s; p + m <= s + n; p++) {
        p = memchr(p, mark[0], n - (size_t)(p - s));
        if (!p || p + m > s + n) return 0;
        if (memcmp(p, mark, m) == 0) return 1;
    }
    return 0;
}

static enum sl_tool_style tools_of(const struct sl_template *t)
{
    if (has(t, "<|channel|>") && has(t, "<|message|>")) return SL_TOOLS_HARMONY;
    if (has(t, DS_CALLS) || has(t, DS_CALL)) return SL_TOOLS_DEEPSEEK;
    if (has(t, "[TOOL_CALLS]")) return SL_TOOLS_MISTRAL;
    if (has(t, "<arg_key>")) return SL_TOOLS_GLM;
    if (has(t, "<function=") && has(t, "<parameter=")) return SL_TOOLS_QWEN_CODER;
    if (has(t, "functools[") || has(t, "<|/tool_call|>")) return SL_TOOLS_PHI;
    if (has(t, "<|tool_call|>")) return SL_TOOLS_GRANITE;
    if (has(t, "<tool_call>")) return SL_TOOLS_HERMES;
    if (has(t, "<|python_tag|>") || (has(t, "\"parameters\": dictionary") && has(t, "\"name\"")))
        return SL_TOOLS_LLAMA;
    return SL_TOOLS_NONE;
}

struct sl_answer_style sl_answer_style_of(const struct sl_template *t)
{
    struct sl_answer_style s = {SL_TOOLS_NONE, SL_REASONING_NONE};
    if (!t) return s;
    s.tools = tools_of(t);
    if (s.tools == SL_TOOLS_HARMONY)
        s.reasoning = SL_REASONING_HARMONY;
    else if (has(t, "[THINK]"))
        s.reasoning = SL_REASONING_MISTRAL;
    else if (has(t, "</think>"))
        s.reasoning = SL_REASONING_THINK;
    return s;
}

/* ---- answers that must call --------------------------------------------------------------------
 */

static int put_all(struct sl_buf *out, const char *a, const char *name, const char *b)
{
    int rc = sl_buf_puts(out, a);
    if (rc == 0 && name) rc = sl_buf_puts(out, name);
    if (rc == 0 && name) rc = sl_buf_puts(out, b);
    return rc;
}

static int put_begin(enum sl_tool_style tools, const struct sl_template *t, const char *name,
                     struct sl_buf *out)
{
    switch (tools) {
    case SL_TOOLS_HERMES:
        return put_all(out, "<tool_call>\n{\"name\": \"", name, "\", \"arguments\":");
    case SL_TOOLS_QWEN_CODER:
        return put_all(out, "<tool_call>\n<function=", name, ">\n");
    case SL_TOOLS_GLM:
        return put_all(out, "<tool_call>", name, "\n");
    case SL_TOOLS_LLAMA:
        return put_all(out, "{\"name\": \"", name, "\", \"parameters\":");
    case SL_TOOLS_DEEPSEEK:
        if (t && has(t, "```json"))
            return put_all(out, DS_CALLS DS_CALL "function" DS_SEP, name, "\n```json\n");
        return put_all(out, DS_CALLS DS_CALL, name, DS_SEP);
    case SL_TOOLS_MISTRAL:
        if (t && has(t, "[ARGS]")) return put_all(out, "[TOOL_CALLS]", name, "[ARGS]");
        return put_all(out, "[TOOL_CALLS][{\"name\": \"", name, "\", \"arguments\":");
    case SL_TOOLS_HARMONY:
        return put_all(out, "<|channel|>commentary to=functions.", name,
                       " <|constrain|>json<|message|>");
    case SL_TOOLS_GRANITE:
        return put_all(out, "<|tool_call|>[{\"name\": \"", name, "\", \"arguments\":");
    case SL_TOOLS_PHI:
        return put_all(out,
                       t && has(t, "functools[") ? "functools[{\"name\": \""
                                                 : "<|tool_call|>[{\"name\": \"",
                       name, "\", \"arguments\":");
    case SL_TOOLS_NONE:
        break;
    }
    return SL_EUNSUPPORTED;
}

int sl_answer_force(struct sl_answer_style s, const struct sl_template *t, const char *name,
                    const char *prompt, size_t n, struct sl_buf *out, struct sl_err *err)
{
    const char *open, *end;
    int rc = 0;
    if (s.tools == SL_TOOLS_NONE)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "how this model calls tools is not known, so it cannot be made to; use "
                          "tool_choice \"auto\", or name its style with --tool-parser");
    if (sl_answer_think(s.reasoning, &open, &end)) {
        size_t m = strlen(open), k = n;
        while (k > 0 && strchr(" \t\r\n", prompt[k - 1])) k--;
        if (k >= m && memcmp(prompt + k - m, open, m) == 0) {
            rc = sl_buf_puts(out, k == n ? "\n" : "");
            if (rc == 0) rc = sl_buf_puts(out, end);
            if (rc == 0) rc = sl_buf_puts(out, "\n\n");
        }
    }
    if (rc == 0) rc = put_begin(s.tools, t, name, out);
    return rc ? sl_err_set(err, rc, "the beginning of the answer does not fit") : 0;
}
