/* buf.c - see buf.h. */
#include "base/buf.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/sl_assert.h"

#define BUF_FIRST 64           /* bytes of the first allocation */
#define READ_CHUNK 65536       /* bytes of a stream taken at a time */
#define BUF_MAX (SIZE_MAX / 4) /* "no maximum": doubling must not wrap around */

void sl_buf_init(struct sl_buf *b, size_t max)
{
    *b = (struct sl_buf){.max = max < BUF_MAX ? max : BUF_MAX};
}

void sl_buf_close(struct sl_buf *b)
{
    free(b->data);
    *b = (struct sl_buf){.max = b->max};
}

void sl_buf_clear(struct sl_buf *b)
{
    b->len = 0;
    if (b->data) b->data[0] = 0;
}

int sl_buf_reserve(struct sl_buf *b, size_t extra)
{
    if (extra > b->max || b->len > b->max - extra) return SL_ELIMIT;
    size_t need = b->len + extra + 1;
    if (need <= b->cap) return 0;
    size_t cap = b->cap ? b->cap : BUF_FIRST;
    while (cap < need) cap *= 2;
    if (cap > b->max + 1) cap = b->max + 1;
    char *p = realloc(b->data, cap);
    if (!p) return SL_ENOMEM;
    b->data = p;
    b->cap = cap;
    return 0;
}

int sl_buf_add(struct sl_buf *b, const void *data, size_t n)
{
    int r = sl_buf_reserve(b, n);
    if (r) return r;
    if (n) memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
    return 0;
}

int sl_buf_puts(struct sl_buf *b, const char *s)
{
    return sl_buf_add(b, s, strlen(s));
}

int sl_buf_putc(struct sl_buf *b, char c)
{
    return sl_buf_add(b, &c, 1);
}

int sl_buf_printf(struct sl_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    int r = n < 0 ? SL_EINPUT : sl_buf_reserve(b, (size_t)n);
    if (r == 0) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return r;
}

int sl_buf_read(struct sl_buf *b, FILE *f)
{
    char chunk[READ_CHUNK];
    size_t n;
    int r = 0;
    while (r == 0 && (n = fread(chunk, 1, sizeof chunk, f)) > 0) r = sl_buf_add(b, chunk, n);
    explicit_bzero(chunk, sizeof chunk); /* it may have been a key */
    return r ? r : ferror(f) ? SL_EIO : 0;
}

void sl_buf_consume(struct sl_buf *b, size_t n)
{
    SL_ASSERT(n <= b->len);
    if (n == 0) return;
    b->len -= n;
    memmove(b->data, b->data + n, b->len + 1);
}

const char *sl_buf_str(const struct sl_buf *b)
{
    return b->data ? b->data : "";
}
