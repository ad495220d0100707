/* gguf_cursor.c - see gguf_cursor.h. */
#include "model/gguf_cursor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sl_assert.h"

#define READ_FIRST (1u << 20) /* bytes of the first read */

int sl_gguf_bad(struct sl_gguf_cursor *p, int code, uint64_t at, const char *fmt, ...)
{
    char text[SL_ERR_MSG_MAX], place[SL_GGUF_KEY_LEN_MAX + 16] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (p->subject) snprintf(place, sizeof place, ", %s %s", p->kind, p->subject);
    return sl_err_set(p->err, code, "%s: byte %" PRIu64 "%s: %s", p->f->path, at, place, text);
}

int sl_gguf_no_memory(struct sl_gguf_cursor *p)
{
    return sl_err_set(p->err, SL_ENOMEM, "%s: out of memory while reading the header", p->f->path);
}

/* Reads on until the first `end` bytes are in memory; end <= size and <= SL_GGUF_HEADER_MAX. */
static int fill(struct sl_gguf_cursor *p, uint64_t end)
{
    struct sl_gguf_file *f = p->f;
    SL_ASSERT(f->fd >= 0);
    size_t cap = SL_MAX((size_t)end, SL_MAX(f->head_cap * 2, READ_FIRST));
    cap = (size_t)SL_MIN(f->size, SL_MIN(cap, SL_GGUF_HEADER_MAX));
    uint8_t *own = realloc(f->own, cap);
    if (!own) return sl_gguf_no_memory(p);
    f->own = own;
    f->head = own;
    f->head_cap = cap;
    while (f->head_len < cap) {
        ssize_t n = pread(f->fd, own + f->head_len, cap - f->head_len, (off_t)f->head_len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return sl_err_set(p->err, SL_EIO, "%s: cannot read: %s", f->path, strerror(errno));
        if (n == 0)
            return sl_gguf_bad(p, SL_EINPUT, f->head_len,
                               "the file shrank while it was read; try again");
        f->head_len += (size_t)n;
    }
    return 0;
}

int sl_gguf_need(struct sl_gguf_cursor *p, uint64_t n, const char *what)
{
    uint64_t left = p->f->size - p->pos;
    if (n > left)
        return sl_gguf_bad(p, SL_EINPUT, p->pos,
                           "%s needs %" PRIu64 " bytes and only %" PRIu64 " are left%s", what, n,
                           left, "; the file is truncated or damaged, download it again");
    if (n > SL_GGUF_HEADER_MAX - p->pos)
        return sl_gguf_bad(p, SL_EINPUT, p->pos, "%s would make the header larger than %u bytes%s",
                           what, SL_GGUF_HEADER_MAX, SL_GGUF_DAMAGED);
    return p->pos + n > p->f->head_len ? fill(p, p->pos + n) : 0;
}

int sl_gguf_take(struct sl_gguf_cursor *p, void *out, size_t n, const char *what)
{
    int r = sl_gguf_need(p, n, what);
    if (r) return r;
    memcpy(out, p->f->head + p->pos, n);
    p->pos += n;
    return 0;
}

int sl_gguf_string(struct sl_gguf_cursor *p, const char *what, uint64_t *at, uint64_t *len)
{
    int r = sl_gguf_take(p, len, 8, what);
    if (!r) r = sl_gguf_need(p, *len, what);
    if (r) return r;
    *at = p->pos;
    p->pos += *len;
    return 0;
}

int sl_gguf_name(struct sl_gguf_cursor *p, const char *what, size_t max, const char **out)
{
    uint64_t start = p->pos, at, len;
    int r = sl_gguf_string(p, what, &at, &len);
    if (r) return r;
    if (len == 0 || len > max)
        return sl_gguf_bad(p, SL_EINPUT, start, "%s has %" PRIu64 " bytes, 1 to %zu are allowed%s",
                           what, len, max, SL_GGUF_DAMAGED);
    for (const uint8_t *s = p->f->head + at, *end = s + len; s < end; s++)
        if (*s < 0x20 || *s == 0x7f)
            return sl_gguf_bad(p, SL_EINPUT, start, "%s holds the control character 0x%02x%s", what,
                               *s, SL_GGUF_DAMAGED);
    *out = sl_arena_strndup(&p->f->names, (const char *)p->f->head + at, (size_t)len);
    return *out ? 0 : sl_gguf_no_memory(p);
}
