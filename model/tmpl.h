/* tmpl.h - private to model/: what the parts of the Jinja interpreter share.
 *
 * tmpl_lex turns source into tokens, tmpl_parse tokens into nodes (in the template's arena),
 * tmpl_eval walks the nodes. Values are 16 bytes, immutable but for namespaces, and live in the
 * arena of one rendering (struct sl_tmpl_run), as do all strings that are not slices of the source
 * or of the caller's JSON. Text under construction is appended to run->out behind a mark and taken
 * from there, so there is one growing buffer and nothing to free on an error. Functions returning
 * int give 0 or SL_EINPUT, with the message written by sl_tmpl_fail. */
#ifndef SL_MODEL_TMPL_H
#define SL_MODEL_TMPL_H

#include <locale.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "model/template.h"

#define TMPL_COMPILE_BYTES_MAX (192u << 20) /* arena of one compiled template */
#define TMPL_RENDER_BYTES_MAX (256u << 20)  /* arena of one rendering */
#define TMPL_FRAMES_MAX 3000     /* nested evaluations; a frame is some 300 bytes of C stack */
#define TMPL_VALUE_DEPTH_MAX 200 /* nesting of one value: JSON in, repr, tojson, comparison */
#define TMPL_RANGE_MAX 100000    /* elements of a range(), as Jinja's sandbox has it */
#define TMPL_PARAMS_MAX 6        /* parameters of a builtin, without the value it works on */

/* ---- values ---------------------------------------------------------------------------------- */

enum sl_tv_type {
    TV_ABSENT, /* an argument that was not given; never a template's value */
    TV_UNDEF,
    TV_NONE,
    TV_BOOL,
    TV_INT,
    TV_FLOAT,
    TV_STR,
    TV_LIST,
    TV_TUPLE,
    TV_RANGE, /* as TV_LIST; start, stop and step kept for printing */
    TV_VIEW,  /* dict.keys() and the like: a list that cannot be indexed */
    TV_GEN,   /* a generator: true, no length, gone once iterated */
    TV_DICT,
    TV_NS,
    TV_MACRO,
    TV_LOOP,
    TV_METHOD,
    TV_FUNC
};

enum { TV_VIEW_KEYS = 1, TV_VIEW_VALUES, TV_VIEW_ITEMS }; /* flag of TV_VIEW */
enum { TV_TUPLE_GROUP = 1 };                              /* flag of TV_TUPLE: .grouper and .list */
enum { TV_STR_SAFE = 1 };                              /* flag of TV_STR: |escape leaves it alone */
enum { TV_UNDEF_NAME, TV_UNDEF_ATTR, TV_UNDEF_OTHER }; /* flag of TV_UNDEF: what the text in s is */

struct sl_tv {
    uint8_t type; /* enum sl_tv_type */
    uint8_t flag;
    uint8_t of; /* TV_UNDEF_ATTR: the type of the object */
    uint32_t n; /* TV_STR, TV_UNDEF: bytes of s */
    union {
        int64_t i; /* TV_INT, TV_BOOL */
        double f;
        const char *s; /* not NUL-terminated */
        struct sl_tv_list *list;
        struct sl_tv_dict *dict; /* TV_DICT, TV_NS */
        struct sl_tmpl_macro *macro;
        struct sl_tmpl_loop *loop;
        struct sl_tmpl_bound *bound;
        const struct sl_tmpl_builtin *func;
        void *p;
    } u;
};

struct sl_tv_list {
    struct sl_tv *v;
    size_t n, cap;
    int64_t start, stop, step; /* TV_RANGE */
};

struct sl_tv_pair {
    struct sl_tv k, v;
};

struct sl_tv_dict { /* in order of insertion */
    struct sl_tv_pair *p;
    size_t n, cap;
};

#define TV_TEXT(lit) ((struct sl_tv){.type = TV_STR, .n = sizeof(lit) - 1, .u.s = (lit)})
#define TV_MAKE_INT(x) ((struct sl_tv){.type = TV_INT, .u.i = (x)})
#define TV_MAKE_FLOAT(x) ((struct sl_tv){.type = TV_FLOAT, .u.f = (x)})
#define TV_MAKE_BOOL(x) ((struct sl_tv){.type = TV_BOOL, .u.i = (x) ? 1 : 0})
#define TV_MAKE_NONE ((struct sl_tv){.type = TV_NONE})
#define TV_MAKE_UNDEF                                                                              \
    ((struct sl_tv){.type = TV_UNDEF, .flag = TV_UNDEF_OTHER, .n = 5, .u.s = "value"})

/* ---- builtins -------------------------------------------------------------------------------- */

struct sl_tmpl_run;

struct sl_tmpl_kw {
    const char *name;
    uint32_t n;
    struct sl_tv v;
};

struct sl_tmpl_args {
    struct sl_tv *pos;
    size_t n;
    struct sl_tmpl_kw *kw;
    size_t n_kw;
};

/* A filter, test, method or global function. With `fn`, params name the arguments ("old,new|count":
 * those before the bar are required) and a[0] is the value, a[1..] the arguments in order,
 * TV_ABSENT when not given. With `raw` the arguments come as they were written. */
struct sl_tmpl_builtin {
    const char *name;
    const char *params;
    int (*fn)(struct sl_tmpl_run *r, struct sl_tv *a, struct sl_tv *out);
    int (*raw)(struct sl_tmpl_run *r, const struct sl_tv *self, const struct sl_tmpl_args *args,
               struct sl_tv *out);
};

struct sl_tmpl_bound {
    struct sl_tv self;
    const struct sl_tmpl_builtin *method;
};

const struct sl_tmpl_builtin *sl_tmpl_filter_find(const char *name, size_t n);
const struct sl_tmpl_builtin *sl_tmpl_test_find(const char *name, size_t n);
const struct sl_tmpl_builtin *sl_tmpl_global_find(const char *name, size_t n);
/* *blocked is set when the type has such a method but it would change the value. */
const struct sl_tmpl_builtin *sl_tmpl_method_find(const struct sl_tv *self, const char *name,
                                                  size_t n, int *blocked);
/* Row of table[0..count) called name[0..n), or NULL. */
const struct sl_tmpl_builtin *sl_tmpl_builtin_in(const struct sl_tmpl_builtin *table, size_t count,
                                                 const char *name, size_t n);
int sl_tmpl_builtin_call(struct sl_tmpl_run *r, const struct sl_tmpl_builtin *b,
                         const struct sl_tv *self, const struct sl_tmpl_args *args,
                         struct sl_tv *out);

/* ---- tokens and nodes ------------------------------------------------------------------------ */

enum sl_tmpl_token_type {
    TK_EOF,
    TK_DATA,
    TK_PRINT_BEGIN,
    TK_PRINT_END,
    TK_BLOCK_BEGIN,
    TK_BLOCK_END,
    TK_NAME,
    TK_STR,
    TK_INT,
    TK_FLOAT,
    TK_OP
};

enum sl_tmpl_op {
    OP_NONE,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_TILDE,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOTIN,
    OP_ASSIGN,
    OP_DOT,
    OP_COMMA,
    OP_COLON,
    OP_PIPE,
    OP_LPAREN,
    OP_RPAREN,
    OP_LBRACKET,
    OP_RBRACKET,
    OP_LBRACE,
    OP_RBRACE
};

struct sl_tmpl_token {
    uint8_t type, op;
    uint32_t line;
    struct sl_tv val; /* TK_DATA, TK_NAME, TK_STR: the text; TK_INT, TK_FLOAT: the number */
};

/* Splits the source; *tokens ends with TK_EOF. Arena memory. */
int sl_tmpl_lex(struct sl_arena *a, const char *source, size_t n, struct sl_tmpl_token **tokens,
                struct sl_err *err);

enum sl_tmpl_kind {
    /* expressions */
    NK_CONST, /* val */
    NK_NAME,  /* sym */
    NK_LIST,  /* a: items chained by next */
    NK_TUPLE,
    NK_DICT, /* a: key, value, key, value ... */
    NK_COND, /* a if b else c */
    NK_AND,
    NK_OR,
    NK_NOT,
    NK_COMPARE, /* a, then b: NK_OPERAND chain (op, a) */
    NK_OPERAND,
    NK_BINARY, /* op, a, b */
    NK_CONCAT, /* a: chain */
    NK_NEG,
    NK_POS,
    NK_ATTR,   /* a.val */
    NK_ITEM,   /* a[b] */
    NK_SLICE,  /* a[b:c:d] */
    NK_CALL,   /* a(b): b a chain of NK_ARG... */
    NK_FILTER, /* a|val(b); a NULL: the text of the block */
    NK_TEST,   /* a is val(b) */
    NK_ARG,
    NK_KWARG, /* val = a */
    NK_STAR,
    NK_STARSTAR,
    /* statements */
    NK_DATA,
    NK_PRINT,
    NK_FOR, /* for a in b if c: d else e; flag: recursive */
    NK_IF,  /* a: NK_BRANCH chain (a condition or NULL, b body) */
    NK_BRANCH,
    NK_SET,       /* a target, b value */
    NK_SET_BLOCK, /* a target, b filters or NULL, c body */
    NK_MACRO,     /* sym and val: name; a NK_PARAM chain (sym, val, a default); b body; flag:
                     MACRO_USES_... */
    NK_PARAM,
    NK_CALL_BLOCK,   /* a call; b an NK_MACRO without a name */
    NK_FILTER_BLOCK, /* a filters, b body */
    NK_WITH,         /* a NK_SET chain, b body */
    NK_SCOPE,        /* b body in a scope of its own */
    NK_BREAK,
    NK_CONTINUE
};

enum { MACRO_USES_CALLER = 1, MACRO_USES_VARARGS = 2, MACRO_USES_KWARGS = 4 };

struct sl_tmpl_node {
    uint8_t kind, op, flag;
    uint32_t line;
    uint32_t sym;
    struct sl_tmpl_node *next, *a, *b, *c, *d, *e;
    struct sl_tv val;
    const struct sl_tmpl_builtin *fn; /* NK_FILTER, NK_TEST: NULL when there is none of that name */
};

/* A compiled template: immutable, shared by threads. */
struct sl_template {
    struct sl_arena mem;
    const char *source; /* [n_source] in mem */
    size_t n_source;
    struct sl_tmpl_node *body;
    struct sl_tv *names; /* text of each symbol */
    uint32_t n_names, sym_loop, sym_caller, sym_varargs, sym_kwargs;
};

int sl_tmpl_parse(struct sl_template *t, const char *source, size_t n, struct sl_err *err);

/* ---- one rendering --------------------------------------------------------------------------- */

struct sl_tmpl_binding {
    struct sl_tmpl_binding *next;
    struct sl_tv v;
    uint32_t sym;
};

struct sl_tmpl_scope {
    struct sl_tmpl_scope *parent;
    struct sl_tmpl_binding *first;
};

struct sl_tmpl_macro {
    const struct sl_tmpl_node *node;
    struct sl_tmpl_scope *scope; /* where it was defined */
};

struct sl_tmpl_loop {
    struct sl_tv *items;
    size_t n, i;
    int64_t depth;
    const struct sl_tmpl_node *node;
    struct sl_tmpl_scope *scope; /* around the loop */
    struct sl_tv changed;        /* what loop.changed() saw last; TV_ABSENT at first */
};

struct sl_tmpl_run {
    const struct sl_template *t;
    const struct json_t *vars;
    struct sl_tv *globals; /* by symbol; TV_ABSENT until looked up */
    struct sl_arena mem;
    struct sl_buf out;
    char *tail; /* end of the newest concatenation, which may grow in place */
    size_t tail_room;
    uint32_t steps, line;
    int frames, calls;
    struct sl_err *err;
};

/* Writes "chat template, line N: ..." and returns SL_EINPUT. */
int sl_tmpl_fail(struct sl_tmpl_run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int sl_tmpl_fail_undef(struct sl_tmpl_run *r, const struct sl_tv *v); /* says what is undefined */
int sl_tmpl_charge(struct sl_tmpl_run *r, size_t steps); /* counts work; fails at the maximum */
void *sl_tmpl_alloc(struct sl_tmpl_run *r, size_t n);    /* NULL after writing the error */

/* Text under construction: append behind mark = r->out.len, then take. */
int sl_tmpl_put(struct sl_tmpl_run *r, const char *s, size_t n);
int sl_tmpl_putf(struct sl_tmpl_run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int sl_tmpl_put_cp(struct sl_tmpl_run *r, uint32_t cp);
int sl_tmpl_take(struct sl_tmpl_run *r, size_t mark, struct sl_tv *out);

/* tmpl_value.c */
const char *sl_tv_type_name(const struct sl_tv *v); /* Python's name of the type */
int sl_tv_truth(const struct sl_tv *v);
int sl_tv_is_list(const struct sl_tv *v);   /* any of the types that use u.list */
int sl_tv_is_number(const struct sl_tv *v); /* int, bool, float */
double sl_tv_number(const struct sl_tv *v);
int sl_tv_list_new(struct sl_tmpl_run *r, int type, size_t cap, struct sl_tv *out);
int sl_tv_list_add(struct sl_tmpl_run *r, struct sl_tv *list, const struct sl_tv *v);
int sl_tv_dict_new(struct sl_tmpl_run *r, int type, size_t cap, struct sl_tv *out);
int sl_tv_dict_set(struct sl_tmpl_run *r, struct sl_tv *d, const struct sl_tv *k,
                   const struct sl_tv *v);
/* NULL when absent. Keys compare as in Python: 1, 1.0 and True are one key. */
/* Steps that looking k up costs: long keys are compared byte by byte. */
size_t sl_tv_dict_cost(const struct sl_tv *d, const struct sl_tv *k);
struct sl_tv *sl_tv_dict_get(const struct sl_tv *d, const struct sl_tv *k);
struct sl_tv *sl_tv_dict_text(const struct sl_tv *d, const char *s, size_t n);
/* The elements of anything iterable as a list that is the caller's to change; a generator is used
 * up. */
int sl_tv_iterate(struct sl_tmpl_run *r, struct sl_tv *v, struct sl_tv *list);
int sl_tv_length(struct sl_tmpl_run *r, const struct sl_tv *v, int64_t *n);
int sl_tv_put_str(struct sl_tmpl_run *r, const struct sl_tv *v); /* appends Python's str(v) */
int sl_tv_put_repr(struct sl_tmpl_run *r, const struct sl_tv *v, int depth);
int sl_tv_to_str(struct sl_tmpl_run *r, const struct sl_tv *v, struct sl_tv *out);
void sl_tv_float_repr(double f,
                      char out[40]); /* shortest text that reads back as f, Python's layout */

/* tmpl_ops.c */
int sl_tv_equal(struct sl_tmpl_run *r, const struct sl_tv *a, const struct sl_tv *b, int depth,
                int *eq);
int sl_tv_order(struct sl_tmpl_run *r, int op, const struct sl_tv *a, const struct sl_tv *b,
                int depth, int *yes); /* OP_LT .. OP_GE */
int sl_tv_contains(struct sl_tmpl_run *r, struct sl_tv *box, const struct sl_tv *v, int *yes);
int sl_tv_compare(struct sl_tmpl_run *r, int op, const struct sl_tv *a, struct sl_tv *b, int *yes);
int sl_tv_binary(struct sl_tmpl_run *r, int op, struct sl_tv *a, struct sl_tv *b,
                 struct sl_tv *out);
int sl_tv_concat(struct sl_tmpl_run *r, const struct sl_tv *a, const struct sl_tv *b,
                 struct sl_tv *out);
int sl_tv_attr(struct sl_tmpl_run *r, const struct sl_tv *v, const char *name, size_t n,
               struct sl_tv *out); /* v.name */
int sl_tv_item(struct sl_tmpl_run *r, const struct sl_tv *v, const struct sl_tv *key,
               struct sl_tv *out); /* v[key] */
int sl_tv_slice(struct sl_tmpl_run *r, const struct sl_tv *v, const struct sl_tv *start,
                const struct sl_tv *stop, const struct sl_tv *step, struct sl_tv *out);

/* tmpl_str.c: text as Python sees it, in code points */
enum sl_tmpl_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITAL, CASE_SWAP };
locale_t sl_tmpl_locale(void); /* C.UTF-8, for case, number and date functions */
size_t sl_tmpl_text_len(const char *s, size_t n);
size_t sl_tmpl_text_at(const char *s, size_t n,
                       size_t i); /* byte offset of code point i, n beyond the end */
int sl_tmpl_is_space(uint32_t cp);
int sl_tmpl_case(struct sl_tmpl_run *r, const struct sl_tv *s, enum sl_tmpl_case how,
                 struct sl_tv *out);
/* strip: sides 1 left, 2 right, 3 both; chars NULL for white space */
struct sl_tv sl_tmpl_strip(const struct sl_tv *s, const struct sl_tv *chars, int sides);
int sl_tmpl_replace(struct sl_tmpl_run *r, const struct sl_tv *s, const struct sl_tv *from,
                    const struct sl_tv *to, int64_t count, struct sl_tv *out);
const char *sl_tmpl_search(const char *s, size_t n, const char *what, size_t m); /* NULL or where */
int sl_tmpl_put_text_repr(struct sl_tmpl_run *r, const char *s, size_t n);
int sl_tmpl_to_float(const char *s, size_t n,
                     double *f); /* Python's float(text); nonzero: not a number */
int sl_tmpl_to_int(const char *s, size_t n, int base,
                   int64_t *i); /* 1: not a number, 2: too large */

/* tmpl_format.c */
int sl_tmpl_percent(struct sl_tmpl_run *r, const struct sl_tv *fmt, const struct sl_tv *arg,
                    struct sl_tv *out); /* fmt % arg */
int sl_tmpl_format(struct sl_tmpl_run *r, const struct sl_tv *fmt, const struct sl_tmpl_args *args,
                   struct sl_tv *out); /* fmt.format(...) */
int sl_tmpl_strftime(struct sl_tmpl_run *r, const struct sl_tv *fmt, struct sl_tv *out);

/* tmpl_json.c */
int sl_tv_from_json(struct sl_tmpl_run *r, const struct json_t *j, int depth, struct sl_tv *out);
int sl_tv_put_json(struct sl_tmpl_run *r, struct sl_tv *a,
                   struct sl_tv *out); /* the filter tojson */

/* tmpl_eval.c */
int sl_tmpl_call(struct sl_tmpl_run *r, const struct sl_tv *f, const struct sl_tmpl_args *args,
                 struct sl_tv *out);
int sl_tmpl_exec(struct sl_tmpl_run *r);

#endif
