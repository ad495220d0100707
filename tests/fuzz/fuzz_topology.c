/* fuzz_topology.c - hostile topology files: parsed, checked, closed; what is accepted must hold
 * together. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/sl_assert.h"
#include "topology/cluster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_device(const struct sl_cluster *c, const struct sl_device *d)
{
    SL_ASSERT(d->node >= 0 && d->node < c->n_nodes && d->name && d->backend);
    SL_ASSERT((d->n_cpus > 0) == (d->cpus != NULL) && d->n_cpus <= SL_CPUS_MAX);
    for (int i = 0; i < d->n_cpus; i++) SL_ASSERT(d->cpus[i] >= 0);
    SL_ASSERT(d->bandwidth >= 0 && d->layer_from >= -1 && d->layer_to >= -1);
    SL_ASSERT(d->layer_from == -1 ? d->layer_to == -1 : d->layer_to > d->layer_from);
    SL_ASSERT(!d->memory_bytes || d->reserve_bytes < d->memory_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sl_cluster c;
    struct sl_err err = {0};
    int r = sl_cluster_parse("dir/fuzz.yaml", (const char *)data, n, &c, &err);
    if (r) {
        SL_ASSERT(r == err.code && strncmp(err.msg, "dir/fuzz.yaml:", 14) == 0);
        SL_ASSERT(!strchr(err.msg, '\n') && !c.arena.head);
        return 0;
    }
    SL_ASSERT(c.model_path && c.name && c.kv_format && c.sequences > 0 && c.queue > 0);
    SL_ASSERT(c.n_nodes > 0 && c.n_devices >= c.n_nodes && c.n_devices <= SL_DEVICES_MAX);
    for (int i = 0; i < c.n_nodes; i++) SL_ASSERT(c.nodes[i].name && c.nodes[i].host);
    for (int i = 0; i < c.n_devices; i++) check_device(&c, &c.devices[i]);
    for (int i = 0; i < c.n_links; i++)
        SL_ASSERT(c.links[i].node_a >= 0 && c.links[i].node_b >= 0 &&
                  c.links[i].node_a < c.n_nodes && c.links[i].node_b < c.n_nodes);
    sl_cluster_close(&c);
    return 0;
}
