/* cluster_schema.c - the keys of the topology file: one table for each mapping, and the walk that
 * fills struct sl_cluster from it. docs/topology.md describes the same keys for people. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "topology/cluster_file.h"

#define FILE_MAX_BYTES (1 << 20) /* of a topology file */
#define ARENA_MAX (16 << 20)     /* bytes for the tree and the cluster of one */
#define SEQUENCES_MAX 1024       /* at one time: slots of a stage */
#define QUEUE_MAX 65536          /* requests that wait */
#define CONTEXT_MAX (1 << 30)    /* tokens */
#define MICRO_BATCHES_MAX 128    /* in flight */
#define CHUNK_MAX 4096           /* tokens: rows of a micro-batch on a card */
#define LINKS_MAX 1024
#define GPUS_MAX 64 /* cards of one node */

static int read_map(struct sl_cluster_file *f, const struct sl_yaml *v,
                    const struct sl_field *fields, void *base);

/* ---- the tables ------------------------------------------------------------------------------ */

static const char *const kv_formats[] = {"auto", "f32", "f16", "bf16", "fp8", NULL};
static const char *const backends[] = {"cpu", "ref", "portable", "avx2", "avx512", "amx", NULL};
static const char *const transports[] = {"auto", "ucx-shm", "ucx-tcp", NULL};
static const char *const activations[] = {"auto", "f32", "bf16", "fp8", NULL};
static const char *const launches[] = {[SL_LAUNCH_LOCAL] = "local",
                                       [SL_LAUNCH_THREAD] = "thread",
                                       [SL_LAUNCH_SSH] = "ssh",
                                       [SL_LAUNCH_EXTERNAL] = "external",
                                       NULL};

static int read_objective(struct sl_cluster_file *f, const struct sl_yaml *v,
                          const struct sl_field *field, void *at)
{
    (void)field;
    (void)at;
    if (v->kind == SL_YAML_SCALAR && strcmp(v->text, "throughput") == 0) return 0;
    return sl_yaml_error(
        f->name, v, SL_EUNSUPPORTED, f->err,
        "the plan is made for throughput only so far; write objective: throughput");
}

static int read_launch(struct sl_cluster_file *f, const struct sl_yaml *v,
                       const struct sl_field *field, void *at)
{
    const char *word;
    if (sl_value_word(f, v, field, &word)) return SL_EINPUT;
    for (int i = 0; launches[i]; i++)
        if (word == launches[i]) *(enum sl_launch *)at = (enum sl_launch)i;
    return 0;
}

/* A mapping whose keys belong to the same struct as its own key. */
static int read_part(struct sl_cluster_file *f, const struct sl_yaml *v,
                     const struct sl_field *field, void *at)
{
    return read_map(f, v, field->fields, at);
}

static int read_devices(struct sl_cluster_file *f, const struct sl_yaml *v,
                        const struct sl_field *field, void *at);
static int read_nodes(struct sl_cluster_file *f, const struct sl_yaml *v,
                      const struct sl_field *field, void *at);
static int read_links(struct sl_cluster_file *f, const struct sl_yaml *v,
                      const struct sl_field *field, void *at);
static int read_between(struct sl_cluster_file *f, const struct sl_yaml *v,
                        const struct sl_field *field, void *at);
static int read_adapters(struct sl_cluster_file *f, const struct sl_yaml *v,
                         const struct sl_field *field, void *at);

#define AT(type, member) .offset = offsetof(struct type, member)

static const struct sl_field device_fields[] = {
    {"cpu", sl_value_cpus, AT(sl_device, cpus), .may_be_null = 1},
    {"gpu", sl_value_int, AT(sl_device, gpu), .min = 0, .max = GPUS_MAX - 1},
    {"sm", sl_value_percent, AT(sl_device, sm_percent)},
    {"kind", sl_value_unsupported,
     .remedy = "there is no device catalogue yet; leave `kind` out, the device is measured"},
    {"backend", sl_value_word, AT(sl_device, backend), .words = backends},
    {"memory", sl_value_bytes, AT(sl_device, memory_bytes), .min = 1},
    {"reserve", sl_value_bytes, AT(sl_device, reserve_bytes)},
    {"bandwidth", sl_value_bandwidth, AT(sl_device, bandwidth)},
    {"layers", sl_value_layers, AT(sl_device, layer_from)},
    {0},
};
_Static_assert(offsetof(struct sl_device, layer_to) ==
                   offsetof(struct sl_device, layer_from) + sizeof(int),
               "sl_value_layers fills both");

static const struct sl_field node_fields[] = {
    {"name", sl_value_text, AT(sl_node, name), .required = 1},
    {"host", sl_value_text, AT(sl_node, host)},
    {"launch", read_launch, AT(sl_node, launch), .words = launches},
    {"ssh", sl_value_text, AT(sl_node, ssh)},
    {"ssh_port", sl_value_int, AT(sl_node, ssh_port), .min = 1, .max = 65535},
    {"ssh_options", sl_value_text, AT(sl_node, ssh_options)},
    {"program", sl_value_text, AT(sl_node, program)},
    {"model", sl_value_text, AT(sl_node, model_path)},
    {"devices", read_devices, .required = 1},
    {0},
};

static const struct sl_field link_fields[] = {
    {"between", read_between, AT(sl_link_spec, node_a), .required = 1},
    {"bandwidth", sl_value_bandwidth, AT(sl_link_spec, bandwidth)},
    {"latency", sl_value_latency, AT(sl_link_spec, latency_ns)},
    {"transport", sl_value_word, AT(sl_link_spec, transport), .words = transports},
    {"activations", sl_value_word, AT(sl_link_spec, activations), .words = activations},
    {0},
};

static const struct sl_field adapter_fields[] = {
    {"name", sl_value_text, AT(sl_adapter_spec, name), .required = 1},
    {"path", sl_value_text, AT(sl_adapter_spec, path), .required = 1},
    {0},
};

static const struct sl_field model_fields[] = {
    {"path", sl_value_text, AT(sl_cluster, model_path), .required = 1},
    {"context", sl_value_int, AT(sl_cluster, context), .min = 1, .max = CONTEXT_MAX},
    {"sequences", sl_value_int, AT(sl_cluster, sequences), .min = 1, .max = SEQUENCES_MAX},
    {.key = "adapters", .read = read_adapters},
    {"chat_template", sl_value_text, AT(sl_cluster, chat_template)},
    {"tool_parser", sl_value_text, AT(sl_cluster, tool_parser)},
    {"reasoning_parser", sl_value_text, AT(sl_cluster, reasoning_parser)},
    {"kv_format", sl_value_word, AT(sl_cluster, kv_format), .words = kv_formats},
    {"config", sl_value_unsupported,
     .remedy = "a plan without weights is not made yet; give `path:` with a .gguf file"},
    {"format", sl_value_unsupported,
     .remedy = "weights run in the format of their file; leave `format` out and give `path:`"},
    {0},
};

static const struct sl_field schedule_fields[] = {
    {"micro_batches", sl_value_int, AT(sl_cluster, micro_batches), .min = 1,
     .max = MICRO_BATCHES_MAX},
    {"chunk", sl_value_int, AT(sl_cluster, chunk), .min = 1, .max = CHUNK_MAX},
    {0},
};

static const struct sl_field serve_fields[] = {
    {"http", sl_value_text, AT(sl_cluster, http)},
    {"socket", sl_value_text, AT(sl_cluster, socket)},
    {"api_keys", sl_value_text, AT(sl_cluster, api_keys)},
    {"queue", sl_value_int, AT(sl_cluster, queue), .min = 1, .max = QUEUE_MAX},
    {0},
};

static const struct sl_field cluster_fields[] = {
    {"cluster", sl_value_text, AT(sl_cluster, name)},
    {"model", read_part, .fields = model_fields, .required = 1},
    {"models", sl_value_unsupported,
     .remedy = "one cluster serves one model so far; give it as `model:`", .may_be_null = 1},
    {.key = "objective", .read = read_objective},
    {"schedule", read_part, .fields = schedule_fields},
    {"nodes", read_nodes, .required = 1},
    {.key = "links", .read = read_links},
    {"serve", read_part, .fields = serve_fields},
    {"control", sl_value_text, AT(sl_cluster, control)},
    {"join_key", sl_value_text, AT(sl_cluster, join_key)},
    {0},
};

/* ---- the walk: as deep as the tables, never as deep as the file ------------------------------ */

static int unknown_key(struct sl_cluster_file *f, const struct sl_yaml *v,
                       const struct sl_field *fields)
{
    const char *names[SL_YAML_KEYS_MAX] = {0};
    struct sl_buf all;
    size_t n = 0;
    for (; fields[n].key; n++) names[n] = fields[n].key;
    const char *near = sl_nearest(v->key, names, n);
    if (near) return SL_FAIL(f, v, "unknown key; did you mean %s?", near);
    sl_buf_init(&all, SL_ERR_MSG_MAX);
    for (size_t i = 0; i < n; i++) sl_buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    int r = SL_FAIL(f, v, "unknown key; known here: %s", sl_buf_str(&all));
    sl_buf_close(&all);
    return r;
}

static const struct sl_field *find_field(const struct sl_field *fields, const char *key)
{
    for (; fields->key; fields++)
        if (strcmp(fields->key, key) == 0) return fields;
    return NULL;
}

static int read_map(struct sl_cluster_file *f, const struct sl_yaml *v,
                    const struct sl_field *fields, void *base)
{
    if (v->kind != SL_YAML_MAP)
        return SL_FAIL(f, v, "is %s; write `key: value` lines", sl_yaml_kind_name(v->kind));
    for (const struct sl_yaml *i = v->first; i; i = i->next) {
        const struct sl_field *field = find_field(fields, i->key);
        if (!field) return unknown_key(f, i, fields);
        if (sl_yaml_is_null(i) && !field->may_be_null)
            return SL_FAIL(f, i, "has no value; give one or leave the key out");
        int r = field->read(f, i, field, (char *)base + field->offset);
        if (r) return r;
    }
    for (const struct sl_field *field = fields; field->key; field++)
        if (field->required && !sl_yaml_get(v, field->key))
            return SL_FAIL(f, v, "the key `%s` is missing", field->key);
    return 0;
}

/* ---- lists of mappings ----------------------------------------------------------------------- */

static int want_list(struct sl_cluster_file *f, const struct sl_yaml *v, const char *of)
{
    if (v->kind != SL_YAML_LIST)
        return SL_FAIL(f, v, "is %s; write a list, each %s after a dash",
                       sl_yaml_kind_name(v->kind), of);
    if (!v->n) return SL_FAIL(f, v, "is an empty list; give at least one %s", of);
    return 0;
}

static int too_many(struct sl_cluster_file *f, const struct sl_yaml *v, int max, const char *what)
{
    return sl_yaml_error(f->name, v, SL_ELIMIT, f->err, "more than %d %s", max, what);
}

static int no_memory(struct sl_cluster_file *f)
{
    return sl_err_set(f->err, SL_ENOMEM, "%s: no memory", f->name);
}

/* The card's name for kernels, with what it is held to. */
static const char *card_name(struct sl_arena *a, const struct sl_device *d)
{
    char name[96];
    int n = snprintf(name, sizeof name, "cuda:%d", d->gpu);
    if (d->sm_percent) n += snprintf(name + n, sizeof name - (size_t)n, ",sm=%d", d->sm_percent);
    if (d->bandwidth > 0)
        snprintf(name + n, sizeof name - (size_t)n, ",bandwidth=%.6g", d->bandwidth);
    return sl_arena_strdup(a, name);
}

static int read_device(struct sl_cluster_file *f, const struct sl_yaml *v)
{
    struct sl_cluster *c = f->c;
    if (c->n_devices == SL_DEVICES_MAX)
        return too_many(f, v, SL_DEVICES_MAX, "devices in one pipeline");
    struct sl_device *d = &c->devices[c->n_devices];
    *d = (struct sl_device){
        .node = c->n_nodes, .gpu = -1, .backend = "cpu", .layer_from = -1, .layer_to = -1};
    int r = read_map(f, v, device_fields, d);
    if (r) return r;
    if (d->gpu >= 0) {
        if (sl_yaml_get(v, "cpu") || sl_yaml_get(v, "backend"))
            return SL_FAIL(f, v,
                           "a device is a card or CPUs; with `gpu` leave `cpu` and `backend` out");
        d->backend = card_name(&c->arena, d);
        if (!d->backend) return no_memory(f);
    } else if (d->sm_percent) {
        return SL_FAIL(f, sl_yaml_get(v, "sm"),
                       "is a share of a card's multiprocessors; leave it out for CPUs");
    } else if (!sl_yaml_get(v, "cpu")) {
        return SL_FAIL(f, v,
                       "the key `cpu` or `gpu` is missing; write gpu: 0, cpu: 0-3 or cpu: all");
    }
    while (d->cpus && d->cpus[d->n_cpus] >= 0) d->n_cpus++;
    f->devices[c->n_devices++] = v;
    return 0;
}

static int read_devices(struct sl_cluster_file *f, const struct sl_yaml *v,
                        const struct sl_field *field, void *at)
{
    (void)field;
    (void)at;
    int r = want_list(f, v, "device");
    for (const struct sl_yaml *i = v->first; r == 0 && i; i = i->next) r = read_device(f, i);
    return r;
}

static int read_nodes(struct sl_cluster_file *f, const struct sl_yaml *v,
                      const struct sl_field *field, void *at)
{
    struct sl_cluster *c = f->c;
    (void)field;
    (void)at;
    int r = want_list(f, v, "node");
    if (r) return r;
    if (v->n > SL_NODES_MAX) return too_many(f, v, SL_NODES_MAX, "nodes");
    struct sl_arena *a = &c->arena;
    c->nodes = sl_arena_alloc(a, (size_t)v->n * sizeof *c->nodes);
    c->devices = sl_arena_alloc(a, SL_DEVICES_MAX * sizeof *c->devices);
    f->nodes = sl_arena_alloc(a, (size_t)v->n * sizeof *f->nodes);
    f->devices = sl_arena_alloc(a, SL_DEVICES_MAX * sizeof *f->devices);
    if (!c->nodes || !c->devices || !f->nodes || !f->devices) return no_memory(f);
    for (const struct sl_yaml *i = v->first; r == 0 && i; i = i->next) {
        r = read_map(f, i, node_fields, &c->nodes[c->n_nodes]);
        f->nodes[c->n_nodes++] = i;
    }
    return r;
}

static int read_links(struct sl_cluster_file *f, const struct sl_yaml *v,
                      const struct sl_field *field, void *at)
{
    struct sl_cluster *c = f->c;
    (void)field;
    (void)at;
    if (v->kind == SL_YAML_LIST && !v->n) return 0;
    int r = want_list(f, v, "link");
    if (r) return r;
    if (v->n > LINKS_MAX) return too_many(f, v, LINKS_MAX, "links");
    c->links = sl_arena_alloc(&c->arena, (size_t)v->n * sizeof *c->links);
    f->links = sl_arena_alloc(&c->arena, (size_t)v->n * sizeof *f->links);
    if (!c->links || !f->links) return no_memory(f);
    for (const struct sl_yaml *i = v->first; r == 0 && i; i = i->next) {
        struct sl_link_spec *l = &c->links[c->n_links];
        *l = (struct sl_link_spec){
            .node_a = -1, .node_b = -1, .transport = "auto", .activations = "auto"};
        r = read_map(f, i, link_fields, l);
        f->links[c->n_links++] = i;
    }
    return r;
}

static int read_adapters(struct sl_cluster_file *f, const struct sl_yaml *v,
                         const struct sl_field *field, void *at)
{
    struct sl_cluster *c = f->c;
    (void)field;
    (void)at;
    if (v->kind == SL_YAML_LIST && !v->n) return 0;
    int r = want_list(f, v, "adapter");
    if (r) return r;
    if (v->n > SL_CLUSTER_ADAPTERS_MAX) return too_many(f, v, SL_CLUSTER_ADAPTERS_MAX, "adapters");
    c->adapters = sl_arena_alloc(&c->arena, (size_t)v->n * sizeof *c->adapters);
    f->adapters = sl_arena_alloc(&c->arena, (size_t)v->n * sizeof *f->adapters);
    if (!c->adapters || !f->adapters) return no_memory(f);
    for (const struct sl_yaml *i = v->first; r == 0 && i; i = i->next) {
        r = read_map(f, i, adapter_fields, &c->adapters[c->n_adapters]);
        f->adapters[c->n_adapters++] = i;
    }
    return r;
}

/* Only the form: which nodes there are is known when the whole file is read. */
static int read_between(struct sl_cluster_file *f, const struct sl_yaml *v,
                        const struct sl_field *field, void *at)
{
    (void)field;
    (void)at;
    if (v->kind != SL_YAML_LIST || v->n != 2 || v->first->kind != SL_YAML_SCALAR ||
        v->last->kind != SL_YAML_SCALAR)
        return SL_FAIL(f, v, "is not the names of two nodes; write between: [alpha, beta]");
    return 0;
}

int sl_cluster_fill(struct sl_cluster_file *f)
{
    f->c->name = "cluster";
    f->c->kv_format = "auto";
    f->c->sequences = 16;
    f->c->queue = 64;
    return read_map(f, f->root, cluster_fields, f->c);
}

/* ---- the doors ------------------------------------------------------------------------------- */

int sl_cluster_parse(const char *name, const char *text, size_t n, struct sl_cluster *out,
                     struct sl_err *err)
{
    struct sl_yaml *root;
    memset(out, 0, sizeof *out);
    if (n > FILE_MAX_BYTES)
        return sl_err_set(err, SL_ELIMIT, "%s: larger than 1 MiB; this is no topology file", name);
    sl_arena_init(&out->arena, ARENA_MAX);
    out->file = sl_arena_strdup(&out->arena, name);
    struct sl_cluster_file f = {.name = name, .c = out, .err = err};
    int r = out->file ? sl_yaml_parse(name, text, n, &out->arena, &root, err) : no_memory(&f);
    if (r == 0 && !root)
        r = sl_err_set(err, SL_EINPUT, "%s:1: the file is empty; deploy/clusters has examples",
                       name);
    if (r == 0) {
        f.root = root;
        r = sl_cluster_fill(&f);
    }
    if (r == 0) r = sl_cluster_check(&f);
    if (r) sl_cluster_close(out);
    return r;
}

static int read_file(const char *path, struct sl_buf *text, struct sl_err *err)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) /* a FIFO would be waited for */
        return sl_err_set(err, SL_EINPUT, "%s: not a regular file; give a topology file", path);
    FILE *f = fopen(path, "rb");
    if (!f)
        return sl_err_set(err, SL_EINPUT, "%s: %s; give the path of a topology file", path,
                          strerror(errno));
    int r = sl_buf_read(text, f);
    if (r == SL_ELIMIT)
        sl_err_set(err, r, "%s: larger than 1 MiB; this is no topology file", path);
    else if (r == SL_EIO)
        sl_err_set(err, r, "%s: %s", path, strerror(errno));
    else if (r)
        sl_err_set(err, r, "%s: no memory", path);
    fclose(f);
    return r;
}

int sl_cluster_read(const char *path, struct sl_cluster *out, struct sl_err *err)
{
    struct sl_buf text;
    memset(out, 0, sizeof *out);
    sl_buf_init(&text, FILE_MAX_BYTES);
    int r = read_file(path, &text, err);
    if (r == 0) r = sl_cluster_parse(path, sl_buf_str(&text), text.len, out, err);
    sl_buf_close(&text);
    return r;
}
