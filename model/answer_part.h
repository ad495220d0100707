/* answer_part.h - inside of the answer parser (private to answer*.c).
 *
 * What is not decided yet lies in `in`. A style's reader looks at its front and says how many bytes
 * it took, that it must see more, or that this is no call. Readers run again at every piece, so
 * long searches remember in `scan` how far they came. */
#ifndef SL_MODEL_ANSWER_PART_H
#define SL_MODEL_ANSWER_PART_H

#include <jansson.h>

#include "model/answer.h"

/* DeepSeek's marks: U+FF5C is its bar, U+2581 its space. */
#define DS "\xef\xbd\x9c"    /* U+FF5C, DeepSeek's bar */
#define DS_SP "\xe2\x96\x81" /* U+2581, its space */
#define DS_CALLS "<" DS "tool" DS_SP "calls" DS_SP "begin" DS ">"
#define DS_CALL "<" DS "tool" DS_SP "call" DS_SP "begin" DS ">"
#define DS_SEP "<" DS "tool" DS_SP "sep" DS ">"
#define DS_CALL_END "<" DS "tool" DS_SP "call" DS_SP "end" DS ">"
#define DS_CALLS_END "<" DS "tool" DS_SP "calls" DS_SP "end" DS ">"

/* What a reader returns besides a number of bytes. */
#define TAKE_MORE 0 /* cannot be decided yet */
#define TAKE_BAD -1 /* no call: its first mark is text */

enum sl_answer_mode {
    MODE_START,  /* nothing but white space so far */
    MODE_THINK,  /* inside reasoning */
    MODE_BODY,   /* content and calls */
    MODE_HEADER, /* harmony: before <|message|> */
    MODE_BETWEEN /* harmony: a message has ended */
};

struct sl_answer_scan {
    size_t from, at; /* began at, came to: offsets into `in` */
    int depth, in_string, escaped;
};

struct sl_answer {
    struct sl_answer_params p;
    enum sl_answer_mode mode;
    struct sl_buf in;      /* not decided yet */
    struct sl_buf held;    /* white space that the next text may need */
    struct sl_buf scratch; /* of one call */
    struct sl_answer_scan scan;
    int drop;  /* white space comes after a mark: it goes */
    int bare;  /* llama: a call without a mark may begin here */
    int calls; /* announced */
    int quiet; /* the text is the prompt's: no events */
    int rc;    /* first error */
    /* harmony */
    size_t header;                /* bytes of the header that `in` begins with, once known */
    int initial;                  /* the header continues the prompt's */
    int body_kind;                /* of enum sl_answer_event_kind */
    int call;                     /* the message is for a tool */
    int n_reasonings, n_contents; /* messages so far, each kind */
    int fresh;                    /* nothing of this message was sent yet */
};

/* ---- answer.c -------------------------------------------------------------------------------- */
int sl_answer_text(struct sl_answer *a, enum sl_answer_event_kind kind, const char *s, size_t n);
void sl_answer_mark_seen(struct sl_answer *a); /* white space around it goes */
void sl_answer_take(struct sl_answer *a, size_t n);
/* Announces a call with these arguments (a JSON object's text). id NULL: made. */
int sl_answer_call(struct sl_answer *a, const char *name, size_t n_name, const char *id,
                   size_t n_id, const char *arguments, size_t n);
/* Where s[0..n) ends in the beginning of one of the marks: what must wait. n when nowhere. */
size_t sl_answer_half_mark(const char *s, size_t n, const char *const *marks, int n_marks);
/* Searches `mark` from offset `from`, going on where the last search stopped. SIZE_MAX: not there.
 */
size_t sl_answer_search(struct sl_answer *a, size_t from, const char *mark);
/* s[0..n) begins with mark: 1; n is too short to say: -1; no: 0. */
int sl_answer_begins(const char *s, size_t n, const char *mark);
size_t sl_answer_skip_space(const char *s, size_t n, size_t at);

/* ---- answer_json.c --------------------------------------------------------------------------- */
/* The end of the JSON object or array at offset `from` of `in`; 0: not there yet. */
size_t sl_answer_json_end(struct sl_answer *a, size_t from);
/* Is s[0..n) one JSON object? */
int sl_answer_is_object(const char *s, size_t n);
/* Announces the call, or the array of calls, that s[0..n) describes. 0, TAKE_BAD (nothing was
 * announced) or an error in a->rc. `known`: only names that were offered. */
int sl_answer_json_calls(struct sl_answer *a, const char *s, size_t n, int known);
/* Was a tool of this name offered? Its parameters' schema, or NULL. */
const json_t *sl_answer_tool(const struct sl_answer *a, const char *name, size_t n);

/* ---- the styles: each reads one call, or all, at the front of `in` ----------------------------
 */
long sl_answer_read_hermes(struct sl_answer *a, int final);
long sl_answer_read_deepseek(struct sl_answer *a, int final);
long sl_answer_read_mistral(struct sl_answer *a, int final);
long sl_answer_read_array(struct sl_answer *a, int final);    /* granite, phi */
long sl_answer_read_python(struct sl_answer *a, int final);   /* llama, after <|python_tag|> */
long sl_answer_read_bare(struct sl_answer *a, int final);     /* llama, without a mark */
long sl_answer_read_elements(struct sl_answer *a, int final); /* qwen coder, glm */
int sl_answer_step_harmony(struct sl_answer *a, int final);   /* 1: go on, 0: all is seen */
void sl_answer_begin_harmony(struct sl_answer *a);

/* ---- answer_style.c -------------------------------------------------------------------------- */
struct sl_answer_row {
    const char *marks[8]; /* that a call may begin with; NULL after the last */
    long (*read)(struct sl_answer *a, int final);
};
const struct sl_answer_row *sl_answer_row(enum sl_tool_style s);
/* The marks of reasoning; 0 when the style has none of this kind. */
int sl_answer_think(enum sl_reasoning_style s, const char **open, const char **end);

#endif
