/* http_body.c - the chunked transfer coding of requests (RFC 9112, section 7.1). */
#include "coordinator/http_body.h"

#include <string.h>

#include "base/err.h"

enum {
    SIZE,
    EXTENSION,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER,
    TRAILER_LINE,
    TRAILER_LF,
    END_LF,
    DONE
};

void sl_http_chunks_init(struct sl_http_chunks *c)
{
    memset(c, 0, sizeof(*c));
}

static int hex(char ch)
{
    if (ch >= '0' && ch <= '9') return ch - '0';
    ch = (char)(ch | 0x20);
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* One byte outside chunk data. 0, 1 at the end, SL_EPROTO. */
static int step(struct sl_http_chunks *c, char ch)
{
    int v;
    if (++c->line > SL_HTTP_CHUNK_LINE_MAX) return SL_EPROTO;
    switch (c->state) {
    case SIZE:
        if ((v = hex(ch)) >= 0) {
            if (++c->digits > 15) return SL_EPROTO;
            c->left = c->left * 16 + (unsigned)v;
            return 0;
        }
        if (!c->digits) return SL_EPROTO;
        c->state = ch == '\r' ? SIZE_LF : EXTENSION;
        return ch == '\r' || ch == ';' || ch == ' ' || ch == '\t' ? 0 : SL_EPROTO;
    case EXTENSION:
        if (ch == '\r') c->state = SIZE_LF;
        return ch == '\n' ? SL_EPROTO : 0;
    case SIZE_LF:
        c->state = c->left ? DATA : TRAILER;
        c->line = c->digits = 0;
        return ch == '\n' ? 0 : SL_EPROTO;
    case DATA_CR:
        c->state = DATA_LF;
        return ch == '\r' ? 0 : SL_EPROTO;
    case DATA_LF:
        c->state = SIZE;
        c->line = 0;
        return ch == '\n' ? 0 : SL_EPROTO;
    case TRAILER:
        c->state = ch == '\r' ? END_LF : TRAILER_LINE;
        return 0;
    case TRAILER_LINE:
        if (ch == '\r') c->state = TRAILER_LF;
        return 0;
    case TRAILER_LF:
        c->state = TRAILER;
        return ch == '\n' ? 0 : SL_EPROTO;
    default: /* END_LF */
        c->state = DONE;
        return ch == '\n' ? 1 : SL_EPROTO;
    }
}

int sl_http_chunks_feed(struct sl_http_chunks *c, const char *in, size_t n, size_t *used,
                        struct sl_buf *out)
{
    size_t i = 0;
    int rc = 0;
    while (i < n && rc == 0 && c->state != DONE) {
        if (c->state != DATA) {
            rc = step(c, in[i++]);
            continue;
        }
        size_t take = n - i < c->left ? n - i : (size_t)c->left;
        rc = sl_buf_add(out, in + i, take);
        i += take;
        c->left -= take;
        if (!c->left) c->state = DATA_CR;
    }
    *used = i;
    return rc == 0 && c->state == DONE ? 1 : rc;
}
