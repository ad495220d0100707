/* answer.h - what a model wrote, taken apart: text for the user, reasoning, tool calls.
 *
 * Models mark reasoning and tool calls each in their own way. A style names one way; it is found in
 * the model's chat template, which shows the model the same marks, or given by name. The parser is
 * pure and streams: text in, in pieces cut anywhere, events out. However the text is cut, the
 * events are the same but for where text deltas are cut; no part of a mark is ever sent as content.
 * A call is announced once it is whole and well formed; what looks like a call and is none comes
 * out as content, so that nothing is lost. White space beside a mark is dropped.
 *
 * Marks are often special tokens, which detokenization hides from users: sl_answer_marks lists the
 * ones that the parser must see. docs/tool-calls.md says which style is for which model. */
#ifndef SL_MODEL_ANSWER_H
#define SL_MODEL_ANSWER_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct json_t; /* jansson */
struct sl_answer;
struct sl_template;

#define SL_ANSWER_HELD_MAX                                                                         \
    (4u << 20)                 /* bytes of one call, or of white space; a longer call is text */
#define SL_ANSWER_MARKS_MAX 16 /* marks of one style */
#define SL_ANSWER_ID_MAX 40    /* bytes of a call's id with NUL */
#define SL_ANSWER_NAME_MAX 256 /* bytes of a function's name with NUL; a longer one is text */

enum sl_tool_style {
    SL_TOOLS_NONE,
    SL_TOOLS_HERMES,     /* <tool_call>{"name", "arguments"}</tool_call> */
    SL_TOOLS_QWEN_CODER, /* <tool_call><function=NAME><parameter=KEY>VALUE</parameter>... */
    SL_TOOLS_GLM,        /* <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>... */
    SL_TOOLS_LLAMA,    /* {"name", "parameters"}; ... or <|python_tag|> before it or before code */
    SL_TOOLS_DEEPSEEK, /* <｜tool▁calls▁begin｜>..., the form of V3 and R1 and that of V3.1 */
    SL_TOOLS_MISTRAL,  /* [TOOL_CALLS][{"name", "arguments"}] or [TOOL_CALLS]NAME[ARGS]{...} */
    SL_TOOLS_HARMONY,  /* <|channel|>commentary to=functions.NAME<|message|>{...}<|call|> */
    SL_TOOLS_GRANITE,  /* <|tool_call|>[{"name", "arguments"}] */
    SL_TOOLS_PHI       /* functools[{"name", "arguments"}] and <|tool_call|>[...]<|/tool_call|> */
};

enum sl_reasoning_style {
    SL_REASONING_NONE,
    SL_REASONING_THINK,   /* <think>...</think> */
    SL_REASONING_MISTRAL, /* [THINK]...[/THINK] */
    SL_REASONING_HARMONY  /* <|channel|>analysis<|message|>...<|end|>; always with SL_TOOLS_HARMONY
                           */
};

struct sl_answer_style {
    enum sl_tool_style tools;
    enum sl_reasoning_style reasoning;
};

/* The style whose marks the template's text contains; none of both for a NULL template. */
struct sl_answer_style sl_answer_style_of(const struct sl_template *t);
/* Replaces a part of *s by a style's name as vLLM and we know it (hermes, llama3_json, qwen3,
 * deepseek_v3, deepseek_r1, mistral, openai, none ...). NULL and "auto" leave it. SL_EUSAGE lists
 * the names. */
int sl_answer_style_name(struct sl_answer_style *s, const char *tool_parser,
                         const char *reasoning_parser, struct sl_err *err);
const char *sl_answer_tools_name(enum sl_tool_style s); /* "hermes" ... */
const char *sl_answer_reasoning_name(enum sl_reasoning_style s);
/* The literal marks of a style; the count. */
int sl_answer_marks(struct sl_answer_style s, const char *marks[SL_ANSWER_MARKS_MAX]);

/* Appends the text with which an answer that must call a tool begins: it goes to the end of the
 * prompt and then into the parser as the beginning of the answer. `name` NULL: any tool. `prompt`
 * is what it follows: reasoning opened there is closed first. SL_EUNSUPPORTED when the style is
 * none. */
int sl_answer_force(struct sl_answer_style s, const struct sl_template *t, const char *name,
                    const char *prompt, size_t n, struct sl_buf *out, struct sl_err *err);

enum sl_answer_event_kind {
    SL_ANSWER_CONTENT,   /* text, n */
    SL_ANSWER_REASONING, /* text, n */
    SL_ANSWER_CALL,      /* index, id, name: a call begins */
    SL_ANSWER_ARGUMENTS, /* index; text, n: a piece of its arguments, together one JSON object */
    SL_ANSWER_CALL_END   /* index */
};
/* Pointers are good during the call. */
struct sl_answer_event {
    enum sl_answer_event_kind kind;
    int index; /* of the call, from 0 */
    const char *id, *name;
    const char *text;
    size_t n;
};
/* A value other than 0 ends the push, which returns it. */
typedef int (*sl_answer_fn)(void *arg, const struct sl_answer_event *ev);

struct sl_answer_params {
    struct sl_answer_style style;
    const struct json_t *tools; /* the request's tools, outlives the parser; NULL or empty: calls
                                   are text */
    int max_calls;              /* 0: any number; further calls are dropped */
    uint64_t seed;              /* of the calls' ids: random */
    const char *prompt;         /* the rendered prompt: it may have opened the reasoning already */
    size_t prompt_len;
    sl_answer_fn fn;
    void *arg;
};

/* SL_ENOMEM is the only error. */
int sl_answer_open(const struct sl_answer_params *p, struct sl_answer **out);
void sl_answer_close(struct sl_answer *a); /* NULL is fine */
/* Whole UTF-8 characters. 0, what fn returned, SL_ENOMEM or SL_ELIMIT. */
int sl_answer_push(struct sl_answer *a, const char *text, size_t n);
/* The answer is complete: what was held back comes out. */
int sl_answer_finish(struct sl_answer *a);
int sl_answer_calls(const struct sl_answer *a); /* calls announced so far */

#ifdef __cplusplus
}
#endif
#endif
