/* buf.h - growable bytes that know their maximum from birth.
 *
 * An append that would pass the maximum fails with SL_ELIMIT and changes nothing, so that a peer
 * can never make us grow without bound. Contents are always followed by a NUL that is not counted.
 */
#ifndef SL_BASE_BUF_H
#define SL_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sl_buf {
    char *data; /* owned; NULL while empty and never grown */
    size_t len; /* bytes in use */
    size_t cap; /* bytes allocated */
    size_t max; /* most bytes it may ever hold */
};

void sl_buf_init(struct sl_buf *b, size_t max);
void sl_buf_close(struct sl_buf *b); /* frees; the buffer may be used again */
void sl_buf_clear(struct sl_buf *b); /* len = 0, keeps the memory */

/* All return 0, SL_ELIMIT or SL_ENOMEM. */
int sl_buf_reserve(struct sl_buf *b, size_t extra); /* room for `extra` more bytes */
int sl_buf_add(struct sl_buf *b, const void *data, size_t n);
int sl_buf_puts(struct sl_buf *b, const char *s);
int sl_buf_putc(struct sl_buf *b, char c);
int sl_buf_printf(struct sl_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Appends what is left of a stream, which stays open. Also SL_EIO, errno as the stream left it. */
int sl_buf_read(struct sl_buf *b, FILE *f);

/* Drops the first n bytes, n <= len. */
void sl_buf_consume(struct sl_buf *b, size_t n);

/* The contents as a NUL-terminated string; "" when empty. Valid until the next change. */
const char *sl_buf_str(const struct sl_buf *b);

#ifdef __cplusplus
}
#endif
#endif
