/* tmpl_expr.c - expressions of a chat template, tokens to nodes, with Jinja's precedence (not quite
 * Python's: unary minus binds tighter than **, which groups to the left; ~ sits between + and *).
 */
#include <string.h>

#include "model/tmpl_parse.h"

typedef struct sl_tmpl_node node;
typedef struct sl_tmpl_parser parser;

static node *binary(parser *p, int kind, int op, node *a, node *b)
{
    node *n = a && b ? sl_tmpl_node_new(p, kind) : NULL;
    if (!n) return NULL;
    n->op = (uint8_t)op;
    n->a = a;
    n->b = b;
    n->line = a->line;
    return n;
}

static node *wrap(parser *p, int kind, node *a)
{
    node *n = a ? sl_tmpl_node_new(p, kind) : NULL;
    if (n) n->a = a;
    return n;
}

static node *constant(parser *p, struct sl_tv v)
{
    node *n = sl_tmpl_node_new(p, NK_CONST);
    if (n) n->val = v;
    return n;
}

/* Items up to the closing bracket; pairs: key ':' value. */
static node *items(parser *p, int kind, int close, int pairs)
{
    node *n = sl_tmpl_node_new(p, kind), **end;
    if (!n) return NULL;
    end = &n->a;
    p->tok++;
    while (!sl_tmpl_is_op(p, close)) {
        if (n->a && sl_tmpl_expect_op(p, OP_COMMA, "','")) return NULL;
        if (sl_tmpl_is_op(p, close)) break;
        if (!(*end = sl_tmpl_expr(p, 1))) return NULL;
        end = &(*end)->next;
        if (!pairs) continue;
        if (sl_tmpl_expect_op(p, OP_COLON, "':' after a key")) return NULL;
        if (!(*end = sl_tmpl_expr(p, 1))) return NULL;
        end = &(*end)->next;
    }
    p->tok++;
    return n;
}

static int text_is(const struct sl_tv *v, const char *s)
{
    return v->n == strlen(s) && memcmp(v->u.s, s, v->n) == 0;
}

static node *name_node(parser *p)
{
    const struct sl_tv *v = &p->tok->val;
    node *n;
    if (text_is(v, "true") || text_is(v, "True")) {
        n = constant(p, TV_MAKE_BOOL(1));
    } else if (text_is(v, "false") || text_is(v, "False")) {
        n = constant(p, TV_MAKE_BOOL(0));
    } else if (text_is(v, "none") || text_is(v, "None")) {
        n = constant(p, TV_MAKE_NONE);
    } else {
        n = sl_tmpl_node_new(p, NK_NAME);
        if (!n || sl_tmpl_symbol(p, v, &n->sym)) return NULL;
        n->val = *v;
        if (n->sym == p->t->sym_caller) p->macro_uses |= MACRO_USES_CALLER;
        if (n->sym == p->t->sym_varargs) p->macro_uses |= MACRO_USES_VARARGS;
        if (n->sym == p->t->sym_kwargs) p->macro_uses |= MACRO_USES_KWARGS;
    }
    p->tok++;
    return n;
}

/* Strings that stand side by side are one string. */
static node *string_node(parser *p)
{
    const struct sl_tmpl_token *first = p->tok;
    size_t total = 0;
    for (; p->tok->type == TK_STR; p->tok++) total += p->tok->val.n;
    node *n = constant(p, first->val);
    if (!n || p->tok == first + 1) return n;
    char *s = sl_arena_alloc(&p->t->mem, total + 1);
    if (!s) return sl_tmpl_syntax(p, "the template is too large");
    n->val = (struct sl_tv){.type = TV_STR, .n = (uint32_t)total, .u.s = s};
    for (const struct sl_tmpl_token *t = first; t < p->tok; s += t->val.n, t++)
        if (t->val.n) memcpy(s, t->val.u.s, t->val.n);
    return n;
}

node *sl_tmpl_primary(parser *p)
{
    node *n;
    switch (p->tok->type) {
    case TK_NAME:
        return name_node(p);
    case TK_STR:
        return string_node(p);
    case TK_INT:
    case TK_FLOAT:
        n = constant(p, p->tok->val);
        p->tok++;
        return n;
    case TK_OP:
        if (p->tok->op == OP_LBRACKET) return items(p, NK_LIST, OP_RBRACKET, 0);
        if (p->tok->op == OP_LBRACE) return items(p, NK_DICT, OP_RBRACE, 1);
        if (p->tok->op != OP_LPAREN) break;
        p->tok++;
        n = sl_tmpl_tuple(p, 1, NULL, 1);
        if (!n || sl_tmpl_expect_op(p, OP_RPAREN, "')'")) return NULL;
        return n;
    }
    return sl_tmpl_syntax(p, "an expression was expected");
}

/* Arguments up to ')': positional, name=value, *list, **dict, in Python's order. */
static int call_args(parser *p, node **end)
{
    int stage = 0; /* 0 positional, 1 named, 2 after *, 3 after ** */
    p->tok++;
    for (int first = 1; !sl_tmpl_is_op(p, OP_RPAREN); first = 0) {
        if (!first && sl_tmpl_expect_op(p, OP_COMMA, "',' or ')' in a call")) return SL_EINPUT;
        if (sl_tmpl_is_op(p, OP_RPAREN)) break;
        int kind = NK_ARG, allowed = stage == 0;
        const struct sl_tv *name = NULL;
        if (sl_tmpl_is_op(p, OP_MUL)) {
            kind = NK_STAR;
            allowed = stage < 2;
            stage = 2;
            p->tok++;
        } else if (sl_tmpl_is_op(p, OP_POW)) {
            kind = NK_STARSTAR;
            allowed = stage < 3;
            stage = 3;
            p->tok++;
        } else if (p->tok->type == TK_NAME && p->tok[1].type == TK_OP &&
                   p->tok[1].op == OP_ASSIGN) {
            kind = NK_KWARG;
            allowed = stage < 3;
            if (stage < 1) stage = 1;
            name = &p->tok->val;
            p->tok += 2;
        }
        if (!allowed) {
            sl_tmpl_syntax(p, "arguments of a call are in the wrong order");
            return SL_EINPUT;
        }
        node *n = wrap(p, kind, sl_tmpl_expr(p, 1));
        if (!n) return SL_EINPUT;
        if (name) n->val = *name;
        *end = n;
        end = &n->next;
    }
    p->tok++;
    return 0;
}

static node *call(parser *p, node *f)
{
    node *n = wrap(p, NK_CALL, f);
    return n && call_args(p, &n->b) == 0 ? n : NULL;
}

/* The inside of v[...]: an index, a slice, or a tuple of them (which no value here accepts). */
static node *subscript(parser *p, node *v)
{
    node *parts[3] = {NULL, NULL, NULL};
    int k = 0, colons = 0;
    p->tok++;
    while (!sl_tmpl_is_op(p, OP_RBRACKET)) {
        if (sl_tmpl_is_op(p, OP_COLON)) {
            if (++colons > 2) return sl_tmpl_syntax(p, "a slice has at most two colons");
            k = colons;
            p->tok++;
            continue;
        }
        if (parts[k]) return sl_tmpl_syntax(p, "']' was expected");
        if (!(parts[k] = colons ? sl_tmpl_expr(p, 1) : sl_tmpl_tuple(p, 1, NULL, 0))) return NULL;
    }
    p->tok++;
    if (!colons && !parts[0]) return sl_tmpl_syntax(p, "an index was expected");
    if (!colons) return binary(p, NK_ITEM, 0, v, parts[0]);
    node *n = wrap(p, NK_SLICE, v);
    if (!n) return NULL;
    n->b = parts[0];
    n->c = parts[1];
    n->d = parts[2];
    return n;
}

static node *dot(parser *p, node *v)
{
    p->tok++;
    if (p->tok->type == TK_INT) { /* v.0 is v[0] */
        node *k = constant(p, p->tok->val);
        p->tok++;
        return binary(p, NK_ITEM, 0, v, k);
    }
    if (p->tok->type != TK_NAME) return sl_tmpl_syntax(p, "a name was expected after '.'");
    node *n = wrap(p, NK_ATTR, v);
    if (n) n->val = p->tok->val;
    p->tok++;
    return n;
}

static node *postfix(parser *p, node *n)
{
    while (n && p->tok->type == TK_OP) {
        if (p->tok->op == OP_DOT)
            n = dot(p, n);
        else if (p->tok->op == OP_LBRACKET)
            n = subscript(p, n);
        else if (p->tok->op == OP_LPAREN)
            n = call(p, n);
        else
            break;
    }
    return n;
}

/* A filter's or test's name with its dots. */
static int dotted(parser *p, struct sl_tv *name)
{
    if (p->tok->type != TK_NAME) {
        sl_tmpl_syntax(p, "the name of a filter or test was expected");
        return SL_EINPUT;
    }
    *name = p->tok->val;
    p->tok++;
    while (sl_tmpl_is_op(p, OP_DOT) && p->tok[1].type == TK_NAME) {
        name->n = (uint32_t)(p->tok[1].val.u.s + p->tok[1].val.n - name->u.s);
        p->tok += 2;
    }
    return 0;
}

node *sl_tmpl_filter(parser *p, node *v, int inline_first)
{
    while (inline_first || sl_tmpl_is_op(p, OP_PIPE)) {
        if (!inline_first) p->tok++;
        inline_first = 0;
        node *n = sl_tmpl_node_new(p, NK_FILTER);
        if (!n || dotted(p, &n->val)) return NULL;
        n->a = v;
        n->fn = sl_tmpl_filter_find(n->val.u.s, n->val.n);
        if (sl_tmpl_is_op(p, OP_LPAREN) && call_args(p, &n->b)) return NULL;
        v = n;
    }
    return v;
}

static node *test(parser *p, node *v)
{
    p->tok++;
    int negated = sl_tmpl_is_name(p, "not");
    if (negated) p->tok++;
    node *n = wrap(p, NK_TEST, v);
    if (!n || dotted(p, &n->val)) return NULL;
    n->fn = sl_tmpl_test_find(n->val.u.s, n->val.n);
    int type = p->tok->type, op = p->tok->op;
    if (type == TK_OP && op == OP_LPAREN) {
        if (call_args(p, &n->b)) return NULL;
    } else if (type == TK_STR || type == TK_INT || type == TK_FLOAT ||
               (type == TK_OP && (op == OP_LBRACKET || op == OP_LBRACE)) ||
               (type == TK_NAME && !sl_tmpl_is_name(p, "else") && !sl_tmpl_is_name(p, "or") &&
                !sl_tmpl_is_name(p, "and") && !sl_tmpl_is_name(p, "if"))) {
        if (sl_tmpl_is_name(p, "is")) return sl_tmpl_syntax(p, "tests cannot be chained with 'is'");
        node *arg = sl_tmpl_primary(p);
        if (!(n->b = wrap(p, NK_ARG, postfix(p, arg)))) return NULL;
    }
    return negated ? wrap(p, NK_NOT, n) : n;
}

static node *filters_and_tests(parser *p, node *n)
{
    while (n) {
        if (sl_tmpl_is_op(p, OP_PIPE))
            n = sl_tmpl_filter(p, n, 0);
        else if (sl_tmpl_is_name(p, "is"))
            n = test(p, n);
        else if (sl_tmpl_is_op(p, OP_LPAREN))
            n = call(p, n);
        else
            break;
    }
    return n;
}

static node *unary(parser *p, int with_filter)
{
    node *n;
    if (sl_tmpl_is_op(p, OP_SUB) || sl_tmpl_is_op(p, OP_ADD)) {
        int kind = sl_tmpl_is_op(p, OP_SUB) ? NK_NEG : NK_POS;
        p->tok++;
        if (sl_tmpl_enter(p)) return NULL;
        n = wrap(p, kind, unary(p, 0));
        p->depth--;
    } else {
        n = sl_tmpl_primary(p);
    }
    n = postfix(p, n);
    return with_filter ? filters_and_tests(p, n) : n;
}

static node *power(parser *p)
{
    node *n = unary(p, 1);
    while (n && sl_tmpl_is_op(p, OP_POW)) {
        p->tok++;
        n = binary(p, NK_BINARY, OP_POW, n, unary(p, 1));
    }
    return n;
}

static node *product(parser *p)
{
    node *n = power(p);
    while (n && p->tok->type == TK_OP && p->tok->op >= OP_MUL && p->tok->op <= OP_MOD) {
        int op = p->tok->op;
        p->tok++;
        n = binary(p, NK_BINARY, op, n, power(p));
    }
    return n;
}

static node *concat(parser *p)
{
    node *first = product(p);
    if (!first || !sl_tmpl_is_op(p, OP_TILDE)) return first;
    node *n = wrap(p, NK_CONCAT, first), **end = &first->next;
    while (n && sl_tmpl_is_op(p, OP_TILDE)) {
        p->tok++;
        if (!(*end = product(p))) return NULL;
        end = &(*end)->next;
    }
    return n;
}

static node *sum(parser *p)
{
    node *n = concat(p);
    while (n && (sl_tmpl_is_op(p, OP_ADD) || sl_tmpl_is_op(p, OP_SUB))) {
        int op = p->tok->op;
        p->tok++;
        n = binary(p, NK_BINARY, op, n, concat(p));
    }
    return n;
}

/* The comparison operator here, consumed; OP_NONE when there is none. */
static int comparison_op(parser *p)
{
    int op = OP_NONE;
    if (p->tok->type == TK_OP && p->tok->op >= OP_EQ && p->tok->op <= OP_GE) {
        op = p->tok->op;
    } else if (sl_tmpl_is_name(p, "in")) {
        op = OP_IN;
    } else if (sl_tmpl_is_name(p, "not")) {
        p->tok++;
        if (sl_tmpl_is_name(p, "in"))
            op = OP_NOTIN;
        else
            p->tok--;
    }
    if (op != OP_NONE) p->tok++;
    return op;
}

static node *comparison(parser *p)
{
    node *n = sum(p), **end = NULL;
    for (int op; n && (op = comparison_op(p)) != OP_NONE;) {
        if (!end) {
            if (!(n = wrap(p, NK_COMPARE, n))) return NULL;
            end = &n->b;
        }
        node *operand = wrap(p, NK_OPERAND, sum(p));
        if (!operand) return NULL;
        operand->op = (uint8_t)op;
        *end = operand;
        end = &operand->next;
    }
    return n;
}

static node *negation(parser *p)
{
    if (!sl_tmpl_is_name(p, "not")) return comparison(p);
    p->tok++;
    if (sl_tmpl_enter(p)) return NULL;
    node *n = wrap(p, NK_NOT, negation(p));
    p->depth--;
    return n;
}

static node *conjunction(parser *p)
{
    node *n = negation(p);
    while (n && sl_tmpl_is_name(p, "and")) {
        p->tok++;
        n = binary(p, NK_AND, 0, n, negation(p));
    }
    return n;
}

static node *disjunction(parser *p)
{
    node *n = conjunction(p);
    while (n && sl_tmpl_is_name(p, "or")) {
        p->tok++;
        n = binary(p, NK_OR, 0, n, conjunction(p));
    }
    return n;
}

node *sl_tmpl_expr(parser *p, int with_cond)
{
    if (sl_tmpl_enter(p)) return NULL;
    node *n = disjunction(p);
    while (n && with_cond && sl_tmpl_is_name(p, "if")) {
        p->tok++;
        n = binary(p, NK_COND, 0, n, disjunction(p));
        if (!n || !sl_tmpl_is_name(p, "else")) continue;
        p->tok++;
        if (!(n->c = sl_tmpl_expr(p, 1))) return NULL;
    }
    p->depth--;
    return n;
}

static int tuple_end(const parser *p, const char *stop)
{
    return p->tok->type == TK_PRINT_END || p->tok->type == TK_BLOCK_END ||
           sl_tmpl_is_op(p, OP_RPAREN) || sl_tmpl_is_op(p, OP_RBRACKET) ||
           (stop && sl_tmpl_is_name(p, stop));
}

node *sl_tmpl_tuple(parser *p, int with_cond, const char *stop, int parentheses)
{
    node *first = NULL, **end = &first;
    int commas = 0;
    while (!tuple_end(p, stop)) {
        if (!(*end = sl_tmpl_expr(p, with_cond))) return NULL;
        end = &(*end)->next;
        if (!sl_tmpl_is_op(p, OP_COMMA)) break;
        commas = 1;
        p->tok++;
    }
    if (first && !commas) return first;
    if (!first && !parentheses) return sl_tmpl_syntax(p, "an expression was expected");
    node *n = sl_tmpl_node_new(p, NK_TUPLE);
    if (n) n->a = first;
    return n;
}
