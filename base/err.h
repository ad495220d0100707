/* err.h - error codes and the one-line message that goes with them.
 *
 * Functions that can fail return 0 or a negative SL_E... code and take an optional `struct sl_err
 * *` last. Whoever decides that something is wrong writes the message once (what, where, what to
 * do); callers may prefix context ("garage.yaml: ...") and pass the code on. Codes are grouped by
 * what they take down. */
#ifndef SL_BASE_ERR_H
#define SL_BASE_ERR_H

#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SL_ERRORS(X)                                                                               \
    /* the caller's input */                                                                       \
    X(SL_EINPUT, -1, "bad input")         /* malformed or contradictory input; exit status 2 */    \
    X(SL_EUSAGE, -2, "bad usage")         /* wrong command line; exit status 2 */                  \
    X(SL_EUNSUPPORTED, -3, "unsupported") /* well-formed, but not something we can do; exit 2 */   \
    X(SL_ELIMIT, -4, "over a limit")      /* larger than a named limit */                          \
    X(SL_ENOTFOUND, -5, "not found")                                                               \
    X(SL_EAUTH, -6, "not authorised")                                                              \
    /* one request */                                                                              \
    X(SL_EBUSY, -10, "busy, try again") /* queue full: HTTP 429 */                                 \
    X(SL_ECANCELLED, -11, "cancelled")                                                             \
    X(SL_ERETRY, -12, "lost, try again") /* a stage died under it: HTTP 503 */                     \
    X(SL_EAGAIN, -13, "incomplete")      /* not an error: more input is needed */                  \
    /* one link or peer */                                                                         \
    X(SL_ECLOSED, -20, "peer closed")                                                              \
    X(SL_EPROTO, -21, "protocol error") /* the peer sent nonsense; drop the peer */                \
    X(SL_ETIMEOUT, -22, "timed out")                                                               \
    X(SL_EUNREACHABLE, -23, "unreachable")                                                         \
    /* this process or its host */                                                                 \
    X(SL_ENOMEM, -30, "out of memory")                                                             \
    X(SL_EIO, -31, "input/output error")                                                           \
    X(SL_ESYS, -32, "system call failed")

enum {
#define X(name, value, text) name = value,
    SL_ERRORS(X)
#undef X
};

#define SL_ERR_MSG_MAX 512 /* bytes, with the terminator; longer messages are cut */

struct sl_err {
    int code;                 /* 0 or SL_E... */
    char msg[SL_ERR_MSG_MAX]; /* one line, no newline */
};

/* The code's short text, "unknown error" for others. */
const char *sl_strerror(int code);

/* Writes code and message (printf style) into e, which may be NULL. Returns code. */
int sl_err_set(struct sl_err *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts text (printf style) before the message. Returns e->code, 0 for NULL. */
int sl_err_prefix(struct sl_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The process exit status for a code: 0, 1 (failed while running) or 2 (the input or usage is
 * wrong). */
int sl_err_exit_status(int code);

#ifdef __cplusplus
}
#endif
#endif
