/* chat.h - an OpenAI chat request as the prompt text of a model: where its chat templates come
 * from, the variables they see, then rendering. */
#ifndef SL_MODEL_CHAT_H
#define SL_MODEL_CHAT_H

#include "base/buf.h"
#include "base/err.h"
#include "model/answer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct json_t; /* jansson */
struct sl_chat;
struct sl_template;
struct sl_weights;

/* What a user may set against the model's own; all may be NULL. */
struct sl_chat_options {
    const char *template_text;                  /* a Jinja template */
    const char *template_file;                  /* the path of one */
    const char *tool_parser, *reasoning_parser; /* names of answer.h */
};

/* The chat templates of a model, compiled, with its bos and eos token and the style of its answers.
 * The first found: o->template_text; o->template_file; a Hugging Face folder's chat_template.jinja;
 * chat_template in its tokenizer_config.json (a text, or a list of {name, template}) or in
 * chat_template.json; GGUF metadata tokenizer.chat_template. A second template named "tool_use" (in
 * the list, additional_chat_templates/tool_use.jinja, tokenizer.chat_template.tool_use) renders
 * requests with tools. `o` may be NULL; `w` may be NULL when a template is given. SL_EUNSUPPORTED
 * when there is no template, SL_EINPUT when it is no text or has a syntax error, SL_ENOTFOUND,
 * SL_EUSAGE for a parser that we do not know. */
int sl_chat_open(const struct sl_weights *w, const struct sl_chat_options *o, struct sl_chat **out,
                 struct sl_err *err);
void sl_chat_close(struct sl_chat *c); /* NULL is fine */
/* The template that renders requests with, or without, tools. */
const struct sl_template *sl_chat_template(const struct sl_chat *c, int tools);
struct sl_answer_style sl_chat_style(const struct sl_chat *c);

/* Sets bos_token and eos_token in the object `vars`, unless they are there already; a token that
 * the model lacks stays undefined. */
int sl_chat_set_tokens(const struct sl_chat *c, struct json_t *vars, struct sl_err *err);

/* Moves the members of the object vars.chat_template_kwargs into vars itself, where they win over
 * all but the messages. SL_EINPUT when it is not an object. */
int sl_chat_merge_kwargs(struct json_t *vars, struct sl_err *err);

/* Renders an OpenAI chat request, appended to out. The template sees messages (text parts joined to
 * one string by newlines; an assistant's reasoning under the names that templates use; the
 * arguments of tool calls as objects, or as JSON text where the template puts them into text
 * itself), tools and documents (none when absent or empty), add_generation_prompt (true unless
 * given), reasoning_effort when given, bos_token and eos_token, and the members of
 * chat_template_kwargs. `request` is not changed. SL_EINPUT with a text fit for an HTTP 400: a
 * malformed request, or the template refuses it. */
int sl_chat_render(const struct sl_chat *c, const struct json_t *request, struct sl_buf *out,
                   struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
