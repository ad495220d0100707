/* yaml.h - a YAML file as a tree that knows its lines. Private to topology/.
 *
 * libyaml's events become nodes in one arena. Only the part of YAML that a configuration needs is
 * taken: one document of mappings, lists and scalars. Aliases, anchors and tags are refused (a few
 * lines of aliases can stand for gigabytes), as are duplicate keys, and everything is bounded by
 * the limits below. */
#ifndef SL_TOPOLOGY_YAML_H
#define SL_TOPOLOGY_YAML_H

#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"

#define SL_YAML_DEPTH_MAX 8     /* mappings and lists inside each other */
#define SL_YAML_NODES_MAX 20000 /* in one file */
#define SL_YAML_KEYS_MAX 64     /* in one mapping; also bounds the search for duplicates */
#define SL_YAML_SCALAR_MAX 4096 /* bytes of a key or a value */

enum sl_yaml_kind { SL_YAML_SCALAR, SL_YAML_LIST, SL_YAML_MAP };

struct sl_yaml {
    enum sl_yaml_kind kind;
    int line;         /* 1-based: of the key for the values of a mapping, else of the value */
    int index;        /* place among the parent's children */
    int n;            /* children */
    int plain;        /* scalar without quotes: may mean null */
    const char *key;  /* in the parent, when that is a mapping; else NULL */
    const char *text; /* of a scalar, NUL-terminated, without control characters */
    struct sl_yaml *parent, *first, *last, *next; /* children in the order of the file */
};

/* Reads the one document in text[0..n). *root is NULL for a file without one. Everything lives in
 * `a`. SL_EINPUT, SL_ELIMIT or SL_ENOMEM with "file:line: ..." in err. */
int sl_yaml_parse(const char *file, const char *text, size_t n, struct sl_arena *a,
                  struct sl_yaml **root, struct sl_err *err);

/* The value of `key` in a mapping, NULL when absent. */
const struct sl_yaml *sl_yaml_get(const struct sl_yaml *map, const char *key);

/* A plain scalar that says nothing: "", ~ or null. */
int sl_yaml_is_null(const struct sl_yaml *v);

/* Sets err to "file:line: path: message", the path being like nodes[1].devices[0].memory. Returns
 * code. */
int sl_yaml_error(const char *file, const struct sl_yaml *at, int code, struct sl_err *err,
                  const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#define SL_YAML_EXCERPT 48 /* bytes of a value that a message shows */

/* The beginning of s for a message, cut between characters; returns out. */
const char *sl_yaml_excerpt(const char *s, char out[SL_YAML_EXCERPT + 4]);

#endif
