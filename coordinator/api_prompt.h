/* api_prompt.h - from what a client wrote to token ids: chat template, tokenizer, and the checks on
 * model names and ids. Shared by the HTTP endpoints and the socket API. */
#ifndef SL_COORDINATOR_API_PROMPT_H
#define SL_COORDINATOR_API_PROMPT_H

#include "coordinator/api_json.h"
#include "coordinator/service.h"
#include "model/tokenizer.h"

/* Renders a chat request (messages are checked) through the model's chat template. Appends to out.
 */
int sl_api_render(struct sl_service *s, const json_t *request, struct sl_buf *out,
                  struct sl_api_error *e);
/* Text to ids. `flags` as for sl_tokenizer_encode. A text that cannot fit the context is refused
 * before it costs time. */
int sl_api_encode(struct sl_service *s, const char *text, size_t n, int flags, struct sl_ids *ids,
                  struct sl_api_error *e);
/* The same for a rendered chat: special tokens are read; BOS is added when the model wants one and
 * the template wrote none. */
int sl_api_encode_chat(struct sl_service *s, const char *text, size_t n, struct sl_ids *ids,
                       struct sl_api_error *e);
/* A checked JSON array of ids; they must be in the vocabulary. */
int sl_api_ids(struct sl_service *s, const json_t *array, struct sl_ids *ids,
               struct sl_api_error *e);
/* 404 model_not_found unless name is NULL, the served name, the model file's name (with or without
 * .gguf) or "default". */
int sl_api_check_model(struct sl_service *s, const char *name, struct sl_api_error *e);
/* The token ids of a request's logit_bias are in the vocabulary. */
int sl_api_check_bias(struct sl_service *s, const struct sl_sampling *p, struct sl_api_error *e);
/* 503 while the model's facts are not there yet. */
int sl_api_check_ready(struct sl_service *s, struct sl_api_error *e);
/* The piece of one token as valid UTF-8 JSON string. New reference. */
json_t *sl_api_piece(struct sl_service *s, int32_t id);
/* Any bytes as a JSON string, invalid UTF-8 replaced. New reference. */
json_t *sl_api_text(const char *s, size_t n);

#endif
