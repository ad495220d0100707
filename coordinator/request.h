/* request.h - the life of one request: its token log, the text made of it, and the rules that end
 * it.
 *
 * The log (prompt, then answer) is the truth from which everything can be computed again. The
 * scheduler's fields lie in the same struct, since both live and die together; request.c touches
 * only its own. */
#ifndef SL_COORDINATOR_REQUEST_H
#define SL_COORDINATOR_REQUEST_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/list.h"
#include "coordinator/coord.h"
#include "model/tokenizer.h"
#include "proto/batch.h"

#define SL_REQUEST_TEXT_MAX                                                                        \
    (1u << 20) /* bytes of text held back at one time: a piece and a stop string */

enum sl_request_state {
    SL_REQUEST_WAITING, /* in the queue, holds nothing */
    SL_REQUEST_PREFILL, /* runs; more of its known tokens are to be sent */
    SL_REQUEST_READY,   /* runs; one token is to be sent */
    SL_REQUEST_AWAITS,  /* runs; the next step needs a result */
    SL_REQUEST_ENDED
};

struct sl_request {
    uint64_t id;
    struct sl_sampling sampling;
    int score, logits, ignore_eos, max_tokens, adapter;
    int32_t *tokens; /* [n_tokens] the log; room for n_limit */
    int n_tokens, n_prompt;
    int n_limit; /* prompt and answer together; reaching it ends the answer */

    /* text */
    struct sl_detok detok;
    struct sl_buf text; /* [0, n_shown) is this token's text, the rest is held back */
    size_t n_shown;
    char *stop_text; /* owns the stop strings */
    const char *stops[SL_STOPS_MAX];
    int n_stops;
    int32_t marks[SL_MARKS_MAX]; /* special tokens that are text here */
    int n_marks;

    /* scheduling: sched.c's */
    struct sl_list link; /* in the list of its state */
    enum sl_request_state state;
    int64_t key;     /* smaller goes first, see sched.h */
    uint64_t order;  /* of arrival: settles equal keys */
    int seq;         /* sequence slot, -1 while waiting */
    int n_sent;      /* tokens sent to the pipeline since REGISTER */
    int n_counted;   /* prompt tokens already counted as sent */
    int n_scored;    /* rows of a score or logits request passed on */
    int established; /* has drawn a token since REGISTER: its row is a decode row */
    int far;         /* registered as longer than sl_sched.far_from */
    int preempted;   /* was thrown out at least once */
    int32_t *blocks; /* [n_blocks] its KV blocks; room for n_limit tokens */
    int n_blocks;
    uint64_t mark; /* slot of the last micro-batch it has rows in */

    /* times; 0 = not yet */
    uint64_t submit_ns, first_chunk_ns, first_token_ns;

    /* what the effects of a step point to */
    struct sl_sampled sampled;
    struct sl_scored scored;
    struct sl_err err;
};

/* Is this something we can run at all? SL_EINPUT or SL_ELIMIT with the numbers. `context` in
 * tokens. */
int sl_request_check(const struct sl_submit *s, int n_vocab, int n_adapters, int context,
                     struct sl_err *err);

/* A checked submit to a request that owns copies of everything. 0 or SL_ENOMEM. */
int sl_request_create(const struct sl_submit *s, int context, int block_tokens, uint64_t now_ns,
                      struct sl_request **out);
void sl_request_destroy(struct sl_request *r);

/* KV positions it may come to need: the last token of an answer is never fed back. */
int sl_request_kv_tokens(const struct sl_request *r);
/* The cache holds n_blocks: answers "to the end of the context" are cut to it; SL_ELIMIT with the
 * numbers when the request can never fit, even alone. */
int sl_request_fit(struct sl_request *r, int n_blocks, int block_tokens, struct sl_err *err);

/* What one more token of the answer brought. Pointers are into r->text and good until the next
 * push. */
struct sl_request_out {
    int ended;
    enum sl_finish reason;
    const char *text; /* may be shown now */
    size_t text_len;
    const char *rest; /* when ended: was held back, may be shown after all */
    size_t rest_len;
};
/* Appends a drawn token. An end token counts as a token and shows no text. `t` NULL: ids only, no
 * stop rules. 0, SL_ENOMEM or SL_ELIMIT (a text beyond SL_REQUEST_TEXT_MAX). */
int sl_request_push(struct sl_request *r, const struct sl_tokenizer *t, int32_t token,
                    struct sl_request_out *out);

#endif
