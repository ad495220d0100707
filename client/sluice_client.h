/* sluice_client.h - asks a sluice server over its socket API: connect, generate with a callback per
 * token, cancel, status.
 *
 * Blocking, one request at a time on a connection; open several for several threads. Only
 * sl_remote_cancel may be called while another thread is inside a call on the same connection.
 * Functions return 0 or a negative number; sl_remote_error then tells in one line what is wrong and
 * what to do. Needs nothing but this header and -lsluice-client; C and C++. */
#ifndef SLUICE_CLIENT_H
#define SLUICE_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SL_REMOTE_ERROR_MAX 512 /* bytes of a message, with its NUL */

struct sl_remote; /* a connection */

enum sl_remote_code {
    SL_REMOTE_OK = 0,
    SL_REMOTE_REFUSED = -1, /* the server refused the request: it is wrong */
    SL_REMOTE_RETRY =
        -2, /* the same request may succeed later: the queue is full, or a stage was lost */
    SL_REMOTE_LOST = -3, /* no connection, or it broke: connect again */
    SL_REMOTE_MEMORY = -4
};

struct sl_remote_bias {
    int32_t token;
    float bias;
};

/* What to generate. Set it up with sl_remote_request_init; numbers that are NAN (or -1 for top_k)
 * are left to the server. */
struct sl_remote_request {
    const char *prompt; /* exactly one of prompt, messages_json and tokens */
    const char
        *messages_json; /* OpenAI's messages array: the server applies the model's chat template */
    const char *tools_json; /* with messages_json, may be NULL */
    int parse; /* with messages_json: reasoning and tool calls come apart from the text */
    const char *options_json; /* with messages_json: further members of an OpenAI request, as a JSON
                                 object (tool_choice, chat_template_kwargs ...), may be NULL */
    const int32_t *tokens;
    size_t n_tokens;
    uint32_t max_tokens; /* 0: until the model ends or the context is full */
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k; /* 0: all; -1: not said */
    int has_seed;
    uint64_t seed;
    const struct sl_remote_bias *bias;
    size_t n_bias;
    const char *const *stops;
    size_t n_stops;
    int ignore_eos;
    int want_logprobs;
    uint32_t top_logprobs; /* alternatives per token, with want_logprobs */
    int32_t priority;      /* higher first */
    const char *model;     /* name of a LoRA adapter; NULL: the model itself */
};
void sl_remote_request_init(struct sl_remote_request *r);

struct sl_remote_top {
    int32_t token;
    float logprob;
    const char *text;
};
/* A tool call of the answer, whole. */
struct sl_remote_call {
    unsigned index;        /* from 0 */
    const char *id, *name; /* of the call, of the function */
    const char *arguments; /* a JSON object */
};
/* One step of the answer. Pointers are valid during the callback. */
struct sl_remote_token {
    int32_t id;       /* -1: text that was held back while it could have become a stop string */
    const char *text; /* whole UTF-8 characters, NUL-terminated, may be empty */
    size_t text_len;
    float logprob; /* with want_logprobs */
    const struct sl_remote_top *top;
    size_t n_top;
    const char *reasoning; /* with parse; as text */
    size_t reasoning_len;
    const struct sl_remote_call *calls; /* with parse */
    size_t n_calls;
};
struct sl_remote_result {
    char finish_reason[16]; /* "stop", "length", "tool_calls", "cancelled" */
    uint32_t prompt_tokens, completion_tokens;
    uint64_t queue_ns, prefill_ns, decode_ns;
};

/* Called for each token; a value other than 0 cancels the request. */
typedef int (*sl_remote_token_fn)(void *arg, const struct sl_remote_token *token);

/* Connects to a path (it has a '/') or to HOST:PORT. key may be NULL. On failure *out is NULL and
 * `error` (of SL_REMOTE_ERROR_MAX bytes, may be NULL) has the message. */
int sl_remote_connect(const char *address, const char *key, struct sl_remote **out, char *error);
void sl_remote_close(struct sl_remote *r); /* NULL is fine */
const char *sl_remote_error(const struct sl_remote *r);
const char *sl_remote_model(const struct sl_remote *r);
/* How long a call may wait for the server's next message before it fails with SL_REMOTE_LOST; 0
 * (default): for ever. */
void sl_remote_set_timeout(struct sl_remote *r, unsigned milliseconds);

/* Generates; returns when the answer is complete. A request that was cancelled ends well, with
 * finish_reason "cancelled". fn and result may be NULL. */
int sl_remote_generate(struct sl_remote *r, const struct sl_remote_request *request,
                       sl_remote_token_fn fn, void *arg, struct sl_remote_result *result);
/* Asks the server to end what sl_remote_generate waits for, which returns soon after. From any
 * thread. */
int sl_remote_cancel(struct sl_remote *r);

/* The server's status, or its plan, as JSON text; free() it. */
int sl_remote_status(struct sl_remote *r, char **json);
int sl_remote_plan(struct sl_remote *r, char **json);

#ifdef __cplusplus
}
#endif
#endif
