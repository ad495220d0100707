/* answer_tagged.c - styles whose calls stand between marks: Hermes and Qwen, DeepSeek, Mistral,
 * Granite and Phi.
 *
 * A reader returns TAKE_MORE as long as more text could change its answer, and looks past the end
 * of a call for a closing mark, which models sometimes leave out. */
#include <string.h>

#include "model/answer_part.h"

/* Steps over white space and then over `mark`: its end; `at` when something else comes; 0: more
 * must be seen. */
static size_t closing(const struct sl_answer *a, size_t at, const char *mark, int final)
{
    size_t p = sl_answer_skip_space(a->in.data, a->in.len, at);
    int is = sl_answer_begins(a->in.data + p, a->in.len - p, mark);
    if (is < 0 && !final) return 0;
    return is > 0 ? p + strlen(mark) : at;
}

/* A JSON value at `at`, its calls announced; *end is behind it. */
static long read_json(struct sl_answer *a, size_t at, size_t *end)
{
    if (a->in.data[at] != '{' && a->in.data[at] != '[') return TAKE_BAD;
    *end = sl_answer_json_end(a, at);
    if (*end == 0) return TAKE_MORE;
    return 1;
}

/* A mark, a JSON value, a closing mark. */
static long read_wrapped(struct sl_answer *a, const char *open, const char *end_mark, int final)
{
    size_t n = a->in.len, end, at = sl_answer_skip_space(a->in.data, n, strlen(open));
    if (at == n) return TAKE_MORE;
    long r = read_json(a, at, &end);
    if (r <= 0) return r;
    size_t past = end_mark ? closing(a, end, end_mark, final) : end;
    if (past == 0) return TAKE_MORE;
    return sl_answer_json_calls(a, a->in.data + at, end - at, 0) ? TAKE_BAD : (long)past;
}

long sl_answer_read_hermes(struct sl_answer *a, int final)
{
    return read_wrapped(a, "<tool_call>", "</tool_call>", final);
}

long sl_answer_read_array(struct sl_answer *a, int final)
{
    const char *const *marks = sl_answer_row(a->p.style.tools)->marks;
    int second = sl_answer_begins(a->in.data, a->in.len, marks[1]) > 0;
    const char *end = a->p.style.tools == SL_TOOLS_PHI ? (second ? "<|/tool_call|>" : NULL)
                      : second                         ? "</tool_call>"
                                                       : NULL;
    return read_wrapped(a, marks[second], end, final);
}

/* ---- DeepSeek -------------------------------------------------------------------------------- */

/* The text of one call. V3 and R1: function SEP name, a fence, the arguments, a fence. V3.1: name
 * SEP arguments. */
static long announce_deepseek(struct sl_answer *a, const char *s, size_t n)
{
    static const char fence[] = "```json", close[] = "```";
    size_t sep = 0, m = sizeof DS_SEP - 1;
    while (sep + m <= n && memcmp(s + sep, DS_SEP, m) != 0) sep++;
    if (sep + m > n) return TAKE_BAD;
    size_t from = sl_answer_skip_space(s, sep, 0), to = sep, at = sep + m, end = n;
    while (end > at && strchr(" \t\r\n", s[end - 1])) end--;
    const char *name = s + from;
    const char *line = memchr(s + at, '\n', end - at);
    if (line && end - at > sizeof close && memcmp(s + end - 3, close, 3) == 0) {
        size_t after = (size_t)(line - s) + 1;
        if (sl_answer_begins(s + after, end - after, fence) <= 0) return TAKE_BAD;
        name = s + at;
        from = at;
        to = (size_t)(line - s);
        at = after + sizeof fence - 1;
        if (end - 3 < at) return TAKE_BAD;
        end -= 3;
    }
    while (to > from && strchr(" \t\r\n", s[to - 1])) to--;
    at = sl_answer_skip_space(s, end, at);
    while (end > at && strchr(" \t\r\n", s[end - 1])) end--;
    if (to == from || to - from >= SL_ANSWER_NAME_MAX || memchr(name, '<', to - from))
        return TAKE_BAD;
    if (!sl_answer_is_object(s + at, end - at)) return TAKE_BAD;
    return sl_answer_call(a, name, to - from, NULL, 0, s + at, end - at);
}

long sl_answer_read_deepseek(struct sl_answer *a, int final)
{
    static const char calls[] = DS_CALLS, call[] = DS_CALL, call_end[] = DS_CALL_END,
                      calls_end[] = DS_CALLS_END;
    const char *s = a->in.data;
    size_t n = a->in.len, at = 0;
    if (sl_answer_begins(s, n, calls_end) > 0) /* ends the calls before it, or means nothing */
        return a->calls && a->drop ? (long)sizeof calls_end - 1 : TAKE_BAD;
    if (sl_answer_begins(s, n, calls) > 0) {
        at = sl_answer_skip_space(s, n, sizeof calls - 1);
        int is = sl_answer_begins(s + at, n - at, call);
        if (is <= 0) return is < 0 ? TAKE_MORE : TAKE_BAD;
    }
    at += sizeof call - 1;
    size_t end = sl_answer_search(a, at, call_end), past = end + sizeof call_end - 1;
    if (end == SIZE_MAX) {
        if (!final) return TAKE_MORE;
        end = past = n; /* the model ended without the closing mark */
    }
    return announce_deepseek(a, s + at, end - at) ? TAKE_BAD : (long)past;
}

/* ---- Mistral --------------------------------------------------------------------------------- */

static int is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           strchr("_-.:/", c);
}

/* [TOOL_CALLS]NAME, then [CALL_ID]ID or not, then [ARGS] or not, then an object. */
static long read_named(struct sl_answer *a, size_t at, int final)
{
    const char *s = a->in.data;
    size_t n = a->in.len, name = at, n_name, id = 0, n_id = 0;
    while (at < n && s[at] && is_name_char(s[at])) at++;
    n_name = at - name;
    if (n_name == 0 || n_name >= SL_ANSWER_NAME_MAX) return at < n ? TAKE_BAD : TAKE_MORE;
    at = sl_answer_skip_space(s, n, at);
    int is = sl_answer_begins(s + at, n - at, "[CALL_ID]");
    if (is < 0 && !final) return TAKE_MORE;
    if (is > 0) {
        id = at += strlen("[CALL_ID]");
        while (at < n && s[at] && is_name_char(s[at])) at++;
        n_id = at - id;
        at = sl_answer_skip_space(s, n, at);
    }
    is = sl_answer_begins(s + at, n - at, "[ARGS]");
    if (is < 0 && !final) return TAKE_MORE;
    if (is > 0) at = sl_answer_skip_space(s, n, at + strlen("[ARGS]"));
    if (at >= n) return TAKE_MORE;
    if (s[at] != '{') return TAKE_BAD;
    size_t end = sl_answer_json_end(a, at);
    if (end == 0) return TAKE_MORE;
    if (!sl_answer_is_object(s + at, end - at)) return TAKE_BAD;
    if (sl_answer_call(a, s + name, n_name, n_id ? s + id : NULL, n_id, s + at, end - at))
        return TAKE_BAD;
    return (long)end;
}

long sl_answer_read_mistral(struct sl_answer *a, int final)
{
    size_t at = sl_answer_skip_space(a->in.data, a->in.len, strlen("[TOOL_CALLS]"));
    if (at == a->in.len) return TAKE_MORE;
    if (a->in.data[at] == '[' || a->in.data[at] == '{')
        return read_wrapped(a, "[TOOL_CALLS]", NULL, final);
    return read_named(a, at, final);
}
