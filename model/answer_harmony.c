/* answer_harmony.c - OpenAI's harmony format (gpt-oss), in which the whole answer is messages:
 * <|start|>assistant<|channel|>analysis<|message|>...<|end|>, where the channel says who the text
 * is for and `to=functions.NAME` in the header makes it a call. The first header begins in the
 * prompt.
 *
 * Messages of one kind are joined by a line break. A call's header stays in `in` until the call is
 * known to be good, so that a bad one can come out whole. */
#include <string.h>

#include "base/sl_assert.h"
#include "model/answer_part.h"

#define HEADER_MAX 512 /* bytes of a header; a longer one is text */

#define MARK_MAX 16 /* bytes of the longest mark, and some */

#define START "<|start|>"
#define CHANNEL "<|channel|>"
#define MESSAGE "<|message|>"
#define FUNCTIONS "functions."

static const char *const ends[] = {"<|end|>", "<|return|>", "<|call|>", START, CHANNEL};
#define N_CLOSING 3 /* of `ends`: belong to the message; the others begin the next one */

/* The first of the marks in s[from..n): its place and *which; n when there is none. */
static size_t find(const char *s, size_t n, size_t from, const char *const *marks, int n_marks,
                   int *which)
{
    for (const char *p = s + from; p < s + n; p++) {
        p = memchr(p, '<', n - (size_t)(p - s));
        if (!p) break;
        for (int k = 0; k < n_marks; k++) {
            if (sl_answer_begins(p, n - (size_t)(p - s), marks[k]) <= 0) continue;
            *which = k;
            return (size_t)(p - s);
        }
    }
    return n;
}

static void begin_message(struct sl_answer *a, enum sl_answer_mode mode, int kind)
{
    a->mode = mode;
    a->body_kind = kind;
    a->call = 0;
    a->header = 0;
    a->fresh = 1;
    sl_answer_mark_seen(a);
}

/* Text of the message under way. */
static int emit(struct sl_answer *a, const char *s, size_t n)
{
    int *count = a->body_kind == SL_ANSWER_REASONING ? &a->n_reasonings : &a->n_contents;
    if (a->fresh) {
        size_t space = sl_answer_skip_space(s, n, 0);
        if (space == n) return 0;
        s += space;
        n -= space;
        a->fresh = 0;
        a->drop = 0;
        sl_buf_clear(&a->held);
        if ((*count)++ && !a->rc) a->rc = sl_buf_putc(&a->held, '\n');
    }
    return sl_answer_text(a, (enum sl_answer_event_kind)a->body_kind, s, n);
}

/* in[0..n) as content, as it is written. */
static void emit_raw(struct sl_answer *a, size_t n)
{
    begin_message(a, MODE_BODY, SL_ANSWER_CONTENT);
    emit(a, a->in.data, n);
    sl_answer_take(a, n);
}

/* ---- headers --------------------------------------------------------------------------------- */

/* The recipient named by `to=`: its length, and where it is. */
static size_t recipient(const char *s, size_t n, const char **out)
{
    for (size_t i = 0; i + 3 <= n; i++) {
        if (memcmp(s + i, "to=", 3) != 0 || (i && s[i - 1] != ' ' && s[i - 1] != '>')) continue;
        size_t end = i + 3;
        while (end < n && !strchr(" \t\r\n<", s[end])) end++;
        *out = s + i + 3;
        return end - i - 3;
    }
    return 0;
}

static int is_analysis(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (sl_answer_begins(s + i, n - i, CHANNEL) <= 0) continue;
        size_t at = sl_answer_skip_space(s, n, i + strlen(CHANNEL));
        return sl_answer_begins(s + at, n - at, "analysis") > 0;
    }
    return 0;
}

/* The name of the tool that the header calls; 0: none. */
static size_t callee(const struct sl_answer *a, const char *s, size_t n, const char **name)
{
    size_t len = recipient(s, n, name), prefix = strlen(FUNCTIONS);
    if (len > prefix && memcmp(*name, FUNCTIONS, prefix) == 0) {
        *name += prefix;
        len -= prefix;
    } else if (len && !sl_answer_tool(a, *name, len)) {
        return 0;
    }
    return len < SL_ANSWER_NAME_MAX ? len : 0;
}

/* Can a header that goes on from the prompt's begin like this? As sl_answer_begins. */
static int begins_header(const char *s, size_t n)
{
    static const char *const begins[] = {CHANNEL, MESSAGE, START, "<|constrain|>", "to="};
    size_t at = sl_answer_skip_space(s, n, 0);
    int may = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(begins); i++) {
        int is = sl_answer_begins(s + at, n - at, begins[i]);
        if (is > 0) return 1;
        may |= is < 0;
    }
    return may ? -1 : 0;
}

static int step_header(struct sl_answer *a, int final)
{
    static const char *const marks[] = {MESSAGE, "<|end|>", "<|return|>", "<|call|>", START};
    const char *s = a->in.data, *name;
    size_t n = a->in.len;
    int which = 0, is = a->initial ? begins_header(s, n) : 1;
    if (is < 0 && !final) return 0;
    if (is <= 0) { /* no header after all */
        begin_message(a, MODE_BODY, SL_ANSWER_CONTENT);
        return 1;
    }
    size_t from = sl_answer_skip_space(s, n, 0), first = from;
    if (sl_answer_begins(s + from, n - from, START) > 0) from += strlen(START);
    size_t at = find(s, n, from, marks, SL_ARRAY_LEN(marks), &which);
    if (at == n && !final && n <= HEADER_MAX + MARK_MAX) return 0;
    if (at == n && final &&
        n <= HEADER_MAX + MARK_MAX) { /* cut off: nothing of it is for anybody */
        sl_answer_take(a, n);
        return 0;
    }
    a->initial = 0;
    if (at > HEADER_MAX || which != 0) { /* its first mark is text, and so is what follows */
        static const char *const firsts[] = {START, CHANNEL, "<|constrain|>", "to="};
        size_t len = 0;
        for (size_t i = 0; i < SL_ARRAY_LEN(firsts); i++)
            if (sl_answer_begins(s + first, n - first, firsts[i]) > 0) len = strlen(firsts[i]);
        emit_raw(a, first + len);
        return 1;
    }
    at += strlen(MESSAGE);
    begin_message(a, MODE_BODY, is_analysis(s, at) ? SL_ANSWER_REASONING : SL_ANSWER_CONTENT);
    if (callee(a, s + first, at - first, &name)) {
        a->call = 1;
        a->header = at;
    } else {
        sl_answer_take(a, at);
    }
    return 1;
}

/* ---- bodies ---------------------------------------------------------------------------------- */

/* A call whose body ends at `end`. 0, or TAKE_BAD: nothing was announced. */
static int announce(struct sl_answer *a, size_t end)
{
    const char *s = a->in.data, *name;
    size_t n_name = callee(a, s, a->header, &name), at = sl_answer_skip_space(s, end, a->header);
    while (end > at && strchr(" \t\r\n", s[end - 1])) end--;
    if (a->p.style.tools != SL_TOOLS_HARMONY || json_array_size(a->p.tools) == 0) return TAKE_BAD;
    if (at == end) return sl_answer_call(a, name, n_name, NULL, 0, "{}", 2);
    if (!sl_answer_is_object(s + at, end - at)) return TAKE_BAD;
    return sl_answer_call(a, name, n_name, NULL, 0, s + at, end - at);
}

/* A message ended at `at` with mark `which`. */
static void end_message(struct sl_answer *a, size_t at, int which)
{
    if (which < N_CLOSING) at += strlen(ends[which]);
    sl_answer_take(a, at);
    sl_answer_mark_seen(a);
    a->mode = which < N_CLOSING ? MODE_BETWEEN : MODE_HEADER;
}

static int step_call(struct sl_answer *a, int final)
{
    const char *s = a->in.data;
    size_t n = a->in.len;
    int which = -1;
    /* Goes on where it stopped: a mark may have begun in the last bytes seen. */
    size_t from = SL_MAX(a->header, a->scan.at),
           at = find(s, n, from, ends, SL_ARRAY_LEN(ends), &which);
    a->scan.at = n > MARK_MAX ? n - MARK_MAX : 0;
    if (which < 0 && !final && n <= SL_ANSWER_HELD_MAX) return 0;
    if (announce(a, at) == TAKE_BAD) {
        emit_raw(a, at);
        at = 0;
    }
    if (a->rc) return 0;
    if (which >= 0) {
        end_message(a, at, which);
    } else {
        sl_answer_take(a, at);
        a->call = 0;
    }
    return a->in.len > 0;
}

static int step_text(struct sl_answer *a, int final)
{
    const char *s = a->in.data;
    size_t n = a->in.len;
    int which = -1;
    size_t at = find(s, n, 0, ends, SL_ARRAY_LEN(ends), &which);
    if (which < 0) {
        if (!final) at = sl_answer_half_mark(s, n, ends, SL_ARRAY_LEN(ends));
        emit(a, s, at);
        sl_answer_take(a, at);
        return 0;
    }
    if (emit(a, s, at)) return 0;
    end_message(a, at, which);
    return 1;
}

static int step_between(struct sl_answer *a, int final)
{
    static const char *const marks[] = {"<|end|>", "<|return|>", "<|call|>",
                                        START,     CHANNEL,      MESSAGE};
    size_t at = sl_answer_skip_space(a->in.data, a->in.len, 0);
    sl_answer_take(a, at);
    for (int k = 0; k < (int)SL_ARRAY_LEN(marks) && a->in.len; k++) {
        int is = sl_answer_begins(a->in.data, a->in.len, marks[k]);
        if (is == 0) continue;
        if (is < 0 && !final) return 0;
        if (is < 0) continue;
        if (k < N_CLOSING)
            sl_answer_take(a, strlen(marks[k]));
        else
            a->mode = MODE_HEADER;
        return 1;
    }
    if (a->in.len) begin_message(a, MODE_BODY, SL_ANSWER_CONTENT);
    return a->in.len > 0;
}

int sl_answer_step_harmony(struct sl_answer *a, int final)
{
    switch (a->mode) {
    case MODE_HEADER:
        return step_header(a, final);
    case MODE_BETWEEN:
        return step_between(a, final);
    default:
        return a->call ? step_call(a, final) : step_text(a, final);
    }
}

/* The prompt's last message is where the answer goes on. */
void sl_answer_begin_harmony(struct sl_answer *a)
{
    const char *s = a->p.prompt;
    size_t n = s ? a->p.prompt_len : 0, from = n, m = strlen(START);
    a->mode = MODE_HEADER;
    a->initial = 1;
    a->drop = 1;
    a->body_kind = SL_ANSWER_CONTENT;
    for (size_t i = n >= m ? n - m + 1 : 0; i-- > 0 && from == n;)
        if (memcmp(s + i, START, m) == 0) from = i + m;
    size_t channel = from;
    while (channel < n && sl_answer_begins(s + channel, n - channel, CHANNEL) <= 0 &&
           sl_answer_begins(s + channel, n - channel, MESSAGE) <= 0)
        channel++;
    if (channel == n) return;
    a->quiet = 1;
    sl_answer_push(a, s + channel, n - channel);
    a->quiet = 0;
}
