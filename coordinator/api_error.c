/* api_error.c - the OpenAI error object, from our codes and from a request's fields. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "coordinator/api_json.h"

static void fill(struct sl_api_error *e, int status, const char *type, const char *code,
                 const char *param)
{
    e->status = status;
    e->type = type;
    e->code = code;
    snprintf(e->param, sizeof(e->param), "%s", param ? param : "");
}

int sl_api_fail(struct sl_api_error *e, int status, const char *type, const char *code,
                const char *param, const char *fmt, ...)
{
    va_list ap;
    fill(e, status, type, code, param);
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof(e->message), fmt, ap);
    va_end(ap);
    return -1;
}

int sl_api_bad(struct sl_api_error *e, const char *param, const char *fmt, ...)
{
    va_list ap;
    fill(e, 400, "invalid_request_error", NULL, param);
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof(e->message), fmt, ap);
    va_end(ap);
    return -1;
}

int sl_api_from_code(struct sl_api_error *e, int code, const char *message)
{
    if (!message || !*message) message = sl_strerror(code);
    switch (code) {
    case SL_EBUSY:
        return sl_api_fail(e, 429, "rate_limit_error", "queue_full", NULL, "%s", message);
    case SL_ERETRY:
    case SL_ECANCELLED:
        return sl_api_fail(e, 503, "service_unavailable_error", "retry", NULL, "%s", message);
    case SL_ELIMIT:
        return sl_api_fail(e, 400, "invalid_request_error", "context_length_exceeded", NULL, "%s",
                           message);
    case SL_EINPUT:
    case SL_EUNSUPPORTED:
    case SL_EUSAGE:
        return sl_api_fail(e, 400, "invalid_request_error", NULL, NULL, "%s", message);
    case SL_ENOTFOUND:
        return sl_api_fail(e, 404, "not_found_error", NULL, NULL, "%s", message);
    case SL_EAUTH:
        return sl_api_fail(e, 401, "authentication_error", "invalid_api_key", NULL, "%s", message);
    default:
        return sl_api_fail(e, 500, "server_error", NULL, NULL, "%s", message);
    }
}

json_t *sl_api_error_json(const struct sl_api_error *e)
{
    char text[3 * SL_ERR_MSG_MAX]; /* a cut message may end inside a character: scrub */
    size_t n = sl_utf8_scrub(e->message, strlen(e->message), text);
    char param[3 * sizeof(e->param)];
    size_t n_param = sl_utf8_scrub(e->param, strlen(e->param), param);
    return json_pack("{s:{s:s%,s:s,s:o,s:s?}}", "error", "message", text, n, "type", e->type,
                     "param", n_param ? json_stringn(param, n_param) : json_null(), "code",
                     e->code);
}
