/* api_tools.h - what model/answer.h needs to take an answer of this service apart: the style, the
 * special tokens to be shown, the beginning that tool_choice forces. For the HTTP and the socket
 * API. */
#ifndef SL_COORDINATOR_API_TOOLS_H
#define SL_COORDINATOR_API_TOOLS_H

#include "coordinator/api_json.h"
#include "coordinator/service.h"
#include "model/answer.h"

/* With tool_choice "required" or a name: appends to the rendered prompt the beginning of a call,
 * and to `forced` the same. Refused (400) when the model's style is not known. */
int sl_api_force(struct sl_service *s, const struct sl_api_tools *t, struct sl_buf *prompt,
                 struct sl_buf *forced, struct sl_api_error *e);

/* The parser for one answer to `request`, whose rendered prompt is prompt[0..n) with `forced` at
 * its end. *out is NULL when there is nothing to take apart. */
int sl_api_answer_open(struct sl_service *s, const json_t *request, const struct sl_api_tools *t,
                       const struct sl_buf *prompt, const struct sl_buf *forced, sl_answer_fn fn,
                       void *arg, struct sl_answer **out, struct sl_api_error *e);

/* The marks of the model's answers that are special tokens, for submit->marks. */
void sl_api_show_marks(struct sl_service *s, struct sl_submit *submit);

#endif
