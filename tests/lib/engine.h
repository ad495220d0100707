/* engine.h - a whole cluster inside a test: coordinator and stages through the session layer, many
 * requests at once, and everything they answered kept for comparing.
 *
 * Every function fails the running cmocka test when something goes wrong that the test did not ask
 * about. */
#ifndef SL_TESTS_ENGINE_H
#define SL_TESTS_ENGINE_H

#include "base/buf.h"
#include "cli/session.h"
#include "proto/control.h"

struct engine_setup {
    struct sl_session_options session;
    int processes; /* stages are child processes of this one (SLUICE_PROGRAM), else threads */
    const char *transports; /* what the stages may talk over, e.g. "ucx-tcp"; NULL: the best */
};

struct engine {
    struct sl_session session;
};

/* One token of an answer. */
struct engine_token {
    int32_t id;
    float logprob;
    int n_top;
    struct sl_top top[SL_TOP_LOGPROBS_MAX];
};

/* All that one request brought. */
struct engine_answer {
    struct engine_token *tokens;
    int n_tokens, cap_tokens;
    struct sl_buf text;
    float *scored; /* SCORE: [n_scored]; LOGITS: [n_scored][n_vocab] */
    int n_scored, cap_scored, n_vocab;
    enum sl_finish reason;
    int code; /* 0, or why it failed */
    char message[256];
    int ended;
};

struct engine *engine_open(const struct engine_setup *setup);
/* The same for a cluster that may be refused: NULL with the reason in *err. */
struct engine *engine_try_open(const struct engine_setup *setup, struct sl_err *err);
void engine_close(struct engine *e);

/* Submits n requests at once and waits until all have ended. answers[n] are filled; close each. */
void engine_ask(struct engine *e, const struct sl_submit *requests, int n,
                struct engine_answer *answers);
void engine_answer_close(struct engine_answer *a);

/* Greedy decoding of `tokens` with n_top alternatives reported. */
struct sl_submit engine_greedy(const int32_t *tokens, int n_tokens, int max_tokens, int n_top);
/* Logits of every position. */
struct sl_submit engine_logits(const int32_t *tokens, int n_tokens);

/* Fails the test unless both answers hold the same bits; `what` names the comparison. */
void engine_assert_same(const struct engine_answer *a, const struct engine_answer *b,
                        const char *what);

/* Path of a golden file, from SLUICE_SHARED/data or tests/golden/data; NULL when it is in neither.
 * Static storage, one path per call of the last eight. */
const char *engine_data(const char *relative);
/* Path of the real model, or NULL when this machine does not have it. Static storage. */
const char *engine_smollm2(void);
/* 1 when this CPU has the row of kernels. */
int engine_has_row(const char *row);

#endif
