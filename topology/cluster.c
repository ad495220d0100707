/* cluster.c - a cluster made in code, CPU lists, and the end of a cluster's life. Reading YAML is
 * cluster_schema.c. */
#include "topology/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

#define CLUSTER_ARENA_MAX (16u << 20) /* bytes of one cluster's strings and arrays */

int sl_cpus_parse(const char *s, int *out, int max, struct sl_err *err)
{
    int n = 0;
    const char *p = s;
    while (*p) {
        char *end;
        long from = strtol(p, &end, 10), to = from;
        if (end == p) break;
        if (*end == '-') {
            p = end + 1;
            to = strtol(p, &end, 10);
            if (end == p) break;
        }
        if (from < 0 || to < from || to >= 1 << 20)
            return sl_err_set(err, SL_EINPUT, "CPU list '%s': %ld-%ld is no range", s, from, to);
        for (long i = from; i <= to; i++) {
            if (n == max)
                return sl_err_set(err, SL_EINPUT, "CPU list '%s' names more than %d CPUs", s, max);
            out[n++] = (int)i;
        }
        p = end;
        if (*p == ',' && p[1])
            p++;
        else if (*p)
            break;
    }
    if (*p || n == 0) return sl_err_set(err, SL_EINPUT, "CPU list '%s' is not like 0-3,8", s);
    return n;
}

/* The CPUs of stage i of n: a share of their own while there are enough, else one each in turn. */
static void share_cpus(struct sl_device *d, const int *cpus, int n_cpus, int i, int n)
{
    if (n_cpus < n) {
        d->cpus = cpus + i % n_cpus;
        d->n_cpus = 1;
        return;
    }
    int from = n_cpus * i / n, to = n_cpus * (i + 1) / n;
    d->cpus = cpus + from;
    d->n_cpus = to - from;
}

/* "cuda:N" is that card; "cuda" the next one for each stage. */
static void set_card(struct sl_arena *a, struct sl_device *d, int stage)
{
    char name[32];
    if (strncmp(d->backend, "cuda", 4) != 0) return;
    if (d->backend[4] == ':') {
        d->gpu = atoi(d->backend + 5);
        return;
    }
    d->gpu = stage;
    snprintf(name, sizeof name, "cuda:%d", stage);
    const char *copy = sl_arena_strdup(a, name);
    if (copy) d->backend = copy;
}

int sl_cluster_single(const char *model_path, const char *backend, const int *cpus, int n_cpus,
                      int n_stages, struct sl_cluster *out, struct sl_err *err)
{
    SL_ASSERT(n_stages >= 1 && n_stages <= SL_DEVICES_MAX);
    memset(out, 0, sizeof *out);
    sl_arena_init(&out->arena, CLUSTER_ARENA_MAX);
    struct sl_arena *a = &out->arena;
    out->nodes = sl_arena_alloc(a, sizeof *out->nodes);
    out->devices = sl_arena_alloc(a, (size_t)n_stages * sizeof *out->devices);
    int *copy = n_cpus ? sl_arena_alloc(a, (size_t)n_cpus * sizeof *copy) : NULL;
    out->model_path = sl_arena_strdup(a, model_path);
    const char *kind = sl_arena_strdup(a, backend ? backend : "cpu");
    if (!out->nodes || !out->devices || (n_cpus && !copy) || !out->model_path || !kind) {
        sl_cluster_close(out);
        return sl_err_set(err, SL_ENOMEM, "no memory for the cluster");
    }
    if (n_cpus) memcpy(copy, cpus, (size_t)n_cpus * sizeof *copy);
    out->name = "single";
    out->kv_format = "auto";
    out->sequences = 16;
    out->queue = 64;
    out->n_nodes = 1;
    out->nodes[0] =
        (struct sl_node){.name = "local", .host = "127.0.0.1", .launch = SL_LAUNCH_THREAD};
    out->n_devices = n_stages;
    for (int i = 0; i < n_stages; i++) {
        char name[32];
        snprintf(name, sizeof name, "local/%d", i);
        struct sl_device *d = &out->devices[i];
        *d = (struct sl_device){.name = sl_arena_strdup(a, name),
                                .gpu = -1,
                                .backend = kind,
                                .layer_from = -1,
                                .layer_to = -1};
        set_card(a, d, i);
        if (n_cpus) share_cpus(d, copy, n_cpus, i, n_stages);
    }
    return 0;
}

static int is_here(const struct sl_node *n)
{
    return n->launch == SL_LAUNCH_LOCAL || n->launch == SL_LAUNCH_THREAD;
}

int sl_cluster_sharers(const struct sl_cluster *c, int device)
{
    const struct sl_device *mine = &c->devices[device];
    const struct sl_node *home = &c->nodes[mine->node];
    int n = 0;
    for (const struct sl_device *d = c->devices; d < c->devices + c->n_devices; d++) {
        const struct sl_node *node = &c->nodes[d->node];
        int together = (is_here(node) && is_here(home)) || strcmp(node->host, home->host) == 0;
        n += d->memory_bytes == 0 && d->gpu == mine->gpu && together;
    }
    return n;
}

void sl_cluster_close(struct sl_cluster *c)
{
    sl_arena_close(&c->arena);
    memset(c, 0, sizeof *c);
}
