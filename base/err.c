/* err.c - see err.h. */
#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

_Noreturn void sl_assert_fail(const char *expr, const char *file, int line)
{
    fprintf(stderr, "sluice: assertion failed at %s:%d: %s (this is a bug in sluice)\n", file, line,
            expr);
    abort();
}

const char *sl_strerror(int code)
{
    switch (code) {
    case 0:
        return "ok";
#define X(name, value, text)                                                                       \
    case name:                                                                                     \
        return text;
        SL_ERRORS(X)
#undef X
    }
    return "unknown error";
}

int sl_err_set(struct sl_err *e, int code, const char *fmt, ...)
{
    if (!e) return code;
    char text[SL_ERR_MSG_MAX]; /* the arguments may point into e */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    e->code = code;
    memcpy(e->msg, text, strlen(text) + 1);
    for (char *p = e->msg; *p; p++)
        if (*p == '\n' || *p == '\r') *p = ' ';
    return code;
}

int sl_err_prefix(struct sl_err *e, const char *fmt, ...)
{
    if (!e) return 0;
    char head[SL_ERR_MSG_MAX], old[SL_ERR_MSG_MAX];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    size_t n = strlen(head);
    memcpy(e->msg, head, n);
    snprintf(e->msg + n, sizeof e->msg - n, "%s", old);
    return e->code;
}

int sl_err_exit_status(int code)
{
    switch (code) {
    case 0:
        return 0;
    case SL_EINPUT:
    case SL_EUSAGE:
    case SL_EUNSUPPORTED:
    case SL_ELIMIT:
    case SL_ENOTFOUND:
        return 2;
    }
    return 1;
}
