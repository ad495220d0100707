/* api_json.h - request bodies of the HTTP API to plain settings, and the OpenAI error object.
 *
 * One strict reader: unknown fields are ignored (clients send plenty), a known field of the wrong
 * type or out of range is an error that names it, null means absent. Nothing here touches the
 * tokenizer, the service or the network, which makes it the fuzz target for hostile bodies. */
#ifndef SL_COORDINATOR_API_JSON_H
#define SL_COORDINATOR_API_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "coordinator/coord.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_API_N_MAX 8             /* answers to one prompt (n) */
#define SL_API_PROMPTS_MAX 64      /* prompts in one completion request */
#define SL_API_TOKENS_DEFAULT 16   /* max_tokens of /v1/completions when absent, as OpenAI has it */
#define SL_API_TOKENS_MAX 10000000 /* max_tokens: larger is surely a mistake */

/* An answer other than 200. The message is one line for the user. */
struct sl_api_error {
    int status;       /* HTTP */
    const char *type; /* "invalid_request_error" ...; static */
    const char *code; /* "context_length_exceeded" ... or NULL; static */
    char param[64];   /* the field at fault, "" for none */
    char message[SL_ERR_MSG_MAX];
};
/* Fills e; returns -1, so that readers can `return sl_api_fail(...)`. type and code are kept as
 * pointers. */
int sl_api_fail(struct sl_api_error *e, int status, const char *type, const char *code,
                const char *param, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* A wrong request: status 400, invalid_request_error. */
int sl_api_bad(struct sl_api_error *e, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The answer for an SL_E... code of the service, the tokenizer or the template. Returns -1. */
int sl_api_from_code(struct sl_api_error *e, int code, const char *message);
/* {"error": {...}}. New reference. */
json_t *sl_api_error_json(const struct sl_api_error *e);

enum sl_tool_choice { SL_CHOOSE_AUTO, SL_CHOOSE_NONE, SL_CHOOSE_ANY, SL_CHOOSE_NAMED };

/* What a chat request says of tools and reasoning. */
struct sl_api_tools {
    enum sl_tool_choice choice;
    const char *name;      /* SL_CHOOSE_NAMED; points into the request */
    int one;               /* parallel_tool_calls is false */
    int include_reasoning; /* default 1 */
};

/* A generation request. Strings and json_t point into root. */
struct sl_api_request {
    json_t *root;      /* owned; without `tools` when tool_choice is "none" */
    const char *model; /* NULL when absent */
    struct sl_sampling sampling;
    int has_seed;   /* otherwise the caller draws sampling.seed */
    int max_tokens; /* -1 when absent */
    const char *stops[SL_STOPS_MAX];
    int n_stops;
    int n; /* answers per prompt */
    int stream, include_usage;
    int logprobs; /* report log-probabilities; how many alternatives is sampling.n_top */
    int ignore_eos, priority, echo;
    struct sl_api_tools tools; /* chat */
    json_t
        *prompt; /* completion: string, array of strings, array of ids or array of arrays of ids */
    int n_prompts;
};

/* Parse and check body[0..n). 0, or -1 with *e filled and nothing to free. */
int sl_api_read_chat(const char *body, size_t n, struct sl_api_request *out,
                     struct sl_api_error *e);
int sl_api_read_completion(const char *body, size_t n, struct sl_api_request *out,
                           struct sl_api_error *e);
void sl_api_request_close(struct sl_api_request *r);

/* Prompt i of a completion request: a string (*text, *len) or ids (*ids is the JSON array, checked
 * to hold integers that fit int32). The other one is NULL. */
void sl_api_prompt(const struct sl_api_request *r, int i, const char **text, size_t *len,
                   const json_t **ids);

/* For the small endpoints: the body as a JSON object. NULL with *e filled when it is not one. New
 * reference. */
json_t *sl_api_object(const char *body, size_t n, struct sl_api_error *e);
/* Field access on an object: absent and null leave *out as it is. 0, or -1 with *e. */
int sl_api_get_bool(const json_t *o, const char *name, int *out, struct sl_api_error *e);
int sl_api_get_int(const json_t *o, const char *name, int64_t min, int64_t max, int64_t *out,
                   struct sl_api_error *e);
int sl_api_get_float(const json_t *o, const char *name, double min, double max, float *out,
                     struct sl_api_error *e);
int sl_api_get_string(const json_t *o, const char *name, const char **out, struct sl_api_error *e);
/* Checks that `messages` is a non-empty array of objects with a role; their parts are the
 * template's to judge. */
int sl_api_check_messages(const json_t *messages, struct sl_api_error *e);
/* Reads tools, tool_choice, parallel_tool_calls and include_reasoning of a chat request; tools are
 * taken out of it when tool_choice is "none". */
int sl_api_read_tools(json_t *root, struct sl_api_tools *out, struct sl_api_error *e);
/* Checks that `ids` is an array of integers in [0, INT32_MAX]. */
int sl_api_check_ids(const json_t *ids, const char *name, struct sl_api_error *e);

#ifdef __cplusplus
}
#endif
#endif
