/* cmd_tokenize.c - `sluice tokenize`: text on stdin to token ids on stdout, and back.
 *
 *   plain           all of stdin is one text       -> one JSON array of ids
 *   --lines         each line a JSON string        -> each line a JSON array
 *   --detokenize    all of stdin is a JSON array   -> the bytes that the ids stand for, as they are
 *     --lines       each line a JSON array         -> each line a JSON string (invalid UTF-8
 * becomes U+FFFD)
 *
 * With --lines a line's answer is flushed before the next line is read, so that a program can ask
 * through pipes. */
#include "cli/cmd.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/conf.h"
#include "base/sl_assert.h"
#include "cli/resolve.h"
#include "model/tokenizer.h"
#include "model/weights.h"

/* A JSON string of a text can be six times as long (\u0001), an array of ids twelve ("4294967, ").
 */
#define INPUT_MAX ((size_t)12 * SL_TOK_TEXT_MAX)
#define READ_CHUNK 65536 /* bytes */

struct settings {
    const char *model;
    int lines, detokenize, no_special, bos;
};

#define AT(member) offsetof(struct settings, member)

static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "-m --model", "MODEL", AT(model),
     "a .gguf file, a Hugging Face folder, or smollm2", 0, 0},
    {SL_CONF_FLAG, "--lines", NULL, AT(lines), "one text a line: JSON strings in, JSON arrays out",
     0, 0},
    {SL_CONF_FLAG, "-d --detokenize", NULL, AT(detokenize),
     "the way back: JSON arrays of ids to text", 0, 0},
    {SL_CONF_FLAG, "--no-special", NULL, AT(no_special),
     "special tokens in the text are plain text; with --detokenize they are left out", 0, 0},
    {SL_CONF_FLAG, "--bos --add-bos", NULL, AT(bos), "add BOS and EOS as the model asks for", 0, 0},
};

struct job {
    struct settings set;
    const struct sl_tokenizer *t;
    struct sl_buf in, out;
    struct sl_ids ids;
    size_t line; /* 0: not reading lines */
};

/* ---- input ----------------------------------------------------------------------------------- */

static int read_all(struct sl_buf *b, struct sl_err *err)
{
    for (;;) {
        int r = sl_buf_reserve(b, SL_MIN((size_t)READ_CHUNK, b->max - b->len));
        if (r != 0) return sl_err_set(err, r, "stdin: %s", sl_strerror(r));
        size_t n = fread(b->data + b->len, 1, SL_MIN(b->cap, b->max) - b->len, stdin);
        b->len += n;
        if (ferror(stdin)) return sl_err_set(err, SL_EIO, "stdin: reading failed");
        if (n == 0 && feof(stdin)) return 0;
        if (b->len == b->max)
            return sl_err_set(err, SL_ELIMIT, "stdin: more than %zu MiB at once; cut it into texts",
                              b->max >> 20);
    }
}

/* The next line without its newline: 1, 0 at the end, or an error. */
static int read_line(struct sl_buf *b, size_t line, struct sl_err *err)
{
    sl_buf_clear(b);
    int c = EOF;
    while ((c = getc_unlocked(stdin)) != EOF && c != '\n') {
        int r = sl_buf_putc(b, (char)c);
        if (r != 0)
            return sl_err_set(err, r, "stdin: line %zu is longer than %zu MiB: %s", line,
                              b->max >> 20, sl_strerror(r));
    }
    if (ferror(stdin)) return sl_err_set(err, SL_EIO, "stdin: reading failed");
    return c == '\n' || b->len > 0;
}

static int wrong_input(const struct job *j, struct sl_err *err, const char *wanted, const char *why)
{
    if (j->line == 0)
        return sl_err_set(err, SL_EINPUT, "stdin: not %s%s%s", wanted, *why ? ": " : "", why);
    return sl_err_set(err, SL_EINPUT, "stdin: line %zu is not %s%s%s", j->line, wanted,
                      *why ? ": " : "", why);
}

/* ---- the two ways ---------------------------------------------------------------------------- */

static int print_ids(const struct sl_ids *ids)
{
    putchar('[');
    for (size_t i = 0; i < ids->len; i++) printf(i ? ",%d" : "%d", ids->data[i]);
    return puts("]");
}

static int tokenize(struct job *j, const char *text, size_t n, struct sl_err *err)
{
    int flags = (j->set.no_special ? 0 : SL_TOK_SPECIAL) | (j->set.bos ? SL_TOK_BOS : 0);
    j->ids.len = 0;
    int r = sl_tokenizer_encode(j->t, text, n, flags, &j->ids, err);
    if (r != 0) return j->line ? (sl_err_prefix(err, "stdin: line %zu: ", j->line), r) : r;
    print_ids(&j->ids);
    return 0;
}

static int tokenize_json(struct job *j, struct sl_err *err)
{
    json_error_t je;
    json_t *v = json_loadb(sl_buf_str(&j->in), j->in.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!json_is_string(v)) {
        json_decref(v);
        return wrong_input(j, err, "a JSON string", v ? "" : je.text);
    }
    int r = tokenize(j, json_string_value(v), json_string_length(v), err);
    json_decref(v);
    return r;
}

/* The bytes of the ids, or whole characters only (`streamed`), appended to j->out. */
static int append_pieces(struct job *j, const json_t *ids, int streamed, struct sl_err *err)
{
    struct sl_detok d = {0};
    int r = 0;
    for (size_t i = 0; i < json_array_size(ids) && r == 0; i++) {
        const json_t *v = json_array_get(ids, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= sl_tokenizer_size(j->t)) {
            char why[120];
            snprintf(why, sizeof why, "element %zu is no id from 0 to %d", i,
                     sl_tokenizer_size(j->t) - 1);
            return wrong_input(j, err, "a JSON array of token ids", why);
        }
        size_t n;
        if (streamed) {
            r = sl_detok_push(&d, j->t, (int32_t)id, !j->set.no_special, &j->out);
        } else if (!j->set.no_special || !sl_tokenizer_is_special(j->t, (int32_t)id)) {
            const char *piece = sl_detok_bytes(&d, j->t, (int32_t)id, &n);
            r = sl_buf_add(&j->out, piece, n);
        }
    }
    if (r == 0 && streamed) r = sl_detok_finish(&d, &j->out);
    return r ? sl_err_set(err, r, "the text of the ids: %s", sl_strerror(r)) : 0;
}

static int print_json_string(const struct sl_buf *b, struct sl_err *err)
{
    json_t *s = json_stringn(sl_buf_str(b), b->len);
    if (!s)
        return sl_err_set(err, SL_ENOMEM, "out of memory for a JSON string of %zu bytes", b->len);
    int r = json_dumpf(s, stdout, JSON_ENCODE_ANY);
    json_decref(s);
    putchar('\n');
    return r == 0 ? 0 : sl_err_set(err, SL_EIO, "stdout: writing failed");
}

static int detokenize_json(struct job *j, struct sl_err *err)
{
    json_error_t je;
    json_t *v = json_loadb(sl_buf_str(&j->in), j->in.len, JSON_DECODE_ANY, &je);
    if (!json_is_array(v)) {
        json_decref(v);
        return wrong_input(j, err, "a JSON array of token ids", v ? "" : je.text);
    }
    sl_buf_clear(&j->out);
    int r = append_pieces(j, v, j->set.lines, err);
    json_decref(v);
    if (r == 0 && j->set.lines)
        r = print_json_string(&j->out, err);
    else if (r == 0)
        fwrite(sl_buf_str(&j->out), 1, j->out.len, stdout);
    return r;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int run_lines(struct job *j, struct sl_err *err)
{
    for (j->line = 1;; j->line++) {
        int r = read_line(&j->in, j->line, err);
        if (r <= 0) return r;
        r = j->set.detokenize ? detokenize_json(j, err) : tokenize_json(j, err);
        if (r != 0) return r;
        if (fflush(stdout) != 0) return sl_err_set(err, SL_EIO, "stdout: writing failed");
    }
}

static int run(struct job *j, struct sl_err *err)
{
    int r;
    if (j->set.lines) return run_lines(j, err);
    r = read_all(&j->in, err);
    if (r == 0)
        r = j->set.detokenize ? detokenize_json(j, err)
                              : tokenize(j, sl_buf_str(&j->in), j->in.len, err);
    if (r == 0 && fflush(stdout) != 0) r = sl_err_set(err, SL_EIO, "stdout: writing failed");
    return r;
}

static int run_model(void *settings, const char *const words[], struct sl_err *err)
{
    const struct settings *set = settings;
    (void)words;
    if (!set->model)
        return sl_err_set(err, SL_EUSAGE,
                          "no model; give one with -m MODEL (a .gguf file, a folder, or smollm2)");
    char path[PATH_MAX];
    struct sl_weights *w = NULL;
    struct sl_tokenizer *t = NULL;
    int r = sl_model_resolve(set->model, path, sizeof path, err);
    if (r == 0) r = sl_weights_open(path, &w, err);
    if (r == 0) r = sl_tokenizer_open(w, &t, err);
    sl_weights_close(w); /* the tokenizer has copied what it needs */
    if (r == 0) {
        struct job j = {.set = *set, .t = t};
        sl_buf_init(&j.in, INPUT_MAX);
        sl_buf_init(&j.out, INPUT_MAX);
        r = run(&j, err);
        sl_buf_close(&j.in);
        sl_buf_close(&j.out);
        free(j.ids.data);
    }
    sl_tokenizer_close(t);
    return r;
}

int sl_cmd_tokenize(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "tokenize",
        .usage = "usage: sluice tokenize -m MODEL [options] < TEXT\n"
                 "\n"
                 "Text on stdin to token ids: one JSON array. With --detokenize the way back.\n"
                 "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 0,
        .work = run_model,
    };
    struct settings s = {0};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
