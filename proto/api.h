/* api.h - messages of the socket API as plain structs; protobuf-c stays inside proto/.
 *
 * Meanings are in api.proto. What a decoded message points to lives in its storage and dies with
 * sl_api_msg_free. Bytes are hostile: length, memory and every count are bounded. Strings end at
 * their first NUL byte. */
#ifndef SL_PROTO_API_H
#define SL_PROTO_API_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "proto/batch.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_API_VERSION 1
#define SL_API_MESSAGE_MAX (64u << 20) /* bytes of one packed message */
#define SL_API_MEMORY_MAX                                                                          \
    (4 * SL_API_MESSAGE_MAX + (1u << 20)) /* bytes one decoded message may take */
#define SL_API_LENGTH_BYTES 4             /* little-endian, before each message */

enum sl_api_msg_kind {
    SL_API_HELLO = 1,
    SL_API_GENERATE,
    SL_API_TOKEN,
    SL_API_DONE,
    SL_API_ERROR,
    SL_API_CANCEL,
    SL_API_STATUS,
    SL_API_PLAN
};

struct sl_api_hello {
    uint32_t version;
    const char *key, *program, *model; /* never NULL when decoded */
};

/* Which fields of sampling the client gave; the others are the server's to choose. */
enum sl_api_given {
    SL_API_TEMPERATURE = 1,
    SL_API_TOP_K = 2,
    SL_API_TOP_P = 4,
    SL_API_MIN_P = 8,
    SL_API_REPETITION = 16,
    SL_API_PRESENCE = 32,
    SL_API_FREQUENCY = 64,
    SL_API_SEED = 128
};

struct sl_api_generate {
    const char *prompt, *messages_json; /* exactly one of these two and tokens is not NULL */
    const int32_t *tokens;
    size_t n_tokens;
    struct sl_sampling
        sampling;        /* decoded: greedy library defaults where not given; n_top is logprobs */
    unsigned given;      /* of enum sl_api_given */
    uint32_t max_tokens; /* 0: to the end of the context */
    const char *const *stops;
    size_t n_stops;
    int ignore_eos, want_logprobs;
    int32_t priority;
    const char *tools_json;   /* NULL: none */
    int parse;                /* reasoning and calls apart from the text */
    const char *options_json; /* NULL: none */
    const char *model;        /* NULL: the model itself */
};

struct sl_api_top {
    int32_t token;
    float logprob;
    const char *text; /* never NULL */
};
struct sl_api_call {
    uint32_t index;
    const char *id, *name; /* never NULL */
    const char *arguments; /* not NUL-terminated by contract */
    size_t arguments_len;
};
struct sl_api_token {
    int32_t id;
    const char *text; /* whole characters, not NUL-terminated by contract */
    size_t text_len;
    float logprob;
    size_t n_top;
    const struct sl_api_top *top;
    const char *reasoning; /* as text */
    size_t reasoning_len;
    size_t n_calls;
    const struct sl_api_call *calls;
};
struct sl_api_done {
    const char *finish_reason; /* "stop", "length", "tool_calls", "cancelled" */
    uint32_t prompt_tokens, completion_tokens;
    uint64_t queue_ns, prefill_ns, decode_ns;
};
struct sl_api_failure {
    const char *code, *message;
    int retry;
};
struct sl_api_document {
    const char *json;
}; /* Status, Plan */

struct sl_api_msg {
    enum sl_api_msg_kind kind;
    uint64_t id;
    union {
        struct sl_api_hello hello;
        struct sl_api_generate generate;
        struct sl_api_token token;
        struct sl_api_done done;
        struct sl_api_failure error;
        struct sl_api_document document;
    };
    void *storage; /* private: owns what a decoded message points to */
};

/* Appends length and message. 0, SL_ELIMIT or SL_ENOMEM; out is unchanged on failure. */
int sl_api_msg_pack(const struct sl_api_msg *m, struct sl_buf *out);

/* The length of the first message of in[0..n), without its length bytes: *len. SL_EAGAIN when even
 * that is incomplete; SL_EPROTO when it is over `max`. */
int sl_api_msg_length(const void *in, size_t n, size_t max, size_t *len, struct sl_err *err);

/* Takes the first whole message of in[0..n) and sets *used: 0; SL_EAGAIN when bytes are missing;
 * SL_EPROTO when they cannot become a message (drop the peer). A message of a kind that we do not
 * know gives SL_EUNSUPPORTED with m->id and *used set. */
int sl_api_msg_unpack(const void *in, size_t n, struct sl_api_msg *m, size_t *used,
                      struct sl_err *err);
void sl_api_msg_free(struct sl_api_msg *m); /* only decoded messages */

#ifdef __cplusplus
}
#endif
#endif
