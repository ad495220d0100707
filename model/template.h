/* template.h - chat templates: an interpreter for the Jinja that models ship.
 *
 * Semantics follow Jinja2 3.1 as transformers' apply_chat_template sets it up: immutable sandbox,
 * trim_blocks and lstrip_blocks on, loop controls, undefined prints as nothing, `tojson` is
 * Python's json.dumps with ensure_ascii=False. A template is hostile input: time (steps), depth and
 * output are bounded; exceeding a bound or an error in the template is SL_EINPUT with the line;
 * raise_exception(m) is SL_EINPUT with exactly m as the message. */
#ifndef SL_MODEL_TEMPLATE_H
#define SL_MODEL_TEMPLATE_H

#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct json_t; /* jansson */
struct sl_template;

#define SL_TEMPLATE_SOURCE_MAX (1u << 20)  /* bytes of a template */
#define SL_TEMPLATE_OUTPUT_MAX (64u << 20) /* bytes of one rendering */
#define SL_TEMPLATE_STEPS_MAX 20000000u    /* evaluated nodes of one rendering */
#define SL_TEMPLATE_DEPTH_MAX 200          /* nesting of expressions, blocks and macro calls */

/* Compiles source[0..n). Syntax errors are SL_EINPUT with the line. */
int sl_template_compile(const char *source, size_t n, struct sl_template **out, struct sl_err *err);
void sl_template_free(struct sl_template *t);
/* The text it was compiled from; not NUL-terminated. */
const char *sl_template_source(const struct sl_template *t, size_t *n);

/* Renders with the variables of the JSON object `vars` (messages, tools, add_generation_prompt,
 * bos_token ...), appended to out. The key "now" (an ISO 8601 time) fixes what strftime_now
 * formats; otherwise it is the local time. Thread safe on one compiled template. */
int sl_template_render(const struct sl_template *t, const struct json_t *vars, struct sl_buf *out,
                       struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
