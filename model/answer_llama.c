/* answer_llama.c - Llama 3's calls: JSON objects, alone or separated by semicolons, with or without
 * <|python_tag|>; and after that tag Python code, for a built-in tool (`name.call(key="value")`) or
 * for an interpreter.
 *
 * Without the tag an answer that happens to be a JSON object looks the same: it is a call only when
 * it names a tool that was offered. */
#include <string.h>

#include "model/answer_part.h"

#define TAG "<|python_tag|>"

/* An object at `at`. */
static long read_object(struct sl_answer *a, size_t at, int known)
{
    size_t end = sl_answer_json_end(a, at);
    if (end == 0) return TAKE_MORE;
    if (sl_answer_json_calls(a, a->in.data + at, end - at, known)) return TAKE_BAD;
    a->bare = 1; /* more may follow */
    return (long)end;
}

long sl_answer_read_bare(struct sl_answer *a, int final)
{
    (void) final;
    const char *s = a->in.data;
    size_t n = a->in.len, at = 0;
    if (s[0] == ';') at = sl_answer_skip_space(s, n, 1);
    if (at == n) return TAKE_MORE;
    if (s[at] != '{') return TAKE_BAD;
    /* An object whose first member is no part of a call need not be waited for. */
    size_t key = sl_answer_skip_space(s, n, at + 1);
    if (key == n) return TAKE_MORE;
    static const char *const keys[] = {"\"name\"",      "\"parameters\"", "\"type\"",
                                       "\"arguments\"", "\"function\"",   "\"id\""};
    int may = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        may |= sl_answer_begins(s + key, n - key, keys[i]) != 0;
    return may ? read_object(a, at, 1) : TAKE_BAD;
}

/* ---- Python ---------------------------------------------------------------------------------- */

static int is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static size_t word(const char *s, size_t n, size_t at)
{
    while (at < n && is_word(s[at])) at++;
    return at;
}

/* The end of a JSON scalar at `at`; 0: none. */
static size_t scalar(const char *s, size_t n, size_t at)
{
    size_t end = at;
    if (at < n && s[at] == '"') {
        for (end = at + 1; end < n && s[end] != '"'; end++) end += s[end] == '\\';
        end++;
    } else {
        while (end < n && !strchr(",) \t\r\n", s[end])) end++;
    }
    if (end > n || end == at) return 0;
    json_t *v = json_loadb(s + at, end - at, JSON_DECODE_ANY, NULL);
    int is = v && !json_is_array(v) && !json_is_object(v);
    json_decref(v);
    return is ? end : 0;
}

/* name.call(key=value, ...) as a call of `name`. 1: it was one. */
static int read_builtin(struct sl_answer *a, const char *s, size_t n)
{
    static const char call[] = ".call(";
    size_t name = word(s, n, 0), at = name + sizeof call - 1;
    struct sl_buf *b = &a->scratch;
    if (name == 0 || name >= SL_ANSWER_NAME_MAX || n < at ||
        memcmp(s + name, call, sizeof call - 1) != 0)
        return 0;
    sl_buf_clear(b);
    int rc = sl_buf_putc(b, '{'), count = 0;
    for (;; count++) {
        size_t key = at = sl_answer_skip_space(s, n, at), end = word(s, n, at);
        if (end == key) break;
        at = sl_answer_skip_space(s, n, end);
        if (at >= n || s[at] != '=') return 0;
        at = sl_answer_skip_space(s, n, at + 1);
        size_t past = scalar(s, n, at);
        if (past == 0) return 0;
        rc |= sl_buf_printf(b, "%s\"%.*s\": ", count ? ", " : "", (int)(end - key), s + key);
        rc |= sl_buf_add(b, s + at, past - at);
        at = sl_answer_skip_space(s, n, past);
        if (at >= n || s[at] != ',') break;
        at++;
    }
    rc |= sl_buf_putc(b, '}');
    if (rc || at >= n || s[at] != ')' || sl_answer_skip_space(s, n, at + 1) != n) return 0;
    sl_answer_call(a, s, name, NULL, 0, sl_buf_str(b), b->len);
    return 1;
}

/* The code as a call of the interpreter, by the name under which it was offered. */
static long read_code(struct sl_answer *a, const char *s, size_t n)
{
    static const char *const names[] = {"python", "ipython", "code_interpreter"};
    const char *name = names[0];
    for (int i = 2; i >= 0; i--)
        if (sl_answer_tool(a, names[i], strlen(names[i]))) name = names[i];
    json_t *code = json_stringn(s, n), *o = code ? json_pack("{s:o}", "code", code) : NULL;
    char *text = o ? json_dumps(o, 0) : NULL;
    json_decref(o);
    if (!text) return TAKE_BAD;
    sl_answer_call(a, name, strlen(name), NULL, 0, text, strlen(text));
    free(text);
    return 1;
}

long sl_answer_read_python(struct sl_answer *a, int final)
{
    const char *s = a->in.data;
    size_t n = a->in.len, at = sl_answer_skip_space(s, n, sizeof TAG - 1);
    if (at == n) return TAKE_MORE;
    if (s[at] == '{') return read_object(a, at, 0);
    if (!final) return TAKE_MORE; /* code goes on to the end of the answer */
    while (n > at && strchr(" \t\r\n", s[n - 1])) n--;
    if (!read_builtin(a, s + at, n - at) && read_code(a, s + at, n - at) == TAKE_BAD)
        return TAKE_BAD;
    return (long)a->in.len;
}
