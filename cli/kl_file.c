/* kl_file.c - the file of saved log-probabilities; see kl.h. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/kl_part.h"

#define CODES_MAX 65535 /* of a 16-bit code */
#define HEADER_MAX 4096 /* bytes of JSON */
#define HEADER_PAD 8    /* safetensors headers end on a multiple of it */

static int64_t rows_of(const struct sl_kl_shape *s)
{
    return (int64_t)s->chunks * (s->context - 1 - s->first);
}

/* Where the tensors lie, behind a header of `header` bytes. */
static void lay_out(struct sl_kl_file *f, size_t header)
{
    int64_t rows = rows_of(&f->shape);
    f->tokens_at = (off_t)(8 + header);
    f->right_at = f->tokens_at + (off_t)f->shape.chunks * f->shape.context * 4;
    f->low_at = f->right_at + rows * 4;
    f->step_at = f->low_at + rows * 4;
    f->codes_at = f->step_at + rows * 4;
    f->end = f->codes_at + rows * f->shape.n_vocab * 2;
}

static json_t *entry(const char *dtype, int64_t a, int64_t b, off_t from, off_t to)
{
    json_t *shape =
        b ? json_pack("[I,I]", (json_int_t)a, (json_int_t)b) : json_pack("[I]", (json_int_t)a);
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtype, "shape", shape, "data_offsets",
                     (json_int_t)from, (json_int_t)to);
}

/* The header that belongs to a shape: files of one shape have equal headers. Free it. */
static char *header_text(struct sl_kl_file *f, size_t *n)
{
    const struct sl_kl_shape *s = &f->shape;
    int64_t rows = rows_of(s);
    lay_out(f, 0);
    off_t at = f->tokens_at;
    char first[16];
    snprintf(first, sizeof first, "%d", s->first);
    json_t *j = json_pack("{s:{s:s, s:s}, s:o, s:o, s:o, s:o, s:o}", "__metadata__", "format",
                          "sluice-kl-1", "first_scored", first, "tokens",
                          entry("I32", s->chunks, s->context, 0, f->right_at - at), "right",
                          entry("F32", rows, 0, f->right_at - at, f->low_at - at), "low",
                          entry("F32", rows, 0, f->low_at - at, f->step_at - at), "step",
                          entry("F32", rows, 0, f->step_at - at, f->codes_at - at), "logprobs",
                          entry("U16", rows, s->n_vocab, f->codes_at - at, f->end - at));
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) return NULL;
    *n = (strlen(text) + HEADER_PAD - 1) / HEADER_PAD * HEADER_PAD;
    char *padded = malloc(*n + 1);
    if (padded) snprintf(padded, *n + 1, "%-*s", (int)*n, text);
    free(text);
    if (padded) lay_out(f, *n);
    return padded;
}

static int write_at(struct sl_kl_file *f, const void *data, size_t n, off_t at, struct sl_err *err)
{
    for (const char *p = data; n > 0;) {
        ssize_t k = pwrite(f->fd, p, n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            f->broken = 1;
            return sl_err_set(err, SL_EIO, "cannot write %s: %s", f->path,
                              k < 0 ? strerror(errno) : "no space left");
        }
        p += k;
        at += k;
        n -= (size_t)k;
    }
    return 0;
}

int sl_kl_read(struct sl_kl_file *f, void *data, size_t n, off_t at, struct sl_err *err)
{
    for (char *p = data; n > 0;) {
        ssize_t k = pread(f->fd, p, n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return sl_err_set(err, SL_EIO, "cannot read %s at byte %lld: %s", f->path,
                              (long long)at, k < 0 ? strerror(errno) : "the file ends there");
        p += k;
        at += k;
        n -= (size_t)k;
    }
    return 0;
}

static int file_new(const char *path, const struct sl_kl_shape *s, int flags,
                    struct sl_kl_file **out, struct sl_err *err)
{
    struct sl_kl_file *f = calloc(1, sizeof *f);
    *out = f;
    if (!f) return sl_err_set(err, SL_ENOMEM, "out of memory");
    f->fd = -1;
    f->shape = *s;
    f->path = strdup(path);
    f->codes = malloc((size_t)s->n_vocab * sizeof *f->codes);
    f->logp = malloc((size_t)s->n_vocab * sizeof *f->logp);
    f->header = header_text(f, &f->header_len);
    if (!f->path || !f->codes || !f->logp || !f->header)
        return sl_err_set(err, SL_ENOMEM, "out of memory");
    f->fd = open(path, flags | O_CLOEXEC, 0644);
    if (f->fd < 0)
        return sl_err_set(err, errno == ENOENT && !(flags & O_CREAT) ? SL_ENOTFOUND : SL_EIO,
                          "cannot open %s: %s", path, strerror(errno));
    return 0;
}

int sl_kl_create(const char *path, const struct sl_kl_shape *s, const int32_t *tokens,
                 struct sl_kl_file **out, struct sl_err *err)
{
    struct sl_kl_file *f;
    int r = file_new(path, s, O_RDWR | O_CREAT | O_TRUNC, &f, err);
    *out = f;
    if (r == 0) {
        f->writing = 1;
        uint64_t n = f->header_len;
        r = write_at(f, &n, sizeof n, 0, err);
        if (r == 0) r = write_at(f, f->header, f->header_len, 8, err);
        if (r == 0)
            r = write_at(f, tokens, (size_t)(f->right_at - f->tokens_at), f->tokens_at, err);
        if (r == 0 && posix_fallocate(f->fd, 0, f->end)) {
            f->broken = 1;
            r = sl_err_set(err, SL_EIO, "no room for %lld bytes of log-probabilities in %s",
                           (long long)f->end, path);
        }
    }
    if (r) {
        sl_kl_close(f, NULL);
        *out = NULL;
    }
    return r;
}

/* Whether the file's header is the one that belongs to this shape, and its size too. */
static int check_header(struct sl_kl_file *f, struct sl_err *err)
{
    uint64_t n = 0;
    char text[HEADER_MAX];
    struct stat st;
    int r = sl_kl_read(f, &n, sizeof n, 0, NULL);
    if (r == 0 && n == f->header_len && n <= sizeof text) r = sl_kl_read(f, text, n, 8, NULL);
    if (r || n != f->header_len || n > sizeof text || memcmp(text, f->header, n) != 0 ||
        fstat(f->fd, &st) || st.st_size != f->end)
        return sl_err_set(
            err, SL_EINPUT,
            "%s was not saved by `ppl --save-logits` for %d chunks of %d tokens and a "
            "vocabulary of %d; save it again with the same -c and --chunks",
            f->path, f->shape.chunks, f->shape.context, f->shape.n_vocab);
    return 0;
}

int sl_kl_open(const char *path, const struct sl_kl_shape *s, const int32_t *tokens,
               struct sl_kl_file **out, struct sl_err *err)
{
    struct sl_kl_file *f;
    int r = file_new(path, s, O_RDONLY, &f, err);
    if (r == 0) r = check_header(f, err);
    size_t bytes = r == 0 ? (size_t)(f->right_at - f->tokens_at) : 0;
    int32_t *had = r == 0 ? malloc(bytes) : NULL;
    if (r == 0 && !had) r = sl_err_set(err, SL_ENOMEM, "out of memory");
    if (r == 0) r = sl_kl_read(f, had, bytes, f->tokens_at, err);
    if (r == 0 && memcmp(had, tokens, bytes) != 0)
        r = sl_err_set(err, SL_EINPUT, "%s was saved for another text or another tokenizer", path);
    free(had);
    if (r) {
        sl_kl_close(f, NULL);
        f = NULL;
    }
    *out = f;
    return r;
}

int sl_kl_close(struct sl_kl_file *f, struct sl_err *err)
{
    if (!f) return 0;
    int r = 0, bad = f->fd >= 0 && close(f->fd);
    if (bad && f->writing) r = sl_err_set(err, SL_EIO, "cannot write %s", f->path);
    struct stat st;
    if (f->writing && (f->broken || bad) && stat(f->path, &st) == 0 && S_ISREG(st.st_mode))
        remove(f->path);
    free(f->path);
    free(f->header);
    free(f->codes);
    free(f->logp);
    free(f);
    return r;
}

int sl_kl_put(struct sl_kl_file *f, int64_t row, const float *logits, int32_t right,
              struct sl_err *err)
{
    int n = f->shape.n_vocab;
    sl_kl_log_softmax(logits, n, f->logp);
    float top = -INFINITY, low = 0;
    for (int i = 0; i < n; i++) {
        if (f->logp[i] > top) top = f->logp[i];
        if (f->logp[i] < low) low = f->logp[i];
    }
    if (low < top - SL_KL_SPAN) low = top - SL_KL_SPAN;
    float step = top > low ? (top - low) / CODES_MAX : 0;
    for (int i = 0; i < n; i++) {
        float v = step > 0 ? (f->logp[i] - low) / step : 0;
        f->codes[i] = (uint16_t)(v <= 0 ? 0 : v >= CODES_MAX ? CODES_MAX : lrintf(v));
    }
    int r = write_at(f, &f->logp[right], 4, f->right_at + row * 4, err);
    if (r == 0) r = write_at(f, &low, 4, f->low_at + row * 4, err);
    if (r == 0) r = write_at(f, &step, 4, f->step_at + row * 4, err);
    if (r == 0)
        r = write_at(f, f->codes, (size_t)n * sizeof *f->codes, f->codes_at + row * n * 2, err);
    return r;
}
