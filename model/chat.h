/* chat.h - an OpenAI chat request as the prompt text of a model: variables for the chat template,
 * then rendering. */
#ifndef SL_MODEL_CHAT_H
#define SL_MODEL_CHAT_H

#include "base/buf.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct json_t; /* jansson */
struct sl_template;
struct sl_weights;

/* Compiles the model's own chat template (metadata tokenizer.chat_template; the caller frees it).
 * SL_EUNSUPPORTED when the model has none, SL_EINPUT when it is not text or has a syntax error. */
int sl_chat_template(const struct sl_weights *w, struct sl_template **out, struct sl_err *err);

/* Sets bos_token and eos_token in the object `vars` from the model's metadata, unless they are
 * there already; a token that the model lacks stays undefined. SL_EINPUT when the metadata
 * contradict themselves. */
int sl_chat_set_tokens(const struct sl_weights *w, struct json_t *vars, struct sl_err *err);

/* Moves the members of the object vars.chat_template_kwargs into vars itself, where they win over
 * all but the messages. SL_EINPUT when it is not an object. */
int sl_chat_merge_kwargs(struct json_t *vars, struct sl_err *err);

/* Renders an OpenAI chat request, appended to out. The template sees messages (text parts joined to
 * one string by newlines; the arguments of tool calls as objects), tools and documents (none when
 * absent or empty), add_generation_prompt (true unless given), reasoning_effort when given,
 * bos_token and eos_token, and the members of chat_template_kwargs. `w` may be NULL: then there are
 * no tokens. `request` is not changed. SL_EINPUT with a text fit for an HTTP 400: a malformed
 * request, or the template refuses it. */
int sl_chat_prompt(const struct sl_template *t, const struct sl_weights *w,
                   const struct json_t *request, struct sl_buf *out, struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
