/* cmd_check.c - `sluice check`: is this machine right: what is here, does it work together, and
 * with
 * --kernels, does every family of kernels compute on every device what the reference computes. */
#include <stdio.h>
#include <string.h>

#include "base/conf.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/check.h"
#include "cli/cmd.h"

struct settings {
    const char *device, *format;
    int kernels, json;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_FLAG, "--kernels", NULL, AT(kernels),
     "check and time every family of kernels on every device", 0, 0},
    {SL_CONF_STRING, "--device", "NAME", AT(device),
     "only this device's kernels: cpu, one row of it (avx2), cuda, one card (cuda:0)", 0, 0},
    {SL_CONF_STRING, "--format", "NAME", AT(format), "only products of this weight format", 0, 0},
    {SL_CONF_FLAG, "--json", NULL, AT(json), "one JSON object with everything", 0, 0},
};

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "none";
}

static const char *bytes_of(const json_t *o, const char *key, char out[32])
{
    return sl_format_bytes((uint64_t)json_integer_value(json_object_get(o, key)), out);
}

static void print_machine(const json_t *m)
{
    char all[32], unused[32];
    size_t i;
    json_t *v;
    const json_t *cpu = json_object_get(m, "cpu"), *cuda = json_object_get(m, "cuda");
    printf("sluice      %s\n", text_of(m, "sluice"));
    printf("CPU         %s, %d logical CPUs, %s available\n", text_of(cpu, "name"),
           (int)json_integer_value(json_object_get(cpu, "cpus")),
           bytes_of(cpu, "memory_available", all));
    printf("CPU rows   ");
    json_array_foreach(json_object_get(cpu, "rows"), i, v) printf(" %s", json_string_value(v));
    printf("\nCUDA        built with %s, run-time library %s, driver for %s\n",
           text_of(cuda, "built"), text_of(cuda, "runtime"), text_of(cuda, "driver"));
    json_array_foreach(json_object_get(cuda, "cards"), i, v)
    {
        printf("%-11s %s", text_of(v, "kind"), text_of(v, "name"));
        if (json_object_get(v, "capability"))
            printf(", compute capability %s, %d multiprocessors, %s, %s free",
                   text_of(v, "capability"),
                   (int)json_integer_value(json_object_get(v, "multiprocessors")),
                   bytes_of(v, "memory", all), bytes_of(v, "memory_free", unused));
        printf("\n");
    }
    printf("NCCL        %s\nUCX         %s\n", text_of(m, "nccl"), text_of(m, "ucx"));
    json_array_foreach(json_object_get(m, "transports"), i, v)
    {
        if (json_is_true(json_object_get(v, "works")))
            printf("%-11s works, %.0f us for a frame of 16 KiB\n", text_of(v, "name"),
                   json_number_value(json_object_get(v, "frame_us")));
        else
            printf("%-11s FAILED\n", text_of(v, "name"));
    }
    json_array_foreach(json_object_get(m, "problems"), i, v)
        printf("PROBLEM     %s\n", json_string_value(v));
}

/* ---- kernels --------------------------------------------------------------------------------- */

static void print_head(void)
{
    printf("\n%-9s %-10s %-12s %5s %-16s %9s %11s %10s %8s %5s\n", "device", "family", "format",
           "rows", "shape", "error", "us", "GB/s", "TFLOPS", "limit");
}

static void print_number(const json_t *line, const char *key, int width, int digits)
{
    const json_t *v = json_object_get(line, key);
    if (v && json_is_number(v))
        printf(" %*.*f", width, digits, json_number_value(v));
    else
        printf(" %*s", width, "");
}

static void print_line(void *arg, const json_t *line)
{
    const json_t *error = json_object_get(line, "error"),
                 *percent = json_object_get(line, "percent");
    (void)arg;
    printf("%-9s %-10s %-12s %5d %-16s", text_of(line, "device"), text_of(line, "family"),
           text_of(line, "format"), (int)json_integer_value(json_object_get(line, "rows")),
           text_of(line, "shape"));
    if (json_is_number(error))
        printf(" %9.1e", json_number_value(error));
    else
        printf(" %9s", "");
    print_number(line, "us", 11, 1);
    print_number(line, "gb_s", 10, 1);
    print_number(line, "tflops", 8, 2);
    if (percent) printf(" %4.0f%%", json_number_value(percent));
    if (!json_is_true(json_object_get(line, "ok"))) printf(" FAILED: %s", text_of(line, "why"));
    printf("\n");
    fflush(stdout);
}

static int failed_lines(const json_t *lines)
{
    size_t i;
    int n = 0;
    json_t *line;
    json_array_foreach((json_t *)(uintptr_t)lines, i, line) n +=
        !json_is_true(json_object_get(line, "ok"));
    return n;
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const struct settings *s = settings;
    (void)words;
    if ((s->device || s->format) && !s->kernels)
        return sl_err_set(err, SL_EUSAGE, "--device and --format choose kernels: add --kernels");
    json_t *j = sl_check_machine(), *lines = NULL;
    int problems = (int)json_array_size(json_object_get(j, "problems")), failed = 0, r = 0;
    if (!s->json) print_machine(j);
    if (s->kernels) {
        if (!s->json) print_head();
        lines = sl_check_kernels(s->device, s->format, s->json ? NULL : print_line, NULL, err);
        r = lines ? 0 : err->code ? err->code : SL_ENOMEM;
    }
    if (lines) {
        failed = failed_lines(lines);
        json_object_set_new(j, "kernels", lines);
    }
    if (!r && s->json) {
        json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
    }
    json_decref(j);
    if (!r && failed)
        r = sl_err_set(err, SL_ESYS,
                       "%d kernel check%s failed: see why above; do not give stages "
                       "to that device",
                       failed, failed == 1 ? "" : "s");
    if (!r && problems)
        r = sl_err_set(err, SL_ESYS, "%d problem%s: see above", problems, problems == 1 ? "" : "s");
    return r;
}

int sl_cmd_check(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "check",
        .usage =
            "usage: sluice check [options]\n"
            "\n"
            "Says what this machine is and whether it is right: CPU rows, NVIDIA cards, driver\n"
            "and libraries, transports. With --kernels every family of kernels of this build\n"
            "is compared with the reference on every device here and timed: GB/s and percent\n"
            "of the device's own read bandwidth for few rows, TFLOPS for many.\n"
            "Exit status 1 when anything is wrong.\n"
            "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .work = run,
    };
    struct settings s = {0};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
