/* answer.c - see answer.h: the state machine of the styles whose marks stand in plain text, and
 * what all styles share. Harmony, whose whole answer is marks, steps in answer_harmony.c. */
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "model/answer_part.h"

#define ID_RANDOM 24      /* characters of an id after "call_" */
#define ID_RANDOM_SHORT 9 /* Mistral's templates insist on this */

/* ---- bytes ----------------------------------------------------------------------------------- */

static int is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

size_t sl_answer_skip_space(const char *s, size_t n, size_t at)
{
    while (at < n && is_space(s[at])) at++;
    return at;
}

int sl_answer_begins(const char *s, size_t n, const char *mark)
{
    size_t m = strlen(mark);
    if (n >= m) return memcmp(s, mark, m) == 0;
    return memcmp(s, mark, n) == 0 ? -1 : 0;
}

size_t sl_answer_half_mark(const char *s, size_t n, const char *const *marks, int n_marks)
{
    size_t longest = 0;
    for (int k = 0; k < n_marks; k++) longest = SL_MAX(longest, strlen(marks[k]));
    for (size_t i = n > longest ? n - longest : 0; i < n; i++)
        for (int k = 0; k < n_marks; k++)
            if (sl_answer_begins(s + i, n - i, marks[k]) < 0) return i;
    return n;
}

size_t sl_answer_search(struct sl_answer *a, size_t from, const char *mark)
{
    struct sl_answer_scan *c = &a->scan;
    size_t m = strlen(mark);
    if (c->from != from || c->at < from) *c = (struct sl_answer_scan){.from = from, .at = from};
    for (; c->at + m <= a->in.len; c->at++)
        if (memcmp(a->in.data + c->at, mark, m) == 0) return c->at;
    return SIZE_MAX;
}

void sl_answer_take(struct sl_answer *a, size_t n)
{
    sl_buf_consume(&a->in, n);
    memset(&a->scan, 0, sizeof a->scan);
}

/* ---- events ---------------------------------------------------------------------------------- */

static int tell(struct sl_answer *a, const struct sl_answer_event *ev)
{
    if (!a->rc && !a->quiet) a->rc = a->p.fn(a->p.arg, ev);
    return a->rc;
}

static int tell_text(struct sl_answer *a, enum sl_answer_event_kind kind, const char *s, size_t n)
{
    struct sl_answer_event ev = {.kind = kind, .text = s, .n = n};
    return n ? tell(a, &ev) : 0;
}

static int hold(struct sl_answer *a, const char *s, size_t n)
{
    if (a->drop || n == 0) return 0;
    int rc = sl_buf_add(&a->held, s, n);
    if (rc && !a->rc) a->rc = rc;
    return rc;
}

int sl_answer_text(struct sl_answer *a, enum sl_answer_event_kind kind, const char *s, size_t n)
{
    size_t head = sl_answer_skip_space(s, n, 0), end = n;
    if (hold(a, s, head)) return a->rc;
    if (head == n) return 0;
    while (is_space(s[end - 1])) end--;
    tell_text(a, kind, sl_buf_str(&a->held), a->held.len);
    sl_buf_clear(&a->held);
    a->drop = 0;
    tell_text(a, kind, s + head, end - head);
    hold(a, s + end, n - end);
    return a->rc;
}

void sl_answer_mark_seen(struct sl_answer *a)
{
    sl_buf_clear(&a->held);
    a->drop = 1;
}

static void make_id(const struct sl_answer *a, char out[SL_ANSWER_ID_MAX])
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    int is_short = a->p.style.tools == SL_TOOLS_MISTRAL, n = is_short ? ID_RANDOM_SHORT : ID_RANDOM;
    char *p = out;
    if (!is_short) p = memcpy(out, "call_", 5), p += 5;
    uint64_t x = a->p.seed + (uint64_t)a->calls;
    for (int i = 0; i < n; i++) {
        x = sl_mix64(x + 1);
        *p++ = digits[x % (sizeof digits - 1)];
    }
    *p = 0;
}

int sl_answer_call(struct sl_answer *a, const char *name, size_t n_name, const char *id,
                   size_t n_id, const char *arguments, size_t n)
{
    char text[SL_ANSWER_NAME_MAX], made[SL_ANSWER_ID_MAX];
    SL_ASSERT(n_name > 0 && n_name < sizeof text);
    if (a->p.max_calls && a->calls >= a->p.max_calls) return 0;
    memcpy(text, name, n_name);
    text[n_name] = 0;
    make_id(a, made);
    if (id && n_id && n_id < sizeof made) {
        memcpy(made, id, n_id);
        made[n_id] = 0;
    }
    struct sl_answer_event ev = {
        .kind = SL_ANSWER_CALL, .index = a->calls, .id = made, .name = text};
    a->calls++;
    if (tell(a, &ev)) return a->rc;
    ev = (struct sl_answer_event){
        .kind = SL_ANSWER_ARGUMENTS, .index = ev.index, .text = arguments, .n = n};
    if (tell(a, &ev)) return a->rc;
    ev = (struct sl_answer_event){.kind = SL_ANSWER_CALL_END, .index = ev.index};
    return tell(a, &ev);
}

/* ---- steps: 1 when something was decided ------------------------------------------------------
 */

static int step_start(struct sl_answer *a, int final)
{
    const char *open, *end;
    size_t space = sl_answer_skip_space(sl_buf_str(&a->in), a->in.len, 0);
    if (space == a->in.len && !final) return 0;
    if (sl_answer_think(a->p.style.reasoning, &open, &end)) {
        int is = sl_answer_begins(a->in.data + space, a->in.len - space, open);
        if (is < 0 && !final) return 0;
        if (is > 0) {
            sl_answer_take(a, space + strlen(open));
            sl_answer_mark_seen(a);
            a->mode = MODE_THINK;
            return 1;
        }
    }
    a->mode = MODE_BODY;
    return 1;
}

static int step_think(struct sl_answer *a, int final)
{
    const char *open, *end, *s = sl_buf_str(&a->in);
    size_t n = a->in.len;
    if (!sl_answer_think(a->p.style.reasoning, &open, &end)) SL_ASSERT(0);
    size_t at = sl_answer_search(a, 0, end);
    if (at != SIZE_MAX) {
        if (sl_answer_text(a, SL_ANSWER_REASONING, s, at)) return 0;
        sl_answer_take(a, at + strlen(end));
        sl_answer_mark_seen(a);
        a->mode = MODE_BODY;
        return 1;
    }
    size_t show = final ? n : sl_answer_half_mark(s, n, &end, 1);
    sl_answer_text(a, SL_ANSWER_REASONING, s, show);
    sl_answer_take(a, show);
    return 0;
}

/* The front of `in` may be a call. */
static int step_call(struct sl_answer *a, long (*read)(struct sl_answer *, int), size_t mark,
                     int final)
{
    long took = read(a, final);
    if (a->rc || (took == TAKE_MORE && !final && a->in.len <= SL_ANSWER_HELD_MAX)) return 0;
    if (took > 0) {
        sl_answer_take(a, (size_t)took);
        sl_answer_mark_seen(a);
        return 1;
    }
    sl_answer_text(a, SL_ANSWER_CONTENT, a->in.data, mark);
    sl_answer_take(a, mark);
    a->bare = 0;
    return 1;
}

/* Where a call without a mark may stand: only white space has come since the answer's begin, the
 * reasoning or another such call. -1: no call here. */
static int step_bare(struct sl_answer *a, int final)
{
    const char *s = sl_buf_str(&a->in);
    size_t space = sl_answer_skip_space(s, a->in.len, 0);
    if (space == a->in.len) return final ? -1 : 0;
    if (s[space] != '{' && !(s[space] == ';' && a->calls)) {
        a->bare = 0;
        return -1;
    }
    if (space) {
        if (hold(a, s, space)) return 0;
        sl_answer_take(a, space);
    }
    return step_call(a, sl_answer_read_bare, 1, final);
}

static int step_body(struct sl_answer *a, int final)
{
    const struct sl_answer_row *row = sl_answer_row(a->p.style.tools);
    int n_marks = 0;
    if (a->bare) {
        int r = step_bare(a, final);
        if (r >= 0) return r;
    }
    const char *s = sl_buf_str(&a->in);
    size_t n = a->in.len, at = n, mark = 0;
    for (; row->marks[n_marks]; n_marks++) {
        const char *m = row->marks[n_marks], *found = NULL;
        size_t len = strlen(m);
        for (const char *p = s; p + len <= s + n && !found; p++) {
            p = memchr(p, m[0], n - (size_t)(p - s));
            if (!p || p + len > s + n) break;
            if (memcmp(p, m, len) == 0) found = p;
        }
        if (found && ((size_t)(found - s) < at || ((size_t)(found - s) == at && len > mark)))
            at = (size_t)(found - s), mark = len;
    }
    if (at == n) {
        size_t show = final ? n : sl_answer_half_mark(s, n, row->marks, n_marks);
        sl_answer_text(a, SL_ANSWER_CONTENT, s, show);
        sl_answer_take(a, show);
        return 0;
    }
    if (at) {
        if (sl_answer_text(a, SL_ANSWER_CONTENT, s, at)) return 0;
        sl_answer_take(a, at);
        return 1;
    }
    return step_call(a, row->read, mark, final);
}

static int run(struct sl_answer *a, int final)
{
    int more = 1, harmony = a->p.style.reasoning == SL_REASONING_HARMONY;
    while (more && !a->rc && a->in.len) {
        size_t before = a->in.len;
        enum sl_answer_mode mode = a->mode;
        if (harmony)
            more = sl_answer_step_harmony(a, final);
        else if (a->mode == MODE_START)
            more = step_start(a, final);
        else if (a->mode == MODE_THINK)
            more = step_think(a, final);
        else
            more = step_body(a, final);
        SL_ASSERT(!more || a->in.len < before || a->mode != mode || a->rc);
    }
    return a->rc;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Did the prompt end inside reasoning? */
static int opened(const struct sl_answer_params *p, const char *open)
{
    size_t n = p->prompt_len, m = strlen(open);
    while (n > 0 && is_space(p->prompt[n - 1])) n--;
    return n >= m && memcmp(p->prompt + n - m, open, m) == 0;
}

int sl_answer_open(const struct sl_answer_params *p, struct sl_answer **out)
{
    const char *open, *end;
    struct sl_answer *a = calloc(1, sizeof *a);
    *out = a;
    if (!a) return SL_ENOMEM;
    a->p = *p;
    if (p->style.tools == SL_TOOLS_HARMONY) a->p.style.reasoning = SL_REASONING_HARMONY;
    if (json_array_size(p->tools) == 0 && a->p.style.reasoning != SL_REASONING_HARMONY)
        a->p.style.tools = SL_TOOLS_NONE;
    sl_buf_init(&a->in, 2 * SL_ANSWER_HELD_MAX);
    sl_buf_init(&a->held, SL_ANSWER_HELD_MAX);
    sl_buf_init(&a->scratch, 4 * SL_ANSWER_HELD_MAX);
    a->bare = a->p.style.tools == SL_TOOLS_LLAMA;
    if (a->p.style.reasoning == SL_REASONING_HARMONY) {
        sl_answer_begin_harmony(a);
    } else if (sl_answer_think(p->style.reasoning, &open, &end) && p->prompt && opened(p, open)) {
        a->mode = MODE_THINK;
        a->drop = 1;
    }
    a->p.prompt = NULL;
    a->p.prompt_len = 0;
    return a->rc;
}

void sl_answer_close(struct sl_answer *a)
{
    if (!a) return;
    sl_buf_close(&a->in);
    sl_buf_close(&a->held);
    sl_buf_close(&a->scratch);
    free(a);
}

int sl_answer_push(struct sl_answer *a, const char *text, size_t n)
{
    /* In portions, so that one large piece needs no more room than many small ones. */
    while (n > 0 && !a->rc) {
        size_t part = SL_MIN(n, (size_t)SL_ANSWER_HELD_MAX / 2);
        if ((a->rc = sl_buf_add(&a->in, text, part)) == 0) run(a, 0);
        text += part;
        n -= part;
    }
    return a->rc;
}

int sl_answer_finish(struct sl_answer *a)
{
    if (run(a, 1)) return a->rc;
    SL_ASSERT(a->in.len == 0);
    int reasoning = a->mode == MODE_THINK || (a->p.style.reasoning == SL_REASONING_HARMONY &&
                                              a->body_kind == SL_ANSWER_REASONING);
    if (!a->drop)
        tell_text(a, reasoning ? SL_ANSWER_REASONING : SL_ANSWER_CONTENT, sl_buf_str(&a->held),
                  a->held.len);
    sl_buf_clear(&a->held);
    return a->rc;
}

int sl_answer_calls(const struct sl_answer *a)
{
    return a->calls;
}
