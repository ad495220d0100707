/* gguf_cursor.h - forward reading of a GGUF header with every length checked; private to the parser
 * (gguf*.c).
 *
 * More of the file is read into memory as the cursor moves on, so the buffer moves: places are kept
 * as offsets until parsing is over. All functions return 0 or an error that is written to p->err.
 */
#ifndef SL_MODEL_GGUF_CURSOR_H
#define SL_MODEL_GGUF_CURSOR_H

#include "model/gguf.h"

#define SL_GGUF_DAMAGED "; the file is damaged, download or convert it again"

struct sl_gguf_cursor {
    struct sl_gguf_file *f;
    uint64_t pos;               /* next byte */
    const char *kind, *subject; /* "key" or "tensor" and its name, for messages; NULL outside */
    struct sl_err *err;
};

/* Writes one line: file, byte, key or tensor, what is wrong (the format ends with the remedy).
 * Returns code. */
int sl_gguf_bad(struct sl_gguf_cursor *p, int code, uint64_t at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int sl_gguf_no_memory(struct sl_gguf_cursor *p);

/* Makes the next n bytes readable at p->f->head + p->pos; `what` they are goes into the message. */
int sl_gguf_need(struct sl_gguf_cursor *p, uint64_t n, const char *what);

/* Copies the next n bytes to out and moves on. */
int sl_gguf_take(struct sl_gguf_cursor *p, void *out, size_t n, const char *what);

/* Moves over a length-prefixed string; *at is the place of its bytes. */
int sl_gguf_string(struct sl_gguf_cursor *p, const char *what, uint64_t *at, uint64_t *len);

/* The same for a string that names something: 1..max bytes without control characters, copied into
 * p->f->names. */
int sl_gguf_name(struct sl_gguf_cursor *p, const char *what, size_t max, const char **out);

/* Reads n metadata entries into p->f->metas and sorts p->f->by_key; strings and arrays get their
 * pointers from sl_gguf_parse at the end (gguf_meta.c). */
int sl_gguf_metas(struct sl_gguf_cursor *p, uint64_t n);

#endif
