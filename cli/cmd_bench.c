/* cmd_bench.c - `sluice bench`: llama-bench's table for this machine or cluster, plus what each
 * stage did. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/bench_run.h"
#include "cli/cmd.h"
#include "cli/random_weights.h"
#include "model/config.h"

#define LIST_MAX 16 /* values of one list option */

struct settings {
    struct sl_session_options session;
    const char *prompts, *generates, *depths, *parallel, *output;
    const char *shape, *format; /* of random weights */
    int64_t repeats;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "-p --n-prompt", "LIST", AT(prompts),
     "prefill tests, tokens (default 512; 0: none)", 0, 0},
    {SL_CONF_STRING, "-n --n-gen", "LIST", AT(generates),
     "decode tests, tokens (default 128; 0: none)", 0, 0},
    {SL_CONF_STRING, "-d --n-depth", "LIST", AT(depths),
     "decode after that many tokens (default 0)", 0, 0},
    {SL_CONF_STRING, "-np --parallel", "LIST", AT(parallel), "requests at once (default 1)", 0, 0},
    {SL_CONF_INT, "-r --repetitions", "N", AT(repeats), "measured repeats (default 5)", 1, 1000},
    {SL_CONF_STRING, "-o --output", "FORMAT", AT(output), "md (default), csv or json", 0, 0},
    {SL_CONF_STRING, "--random-weights", "SHAPE", AT(shape),
     "measure random numbers in the shape of a model (llama-8b ...)", 0, 0},
    {SL_CONF_STRING, "--format", "FORMAT", AT(format),
     "of random weights: bf16, fp8 (default), fp8-block, nvfp4, mxfp4", 0, 0},
    SL_SESSION_ROWS(struct settings),
};

static int parse_list(const char *name, const char *s, int *out, int *n, struct sl_err *err)
{
    *n = 0;
    for (const char *p = s;;) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || v < 0 || v > 1 << 24 || (*end && *end != ',') || *n == LIST_MAX)
            return sl_err_set(err, SL_EUSAGE, "%s '%s' is not a list of at most %d numbers", name,
                              s, LIST_MAX);
        out[(*n)++] = (int)v;
        if (!*end) return 0;
        p = end + 1;
    }
}

struct lists {
    int p[LIST_MAX], n[LIST_MAX], d[LIST_MAX], np[LIST_MAX];
    int n_p, n_n, n_d, n_np;
};

/* All combinations, prefill first. */
static int make_tests(const struct lists *l, struct sl_bench_test *t)
{
    int k = 0;
    for (int i = 0; i < l->n_np; i++) {
        for (int a = 0; a < l->n_p; a++)
            if (l->p[a]) t[k++] = (struct sl_bench_test){.prompt = l->p[a], .parallel = l->np[i]};
        for (int a = 0; a < l->n_n; a++)
            for (int b = 0; b < l->n_d; b++)
                if (l->n[a])
                    t[k++] = (struct sl_bench_test){
                        .generate = l->n[a], .depth = l->d[b], .parallel = l->np[i]};
    }
    return k;
}

struct facts {
    const char *model;
    uint64_t bytes;
    char backends[256];
    uint32_t threads;
    int n_stages;
};

static void read_facts(const struct sl_service *s, struct facts *f)
{
    struct sl_stage_status v[SL_DEVICES_MAX];
    int n = sl_service_stages(s, v, SL_DEVICES_MAX);
    *f = (struct facts){.model = sl_service_model_name(s)};
    for (int i = 0; i < n; i++) {
        if (v[i].stage < 0) continue;
        f->bytes += v[i].weight_bytes;
        f->threads += v[i].threads;
        f->n_stages++;
        size_t len = strlen(f->backends);
        if (!strstr(f->backends, v[i].backend) && len < sizeof f->backends)
            snprintf(f->backends + len, sizeof f->backends - len, "%s%s", len ? "," : "",
                     v[i].backend);
    }
}

static void busy_text(const struct sl_bench_result *r, char *out, size_t cap)
{
    size_t n = 0;
    for (int i = 0; i < r->n_stages && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%.0f%%", i ? " " : "", 100 * r->busy[i]);
}

static void print_head(const char *format)
{
    if (strcmp(format, "csv") == 0)
        printf("model,bytes,backend,threads,stages,n_prompt,n_gen,n_depth,parallel,repeats,tokens_"
               "per_s,sd,weights_gb_s,busy\n");
    else if (strcmp(format, "md") == 0)
        printf("| model | size | backend | threads | stages | test | t/s | weights GB/s | busy per "
               "stage |\n"
               "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |\n");
}

static void print_result(const char *format, const struct facts *f, const struct sl_bench_result *r,
                         json_t *all)
{
    char busy[SL_DEVICES_MAX * 6], name[64], size[32];
    busy_text(r, busy, sizeof busy);
    sl_bench_name(&r->test, name, sizeof name);
    if (strcmp(format, "csv") == 0) {
        printf("\"%s\",%llu,%s,%u,%d,%d,%d,%d,%d,%d,%.3f,%.3f,%.3f,%s\n", f->model,
               (unsigned long long)f->bytes, f->backends, f->threads, f->n_stages, r->test.prompt,
               r->test.generate, r->test.depth, r->test.parallel, r->repeats, r->mean, r->sd,
               r->gigabytes_per_s, busy);
    } else if (strcmp(format, "md") == 0) {
        printf("| %s | %s | %s | %u | %d | %s | %.2f ± %.2f | %.1f | %s |\n", f->model,
               sl_format_bytes(f->bytes, size), f->backends, f->threads, f->n_stages, name, r->mean,
               r->sd, r->gigabytes_per_s, busy);
    } else {
        json_t *shares = json_array();
        for (int i = 0; i < r->n_stages; i++) json_array_append_new(shares, json_real(r->busy[i]));
        json_array_append_new(
            all, json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:o}", "test", name,
                           "n_prompt", r->test.prompt, "n_gen", r->test.generate, "n_depth",
                           r->test.depth, "parallel", r->test.parallel, "repeats", r->repeats,
                           "tokens_per_second", r->mean, "sd", r->sd, "weights_gb_per_second",
                           r->gigabytes_per_s, "busy", shares));
    }
    fflush(stdout);
}

static int measure(struct sl_session *s, const struct settings *o,
                   const struct sl_bench_test *tests, int n, struct sl_err *err)
{
    struct facts f;
    struct sl_bench_result r;
    json_t *all = json_array();
    read_facts(s->service, &f);
    print_head(o->output);
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++) {
        rc = sl_bench_run(s, &tests[i], (int)o->repeats, &r, err);
        if (rc == 0) print_result(o->output, &f, &r, all);
    }
    if (rc == 0 && strcmp(o->output, "json") == 0) {
        json_t *j = json_pack("{s:s, s:I, s:s, s:i, s:i, s:O}", "model", f.model, "bytes",
                              (json_int_t)f.bytes, "backend", f.backends, "threads", (int)f.threads,
                              "stages", f.n_stages, "results", all);
        json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(j);
    }
    json_decref(all);
    return rc;
}

/* A folder of random weights in TMPDIR, as the model to be measured. */
static int make_weights(struct settings *o, char folder[4096], struct sl_err *err)
{
    const char *tmp = sl_env_get("TMPDIR");
    if (o->session.model)
        return sl_err_set(err, SL_EUSAGE, "give -m MODEL or --random-weights SHAPE, not both");
    /* the last part is what the table calls the model */
    int n = snprintf(folder, 3800, "%s/sluice-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return sl_err_set(err, SL_EIO, "%s: %s; set TMPDIR", folder, strerror(errno));
    snprintf(folder + n, (size_t)(4096 - n), "/%.40s-%.16s", o->shape, o->format);
    if (mkdir(folder, 0755)) return sl_err_set(err, SL_EIO, "%s: %s", folder, strerror(errno));
    o->session.model = folder;
    return sl_random_weights_write(o->shape, o->format, folder, err);
}

static void drop_weights(char *folder)
{
    static const char *const files[] = {"model.safetensors", "config.json", "tokenizer.json"};
    char path[4200];
    for (size_t i = 0; folder[0] && i < SL_ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    if (!folder[0]) return;
    rmdir(folder);
    *strrchr(folder, '/') = 0;
    rmdir(folder);
}

static int run_tests(struct settings *o, const char *yaml, struct sl_err *err)
{
    static struct sl_session session;
    static struct sl_bench_test tests[2 * LIST_MAX * LIST_MAX * LIST_MAX];
    struct sl_cluster cluster;
    struct lists l;
    int r = parse_list("-p", o->prompts, l.p, &l.n_p, err);
    if (r == 0) r = parse_list("-n", o->generates, l.n, &l.n_n, err);
    if (r == 0) r = parse_list("-d", o->depths, l.d, &l.n_d, err);
    if (r == 0) r = parse_list("-np", o->parallel, l.np, &l.n_np, err);
    if (r == 0 && strcmp(o->output, "md") && strcmp(o->output, "csv") && strcmp(o->output, "json"))
        r = sl_err_set(err, SL_EUSAGE, "-o '%s' is none of md, csv, json", o->output);
    int most = 1;
    for (int i = 0; r == 0 && i < l.n_np; i++) {
        if (l.np[i] < 1 || l.np[i] > SL_SEQS_MAX)
            r = sl_err_set(err, SL_EUSAGE, "-np %d is not between 1 and %d", l.np[i], SL_SEQS_MAX);
        most = SL_MAX(most, l.np[i]);
    }
    if (r == 0) r = sl_session_cluster(&o->session, yaml, &cluster, err);
    if (r) return r;
    cluster.sequences =
        SL_MAX(cluster.sequences, most); /* all requests of a test must run at once */
    cluster.queue = SL_MAX(cluster.queue, most);
    r = sl_session_open(&session, &cluster, err);
    if (r) return r;
    r = measure(&session, o, tests, make_tests(&l, tests), err);
    sl_session_close(&session, 1);
    return r;
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    struct settings *o = settings;
    char folder[4096] = "";
    int r = o->shape ? make_weights(o, folder, err) : 0;
    if (r == 0) r = run_tests(o, words[0], err);
    drop_weights(folder);
    return r;
}

int sl_cmd_bench(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "bench",
        .usage = "usage: sluice bench (-m MODEL | CLUSTER.yaml) [-p 512] [-n 128] [-np 1,8] [-r 5] "
                 "[-o md|csv|json]\n"
                 "\n"
                 "Measures prefill and decode, through the scheduler and the pipeline. `busy` is "
                 "each stage's share of the time\n"
                 "with work; weights GB/s is what the stages stream while they compute.\n"
                 "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 1,
        .work = run,
    };
    struct settings s = {.prompts = "512",
                         .generates = "128",
                         .depths = "0",
                         .parallel = "1",
                         .output = "md",
                         .format = "fp8",
                         .repeats = 5};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
