/* tmpl_parse.c - statements of a chat template, tokens to nodes, and what both parsers need. */
#include "model/tmpl_parse.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"

typedef struct sl_tmpl_node node;
typedef struct sl_tmpl_parser parser;

node *sl_tmpl_syntax(parser *p, const char *fmt, ...)
{
    char what[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    const struct sl_tmpl_token *t = p->tok;
    int n = (int)SL_MIN(t->val.n, 40u);
    if (t->type == TK_NAME)
        sl_err_set(p->err, SL_EINPUT, "chat template, line %u: %s, before '%.*s'", t->line, what, n,
                   t->val.u.s);
    else
        sl_err_set(p->err, SL_EINPUT, "chat template, line %u: %s%s", t->line, what,
                   t->type == TK_EOF ? ", at the end"
                   : t->type == TK_PRINT_END || t->type == TK_BLOCK_END
                       ? ", before the end of the tag"
                       : "");
    return NULL;
}

node *sl_tmpl_node_new(parser *p, int kind)
{
    node *n = sl_arena_alloc(&p->t->mem, sizeof *n);
    if (!n) return sl_tmpl_syntax(p, "the template is too large");
    n->kind = (uint8_t)kind;
    n->line = p->tok->line;
    return n;
}

int sl_tmpl_is_op(const parser *p, int op)
{
    return p->tok->type == TK_OP && p->tok->op == op;
}

int sl_tmpl_is_name(const parser *p, const char *name)
{
    size_t n = strlen(name);
    return p->tok->type == TK_NAME && p->tok->val.n == n && memcmp(p->tok->val.u.s, name, n) == 0;
}

int sl_tmpl_enter(parser *p)
{
    if (++p->depth <= SL_TEMPLATE_DEPTH_MAX) return 0;
    sl_tmpl_syntax(p, "nested more than %d deep", SL_TEMPLATE_DEPTH_MAX);
    return SL_EINPUT;
}

int sl_tmpl_expect_op(parser *p, int op, const char *what)
{
    if (!sl_tmpl_is_op(p, op)) {
        sl_tmpl_syntax(p, "%s was expected", what);
        return SL_EINPUT;
    }
    p->tok++;
    return 0;
}

/* ---- symbols --------------------------------------------------------------------------------- */

static size_t hash(const struct sl_tv *v)
{
    size_t h = 14695981039346656037u;
    for (uint32_t i = 0; i < v->n; i++) h = (h ^ (unsigned char)v->u.s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static int symbols_grow(parser *p)
{
    size_t nb = p->n_buckets ? p->n_buckets * 2 : 128;
    uint32_t *b = sl_arena_alloc(&p->t->mem, nb * sizeof *b);
    struct sl_tv *names = sl_arena_alloc(&p->t->mem, nb / 2 * sizeof *names);
    if (!b || !names) {
        sl_tmpl_syntax(p, "the template is too large");
        return SL_EINPUT;
    }
    for (uint32_t i = 0; i < p->t->n_names; i++) {
        names[i] = p->t->names[i];
        size_t h = hash(&names[i]) & (nb - 1);
        while (b[h]) h = (h + 1) & (nb - 1);
        b[h] = i + 1;
    }
    p->buckets = b;
    p->n_buckets = nb;
    p->t->names = names;
    return 0;
}

int sl_tmpl_symbol(parser *p, const struct sl_tv *name, uint32_t *sym)
{
    if (p->t->n_names * 2 >= p->n_buckets && symbols_grow(p)) return SL_EINPUT;
    size_t h = hash(name) & (p->n_buckets - 1);
    for (; p->buckets[h]; h = (h + 1) & (p->n_buckets - 1)) {
        const struct sl_tv *v = &p->t->names[p->buckets[h] - 1];
        if (v->n == name->n && memcmp(v->u.s, name->u.s, v->n) == 0) {
            *sym = p->buckets[h] - 1;
            return 0;
        }
    }
    *sym = p->t->n_names++;
    p->t->names[*sym] = *name;
    p->buckets[h] = *sym + 1;
    return 0;
}

/* ---- statements ------------------------------------------------------------------------------ */

/* The body of `tag` up to one of the |-separated end words, which becomes the current token. */
static int body(parser *p, const char *tag, const char *ends, node **out);

static int word_in(const parser *p, const char *words)
{
    for (const char *w = words; *w;) {
        size_t n = strcspn(w, "|");
        if (p->tok->val.n == n && memcmp(p->tok->val.u.s, w, n) == 0) return 1;
        w += n + (w[n] == '|');
    }
    return 0;
}

static int tag_end(parser *p)
{
    if (p->tok->type == TK_BLOCK_END) {
        p->tok++;
        return 0;
    }
    sl_tmpl_syntax(p, "'%%}' was expected");
    return SL_EINPUT;
}

/* Body up to `end`, which is consumed with its tag. */
static int whole_body(parser *p, const char *tag, const char *end, node **out)
{
    if (tag_end(p) || body(p, tag, end, out)) return SL_EINPUT;
    p->tok++;
    return tag_end(p);
}

static node *target_name(parser *p)
{
    if (p->tok->type != TK_NAME) return sl_tmpl_syntax(p, "a name to assign to was expected");
    node *n = sl_tmpl_primary(p);
    if (n && n->kind != NK_NAME) return sl_tmpl_syntax(p, "cannot assign to a constant");
    return n;
}

/* What can be assigned to: a name, names with commas (in parentheses or not) or, for set,
 * namespace.attribute. */
static node *target(parser *p, int with_namespace)
{
    node *list = NULL, **end = &list;
    int commas = 0, paren = sl_tmpl_is_op(p, OP_LPAREN);
    if (paren) p->tok++;
    for (;;) {
        node *n;
        if (sl_tmpl_is_op(p, OP_LPAREN)) {
            if (sl_tmpl_enter(p)) return NULL;
            n = target(p, 0);
            p->depth--;
        } else {
            n = target_name(p);
        }
        if (!n) return NULL;
        if (with_namespace && n->kind == NK_NAME && sl_tmpl_is_op(p, OP_DOT)) {
            p->tok++;
            node *attr = sl_tmpl_node_new(p, NK_ATTR);
            if (!attr || p->tok->type != TK_NAME) return sl_tmpl_syntax(p, "a name was expected");
            attr->a = n;
            attr->val = p->tok->val;
            p->tok++;
            n = attr;
        }
        *end = n;
        end = &n->next;
        if (!sl_tmpl_is_op(p, OP_COMMA)) break;
        commas = 1;
        p->tok++;
        if (p->tok->type != TK_NAME && !sl_tmpl_is_op(p, OP_LPAREN)) break;
        if (sl_tmpl_is_name(p, "in")) break;
    }
    if (paren && sl_tmpl_expect_op(p, OP_RPAREN, "')'")) return NULL;
    if (!commas) return list;
    node *n = sl_tmpl_node_new(p, NK_TUPLE);
    if (n) n->a = list;
    return n;
}

static int parse_for(parser *p, node *n)
{
    n->kind = NK_FOR;
    if (!(n->a = target(p, 0))) return SL_EINPUT;
    if (!sl_tmpl_is_name(p, "in")) {
        sl_tmpl_syntax(p, "'in' was expected");
        return SL_EINPUT;
    }
    p->tok++;
    if (!(n->b = sl_tmpl_tuple(p, 0, "recursive", 0))) return SL_EINPUT;
    if (sl_tmpl_is_name(p, "if")) {
        p->tok++;
        if (!(n->c = sl_tmpl_expr(p, 1))) return SL_EINPUT;
    }
    if (sl_tmpl_is_name(p, "recursive")) {
        n->flag = 1;
        p->tok++;
    }
    p->in_loop++;
    if (tag_end(p) || body(p, "for", "endfor|else", &n->d)) return SL_EINPUT;
    p->in_loop--;
    if (sl_tmpl_is_name(p, "else")) {
        p->tok++;
        if (tag_end(p) || body(p, "for", "endfor", &n->e)) return SL_EINPUT;
    }
    p->tok++;
    return tag_end(p);
}

static int parse_if(parser *p, node *n)
{
    node **end = &n->a;
    n->kind = NK_IF;
    for (int is_else = 0;;) {
        node *br = sl_tmpl_node_new(p, NK_BRANCH);
        if (!br) return SL_EINPUT;
        *end = br;
        end = &br->next;
        if (!is_else && !(br->a = sl_tmpl_tuple(p, 0, NULL, 0))) return SL_EINPUT;
        if (tag_end(p) || body(p, "if", is_else ? "endif" : "elif|else|endif", &br->b))
            return SL_EINPUT;
        is_else = sl_tmpl_is_name(p, "else");
        int done = sl_tmpl_is_name(p, "endif");
        p->tok++;
        if (done) return tag_end(p);
    }
}

static int parse_set(parser *p, node *n)
{
    n->kind = NK_SET;
    if (!(n->a = target(p, 1))) return SL_EINPUT;
    if (sl_tmpl_is_op(p, OP_ASSIGN)) {
        p->tok++;
        if (!(n->b = sl_tmpl_tuple(p, 1, NULL, 0))) return SL_EINPUT;
        return tag_end(p);
    }
    n->kind = NK_SET_BLOCK;
    if (sl_tmpl_is_op(p, OP_PIPE) && !(n->b = sl_tmpl_filter(p, NULL, 0))) return SL_EINPUT;
    return whole_body(p, "set", "endset", &n->c);
}

static int signature(parser *p, node **end)
{
    int defaults = 0;
    if (sl_tmpl_expect_op(p, OP_LPAREN, "'('")) return SL_EINPUT;
    for (int first = 1; !sl_tmpl_is_op(p, OP_RPAREN); first = 0) {
        if (!first && sl_tmpl_expect_op(p, OP_COMMA, "','")) return SL_EINPUT;
        node *name = target_name(p), *n = name ? sl_tmpl_node_new(p, NK_PARAM) : NULL;
        if (!n) return SL_EINPUT;
        n->sym = name->sym;
        n->val = name->val;
        if (sl_tmpl_is_op(p, OP_ASSIGN)) {
            p->tok++;
            defaults = 1;
            if (!(n->a = sl_tmpl_expr(p, 1))) return SL_EINPUT;
        } else if (defaults) {
            sl_tmpl_syntax(p, "a parameter without default follows one with a default");
            return SL_EINPUT;
        }
        *end = n;
        end = &n->next;
    }
    p->tok++;
    return 0;
}

/* Parameters (when `params`) and body of a macro or call block into m. */
static int macro_rest(parser *p, node *m, int params, node *callee_of, const char *tag,
                      const char *end)
{
    uint8_t outer = p->macro_uses;
    int loops = p->in_loop;
    if (params && signature(p, &m->a)) return SL_EINPUT;
    if (callee_of) {
        if (!(callee_of->a = sl_tmpl_expr(p, 1))) return SL_EINPUT;
        if (callee_of->a->kind != NK_CALL) {
            sl_tmpl_syntax(p, "a call block needs a call");
            return SL_EINPUT;
        }
        outer |= p->macro_uses;
    }
    p->macro_uses = 0;
    p->in_loop = 0;
    if (whole_body(p, tag, end, &m->b)) return SL_EINPUT;
    m->flag = p->macro_uses;
    p->macro_uses |= outer;
    p->in_loop = loops;
    return 0;
}

static int parse_macro(parser *p, node *n)
{
    node *name = target_name(p);
    if (!name) return SL_EINPUT;
    n->kind = NK_MACRO;
    n->sym = name->sym;
    n->val = name->val;
    return macro_rest(p, n, 1, NULL, "macro", "endmacro");
}

static int parse_call(parser *p, node *n)
{
    n->kind = NK_CALL_BLOCK;
    if (!(n->b = sl_tmpl_node_new(p, NK_MACRO))) return SL_EINPUT;
    n->b->val = TV_TEXT("caller");
    return macro_rest(p, n->b, sl_tmpl_is_op(p, OP_LPAREN), n, "call", "endcall");
}

static int parse_filter(parser *p, node *n)
{
    n->kind = NK_FILTER_BLOCK;
    if (!(n->a = sl_tmpl_filter(p, NULL, 1))) return SL_EINPUT;
    return whole_body(p, "filter", "endfilter", &n->b);
}

static int parse_with(parser *p, node *n)
{
    node **end = &n->a;
    n->kind = NK_WITH;
    while (p->tok->type != TK_BLOCK_END) {
        if (n->a && sl_tmpl_expect_op(p, OP_COMMA, "','")) return SL_EINPUT;
        node *set = sl_tmpl_node_new(p, NK_SET);
        if (!set || !(set->a = target_name(p)) || sl_tmpl_expect_op(p, OP_ASSIGN, "'='") ||
            !(set->b = sl_tmpl_expr(p, 1)))
            return SL_EINPUT;
        *end = set;
        end = &set->next;
    }
    return whole_body(p, "with", "endwith", &n->b);
}

static int parse_generation(parser *p, node *n)
{
    n->kind = NK_SCOPE;
    return whole_body(p, "generation", "endgeneration", &n->b);
}

static int parse_autoescape(parser *p, node *n)
{
    n->kind = NK_SCOPE;
    node *on = sl_tmpl_expr(p, 1);
    if (!on) return SL_EINPUT;
    if (on->kind != NK_CONST || sl_tv_truth(&on->val)) {
        sl_tmpl_syntax(p, "autoescape can only be switched off here");
        return SL_EINPUT;
    }
    return whole_body(p, "autoescape", "endautoescape", &n->b);
}

static int parse_jump(parser *p, node *n, int kind)
{
    n->kind = (uint8_t)kind;
    if (p->in_loop) return tag_end(p);
    sl_tmpl_syntax(p, "break and continue belong inside a loop");
    return SL_EINPUT;
}

static int parse_break(parser *p, node *n)
{
    return parse_jump(p, n, NK_BREAK);
}

static int parse_continue(parser *p, node *n)
{
    return parse_jump(p, n, NK_CONTINUE);
}

static int statement(parser *p, node *n)
{
    static const struct {
        const char *word;
        int (*parse)(parser *, node *);
    } table[] = {
        {"if", parse_if},
        {"for", parse_for},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call},
        {"filter", parse_filter},
        {"with", parse_with},
        {"generation", parse_generation},
        {"break", parse_break},
        {"autoescape", parse_autoescape},
        {"continue", parse_continue},
    };
    if (p->tok->type == TK_NAME)
        for (size_t i = 0; i < SL_ARRAY_LEN(table); i++)
            if (sl_tmpl_is_name(p, table[i].word)) {
                p->tok++;
                return table[i].parse(p, n);
            }
    sl_tmpl_syntax(p, "unknown tag");
    return SL_EINPUT;
}

static int print(parser *p, node *n)
{
    p->tok++;
    n->kind = NK_PRINT;
    if (!(n->a = sl_tmpl_tuple(p, 1, NULL, 0))) return SL_EINPUT;
    if (p->tok->type != TK_PRINT_END) {
        sl_tmpl_syntax(p, "'}}' was expected");
        return SL_EINPUT;
    }
    p->tok++;
    return 0;
}

static int body(parser *p, const char *tag, const char *ends, node **out)
{
    uint32_t opened = *ends ? p->tok[-1].line : 0; /* the end of the tag before the body */
    if (sl_tmpl_enter(p)) return SL_EINPUT;
    for (;;) {
        if (p->tok->type == TK_EOF) {
            if (!*ends) break;
            sl_tmpl_syntax(p, "the '%s' block opened on line %u is not closed", tag, opened);
            return SL_EINPUT;
        }
        if (p->tok->type == TK_BLOCK_BEGIN) {
            p->tok++;
            if (p->tok->type == TK_NAME && *ends && word_in(p, ends)) break;
        }
        node *n = sl_tmpl_node_new(p, NK_DATA);
        if (!n) return SL_EINPUT;
        *out = n;
        out = &n->next;
        int rc = 0;
        if (p->tok->type == TK_DATA) {
            n->val = p->tok->val;
            p->tok++;
        } else {
            rc = p->tok->type == TK_PRINT_BEGIN ? print(p, n) : statement(p, n);
        }
        if (rc) return rc;
    }
    p->depth--;
    return 0;
}

int sl_tmpl_parse(struct sl_template *t, const char *source, size_t n, struct sl_err *err)
{
    struct sl_tmpl_token *tokens;
    int rc = sl_tmpl_lex(&t->mem, source, n, &tokens, err);
    if (rc) return rc;
    parser p = {.t = t, .tok = tokens, .err = err};
    struct sl_tv loop = TV_TEXT("loop"), caller = TV_TEXT("caller"), varargs = TV_TEXT("varargs"),
                 kwargs = TV_TEXT("kwargs");
    if (sl_tmpl_symbol(&p, &loop, &t->sym_loop) || sl_tmpl_symbol(&p, &caller, &t->sym_caller) ||
        sl_tmpl_symbol(&p, &varargs, &t->sym_varargs) ||
        sl_tmpl_symbol(&p, &kwargs, &t->sym_kwargs))
        return SL_EINPUT;
    return body(&p, "", "", &t->body);
}
