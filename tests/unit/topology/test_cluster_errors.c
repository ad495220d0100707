/* test_cluster_errors.c - topology files that are wrong, and the line that says so: file, line,
 * key, what is wrong, what to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/sl_assert.h"
#include "topology/cluster.h"

#define M "model: {path: smollm2}\n"                                               /* line 1 */
#define N "nodes: [{name: a, devices: [{cpu: 0}]}]\n"                              /* one line */
#define DEVICE(keys) M "nodes:\n- name: a\n  devices:\n  - cpu: 0\n    " keys "\n" /* line 6 */
#define NODE(keys) M "nodes:\n- name: a\n  devices: [{cpu: 0}]\n  " keys "\n"      /* line 5 */
#define LINK(keys)                                                                                 \
    M "nodes:\n- {name: a, devices: [{cpu: 0}]}\n"                                                 \
      "- {name: beta, devices: [{cpu: 1}]}\nlinks:\n- " keys "\n" /* line 6 */

struct bad {
    const char *text, *message;
};

static const struct bad keys[] = {
    {M N "sevre: {}\n", "x.yaml:3: sevre: unknown key; did you mean serve?"},
    {M N "zzzzzz: 1\n", "x.yaml:3: zzzzzz: unknown key; known here: cluster, model, models, "},
    {"model: {path: a, contxt: 1}\n" N,
     "x.yaml:1: model.contxt: unknown key; did you mean context?"},
    {NODE("lunch: local"), "x.yaml:5: nodes[0].lunch: unknown key; did you mean launch?"},
    {DEVICE("memroy: 1GiB"),
     "x.yaml:6: nodes[0].devices[0].memroy: unknown key; did you mean memory?"},
    {LINK("{between: [a, beta], bandwith: 1GB/s}"),
     "x.yaml:6: links[0].bandwith: unknown key; did you mean bandwidth?"},
    {M N "serve:\n  htp: x\n", "x.yaml:4: serve.htp: unknown key; did you mean http?"},
    {M N "schedule: {chunks: 3}\n", "x.yaml:3: schedule.chunks: unknown key; did you mean chunk?"},
    {"model: {path: a, adapters: [{name: x}]}\n" N,
     "x.yaml:1: model.adapters[0]: the key `path` is missing"},
    {"model:\n  path: a\n  adapters:\n  - {name: x, path: y}\n  - {name: x, path: z}\n" N,
     "x.yaml:5: model.adapters[1].name: 'x' is the name of the adapter in line 4 already"},
    {M N "\nmodel: {path: b}\n",
     "x.yaml:4: model: the key stands in line 1 already; keep one of them"},
    {DEVICE("cpu: 1"), "x.yaml:6: nodes[0].devices[0].cpu: the key stands in line 5 already"},
    {N, "x.yaml:1: the key `model` is missing"},
    {M, "x.yaml:1: the key `nodes` is missing"},
    {"model: {context: 1}\n" N, "x.yaml:1: model: the key `path` is missing"},
    {M "nodes:\n- devices: [{cpu: 0}]\n", "x.yaml:3: nodes[0]: the key `name` is missing"},
    {M "nodes:\n- name: a\n", "x.yaml:3: nodes[0]: the key `devices` is missing"},
    {M "nodes:\n- name: a\n  devices:\n  - memory: 1GiB\n",
     "x.yaml:5: nodes[0].devices[0]: the key `cpu` or `gpu` is missing; write gpu: 0, cpu: 0-3 or "
     "cpu: all"},
    {LINK("{bandwidth: 1GB/s}"), "x.yaml:6: links[0]: the key `between` is missing"},
    {M N "join_key:\n", "x.yaml:3: join_key: has no value; give one or leave the key out"},
    {M N "join_key: ''\n", "x.yaml:3: join_key: is empty; give a value or leave the key out"},
};

static const struct bad types[] = {
    {"model: smollm2\n" N, "x.yaml:1: model: is one value; write `key: value` lines"},
    {"- a\n- b\n", "x.yaml:1: is a list; write `key: value` lines"},
    {"model: {path: [a]}\n" N, "x.yaml:1: model.path: is a list; give one value"},
    {M "nodes: {name: a}\n", "x.yaml:2: nodes: is a mapping; write a list, each node after a dash"},
    {M "nodes: []\n", "x.yaml:2: nodes: is an empty list; give at least one node"},
    {M "nodes: [a]\n", "x.yaml:2: nodes[0]: is one value; write `key: value` lines"},
    {M "nodes:\n- name: a\n  devices: []\n",
     "x.yaml:4: nodes[0].devices: is an empty list; give at least one device"},
    {DEVICE("memory: {a: 1}"),
     "x.yaml:6: nodes[0].devices[0].memory: is a mapping; give one value"},
    {M "nodes: [{name: a, devices: [{cpu: {a: 1}}]}]\n",
     "x.yaml:2: nodes[0].devices[0].cpu: is no list of CPUs; write it like 0-3,8, or all"},
    {M N "links: 3\n", "x.yaml:3: links: is one value; write a list, each link after a dash"},
    {M N "? [a]\n: b\n", "x.yaml:3: a mapping or list as a key; a key is one word"},
};

static const struct bad values[] = {
    {DEVICE("memory: 96GiBB"),
     "x.yaml:6: nodes[0].devices[0].memory: '96GiBB' is no size; write it like 96GiB or 512MB"},
    {DEVICE("memory: -1GiB"), "memory: '-1GiB' is no size"},
    {DEVICE("memory: 0"), "memory: is 0; leave the key out to use what is there"},
    {DEVICE("memory: 1GiB\n    reserve: 1GiB"),
     "x.yaml:7: nodes[0].devices[0].reserve: takes all of the device's memory"},
    {DEVICE("sm: 40"),
     "x.yaml:6: nodes[0].devices[0].sm: '40' is no share; write it like 40%, from"},
    {DEVICE("sm: '%'"), "devices[0].sm: '%' is no share"},
    {DEVICE("sm: 0%"), "devices[0].sm: '0%' is no share"},
    {DEVICE("sm: 101%"), "devices[0].sm: '101%' is no share"},
    {DEVICE("sm: 4000000000%"), "devices[0].sm: '4000000000%' is no share"},
    {DEVICE("sm: 40%"), "devices[0].sm: is a share of a card's multiprocessors; leave it out"},
    {DEVICE("bandwidth: 25GHz"),
     "bandwidth: '25GHz' is no bandwidth; write it like 25Gbit/s or 1.5GB/s"},
    {DEVICE("bandwidth: 0B/s"), "bandwidth: is 0; leave the key out to have it measured"},
    {LINK("{between: [a, beta], latency: 40}"),
     "x.yaml:6: links[0].latency: '40' is no time; write it like 40us or 2ms"},
    {"model: {path: a, context: 0}\n" N, "model.context: '0' is no whole number from 1 to"},
    {"model: {path: a, context: -5}\n" N, "model.context: '-5' is no whole number from 1 to"},
    {"model: {path: a, context: 8k}\n" N, "model.context: '8k' is no whole number"},
    {"model: {path: a, context: 99999999999999999999}\n" N, "is no whole number"},
    {"model: {path: a, sequences: 1025}\n" N,
     "sequences: '1025' is no whole number from 1 to 1024"},
    {NODE("launch: ssh\n  ssh_port: 65536"),
     "ssh_port: '65536' is no whole number from 1 to 65535"},
    {M N "serve: {queue: 1.5}\n",
     "x.yaml:3: serve.queue: '1.5' is no whole number from 1 to 65536"},
    {M N "schedule: {micro_batches: 0}\n", "micro_batches: '0' is no whole number from 1 to 128"},
    {DEVICE("backend: avx3"), "x.yaml:6: nodes[0].devices[0].backend: 'avx3' is none of cpu, ref, "
                              "portable, avx2, avx512, amx; did you mean avx2?"},
    {NODE("launch: shh"),
     "x.yaml:5: nodes[0].launch: 'shh' is none of local, thread, ssh, external; "
     "did you mean ssh?"},
    {"model: {path: a, kv_format: f15}\n" N,
     "model.kv_format: 'f15' is none of auto, f32, f16, bf16, fp8; did you mean f16?"},
    {LINK("{between: [a, beta], transport: rdma}"),
     "x.yaml:6: links[0].transport: 'rdma' is none of auto, ucx-shm, ucx-tcp"},
    {LINK("{between: [a, beta], activations: int8}"),
     "x.yaml:6: links[0].activations: 'int8' is none of auto, f32, bf16, fp8"},
    {M "nodes: [{name: a, devices: [{cpu: 3-1}]}]\n",
     "cpu: '3-1' is no list of at most 1024 CPUs; write it like 0-3,8"},
    {M "nodes: [{name: a, devices: [{cpu: 0-2000}]}]\n",
     "cpu: '0-2000' is no list of at most 1024"},
    {M "nodes: [{name: a, devices: [{cpu: -1}]}]\n", "cpu: '-1' is no list"},
    {M "nodes: [{name: a, devices: [{cpu: []}]}]\n", "cpu: is no list of CPUs"},
    {M "nodes: [{name: a, devices: [{cpu: [0, x]}]}]\n",
     "x.yaml:2: nodes[0].devices[0].cpu[1]: 'x' is no list"},
    {M "nodes: [{name: a, devices: [{cpu: [0-3, 2]}]}]\n", "cpu: CPU 2 stands there twice"},
    {DEVICE("layers: 3"), "layers: is not the first and the last layer; write layers: [0, 9]"},
    {DEVICE("layers: [1, 2, 3]"), "layers: is not the first and the last layer"},
    {DEVICE("layers: [0, b]"), "layers[1]: 'b' is no whole number from 0 to"},
    {DEVICE("layers: [-1, 3]"), "layers[0]: '-1' is no whole number from 0 to"},
    {DEVICE("layers: [9, 4]"),
     "layers: the last layer, 4, is before the first, 9; write layers: [4, 9]"},
};

static const struct bad meanings[] = {
    {M "nodes:\n- {name: a, devices: [{cpu: 0}]}\n- {name: a, devices: [{cpu: 0}]}\n",
     "x.yaml:4: nodes[1].name: 'a' is the name of the node in line 3 already; choose another"},
    {M "nodes: [{name: 'a b', devices: [{cpu: 0}]}]\n",
     "nodes[0].name: 'a b' is no name; use letters"},
    {M "nodes: [{name: a/0, devices: [{cpu: 0}]}]\n", "nodes[0].name: 'a/0' is no name"},
    {DEVICE("layers: [0, 9]\n  - cpu: 1\n    layers: [9, 12]"),
     "x.yaml:8: nodes[0].devices[1].layers: [9, 12] overlaps [0, 9] of a/0 in line 6"},
    {LINK("{between: [a, betta]}"),
     "x.yaml:6: links[0].between[1]: no node is named 'betta'; did you mean beta?"},
    {LINK("{between: [a]}"), "links[0].between: is not the names of two nodes"},
    {LINK("{between: [a, beta]}\n- between: [beta, a]"),
     "x.yaml:7: links[1].between: the link of these two stands in line 6 already; join them"},
    {M "join_key: 12345678\nnodes:\n- {name: a, devices: [{cpu: 0}]}\n"
       "- {name: b, host: b.example, devices: [{cpu: 1}]}\nlinks:\n"
       "- {between: [a, b], transport: ucx-shm}\n",
     "x.yaml:7: links[0].transport: ucx-shm is shared memory and ends at the host; write ucx-tcp"},
    {NODE("host: -oProxyCommand=x"),
     "nodes[0].host: '-oProxyCommand=x' is no host name or address"},
    {NODE("{launch: ssh, ssh: x}"), "not YAML"},
    {NODE("launch: ssh\n  ssh: -oProxyCommand=x"), "x.yaml:6: nodes[0].ssh: is no destination"},
    {NODE("ssh: me@b"),
     "x.yaml:5: nodes[0].ssh: does nothing with launch: local; write launch: ssh"},
    {NODE("launch: thread\n  program: /x"),
     "x.yaml:6: nodes[0].program: does nothing with launch: thread; leave it out"},
    {NODE("launch: thread\n  host: 192.0.2.1"),
     "x.yaml:5: nodes[0].launch: a thread of this process cannot be on 192.0.2.1"},
    {NODE("launch: ssh\n  model: m.gguf"),
     "x.yaml:6: nodes[0].model: is a path on another host; write it whole, from the first /"},
    {NODE("host: 192.0.2.1"),
     "x.yaml:3: nodes[0]: a stage on 192.0.2.1 joins by itself and needs the "
     "key for that; add `join_key:` at the top level, or launch: ssh here"},
    {NODE("launch: external"), "x.yaml:5: nodes[0].launch: a stage on 127.0.0.1 joins by itself"},
    {"model: {path: ~/m.gguf}\n" N, "x.yaml:1: model.path: ~ means nothing outside a shell"},
    {M N "serve: {http: 8080}\n", "x.yaml:3: serve.http: '8080' is no address; write HOST:PORT in "
                                  "quotes, like \"0.0.0.0:8080\""},
    {M N "serve: {http: 'h:99999'}\n", "serve.http: 'h:99999' is no address"},
    {M N "serve: {socket: api}\n",
     "serve.socket: 'api' is neither HOST:PORT nor a path; write ./api for a file here"},
    {M N "control: '[::1]'\n", "x.yaml:3: control: '[::1]' is no address"},
    {M N "join_key: short\n", "x.yaml:3: join_key: a join key has 8 to 64 characters"},
};

static const struct bad unsupported[] = {
    {M "nodes: [{name: a, devices: [{gpu: 0, kind: rtx-4090}]}]\n",
     "x.yaml:2: nodes[0].devices[0].kind: there is no device catalogue yet"},
    {DEVICE("kind: rtx-4090"),
     "x.yaml:6: nodes[0].devices[0].kind: there is no device catalogue yet; leave `kind` out"},
    {"models: [{path: a}]\n" N, "x.yaml:1: models: one cluster serves one model so far"},
    {"model: {config: c.json, format: fp8}\n" N,
     "x.yaml:1: model.config: a plan without weights is not made yet"},
    {"model: {path: a, format: fp8}\n" N, "model.format: weights run in the format of their file"},
    {M N "objective: latency\n",
     "x.yaml:3: objective: the plan is made for throughput only so far"},
    {M N "objective: {tpot_ms: 40}\n", "write objective: throughput"},
};

static const struct bad syntax[] = {
    {"", "x.yaml:1: the file is empty; deploy/clusters has examples"},
    {"# nothing\n", "x.yaml:1: the file is empty"},
    {"model:\n\tpath: a\n", "x.yaml:2: not YAML: a tab indents this line; use spaces"},
    {M "nodes:\n - name: a\n  devices: 3\n", "x.yaml:4: not YAML: "},
    {M "nodes: [a\n", "not YAML: "},
    {M "x: \"abc\n", "not YAML: "},
    {M N "---\n" M, "x.yaml:3: a second document (---); a topology is one"},
    {"model: &m {path: a}\n" N,
     "x.yaml:1: anchors and aliases (&, *) are not read; write the value out"},
    {M "nodes: *all\n", "x.yaml:2: anchors and aliases"},
    {"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "x.yaml:1: anchors and aliases"},
    {M "nodes: !!binary abcd\n", "x.yaml:2: tags (!) are not read; leave the tag out"},
    {"model: {path: \"a\\nb\"}\n", "x.yaml:1: a text with a control character or line break"},
    {"model: {path: \"a\\0b\"}\n", "x.yaml:1: a text with a control character or line break"},
    {"model: {path: |\n  a\n }\n", "x.yaml:"},
    {M "cluster: \xff\xfe\n",
     "x.yaml:2: not text: invalid leading UTF-8 octet; save the file as UTF-8"},
    {M "'': x\n", "x.yaml:2: a key without a name"},
};

static void check(const struct bad *b, size_t n, int code)
{
    for (size_t i = 0; i < n; i++) {
        struct sl_cluster c;
        struct sl_err err = {0};
        int r = sl_cluster_parse("x.yaml", b[i].text, strlen(b[i].text), &c, &err);
        if (r != code || r != err.code || strncmp(err.msg, "x.yaml:", 7) != 0 ||
            !strstr(err.msg, b[i].message))
            fail_msg("%s\ngives %d \"%s\"\nnot \"%s\"", b[i].text, r, err.msg, b[i].message);
        assert_int_equal(sl_err_exit_status(r), 2);
        assert_null(c.arena.head);
    }
}

#define TABLE(name, code)                                                                          \
    static void refuses_##name(void **state)                                                       \
    {                                                                                              \
        (void)state;                                                                               \
        check(name, SL_ARRAY_LEN(name), code);                                                     \
    }
TABLE(keys, SL_EINPUT)
TABLE(types, SL_EINPUT)
TABLE(values, SL_EINPUT)
TABLE(meanings, SL_EINPUT)
TABLE(unsupported, SL_EUNSUPPORTED)
TABLE(syntax, SL_EINPUT)

/* head, then `piece` n times, then tail; %d in piece is the number of the repetition. */
static void expect_many(const char *head, const char *piece, int n, const char *tail, int code,
                        const char *message)
{
    struct sl_buf text;
    struct sl_cluster c;
    struct sl_err err = {0};
    sl_buf_init(&text, 4 << 20);
    sl_buf_puts(&text, head);
    for (int i = 0; i < n; i++) {
        const char *number = strstr(piece, "%d");
        if (number)
            sl_buf_printf(&text, "%.*s%d%s", (int)(number - piece), piece, i, number + 2);
        else
            sl_buf_puts(&text, piece);
    }
    sl_buf_puts(&text, tail);
    int r = sl_cluster_parse("x.yaml", sl_buf_str(&text), text.len, &c, &err);
    if (r != code || !strstr(err.msg, message))
        fail_msg("%d \"%s\", not \"%s\"", r, err.msg, message);
    sl_buf_close(&text);
}

static void bounds_what_a_file_can_cost(void **state)
{
    (void)state;
    expect_many(M "nodes:\n", "- {name: n%d, devices: [{cpu: 0}]}\n", 65, "", SL_ELIMIT,
                "x.yaml:2: nodes: more than 64 nodes");
    expect_many(M "nodes:\n- name: a\n  devices:\n", "  - cpu: %d\n", 65, "", SL_ELIMIT,
                "x.yaml:69: nodes[0].devices[64]: more than 64 devices in one pipeline");
    expect_many(M N "links:\n", "- {between: [a, a]}\n", 1025, "", SL_ELIMIT,
                "x.yaml:3: links: more than 1024 links");
    expect_many("", "k%d: 1\n", 100000, "", SL_ELIMIT, "x.yaml:65: k64: more than 64 keys");
    expect_many("a:\n", "- 1\n", 100000, "", SL_ELIMIT, "more than 20000 values in one file");
    expect_many("a: ", "x", 5000, "\n", SL_ELIMIT, "x.yaml:1: a text of more than 4096 bytes");
    expect_many("a: ", "[", 500000, "\n", SL_ELIMIT, "x.yaml:1: nested too deeply");
    expect_many("a: ", "{b: ", 200000, "\n", SL_ELIMIT, "x.yaml:1: nested too deeply");
    expect_many("", "- ", 400000, "\n", SL_ELIMIT, "x.yaml:1: nested too deeply");
    expect_many("", "# comment\n", 200000, "", SL_ELIMIT, "x.yaml: larger than 1 MiB");
    expect_many(M "nodes: [{name: a, launch: ssh, devices: [{cpu: 0}], ssh_options: '", "-v ", 25,
                "'}]\n", SL_EINPUT, "x.yaml:2: nodes[0].ssh_options: has more than 24 words");
    expect_many(M N "serve: {socket: /", "x", 108, "}\n", SL_EINPUT,
                "x.yaml:3: serve.socket: the path has more than the 107 bytes of a socket's name");
    expect_many(M N, "zw\xc3\xb6lf", 60, ": 1\n", SL_EINPUT, "...: unknown key; known here: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_keys),
        cmocka_unit_test(refuses_types),
        cmocka_unit_test(refuses_values),
        cmocka_unit_test(refuses_meanings),
        cmocka_unit_test(refuses_unsupported),
        cmocka_unit_test(refuses_syntax),
        cmocka_unit_test(bounds_what_a_file_can_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
