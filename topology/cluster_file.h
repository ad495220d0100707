/* cluster_file.h - a topology file while it becomes a struct sl_cluster. Private to topology/.
 *
 * cluster_schema.c knows which keys there are and fills the struct, cluster_value.c reads single
 * values, cluster_check.c decides what they mean together. */
#ifndef SL_TOPOLOGY_CLUSTER_FILE_H
#define SL_TOPOLOGY_CLUSTER_FILE_H

#include "topology/cluster.h"
#include "topology/yaml.h"

struct sl_cluster_file {
    const char *name; /* of the file, for messages */
    struct sl_cluster *c;
    const struct sl_yaml *root;
    /* where entry i of nodes, devices, links and adapters stands */
    const struct sl_yaml **nodes, **devices, **links, **adapters;
    struct sl_err *err;
};

/* One key of a mapping. */
struct sl_field {
    const char *key;
    /* Reads v into *at, which is `offset` bytes into the mapping's struct. */
    int (*read)(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                void *at);
    size_t offset;
    long min, max;                 /* of whole numbers */
    const char *const *words;      /* a NULL-terminated list of what may stand here */
    const struct sl_field *fields; /* of a mapping inside: ends with a NULL key */
    const char *remedy;            /* of a key that is not supported */
    int required, may_be_null;
};

/* cluster_value.c: the read functions of single values; the type of *at in the comment. All return
 * 0, SL_EINPUT or SL_EUNSUPPORTED with the place in f->err. */
int sl_value_text(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                  void *at); /* const char * */
int sl_value_word(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                  void *at); /* const char *, one of field->words */
int sl_value_int(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                 void *at); /* int */
int sl_value_percent(struct sl_cluster_file *f, const struct sl_yaml *v,
                     const struct sl_field *field, void *at);
int sl_value_bytes(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                   void *at); /* uint64_t */
int sl_value_bandwidth(struct sl_cluster_file *f, const struct sl_yaml *v,
                       const struct sl_field *field, void *at); /* double, bytes per second */
int sl_value_latency(struct sl_cluster_file *f, const struct sl_yaml *v,
                     const struct sl_field *field, void *at); /* uint64_t, ns */
int sl_value_layers(struct sl_cluster_file *f, const struct sl_yaml *v,
                    const struct sl_field *field, void *at); /* int[2], made half open */
int sl_value_cpus(struct sl_cluster_file *f, const struct sl_yaml *v, const struct sl_field *field,
                  void *at); /* const int *, in f's arena; ends with -1; NULL for all */
int sl_value_unsupported(struct sl_cluster_file *f, const struct sl_yaml *v,
                         const struct sl_field *field, void *at);

/* "a mapping", "a list", "one value" for messages. */
const char *sl_yaml_kind_name(enum sl_yaml_kind kind);

/* Fills f->c from f->root. */
int sl_cluster_fill(struct sl_cluster_file *f);

/* Defaults, names, addresses, paths; everything that concerns more than one value. */
int sl_cluster_check(struct sl_cluster_file *f);

#define SL_FAIL(f, at, ...) sl_yaml_error((f)->name, at, SL_EINPUT, (f)->err, __VA_ARGS__)

#endif
