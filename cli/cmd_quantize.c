/* cmd_quantize.c - `sluice quantize`: a model written as a Hugging Face folder in another format.
 * Joins model/quantize.h, which plans and writes, and the reference decoding of rows. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/cmd.h"
#include "cli/resolve.h"
#include "kernels/kernels.h"
#include "model/quantize.h"

struct settings {
    const char *to;
    double shard_gb;
    int quiet;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "-t --to --outtype", "FORMAT", AT(to),
     "fp8 (a scale per row), nvfp4, mxfp4, q8_0, q4_0 (a scale per 32), or bf16", 0, 0},
    {SL_CONF_FLOAT, "--shard-gb", "GB", AT(shard_gb), "size of one file of weights; 5 by default",
     0.001, 1e6},
    {SL_CONF_FLAG, "-q --quiet", NULL, AT(quiet), "no progress", 0, 0},
};

/* Once per percent, on a line of its own that a terminal overwrites. */
static void progress(void *arg, uint64_t done, uint64_t total, const char *name)
{
    int *last = arg, percent = (int)(total ? done * 100 / total : 100);
    if (percent == *last) return;
    *last = percent;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%3d%% %-70.70s%s", percent, name, done == total ? "\n" : "");
    else if (percent % 10 == 0)
        fprintf(stderr, "%3d%%\n", percent);
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const struct settings *s = settings;
    const char *in = words[0], *out = words[1];
    char path[PATH_MAX], before[32], after[32];
    struct sl_weights *w = NULL;
    struct sl_quantize_result result;
    int last = -1, to = s->to ? sl_quantize_find(s->to) : -1;
    if (!in || !out || !s->to)
        return sl_err_set(
            err, SL_EUSAGE,
            "name a model, the folder to write and the format: sluice quantize IN OUT "
            "--to fp8");
    if (to < 0)
        return sl_err_set(
            err, SL_EUSAGE,
            "--to %s: not a format that is written; fp8, nvfp4, mxfp4, q8_0, q4_0 and "
            "bf16 are",
            s->to);
    struct sl_quantize q = {.to = (enum sl_quantize_to)to,
                            .shard_bytes = (uint64_t)(s->shard_gb * 1e9),
                            .row = sl_matrix_row,
                            .progress = s->quiet ? NULL : progress,
                            .arg = &last};
    int r = sl_model_resolve(in, path, sizeof path, err);
    if (r == 0) r = sl_weights_open(path, &w, err);
    if (r == 0) r = sl_quantize(w, out, &q, &result, err);
    sl_weights_close(w);
    if (r) return r;
    printf("%s: %d matrices in %s, %s to %s\n", out, result.layers, sl_quantize_name(q.to),
           sl_format_bytes(result.bytes_in, before), sl_format_bytes(result.bytes_out, after));
    if (result.kept)
        printf("%d matrices stay in bf16: their rows do not divide into groups\n", result.kept);
    return 0;
}

int sl_cmd_quantize(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "quantize",
        .usage =
            "usage: sluice quantize IN OUT --to FORMAT [options]\n"
            "\n"
            "Writes the model IN (a Hugging Face folder or a GGUF file, in BF16 or quantized) as "
            "folder OUT, which\nmust not exist.\n"
            "Layers are quantized; embeddings, lm_head, norms, routers and vision towers are "
            "copied, tokenizer\n"
            "and chat template too. The result is in compressed-tensors' layout, which vLLM and "
            "transformers read.\n"
            "Of a GGUF file config.json and the tokenizer's files are written too; its embeddings "
            "become BF16.\n"
            "GGUF files of gpt-oss and DeepSeek and experts in one tensor (gpt-oss) are not "
            "taken.\n"
            "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 2,
        .work = run,
    };
    struct settings s = {0};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
