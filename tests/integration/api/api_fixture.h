/* api_fixture.h - front ends and fake service on one loop, driven by the test itself.
 *
 * Client sockets are non-blocking; whenever a helper waits it turns the loop. So a test is one
 * thread and what it sees does not depend on timing; limits of time only end a test that has
 * failed. */
#ifndef SL_TESTS_API_FIXTURE_H
#define SL_TESTS_API_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <uv.h>

#include "base/buf.h"
#include "coordinator/http.h"
#include "coordinator/keys.h"
#include "coordinator/listen.h"
#include "base/sl_assert.h"
#include "tests/lib/fake_service.h"

#define FX_WAIT_S 60 /* a condition that does not come true in this time has failed */

struct fx {
    uv_loop_t loop;
    uv_timer_t beat; /* wakes the loop, so that a wait can look at its condition and its clock */
    struct sl_service *service;
    struct sl_http *http;
    struct sl_listen *listen;
    struct sl_keys *keys;
    int open; /* parts that have not closed yet */
};

/* keys and address may be NULL: no keys, no socket API. */
struct fx *fx_open(const char *keys, const char *address);
void fx_close(struct fx *f); /* checks that every handle of the loop is closed */
void fx_turn(struct fx *f);  /* one turn of the loop, at most a few ms */
/* Turns the loop until cond(arg). Fails the test when it takes too long. */
void fx_until(struct fx *f, int (*cond)(void *arg), void *arg);
void fx_until_live(struct fx *f, int live); /* until so many requests are live in the service */

int fx_connect(struct fx *f); /* to HTTP */
int fx_connect_to(int port);
void fx_send(struct fx *f, int fd, const void *data, size_t n);
void fx_puts(struct fx *f, int fd, const char *s);
int fx_try_send(int fd, const void *data,
                size_t n); /* bytes taken, 0 when full, -1 when the peer has closed */
/* Reads into b until it contains `what`. Fails the test when the connection ends before. */
void fx_read_until(struct fx *f, int fd, struct sl_buf *b, const char *what);
void fx_read_end(struct fx *f, int fd, struct sl_buf *b); /* until the server has closed */
/* One answer on a kept connection: status, body as text in b (the head is dropped). The body is by
 * Content-Length. */
int fx_answer(struct fx *f, int fd, struct sl_buf *b);
/* A whole exchange on a connection of its own: method, path, body; returns the status, body in b.
 */
int fx_ask(struct fx *f, const char *method, const char *path, const char *body, struct sl_buf *b);
/* The same with the body parsed as JSON (new reference). */
json_t *fx_json(struct fx *f, const char *method, const char *path, const char *body, int *status);

#endif
