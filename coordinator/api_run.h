/* api_run.h - one generation request of the HTTP API under way (private to api_*.c).
 *
 * A request asks for one or more choices (n answers to each of its prompts); each choice is one
 * request of the service. The run collects their tokens, streams or answers, and cancels them all
 * when the client leaves. It owns itself: it is freed when the answer is complete or the client
 * gone. */
#ifndef SL_COORDINATOR_API_RUN_H
#define SL_COORDINATOR_API_RUN_H

#include "coordinator/api_json.h"
#include "coordinator/api_prompt.h"
#include "coordinator/api_tools.h"
#include "coordinator/http_conn.h"

struct sl_run;

struct sl_choice {
    struct sl_run *run;
    int index;
    uint64_t id; /* of the service; 0 when none is under way */
    int scoring; /* the prompt's log-probabilities come first */
    const struct sl_ids *prompt;
    const char *prompt_text; /* what echo shows; owned by the run's `texts` */
    size_t prompt_text_len;
    float *prompt_logprobs; /* [prompt->len], [0] unused; NULL unless scored */
    struct sl_track track;
    struct sl_buf text;       /* answer so far, when it is not streamed */
    struct sl_answer *answer; /* takes a chat answer apart; NULL: its text is its content */
    struct sl_buf reasoning;  /* so far, when it is not streamed */
    json_t *calls;            /* the message's tool_calls so far; NULL: none */
    json_t *deltas;           /* of a stream: what the last text brought, not sent yet */
    size_t offset;            /* characters of text before the next token */
    json_t
        *logprobs; /* chat: content array; completions: object of arrays; NULL when not asked for */
    const char *finish; /* NULL while running */
    int completion_tokens;
};

struct sl_run {
    struct sl_http_conn *c;
    struct sl_api_request req;
    int chat;
    char id[48];
    uint64_t created_s;
    int n_choices, left; /* left: choices that have not ended */
    int starting;        /* replies must not free the run yet */
    int failed;
    struct sl_api_error error; /* when failed */
    struct sl_ids *prompts;    /* [req.n_prompts] */
    struct sl_buf *texts;      /* [req.n_prompts], echo only */
    struct sl_choice *choices;
};

/* A run for the request, which it takes over. NULL: out of memory, the request is closed. */
struct sl_run *sl_run_new(struct sl_http_conn *c, struct sl_api_request *req, int chat);
void sl_run_free(struct sl_run *r);
/* Submits every choice once the prompts are filled in; from here the run looks after itself and the
 * connection. */
void sl_run_start(struct sl_run *r);
/* Cancels what runs, answers the error and frees the run. Also before sl_run_start. */
void sl_run_fail(struct sl_run *r, const struct sl_api_error *e);

/* ---- api_answer.c: JSON ---------------------------------------------------------------------- */
/* Adds one token to the choice's log-probabilities (its own list, or `into` for a chunk). */
int sl_answer_logprob(struct sl_choice *ch, const struct sl_sampled *s, size_t text_chars,
                      json_t *into);
/* The prompt's tokens of an echo, into the choice's own list. */
int sl_answer_prompt_logprobs(struct sl_choice *ch, json_t *into);
json_t *sl_answer_logprobs_new(const struct sl_run *r);
/* One chunk of a stream; text and finish may be NULL, logprobs is taken over. `first` adds the role
 * (chat). */
json_t *sl_answer_chunk(const struct sl_choice *ch, const char *text, size_t n, json_t *logprobs,
                        const char *finish, int first);
/* A chat chunk with this delta, which is taken over. */
json_t *sl_answer_delta_chunk(const struct sl_choice *ch, json_t *delta, json_t *logprobs,
                              const char *finish);
/* Adds what the parser told to the choice's deltas (a stream), or to its message. */
int sl_answer_event_add(struct sl_choice *ch, const struct sl_answer_event *ev);
json_t *sl_answer_usage_chunk(const struct sl_run *r);
json_t *sl_answer_whole(struct sl_run *r);

#endif
