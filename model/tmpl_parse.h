/* tmpl_parse.h - private to model/: what the statement parser (tmpl_parse.c) and the expression
 * parser (tmpl_expr.c) share. Functions return NULL after writing the error. */
#ifndef SL_MODEL_TMPL_PARSE_H
#define SL_MODEL_TMPL_PARSE_H

#include "model/tmpl.h"

struct sl_tmpl_parser {
    struct sl_template *t;
    const struct sl_tmpl_token *tok; /* the current one; the array ends with TK_EOF */
    int depth;                       /* nesting of expressions and blocks */
    int in_loop;                     /* break and continue are allowed */
    uint8_t macro_uses;              /* MACRO_USES_... seen since the innermost macro began */
    size_t names_cap;
    uint32_t *buckets; /* hash of names: symbol + 1 */
    size_t n_buckets;
    struct sl_err *err;
};

struct sl_tmpl_node *sl_tmpl_syntax(struct sl_tmpl_parser *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* always NULL */
struct sl_tmpl_node *sl_tmpl_node_new(struct sl_tmpl_parser *p, int kind);
int sl_tmpl_symbol(struct sl_tmpl_parser *p, const struct sl_tv *name, uint32_t *sym);
int sl_tmpl_is_op(const struct sl_tmpl_parser *p, int op);
int sl_tmpl_is_name(const struct sl_tmpl_parser *p, const char *name);
int sl_tmpl_enter(struct sl_tmpl_parser *p); /* one level deeper: 0, or SL_EINPUT */
int sl_tmpl_expect_op(struct sl_tmpl_parser *p, int op, const char *what);

struct sl_tmpl_node *sl_tmpl_expr(struct sl_tmpl_parser *p, int with_cond);
/* An expression, or a tuple when commas follow. stop: a name that ends it ("in", "recursive"), or
 * NULL. */
struct sl_tmpl_node *sl_tmpl_tuple(struct sl_tmpl_parser *p, int with_cond, const char *stop,
                                   int parentheses);
struct sl_tmpl_node *sl_tmpl_primary(struct sl_tmpl_parser *p);
/* name(args)|name...; inline_first: the first filter has no bar before it. node may be NULL. */
struct sl_tmpl_node *sl_tmpl_filter(struct sl_tmpl_parser *p, struct sl_tmpl_node *node,
                                    int inline_first);

#endif
