/* test_cluster.c - topology files that are right: what every key becomes, the defaults, the
 * examples in deploy/clusters. What is refused, and how, is test_cluster_errors.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "topology/cluster.h"

#define MINIMAL "model: {path: smollm2}\nnodes: [{name: a, devices: [{cpu: 0}]}]\n"

static void parse(const char *name, const char *text, struct sl_cluster *c)
{
    struct sl_err err = {0};
    int r = sl_cluster_parse(name, text, strlen(text), c, &err);
    if (r) fail_msg("%d: %s", r, err.msg);
}

static void assert_cpus(const struct sl_device *d, const int *cpus, int n)
{
    assert_int_equal(d->n_cpus, n);
    if (!n) assert_null(d->cpus);
    for (int i = 0; i < n; i++) assert_int_equal(d->cpus[i], cpus[i]);
}

static void says_nothing_and_gets_defaults(void **state)
{
    struct sl_cluster c;
    (void)state;
    parse("x.yaml", MINIMAL, &c);
    assert_string_equal(c.name, "cluster");
    assert_string_equal(c.file, "x.yaml");
    assert_string_equal(c.model_path, "smollm2");
    assert_string_equal(c.kv_format, "auto");
    assert_int_equal(c.context, 0);
    assert_int_equal(c.sequences, 16);
    assert_int_equal(c.queue, 64);
    assert_int_equal(c.micro_batches, 0);
    assert_int_equal(c.chunk, 0);
    assert_null(c.http);
    assert_null(c.socket);
    assert_null(c.api_keys);
    assert_null(c.control);
    assert_null(c.join_key);
    assert_int_equal(c.n_nodes, 1);
    assert_int_equal(c.n_devices, 1);
    assert_int_equal(c.n_links, 0);
    const struct sl_node *n = &c.nodes[0];
    assert_string_equal(n->host, "127.0.0.1");
    assert_int_equal(n->launch, SL_LAUNCH_LOCAL);
    assert_null(n->ssh);
    assert_null(n->ssh_options);
    assert_null(n->program);
    assert_null(n->model_path);
    assert_int_equal(n->ssh_port, 0);
    const struct sl_device *d = &c.devices[0];
    assert_string_equal(d->name, "a/0");
    assert_string_equal(d->backend, "cpu");
    assert_cpus(d, (int[]){0}, 1);
    assert_true(d->memory_bytes == 0 && d->reserve_bytes == 0 && d->bandwidth == 0);
    assert_int_equal(d->layer_from, -1);
    assert_int_equal(d->layer_to, -1);
    sl_cluster_close(&c);
}

static const char everything[] =
    "cluster: garage\n"
    "model: {path: /m/x.gguf, context: 32768, sequences: 30, kv_format: bf16}\n"
    "objective: throughput\n"
    "schedule: {micro_batches: 4, chunk: 128}\n"
    "nodes:\n"
    "  - name: alpha\n"
    "    host: 192.0.2.10\n"
    "    launch: local\n"
    "    program: /opt/sluice\n"
    "    devices:\n"
    "      - {cpu: '0-3,8', backend: avx2, memory: 96GiB, reserve: 2GiB, bandwidth: 20GB/s}\n"
    "      - {cpu: [7, 4-5], layers: [0, 9]}\n"
    "  - name: beta\n"
    "    host: 192.0.2.11\n"
    "    launch: ssh\n"
    "    ssh: me@beta\n"
    "    ssh_port: 2222\n"
    "    ssh_options: -i key -o A=b\n"
    "    program: bin/sluice\n"
    "    model: /there/x.gguf\n"
    "    devices: [{cpu: all, layers: [10, 10]}]\n"
    "  - {name: gamma, host: 192.0.2.12, devices: [{cpu: }, {cpu: ~, backend: ref}]}\n"
    "links:\n"
    "  - {between: [alpha, gamma], bandwidth: 25Gbit/s, latency: 40us, transport: ucx-tcp,\n"
    "     activations: bf16}\n"
    "  - {between: [beta, beta], transport: ucx-shm}\n"
    "serve: {http: '0.0.0.0:8080', socket: 127.0.0.1:9000, api_keys: /k, queue: 9}\n"
    "control: ':7070'\n"
    "join_key: 0123456789\n";

static void reads_the_top_level(void **state)
{
    struct sl_cluster c;
    (void)state;
    parse("x.yaml", everything, &c);
    assert_string_equal(c.name, "garage");
    assert_string_equal(c.model_path, "/m/x.gguf");
    assert_int_equal(c.context, 32768);
    assert_int_equal(c.sequences, 30);
    assert_string_equal(c.kv_format, "bf16");
    assert_int_equal(c.micro_batches, 4);
    assert_int_equal(c.chunk, 128);
    assert_string_equal(c.http, "0.0.0.0:8080");
    assert_string_equal(c.socket, "127.0.0.1:9000");
    assert_string_equal(c.api_keys, "/k");
    assert_int_equal(c.queue, 9);
    assert_string_equal(c.control, ":7070");
    assert_string_equal(c.join_key, "0123456789");
    assert_int_equal(c.n_links, 2);
    assert_int_equal(c.links[0].node_a, 0);
    assert_int_equal(c.links[0].node_b, 2);
    assert_true(c.links[0].bandwidth == 25e9 / 8);
    assert_int_equal(c.links[0].latency_ns, 40000);
    assert_string_equal(c.links[0].transport, "ucx-tcp");
    assert_string_equal(c.links[0].activations, "bf16");
    assert_string_equal(c.links[1].activations, "auto");
    assert_int_equal(c.links[1].node_a, 1);
    assert_int_equal(c.links[1].node_b, 1);
    assert_true(c.links[1].bandwidth == 0);
    assert_string_equal(c.links[1].transport, "ucx-shm");
    sl_cluster_close(&c);
}

static void reads_nodes_and_devices(void **state)
{
    struct sl_cluster c;
    (void)state;
    parse("x.yaml", everything, &c);
    assert_int_equal(c.n_nodes, 3);
    assert_int_equal(c.n_devices, 5);
    assert_int_equal(c.nodes[0].launch, SL_LAUNCH_LOCAL);
    assert_string_equal(c.nodes[0].program, "/opt/sluice");
    const struct sl_node *n = &c.nodes[1];
    assert_int_equal(n->launch, SL_LAUNCH_SSH);
    assert_string_equal(n->ssh, "me@beta");
    assert_int_equal(n->ssh_port, 2222);
    assert_string_equal(n->ssh_options, "-i key -o A=b");
    assert_string_equal(n->program, "bin/sluice");
    assert_string_equal(n->model_path, "/there/x.gguf");
    assert_int_equal(c.nodes[2].launch, SL_LAUNCH_EXTERNAL); /* by its host */
    static const char *const names[] = {"alpha/0", "alpha/1", "beta/0", "gamma/0", "gamma/1"};
    static const int nodes[] = {0, 0, 1, 2, 2};
    for (int i = 0; i < 5; i++) {
        assert_string_equal(c.devices[i].name, names[i]);
        assert_int_equal(c.devices[i].node, nodes[i]);
    }
    const struct sl_device *d = c.devices;
    assert_cpus(&d[0], (int[]){0, 1, 2, 3, 8}, 5);
    assert_cpus(&d[1], (int[]){4, 5, 7}, 3);
    for (int i = 2; i < 5; i++) assert_cpus(&d[i], NULL, 0);
    assert_string_equal(d[0].backend, "avx2");
    assert_string_equal(d[4].backend, "ref");
    assert_true(d[0].memory_bytes == 96ull << 30 && d[0].reserve_bytes == 2ull << 30);
    assert_true(d[0].bandwidth == 20e9);
    assert_int_equal(d[1].layer_from, 0); /* the file says 0 to 9, the struct [0, 10) */
    assert_int_equal(d[1].layer_to, 10);
    assert_int_equal(d[2].layer_from, 10);
    assert_int_equal(d[2].layer_to, 11);
    sl_cluster_close(&c);
}

static void cards_carry_their_limits(void **state)
{
    static const char text[] = "model: {path: m}\n"
                               "nodes:\n"
                               "- name: a\n"
                               "  devices:\n"
                               "  - {gpu: 3}\n"
                               "  - {gpu: 0, sm: 40%, memory: 24GiB}\n"
                               "  - {gpu: 1, bandwidth: 1TB/s}\n"
                               "  - {gpu: 12, sm: 100%, bandwidth: 672GB/s}\n";
    static const char *const names[] = {"cuda:3", "cuda:0,sm=40", "cuda:1,bandwidth=1e+12",
                                        "cuda:12,sm=100,bandwidth=6.72e+11"};
    struct sl_cluster c;
    struct sl_err err;
    (void)state;
    assert_int_equal(sl_cluster_parse("x.yaml", text, sizeof text - 1, &c, &err), 0);
    for (int i = 0; i < 4; i++) assert_string_equal(c.devices[i].backend, names[i]);
    assert_int_equal(c.devices[1].sm_percent, 40);
    assert_true(c.devices[1].memory_bytes == 24ull << 30);
    assert_true(c.devices[2].bandwidth == 1e12 && c.devices[2].sm_percent == 0);
    assert_int_equal(c.devices[3].gpu, 12);
    sl_cluster_close(&c);
}

/* Memory is a card's or a host's: four cards beside CPUs do not share one. */
static void memory_is_shared_where_it_is_one(void **state)
{
    static const char text[] = "model: {path: m}\n"
                               "nodes:\n"
                               "- name: a\n"
                               "  devices: [{gpu: 0}, {gpu: 1}, {cpu: 0-1}, {cpu: 2-3}]\n"
                               "- name: b\n"
                               "  devices: [{gpu: 1}, {cpu: 4-5, memory: 1GiB}]\n"
                               "- name: c\n"
                               "  host: c.example\n"
                               "  launch: ssh\n"
                               "  devices: [{gpu: 0}, {cpu: all}]\n";
    static const int want[] = {1, 2, 2, 2, 2, 2, 1, 1};
    struct sl_cluster c;
    struct sl_err err;
    (void)state;
    if (sl_cluster_parse("x.yaml", text, sizeof text - 1, &c, &err)) fail_msg("%s", err.msg);
    assert_int_equal(c.n_devices, (int)SL_ARRAY_LEN(want));
    for (int i = 0; i < c.n_devices; i++) assert_int_equal(sl_cluster_sharers(&c, i), want[i]);
    sl_cluster_close(&c);
    assert_int_equal(sl_cluster_single("m", "cuda", NULL, 0, 4, &c, &err), 0);
    assert_int_equal(sl_cluster_sharers(&c, 3), 1);
    sl_cluster_close(&c);
    assert_int_equal(sl_cluster_single("m", "cuda:0", NULL, 0, 3, &c, &err), 0);
    assert_int_equal(sl_cluster_sharers(&c, 1), 3);
    sl_cluster_close(&c);
}

static void paths_count_from_the_files_folder(void **state)
{
    static const struct {
        const char *file, *model, *want;
    } cases[] = {
        {"dir/x.yaml", "m.gguf", "dir/m.gguf"},         {"dir/x.yaml", "sub/m", "dir/sub/m"},
        {"/a/b/x.yaml", "../m.gguf", "/a/b/../m.gguf"}, {"x.yaml", "m.gguf", "m.gguf"},
        {"dir/x.yaml", "/m.gguf", "/m.gguf"},           {"dir/x.yaml", "smollm2", "smollm2"},
    };
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        char text[512];
        struct sl_cluster c;
        snprintf(text, sizeof text,
                 "model: {path: %s}\nserve: {http: off, socket: ./s.sock, api_keys: keys}\n"
                 "nodes: [{name: a, model: m2.gguf, program: ./sl, devices: [{cpu: 0}]}]\n",
                 cases[i].model);
        parse(cases[i].file, text, &c);
        assert_string_equal(c.model_path, cases[i].want);
        assert_string_equal(c.http, "off");
        if (strcmp(cases[i].file, "dir/x.yaml") == 0) {
            assert_string_equal(c.nodes[0].model_path, "dir/m2.gguf");
            assert_string_equal(c.nodes[0].program, "dir/./sl");
            assert_string_equal(c.socket, "dir/./s.sock");
            assert_string_equal(c.api_keys, "dir/keys");
        }
        sl_cluster_close(&c);
    }
}

static void adapters_have_names_and_paths(void **state)
{
    struct sl_cluster c;
    (void)state;
    parse("dir/x.yaml",
          "model:\n  path: smollm2\n  adapters:\n  - {name: sql, path: adapters/sql}\n"
          "  - {name: fr, path: /a/fr}\nnodes: [{name: a, devices: [{cpu: 0}]}]\n",
          &c);
    assert_int_equal(c.n_adapters, 2);
    assert_string_equal(c.adapters[0].name, "sql");
    assert_string_equal(c.adapters[0].path, "dir/adapters/sql");
    assert_string_equal(c.adapters[1].path, "/a/fr");
    sl_cluster_close(&c);
}

static void launch_follows_the_host(void **state)
{
    static const struct {
        const char *node;
        enum sl_launch want;
    } cases[] = {
        {"host: localhost", SL_LAUNCH_LOCAL},         {"host: 127.0.0.2", SL_LAUNCH_LOCAL},
        {"host: beta", SL_LAUNCH_EXTERNAL},           {"host: 127.example.org", SL_LAUNCH_EXTERNAL},
        {"launch: thread", SL_LAUNCH_THREAD},         {"launch: external", SL_LAUNCH_EXTERNAL},
        {"{host: beta, launch: ssh}", SL_LAUNCH_SSH},
    };
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        char text[512];
        struct sl_cluster c;
        const char *keys = cases[i].node;
        snprintf(
            text, sizeof text,
            "join_key: 12345678\nmodel: {path: smollm2}\nnodes: [{name: a, devices: [{cpu: 0}], "
            "%.*s}]\n",
            (int)strcspn(keys + (*keys == '{'), "}"), keys + (*keys == '{'));
        parse("x.yaml", text, &c);
        assert_int_equal(c.nodes[0].launch, cases[i].want);
        sl_cluster_close(&c);
    }
}

static void the_most_devices_fit(void **state)
{
    char text[8192];
    struct sl_cluster c;
    size_t n = (size_t)snprintf(text, sizeof text, "model: {path: smollm2}\nnodes:\n");
    (void)state;
    for (int i = 0; i < SL_NODES_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "- {name: n%d, devices: [{cpu: %d}]}\n", i,
                              i);
    parse("x.yaml", text, &c);
    assert_int_equal(c.n_devices, SL_DEVICES_MAX);
    assert_string_equal(c.devices[63].name, "n63/0");
    sl_cluster_close(&c);
}

static void examples_are_right(void **state)
{
    static const struct {
        const char *file;
        int n_nodes, n_devices;
    } cases[] = {{"one-stage.yaml", 1, 1},
                 {"three-stages.yaml", 1, 3},
                 {"two-hosts.yaml", 2, 3},
                 {"external.yaml", 1, 2}};
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        char path[1024];
        struct sl_cluster c;
        struct sl_err err = {0};
        snprintf(path, sizeof path, CLUSTERS "%s", cases[i].file);
        if (sl_cluster_read(path, &c, &err)) fail_msg("%s", err.msg);
        assert_int_equal(c.n_nodes, cases[i].n_nodes);
        assert_int_equal(c.n_devices, cases[i].n_devices);
        assert_string_equal(c.file, path);
        sl_cluster_close(&c);
    }
}

/* An unknown key makes the reader list the keys it knows there: docs/topology.md has each of them.
 */
static void reference_names_every_key(void **state)
{
    static const char *const files[] = {
        "zzzzzzzzz: 1\n",
        "model: {zzzzzzzzz: 1}\n",
        "schedule: {zzzzzzzzz: 1}\n",
        "serve: {zzzzzzzzz: 1}\n",
        "links: [{zzzzzzzzz: 1}]\n",
        "nodes: [{zzzzzzzzz: 1}]\n",
        "nodes: [{devices: [{zzzzzzzzz: 1}]}]\n",
    };
    static char docs[1 << 16];
    int n_keys = 0;
    (void)state;
    FILE *f = fopen(REFERENCE, "r");
    assert_non_null(f);
    docs[fread(docs, 1, sizeof docs - 1, f)] = 0;
    fclose(f);
    for (size_t i = 0; i < SL_ARRAY_LEN(files); i++) {
        struct sl_cluster c;
        struct sl_err err = {0};
        assert_int_equal(sl_cluster_parse("x.yaml", files[i], strlen(files[i]), &c, &err),
                         SL_EINPUT);
        char *list = strstr(err.msg, "known here: "), *save = NULL;
        assert_non_null(list);
        list += strlen("known here: ");
        for (char *k = strtok_r(list, ", ", &save); k; k = strtok_r(NULL, ", ", &save)) {
            char quoted[64];
            snprintf(quoted, sizeof quoted, "`%s`", k);
            if (!strstr(docs, quoted)) fail_msg("%s is not in docs/topology.md", quoted);
            n_keys++;
        }
    }
    assert_int_equal(n_keys, 10 + 10 + 2 + 4 + 5 + 9 + 9);
}

static void files_that_cannot_be_read(void **state)
{
    struct sl_cluster c;
    struct sl_err err = {0};
    char path[] = "/tmp/sl_cluster_XXXXXX";
    static char zeros[1 << 16];
    (void)state;
    assert_int_equal(sl_cluster_read("/nonexistent/x.yaml", &c, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "/nonexistent/x.yaml: No such file"));
    assert_int_equal(sl_cluster_read("/tmp", &c, &err), SL_EINPUT);
    assert_non_null(strstr(err.msg, "not a regular file"));
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    memset(zeros, '#', sizeof zeros);
    for (int i = 0; i < 17; i++) assert_int_equal(write(fd, zeros, sizeof zeros), sizeof zeros);
    close(fd);
    assert_int_equal(sl_cluster_read(path, &c, &err), SL_ELIMIT);
    assert_non_null(strstr(err.msg, "larger than 1 MiB"));
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_nothing_and_gets_defaults),
        cmocka_unit_test(reads_the_top_level),
        cmocka_unit_test(reads_nodes_and_devices),
        cmocka_unit_test(cards_carry_their_limits),
        cmocka_unit_test(memory_is_shared_where_it_is_one),
        cmocka_unit_test(paths_count_from_the_files_folder),
        cmocka_unit_test(adapters_have_names_and_paths),
        cmocka_unit_test(launch_follows_the_host),
        cmocka_unit_test(the_most_devices_fit),
        cmocka_unit_test(examples_are_right),
        cmocka_unit_test(reference_names_every_key),
        cmocka_unit_test(files_that_cannot_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
