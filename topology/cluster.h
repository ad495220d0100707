/* cluster.h - the topology file as a struct: what the user wrote, checked.
 *
 * docs/topology.md lists the keys. Unknown keys, bad units, duplicate names, overlapping layers are
 * SL_EINPUT, what the format knows and this version cannot do (GPUs, several models) is
 * SL_EUNSUPPORTED, what passes a limit SL_ELIMIT, each with "file:line: path.to.key: what is wrong;
 * what to do". What is left out keeps the value that means "not said" (0 or NULL or -1) and is
 * measured or planned later.
 *
 * Layers in the file name the first and the last one, as people say it and as the plan table prints
 * it; in the structs the end is exclusive.
 */
#ifndef SL_TOPOLOGY_CLUSTER_H
#define SL_TOPOLOGY_CLUSTER_H

#include <stdint.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_DEVICES_MAX 64 /* stages in one pipeline */
#define SL_NODES_MAX 64
#define SL_CPUS_MAX 1024 /* logical CPUs of one device entry */

enum sl_launch {
    SL_LAUNCH_LOCAL,  /* child process of the coordinator */
    SL_LAUNCH_THREAD, /* in the coordinator's own process: the single-node fallback */
    SL_LAUNCH_SSH,
    SL_LAUNCH_EXTERNAL /* joins by itself: sluice stage --join */
};

struct sl_device {
    const char *name; /* "alpha/0": node name and index in its list; unique */
    int node;         /* index into nodes */
    const int *cpus;  /* logical CPUs, n_cpus of them, ascending; NULL: all of the node */
    int n_cpus;
    int gpu;                /* number of the NVIDIA card, -1: the CPUs */
    int sm_percent;         /* of the card's multiprocessors, 0: all */
    const char *backend;    /* "cpu" (default), "ref", "avx2" ... a row of kernels; "cuda:N", the
                               limits that the card is held to behind it: "cuda:0,sm=40" */
    uint64_t memory_bytes;  /* limit for weights and KV, 0 = measured */
    uint64_t reserve_bytes; /* kept free of it */
    double bandwidth;       /* bytes per second, 0 = measured; a card is held to it */
    int layer_from,
        layer_to; /* pinned stage [from, to), in the file [first, last]; -1, -1 when free */
};

struct sl_node {
    const char *name, *host; /* host: name or address, default "127.0.0.1" */
    enum sl_launch launch;
    const char *ssh;         /* ssh: destination ("user@host"), default host */
    int ssh_port;            /* 0 = ssh's default */
    const char *ssh_options; /* extra words for ssh ("-i key -o ...") or NULL */
    const char
        *program; /* sluice on that host, default: this program's path (local), "sluice" (ssh) */
    const char *model_path; /* where that host keeps the model, default model.path */
};

struct sl_link_spec { /* links: between two nodes */
    int node_a, node_b;
    double bandwidth;        /* bytes per second, 0 = not said */
    uint64_t latency_ns;     /* 0 = not said */
    const char *transport;   /* "auto" (default), "ucx-shm", "ucx-tcp" */
    const char *activations; /* "auto" (default), "f32", "bf16", "fp8" */
};

#define SL_CLUSTER_ADAPTERS_MAX 64 /* LoRA adapters of a model */
#define SL_ADAPTER_NAME_MAX 127    /* bytes */
struct sl_adapter_spec {
    const char *name; /* requests ask for it as their model */
    const char *path; /* PEFT folder: as written, or resolved relative to the topology file */
};

struct sl_cluster {
    struct sl_arena arena; /* owns all strings and arrays */
    const char *file;      /* as given, for messages; NULL when made in code */
    const char *name;
    const char *model_path;           /* as written, or resolved relative to the topology file */
    struct sl_adapter_spec *adapters; /* [n_adapters] */
    int n_adapters;
    int own_adapter; /* what commands that ask by themselves use: 1 + its number, 0: none */
    int context;     /* longest sequence, tokens; 0 = the model's */
    int sequences;   /* concurrent sequences, default 16 */
    int queue;       /* requests that may wait, default 64 */
    const char *chat_template; /* file with a Jinja template, NULL = the model's own */
    const char *tool_parser, *reasoning_parser; /* styles of answers, NULL = the template's */
    const char *kv_format;                      /* "auto" "f32" "f16" "bf16" */
    int micro_batches;                          /* in flight, 0 = planned */
    int chunk;                                  /* prefill tokens in a micro-batch, 0 = planned */
    const char *http;                           /* "host:port", "off" or NULL */
    const char *socket;                         /* path or host:port, or NULL */
    const char *api_keys;                       /* file with one key a line, or NULL */
    const char *control;  /* listen address for stages, default: loopback, or 0.0.0.0 when a node is
                             elsewhere */
    const char *join_key; /* shared secret of external stages; NULL: made at random */
    int n_nodes, n_devices, n_links;
    struct sl_node *nodes;
    struct sl_device *devices; /* in the order of the file: the order of the pipeline */
    struct sl_link_spec *links;
};

/* Reads the file at `path` (regular, at most 1 MiB, UTF-8). Relative paths in it are resolved from
 * its folder. No file or host it names is looked at. On error nothing is left to close. */
int sl_cluster_read(const char *path, struct sl_cluster *out, struct sl_err *err);
/* The same for text[0..n); `name` stands for the file in messages and for the folder of relative
 * paths. */
int sl_cluster_parse(const char *name, const char *text, size_t n, struct sl_cluster *out,
                     struct sl_err *err);
/* One node "local" with one device in this process on `cpus` (NULL: all): what `serve -m` runs.
 * n_stages > 1 makes that many in-process stages sharing the CPUs (tests, benchmarks). */
int sl_cluster_single(const char *model_path, const char *backend, const int *cpus, int n_cpus,
                      int n_stages, struct sl_cluster *out, struct sl_err *err);
void sl_cluster_close(struct sl_cluster *c);

/* How many devices without a memory limit of their own have the memory that this one has: CPUs of
 * one host, or one card of it. This one counts, unless it has a limit. */
int sl_cluster_sharers(const struct sl_cluster *c, int device);

/* "0-3,8" to CPU numbers in `out` (at most max); returns the count or SL_EINPUT. */
int sl_cpus_parse(const char *s, int *out, int max, struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
