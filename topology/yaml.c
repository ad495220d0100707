/* yaml.c - see yaml.h.
 *
 * One loop over the parser's events with an explicit place in the tree, so the depth of a hostile
 * file costs nothing but the refusal. */
#include "topology/yaml.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "base/buf.h"
#include "base/sl_assert.h"
#include "base/text.h"

#define PATH_MAX_BYTES 200 /* of "nodes[1].devices[0].memory" in a message */

struct builder {
    const char *file;
    const char *text;
    size_t n;
    struct sl_arena *arena;
    struct sl_yaml *root, *open; /* open: innermost mapping or list not ended yet */
    const char *key;             /* of the next value in a mapping */
    int key_line;
    int depth, n_nodes, n_documents;
    struct sl_err *err;
};

/* ---- messages -------------------------------------------------------------------------------- */

const char *sl_yaml_excerpt(const char *s, char out[SL_YAML_EXCERPT + 4])
{
    size_t n = strlen(s);
    if (n <= SL_YAML_EXCERPT) return strcpy(out, s);
    n = sl_utf8_whole(s, SL_YAML_EXCERPT);
    memcpy(out, s, n);
    memcpy(out + n, "...", 4);
    return out;
}

/* Appends the path of v; parents first, by walking up into a list of at most SL_YAML_DEPTH_MAX + 1.
 */
static void add_path(struct sl_buf *out, const struct sl_yaml *v)
{
    const struct sl_yaml *up[SL_YAML_DEPTH_MAX + 2];
    int n = 0;
    for (; v && v->parent; v = v->parent) {
        SL_ASSERT(n < (int)SL_ARRAY_LEN(up));
        up[n++] = v;
    }
    while (n-- > 0) {
        char key[SL_YAML_EXCERPT + 4];
        if (up[n]->key)
            sl_buf_printf(out, "%s%s", out->len ? "." : "", sl_yaml_excerpt(up[n]->key, key));
        else
            sl_buf_printf(out, "[%d]", up[n]->index);
    }
}

int sl_yaml_error(const char *file, const struct sl_yaml *at, int code, struct sl_err *err,
                  const char *fmt, ...)
{
    struct sl_buf path;
    char message[SL_ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    sl_buf_init(&path, PATH_MAX_BYTES);
    add_path(&path, at);
    sl_err_set(err, code, "%s:%d: %s%s%s", file, at->line, sl_buf_str(&path), path.len ? ": " : "",
               message);
    sl_buf_close(&path);
    return code;
}

static int fail_at(struct builder *b, int line, int code, const char *what)
{
    return sl_err_set(b->err, code, "%s:%d: %s", b->file, line, what);
}

static int line_of_byte(const struct builder *b, size_t offset)
{
    int line = 1;
    for (size_t i = 0; i < b->n && i < offset; i++) line += b->text[i] == '\n';
    return line;
}

/* Does the line begin with white space that holds a tab? libyaml's own words do not say so. */
static int tab_indents(const struct builder *b, int line)
{
    const char *p = b->text, *end = b->text + b->n;
    for (; line > 1 && p < end; p++) line -= *p == '\n';
    for (; p < end && (*p == ' ' || *p == '\t'); p++)
        if (*p == '\t') return 1;
    return 0;
}

static int fail_syntax(struct builder *b, const yaml_parser_t *p)
{
    const char *problem = p->problem ? p->problem : "unreadable";
    if (p->error == YAML_MEMORY_ERROR)
        return sl_err_set(b->err, SL_ENOMEM, "%s: no memory", b->file);
    if (p->error == YAML_READER_ERROR)
        return sl_err_set(b->err, SL_EINPUT, "%s:%d: not text: %s; save the file as UTF-8", b->file,
                          line_of_byte(b, p->problem_offset), problem);
    int line = (int)p->problem_mark.line + 1;
    if (tab_indents(b, line))
        return fail_at(b, line, SL_EINPUT, "not YAML: a tab indents this line; use spaces");
    if (p->context)
        return sl_err_set(b->err, SL_EINPUT,
                          "%s:%d: not YAML: %s (%s in line %d); check colons, "
                          "brackets and indentation",
                          b->file, line, problem, p->context, (int)p->context_mark.line + 1);
    return sl_err_set(b->err, SL_EINPUT,
                      "%s:%d: not YAML: %s; check colons, brackets and indentation", b->file, line,
                      problem);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static struct sl_yaml *add_node(struct builder *b, enum sl_yaml_kind kind, int line)
{
    struct sl_yaml *v = sl_arena_alloc(b->arena, sizeof *v);
    if (!v) {
        sl_err_set(b->err, SL_ENOMEM, "%s: no memory", b->file);
        return NULL;
    }
    *v = (struct sl_yaml){.kind = kind, .line = line, .parent = b->open};
    if (!b->open) {
        b->root = v;
        return v;
    }
    if (b->key) {
        v->key = b->key;
        v->line = b->key_line;
        b->key = NULL;
    }
    v->index = b->open->n++;
    if (b->open->last)
        b->open->last->next = v;
    else
        b->open->first = v;
    b->open->last = v;
    return v;
}

static int awaits_key(const struct builder *b)
{
    return b->open && b->open->kind == SL_YAML_MAP && !b->key;
}

static int take_key(struct builder *b, const char *text, int line)
{
    char shown[SL_YAML_EXCERPT + 4];
    const struct sl_yaml *twin = sl_yaml_get(b->open, text);
    /* a node of its own, outside the list, gives the error its path */
    struct sl_yaml here = {.line = line, .parent = b->open, .key = text};
    if (!*text) return fail_at(b, line, SL_EINPUT, "a key without a name; write `key: value`");
    if (twin)
        return sl_yaml_error(b->file, &here, SL_EINPUT, b->err,
                             "the key stands in line %d already; keep one of them", twin->line);
    if (b->open->n >= SL_YAML_KEYS_MAX)
        return sl_err_set(b->err, SL_ELIMIT, "%s:%d: %s: more than %d keys in one mapping", b->file,
                          line, sl_yaml_excerpt(text, shown), SL_YAML_KEYS_MAX);
    b->key = text;
    b->key_line = line;
    return 0;
}

static int on_scalar(struct builder *b, const yaml_event_t *e, int line)
{
    const char *value = (const char *)e->data.scalar.value;
    size_t n = e->data.scalar.length;
    if (n > SL_YAML_SCALAR_MAX)
        return sl_err_set(b->err, SL_ELIMIT, "%s:%d: a text of more than %d bytes", b->file, line,
                          SL_YAML_SCALAR_MAX);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)value[i] < ' ' || value[i] == 0x7f)
            return fail_at(b, line, SL_EINPUT,
                           "a text with a control character or line break; write it in one line");
    const char *text = sl_arena_strndup(b->arena, value, n);
    if (!text) return sl_err_set(b->err, SL_ENOMEM, "%s: no memory", b->file);
    if (awaits_key(b)) return take_key(b, text, line);
    struct sl_yaml *v = add_node(b, SL_YAML_SCALAR, line);
    if (!v) return SL_ENOMEM;
    v->text = text;
    v->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return 0;
}

static int on_start(struct builder *b, enum sl_yaml_kind kind, int line)
{
    if (awaits_key(b))
        return fail_at(b, line, SL_EINPUT, "a mapping or list as a key; a key is one word");
    if (b->depth == SL_YAML_DEPTH_MAX)
        return fail_at(b, line, SL_ELIMIT, "nested too deeply; a topology needs 5 levels");
    struct sl_yaml *v = add_node(b, kind, line);
    if (!v) return SL_ENOMEM;
    b->open = v;
    b->depth++;
    return 0;
}

static const char *anchor_of(const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        return (const char *)e->data.scalar.anchor;
    case YAML_SEQUENCE_START_EVENT:
        return (const char *)e->data.sequence_start.anchor;
    case YAML_MAPPING_START_EVENT:
        return (const char *)e->data.mapping_start.anchor;
    default:
        return NULL;
    }
}

static const char *tag_of(const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        return (const char *)e->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return (const char *)e->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return (const char *)e->data.mapping_start.tag;
    default:
        return NULL;
    }
}

static int on_event(struct builder *b, const yaml_event_t *e)
{
    int line = (int)e->start_mark.line + 1;
    if (e->type == YAML_ALIAS_EVENT || anchor_of(e))
        return fail_at(b, line, SL_EINPUT,
                       "anchors and aliases (&, *) are not read; write the value out");
    if (tag_of(e)) return fail_at(b, line, SL_EINPUT, "tags (!) are not read; leave the tag out");
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (b->n_documents++)
            return fail_at(b, line, SL_EINPUT, "a second document (---); a topology is one");
        return 0;
    case YAML_SCALAR_EVENT:
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        if (++b->n_nodes > SL_YAML_NODES_MAX)
            return sl_err_set(b->err, SL_ELIMIT, "%s:%d: more than %d values in one file", b->file,
                              line, SL_YAML_NODES_MAX);
        if (e->type == YAML_SCALAR_EVENT) return on_scalar(b, e, line);
        return on_start(b, e->type == YAML_MAPPING_START_EVENT ? SL_YAML_MAP : SL_YAML_LIST, line);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        b->open = b->open->parent;
        b->depth--;
        return 0;
    default:
        return 0;
    }
}

int sl_yaml_parse(const char *file, const char *text, size_t n, struct sl_arena *a,
                  struct sl_yaml **root, struct sl_err *err)
{
    yaml_parser_t parser;
    struct builder b = {.file = file, .text = text, .n = n, .arena = a, .err = err};
    if (!yaml_parser_initialize(&parser)) return sl_err_set(err, SL_ENOMEM, "%s: no memory", file);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    int r = 0, ended = 0;
    while (r == 0 && !ended) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            r = fail_syntax(&b, &parser);
            break;
        }
        ended = event.type == YAML_STREAM_END_EVENT;
        r = on_event(&b, &event);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    *root = r ? NULL : b.root;
    return r;
}

/* ---- reading the tree ------------------------------------------------------------------------ */

const struct sl_yaml *sl_yaml_get(const struct sl_yaml *map, const char *key)
{
    for (const struct sl_yaml *v = map->first; v; v = v->next)
        if (v->key && strcmp(v->key, key) == 0) return v;
    return NULL;
}

int sl_yaml_is_null(const struct sl_yaml *v)
{
    return v->kind == SL_YAML_SCALAR && v->plain &&
           (!*v->text || strcmp(v->text, "~") == 0 || strcmp(v->text, "null") == 0);
}
