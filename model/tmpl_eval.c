/* tmpl_eval.c - walks the nodes of a chat template: expressions, statements, scopes, macros.
 *
 * Recursion follows the nesting of the template and is bounded by TMPL_FRAMES_MAX (and macro calls
 * by SL_TEMPLATE_DEPTH_MAX); every node costs a step. Scopes are chains of bindings as Jinja's are:
 * loops, macros, with and set blocks open one, if does not; assignment is always to the innermost.
 */
#include <jansson.h>
#include <string.h>

#include "model/tmpl.h"

typedef const struct sl_tmpl_node node;
typedef struct sl_tmpl_run run;
typedef struct sl_tmpl_scope scope;
typedef struct sl_tv tv;

enum { JUMP_BREAK = 1, JUMP_CONTINUE = 2 }; /* positive results of exec */

static int eval(run *r, node *n, scope *s, tv *out);
static int exec(run *r, node *n, scope *s);

/* ---- variables ------------------------------------------------------------------------------- */

static scope *scope_new(run *r, scope *parent)
{
    scope *s = sl_tmpl_alloc(r, sizeof *s);
    if (s) s->parent = parent;
    return s;
}

static int set_name(run *r, scope *s, uint32_t sym, const tv *v)
{
    struct sl_tmpl_binding *b = s->first;
    while (b && b->sym != sym) b = b->next;
    if (!b) {
        if (!(b = sl_tmpl_alloc(r, sizeof *b))) return SL_EINPUT;
        b->sym = sym;
        b->next = s->first;
        s->first = b;
    }
    b->v = *v;
    return 0;
}

/* A variable of the caller's JSON or a global function, converted when first used. */
static int global(run *r, uint32_t sym, tv *out)
{
    tv *g = &r->globals[sym];
    const tv *name = &r->t->names[sym];
    if (g->type == TV_ABSENT) {
        char key[256];
        const json_t *j = NULL;
        if (name->n < sizeof key) { /* longer names are nobody's */
            memcpy(key, name->u.s, name->n);
            key[name->n] = 0;
            if (strcmp(key, "now") != 0) j = json_object_get(r->vars, key);
        }
        const struct sl_tmpl_builtin *f = sl_tmpl_global_find(name->u.s, name->n);
        if (j) {
            if (sl_tv_from_json(r, j, 0, g)) return SL_EINPUT;
        } else if (f) {
            *g = (tv){.type = TV_FUNC, .u.func = f};
        } else {
            *g = (tv){.type = TV_UNDEF, .flag = TV_UNDEF_NAME, .n = name->n, .u.s = name->u.s};
        }
    }
    *out = *g;
    return 0;
}

static int get_name(run *r, scope *s, uint32_t sym, tv *out)
{
    for (; s; s = s->parent)
        for (const struct sl_tmpl_binding *b = s->first; b; b = b->next)
            if (b->sym == sym) {
                *out = b->v;
                return 0;
            }
    return global(r, sym, out);
}

/* Assigns to a name, to each name of a tuple, or to an attribute of a namespace. */
static int assign(run *r, scope *s, node *target, tv *v)
{
    tv list, ns;
    if (target->kind == NK_NAME) return set_name(r, s, target->sym, v);
    if (target->kind == NK_ATTR) {
        tv key = target->val;
        if (get_name(r, s, target->a->sym, &ns)) return SL_EINPUT;
        if (ns.type != TV_NS)
            return sl_tmpl_fail(r, "cannot assign an attribute of '%.*s': only namespaces change",
                                (int)target->a->val.n, target->a->val.u.s);
        return sl_tv_dict_set(r, &ns, &key, v);
    }
    if (v->type == TV_UNDEF) return sl_tmpl_fail_undef(r, v);
    if (sl_tv_iterate(r, v, &list)) return SL_EINPUT;
    size_t want = 0, i = 0;
    for (node *t = target->a; t; t = t->next) want++;
    if (want != list.u.list->n)
        return sl_tmpl_fail(r, "cannot unpack %zu values into %zu names", list.u.list->n, want);
    for (node *t = target->a; t; t = t->next)
        if (assign(r, s, t, &list.u.list->v[i++])) return SL_EINPUT;
    return 0;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static int add_star(run *r, tv *list, tv *v)
{
    tv more;
    if (sl_tv_iterate(r, v, &more)) return SL_EINPUT;
    for (size_t i = 0; i < more.u.list->n; i++)
        if (sl_tv_list_add(r, list, &more.u.list->v[i])) return SL_EINPUT;
    return 0;
}

static int add_kw(run *r, struct sl_tmpl_args *a, size_t *cap, const tv *name, const tv *v)
{
    if (name->type != TV_STR) return sl_tmpl_fail(r, "names of arguments must be strings");
    if (a->n_kw == *cap) {
        struct sl_tmpl_kw *p = sl_tmpl_alloc(r, (*cap * 2 + 4) * sizeof *p);
        if (!p) return SL_EINPUT;
        if (a->n_kw) memcpy(p, a->kw, a->n_kw * sizeof *p);
        a->kw = p;
        *cap = *cap * 2 + 4;
    }
    a->kw[a->n_kw++] = (struct sl_tmpl_kw){name->u.s, name->n, *v};
    return 0;
}

static int add_starstar(run *r, struct sl_tmpl_args *a, size_t *cap, const tv *v)
{
    if (v->type != TV_DICT) return sl_tmpl_fail(r, "the value after ** must be a dict");
    for (size_t i = 0; i < v->u.dict->n; i++)
        if (add_kw(r, a, cap, &v->u.dict->p[i].k, &v->u.dict->p[i].v)) return SL_EINPUT;
    return 0;
}

static int eval_args(run *r, node *n, scope *s, struct sl_tmpl_args *a)
{
    tv list, v;
    size_t cap = 0;
    *a = (struct sl_tmpl_args){0};
    if (!n) return 0;
    if (sl_tv_list_new(r, TV_LIST, 0, &list)) return SL_EINPUT;
    for (; n; n = n->next) {
        int rc = eval(r, n->a, s, &v);
        if (rc) return rc;
        if (n->kind == NK_ARG)
            rc = sl_tv_list_add(r, &list, &v);
        else if (n->kind == NK_STAR)
            rc = add_star(r, &list, &v);
        else if (n->kind == NK_KWARG)
            rc = add_kw(r, a, &cap, &n->val, &v);
        else
            rc = add_starstar(r, a, &cap, &v);
        if (rc) return rc;
    }
    a->pos = list.u.list->v;
    a->n = list.u.list->n;
    return 0;
}

/* Named arguments of a macro: into its parameters, else caller, else kwargs. */
static int macro_kw(run *r, node *m, scope *s, const struct sl_tmpl_args *a)
{
    tv extra;
    if (sl_tv_dict_new(r, TV_DICT, 0, &extra)) return SL_EINPUT;
    for (size_t i = 0; i < a->n_kw; i++) {
        const struct sl_tmpl_kw *k = &a->kw[i];
        tv key = {.type = TV_STR, .n = k->n, .u.s = k->name};
        node *p = m->a;
        size_t at = 0;
        for (; p && (p->val.n != k->n || memcmp(p->val.u.s, k->name, k->n) != 0); p = p->next) at++;
        if (p) {
            if (at < a->n)
                return sl_tmpl_fail(r, "macro '%.*s' got two values for '%.*s'", (int)m->val.n,
                                    m->val.u.s, (int)k->n, k->name);
            if (set_name(r, s, p->sym, &k->v)) return SL_EINPUT;
        } else if (k->n == 6 && memcmp(k->name, "caller", 6) == 0 &&
                   (m->flag & MACRO_USES_CALLER)) {
            if (set_name(r, s, r->t->sym_caller, &k->v)) return SL_EINPUT;
        } else if (m->flag & MACRO_USES_KWARGS) {
            if (sl_tv_dict_set(r, &extra, &key, &k->v)) return SL_EINPUT;
        } else {
            return sl_tmpl_fail(r, "macro '%.*s' has no parameter '%.*s'", (int)m->val.n,
                                m->val.u.s, (int)k->n, k->name);
        }
    }
    return m->flag & MACRO_USES_KWARGS ? set_name(r, s, r->t->sym_kwargs, &extra) : 0;
}

static int is_bound(const scope *s, uint32_t sym)
{
    const struct sl_tmpl_binding *b = s->first;
    while (b && b->sym != sym) b = b->next;
    return b != NULL;
}

static int macro_args(run *r, node *m, scope *s, const struct sl_tmpl_args *a)
{
    size_t i = 0;
    for (node *p = m->a; p && i < a->n; p = p->next, i++)
        if (set_name(r, s, p->sym, &a->pos[i])) return SL_EINPUT;
    if (i < a->n && !(m->flag & MACRO_USES_VARARGS))
        return sl_tmpl_fail(r, "macro '%.*s' takes at most %zu arguments, got %zu", (int)m->val.n,
                            m->val.u.s, i, a->n);
    if (m->flag & MACRO_USES_VARARGS) {
        tv rest;
        if (sl_tv_list_new(r, TV_TUPLE, 0, &rest)) return SL_EINPUT;
        for (; i < a->n; i++)
            if (sl_tv_list_add(r, &rest, &a->pos[i])) return SL_EINPUT;
        if (set_name(r, s, r->t->sym_varargs, &rest)) return SL_EINPUT;
    }
    if (macro_kw(r, m, s, a)) return SL_EINPUT;
    if ((m->flag & MACRO_USES_CALLER) && !is_bound(s, r->t->sym_caller)) {
        tv none = {.type = TV_UNDEF, .flag = TV_UNDEF_NAME, .n = 6, .u.s = "caller"};
        if (set_name(r, s, r->t->sym_caller, &none)) return SL_EINPUT;
    }
    for (node *p = m->a; p; p = p->next) {
        tv v = {.type = TV_UNDEF, .flag = TV_UNDEF_NAME, .n = p->val.n, .u.s = p->val.u.s};
        if (is_bound(s, p->sym)) continue;
        if ((p->a && eval(r, p->a, s, &v)) || set_name(r, s, p->sym, &v)) return SL_EINPUT;
    }
    return 0;
}

static int call_macro(run *r, const struct sl_tmpl_macro *m, const struct sl_tmpl_args *a, tv *out)
{
    size_t mark = r->out.len;
    scope *s = scope_new(r, m->scope);
    if (!s) return SL_EINPUT;
    if (r->calls == SL_TEMPLATE_DEPTH_MAX)
        return sl_tmpl_fail(r, "macros call each other more than %d deep", SL_TEMPLATE_DEPTH_MAX);
    r->calls++;
    int rc = macro_args(r, m->node, s, a);
    mark = r->out.len;
    if (rc == 0) rc = exec(r, m->node->b, s);
    if (rc == 0) rc = sl_tmpl_take(r, mark, out);
    r->calls--;
    return rc;
}

static int exec_loop(run *r, node *n, scope *s, tv *iterable, int64_t depth);

/* loop(items): the body of a recursive loop again. */
static int call_loop(run *r, const struct sl_tmpl_loop *l, const struct sl_tmpl_args *a, tv *out)
{
    size_t mark = r->out.len;
    if (!l->node->flag) return sl_tmpl_fail(r, "this loop is not marked 'recursive'");
    if (a->n != 1 || a->n_kw) return sl_tmpl_fail(r, "loop() takes one argument");
    if (r->calls == SL_TEMPLATE_DEPTH_MAX)
        return sl_tmpl_fail(r, "loops call each other more than %d deep", SL_TEMPLATE_DEPTH_MAX);
    r->calls++;
    int rc = exec_loop(r, l->node, l->scope, &a->pos[0], l->depth + 1);
    r->calls--;
    return rc ? rc : sl_tmpl_take(r, mark, out);
}

int sl_tmpl_call(run *r, const tv *f, const struct sl_tmpl_args *args, tv *out)
{
    switch (f->type) {
    case TV_MACRO:
        return call_macro(r, f->u.macro, args, out);
    case TV_LOOP:
        return call_loop(r, f->u.loop, args, out);
    case TV_METHOD:
        return sl_tmpl_builtin_call(r, f->u.bound->method, &f->u.bound->self, args, out);
    case TV_FUNC:
        return sl_tmpl_builtin_call(r, f->u.func, NULL, args, out);
    case TV_UNDEF:
        return sl_tmpl_fail_undef(r, f);
    }
    return sl_tmpl_fail(r, "'%s' object is not callable", sl_tv_type_name(f));
}

static int eval_call(run *r, node *n, scope *s, const tv *caller, tv *out)
{
    tv f, name = TV_TEXT("caller");
    struct sl_tmpl_args a;
    if (eval(r, n->a, s, &f) || eval_args(r, n->b, s, &a)) return SL_EINPUT;
    if (caller) {
        size_t cap = a.n_kw; /* full: add_kw moves it */
        if (add_kw(r, &a, &cap, &name, caller)) return SL_EINPUT;
    }
    r->line = n->line;
    return sl_tmpl_call(r, &f, &a, out);
}

/* ---- expressions ----------------------------------------------------------------------------- */

static int eval_items(run *r, node *n, scope *s, tv *out)
{
    tv v, list;
    if (sl_tv_list_new(r, n->kind == NK_TUPLE ? TV_TUPLE : TV_LIST, 0, &list)) return SL_EINPUT;
    for (node *i = n->a; i; i = i->next)
        if (eval(r, i, s, &v) || sl_tv_list_add(r, &list, &v)) return SL_EINPUT;
    *out = list;
    return 0;
}

static int eval_dict(run *r, node *n, scope *s, tv *out)
{
    tv k, v, d;
    if (sl_tv_dict_new(r, TV_DICT, 0, &d)) return SL_EINPUT;
    for (node *i = n->a; i; i = i->next->next)
        if (eval(r, i, s, &k) || eval(r, i->next, s, &v) || sl_tv_dict_set(r, &d, &k, &v))
            return SL_EINPUT;
    *out = d;
    return 0;
}

static int eval_cond(run *r, node *n, scope *s, tv *out)
{
    tv test;
    if (eval(r, n->b, s, &test)) return SL_EINPUT;
    if (sl_tv_truth(&test)) return eval(r, n->a, s, out);
    if (n->c) return eval(r, n->c, s, out);
    *out = TV_MAKE_UNDEF;
    return 0;
}

static int eval_compare(run *r, node *n, scope *s, tv *out)
{
    tv a, b;
    int yes = 1;
    if (eval(r, n->a, s, &a)) return SL_EINPUT;
    for (node *o = n->b; o && yes; o = o->next) {
        if (eval(r, o->a, s, &b)) return SL_EINPUT;
        r->line = o->line;
        if (sl_tv_compare(r, o->op, &a, &b, &yes)) return SL_EINPUT;
        a = b;
    }
    *out = TV_MAKE_BOOL(yes);
    return 0;
}

static int eval_concat(run *r, node *n, scope *s, tv *out)
{
    tv sum = TV_TEXT(""), v, text, joined;
    for (node *i = n->a; i; i = i->next) {
        if (eval(r, i, s, &v) || sl_tv_to_str(r, &v, &text) ||
            sl_tv_concat(r, &sum, &text, &joined))
            return SL_EINPUT;
        sum = joined;
    }
    *out = sum;
    return 0;
}

static int eval_sign(run *r, node *n, scope *s, tv *out)
{
    tv v;
    if (eval(r, n->a, s, &v)) return SL_EINPUT;
    r->line = n->line;
    if (v.type == TV_UNDEF) return sl_tmpl_fail_undef(r, &v);
    if (!sl_tv_is_number(&v)) return sl_tmpl_fail(r, "a sign before a '%s'", sl_tv_type_name(&v));
    if (v.type == TV_BOOL) v.type = TV_INT;
    if (n->kind == NK_NEG && v.type == TV_FLOAT)
        v.u.f = -v.u.f;
    else if (n->kind == NK_NEG && __builtin_sub_overflow(0, v.u.i, &v.u.i))
        return sl_tmpl_fail(r, "the result of '-' does not fit in 64 bits");
    *out = v;
    return 0;
}

static int eval_slice(run *r, node *n, scope *s, tv *out)
{
    tv v, part[3] = {{0}, {0}, {0}};
    node *parts[3] = {n->b, n->c, n->d};
    if (eval(r, n->a, s, &v)) return SL_EINPUT;
    for (int i = 0; i < 3; i++)
        if (parts[i] && eval(r, parts[i], s, &part[i])) return SL_EINPUT;
    r->line = n->line;
    return sl_tv_slice(r, &v, &part[0], &part[1], &part[2], out);
}

/* v|filter(args) and `v is test(args)`; block stands for v where the node has none. */
static int eval_builtin(run *r, node *n, scope *s, const tv *block, tv *out)
{
    tv v;
    struct sl_tmpl_args a;
    if (n->a && n->kind == NK_FILTER && block) {
        if (eval_builtin(r, n->a, s, block, &v)) return SL_EINPUT;
    } else if (n->a) {
        if (eval(r, n->a, s, &v)) return SL_EINPUT;
    } else {
        v = *block;
    }
    if (eval_args(r, n->b, s, &a)) return SL_EINPUT;
    r->line = n->line;
    if (!n->fn)
        return sl_tmpl_fail(r, "there is no %s '%.*s'", n->kind == NK_FILTER ? "filter" : "test",
                            (int)n->val.n, n->val.u.s);
    tv result = {0};
    if (sl_tmpl_builtin_call(r, n->fn, &v, &a, &result)) return SL_EINPUT;
    *out = result;
    return 0;
}

static int eval_two(run *r, node *n, scope *s, tv *out)
{
    tv a, b;
    if (eval(r, n->a, s, &a) || eval(r, n->b, s, &b)) return SL_EINPUT;
    r->line = n->line;
    return n->kind == NK_ITEM ? sl_tv_item(r, &a, &b, out) : sl_tv_binary(r, n->op, &a, &b, out);
}

static int eval_attr(run *r, node *n, scope *s, tv *out)
{
    tv v;
    if (eval(r, n->a, s, &v)) return SL_EINPUT;
    r->line = n->line;
    return sl_tv_attr(r, &v, n->val.u.s, n->val.n, out);
}

static int eval_logic(run *r, node *n, scope *s, tv *out)
{
    if (eval(r, n->a, s, out)) return SL_EINPUT;
    if (n->kind == NK_NOT) {
        *out = TV_MAKE_BOOL(!sl_tv_truth(out));
        return 0;
    }
    return sl_tv_truth(out) == (n->kind == NK_AND) ? eval(r, n->b, s, out) : 0;
}

static int eval_kind(run *r, node *n, scope *s, tv *out)
{
    switch (n->kind) {
    case NK_CONST:
        *out = n->val;
        return 0;
    case NK_NAME:
        return get_name(r, s, n->sym, out);
    case NK_LIST:
    case NK_TUPLE:
        return eval_items(r, n, s, out);
    case NK_DICT:
        return eval_dict(r, n, s, out);
    case NK_COND:
        return eval_cond(r, n, s, out);
    case NK_AND:
    case NK_OR:
    case NK_NOT:
        return eval_logic(r, n, s, out);
    case NK_COMPARE:
        return eval_compare(r, n, s, out);
    case NK_BINARY:
    case NK_ITEM:
        return eval_two(r, n, s, out);
    case NK_CONCAT:
        return eval_concat(r, n, s, out);
    case NK_NEG:
    case NK_POS:
        return eval_sign(r, n, s, out);
    case NK_ATTR:
        return eval_attr(r, n, s, out);
    case NK_SLICE:
        return eval_slice(r, n, s, out);
    case NK_CALL:
        return eval_call(r, n, s, NULL, out);
    case NK_FILTER:
    case NK_TEST:
        return eval_builtin(r, n, s, NULL, out);
    }
    return sl_tmpl_fail(r, "this cannot be evaluated");
}

static int enter(run *r, node *n)
{
    r->line = n->line;
    if (sl_tmpl_charge(r, 1)) return SL_EINPUT;
    if (r->frames >= TMPL_FRAMES_MAX) return sl_tmpl_fail(r, "evaluation is nested too deeply");
    r->frames++;
    return 0;
}

static int eval(run *r, node *n, scope *s, tv *out)
{
    if (enter(r, n)) return SL_EINPUT;
    int rc = eval_kind(r, n, s, out);
    r->frames--;
    return rc;
}

/* ---- statements ------------------------------------------------------------------------------ */

static int filter_items(run *r, node *n, scope *s, const tv *all, tv *kept)
{
    if (sl_tv_list_new(r, TV_LIST, 0, kept)) return SL_EINPUT;
    for (size_t i = 0; i < all->u.list->n; i++) {
        tv test, item = all->u.list->v[i];
        scope *in = scope_new(r, s);
        if (!in || assign(r, in, n->a, &item) || eval(r, n->c, in, &test)) return SL_EINPUT;
        if (sl_tv_truth(&test) && sl_tv_list_add(r, kept, &all->u.list->v[i])) return SL_EINPUT;
    }
    return 0;
}

static int exec_loop(run *r, node *n, scope *s, tv *iterable, int64_t depth)
{
    tv all, kept;
    if (sl_tv_iterate(r, iterable, &all)) return SL_EINPUT;
    if (n->c) {
        if (filter_items(r, n, s, &all, &kept)) return SL_EINPUT;
        all = kept;
    }
    struct sl_tmpl_loop *l = sl_tmpl_alloc(r, sizeof *l);
    if (!l) return SL_EINPUT;
    *l = (struct sl_tmpl_loop){
        .items = all.u.list->v, .n = all.u.list->n, .depth = depth, .node = n, .scope = s};
    tv loop = {.type = TV_LOOP, .u.loop = l};
    for (; l->i < l->n; l->i++) {
        tv item = l->items[l->i];
        scope *in = scope_new(r, s);
        if (!in || set_name(r, in, r->t->sym_loop, &loop) || assign(r, in, n->a, &item))
            return SL_EINPUT;
        int rc = exec(r, n->d, in);
        if (rc < 0) return rc;
        if (rc == JUMP_BREAK) break;
    }
    if (l->n) return 0;
    scope *in = scope_new(r, s);
    return in ? exec(r, n->e, in) : SL_EINPUT;
}

static int exec_for(run *r, node *n, scope *s)
{
    tv v;
    return eval(r, n->b, s, &v) ? SL_EINPUT : exec_loop(r, n, s, &v, 0);
}

static int exec_if(run *r, node *n, scope *s)
{
    for (node *b = n->a; b; b = b->next) {
        tv test = TV_MAKE_BOOL(1);
        if (b->a && eval(r, b->a, s, &test)) return SL_EINPUT;
        if (sl_tv_truth(&test)) return exec(r, b->b, s);
    }
    return 0;
}

/* Runs a body in a scope of its own and takes its text. A jump out of it takes the text along to
 * nowhere. */
static int capture(run *r, node *body, scope *s, tv *out)
{
    size_t mark = r->out.len;
    scope *in = scope_new(r, s);
    int rc = in ? exec(r, body, in) : SL_EINPUT;
    if (rc < 0) return rc;
    int took = sl_tmpl_take(r, mark, out);
    return took ? took : rc;
}

static int exec_set_block(run *r, node *n, scope *s)
{
    tv text, v;
    int rc = capture(r, n->c, s, &text);
    if (rc) return rc;
    if (n->b) {
        if (eval_builtin(r, n->b, s, &text, &v)) return SL_EINPUT;
        text = v;
    }
    return assign(r, s, n->a, &text);
}

static int exec_filter_block(run *r, node *n, scope *s)
{
    tv text, v;
    int rc = capture(r, n->b, s, &text);
    if (rc) return rc;
    return eval_builtin(r, n->a, s, &text, &v) ? SL_EINPUT : sl_tv_put_str(r, &v);
}

static int make_macro(run *r, node *n, scope *s, tv *out)
{
    struct sl_tmpl_macro *m = sl_tmpl_alloc(r, sizeof *m);
    if (!m) return SL_EINPUT;
    *m = (struct sl_tmpl_macro){n, s};
    *out = (tv){.type = TV_MACRO, .u.macro = m};
    return 0;
}

static int exec_call_block(run *r, node *n, scope *s)
{
    tv caller, v;
    if (make_macro(r, n->b, s, &caller) || eval_call(r, n->a, s, &caller, &v)) return SL_EINPUT;
    return sl_tv_put_str(r, &v);
}

static int exec_with(run *r, node *n, scope *s)
{
    scope *in = scope_new(r, s);
    if (!in) return SL_EINPUT;
    for (node *set = n->a; set; set = set->next) {
        tv v;
        if (eval(r, set->b, s, &v) || assign(r, in, set->a, &v)) return SL_EINPUT;
    }
    return exec(r, n->b, in);
}

static int exec_one(run *r, node *n, scope *s)
{
    tv v;
    scope *in;
    switch (n->kind) {
    case NK_DATA:
        return sl_tmpl_put(r, n->val.u.s, n->val.n);
    case NK_PRINT:
        return eval(r, n->a, s, &v) ? SL_EINPUT : sl_tv_put_str(r, &v);
    case NK_FOR:
        return exec_for(r, n, s);
    case NK_IF:
        return exec_if(r, n, s);
    case NK_SET:
        return eval(r, n->b, s, &v) ? SL_EINPUT : assign(r, s, n->a, &v);
    case NK_SET_BLOCK:
        return exec_set_block(r, n, s);
    case NK_MACRO:
        return make_macro(r, n, s, &v) ? SL_EINPUT : set_name(r, s, n->sym, &v);
    case NK_CALL_BLOCK:
        return exec_call_block(r, n, s);
    case NK_FILTER_BLOCK:
        return exec_filter_block(r, n, s);
    case NK_WITH:
        return exec_with(r, n, s);
    case NK_SCOPE:
        in = scope_new(r, s);
        return in ? exec(r, n->b, in) : SL_EINPUT;
    case NK_BREAK:
        return JUMP_BREAK;
    case NK_CONTINUE:
        return JUMP_CONTINUE;
    }
    return sl_tmpl_fail(r, "this cannot be executed");
}

/* Statements chained by next; stops at a jump or an error. */
static int exec(run *r, node *n, scope *s)
{
    for (; n; n = n->next) {
        if (enter(r, n)) return SL_EINPUT;
        int rc = exec_one(r, n, s);
        r->frames--;
        if (rc) return rc;
    }
    return 0;
}

int sl_tmpl_exec(run *r)
{
    scope *s = scope_new(r, NULL);
    return s ? exec(r, r->t->body, s) : SL_EINPUT;
}
