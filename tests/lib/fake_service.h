/* fake_service.h - coordinator/service.h without a cluster: tests of the front ends run against it.
 *
 * Answers are scripted: the prompt's tokens again, one per tick of a libuv timer, ended as if the
 * model had stopped. The vocabulary is one token per byte, three special ones and then the marks of
 * tool calls and reasoning, so that every test can foretell every id and text. */
#ifndef SL_TESTS_FAKE_SERVICE_H
#define SL_TESTS_FAKE_SERVICE_H

#include <uv.h>

#include "coordinator/service.h"
#include "model/chat.h"

enum { FAKE_BOS = 256, FAKE_START = 257, FAKE_END = 258, FAKE_MARKS = 259, FAKE_VOCAB = 280 };

struct fake_script {
    int tick_ms; /* between two rounds; each round gives every live request `burst` tokens */
    int burst;
    int limit;          /* live requests; more are SL_EBUSY */
    int context;        /* tokens */
    int fail_after;     /* >= 0: a request fails with SL_ERETRY after so many tokens */
    int hold;           /* 1: nothing is generated */
    int loading;        /* 1: not serving yet */
    const char *answer; /* what every request is answered with instead of its prompt; marks in it
                           are special tokens. Kept by the caller */
};

struct fake_counts {
    int live, submitted, cancelled, done, failed;
};

/* The style of answers and the chat template: NULL is the template's, and the plain one that is
 * there at first. Not while requests are under way. 0, or what sl_chat_open says. */
int fake_chat(struct sl_service *s, const struct sl_chat_options *o, struct sl_err *err);
struct sl_service *
fake_new(uv_loop_t *loop); /* script: 1 ms, 1 token, 64 live, 512 tokens, no failure */
struct fake_script *fake_script(struct sl_service *s); /* may be changed at any time */
const struct fake_counts *fake_counts(const struct sl_service *s);
const struct sl_submit *
fake_last(const struct sl_service *s); /* of the last submit; strings and tokens are not kept */
void fake_close(struct sl_service *s, void (*done)(void *arg), void *arg); /* frees in the loop */

#endif
