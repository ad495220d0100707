/* main.c - the table of subcommands. Each is one file, cmd_NAME.c; `sluice NAME --help` documents it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/cmd.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"serve", sl_cmd_serve, "launch a cluster (or one process with -m) and serve it until SIGTERM"},
    {"stage", sl_cmd_stage, "run one stage of a cluster that waits for it"},
    {"run", sl_cmd_run, "answer one prompt"},
    {"chat", sl_cmd_chat, "talk to the model in the terminal"},
    {"bench", sl_cmd_bench, "measure prefill and decode speed and what each stage does"},
    {"ppl", sl_cmd_ppl, "perplexity of a text"},
    {"logits", sl_cmd_logits, "logits of a token sequence, as safetensors"},
    {"tokenize", sl_cmd_tokenize, "text to token ids and back"},
    {"render", sl_cmd_render, "chat messages to prompt text"},
    {"inspect", sl_cmd_inspect, "what is in a model file"},
};

static void usage(FILE *out)
{
    fprintf(out, "sluice " SLUICE_VERSION ": pipeline-parallel inference for machines that do not match\n\n"
                 "usage: sluice COMMAND [options]\n\n");
    for (size_t i = 0; i < SL_ARRAY_LEN(commands); i++) fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\n`sluice COMMAND --help` documents each. First steps:\n"
                 "  sluice run -m smollm2 -p \"The capital of France is\"\n"
                 "  sluice serve deploy/clusters/three-stages.yaml\n");
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* a client that left is an error code, not a death */
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("sluice " SLUICE_VERSION "\n");
        return 0;
    }
    const char *names[SL_ARRAY_LEN(commands)];
    for (size_t i = 0; i < SL_ARRAY_LEN(commands); i++) {
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
        names[i] = commands[i].name;
    }
    const char *near = sl_nearest(argv[1], names, SL_ARRAY_LEN(names));
    fprintf(stderr, "sluice: unknown command '%s'%s%s%s; `sluice --help` lists them\n", argv[1], near ? "; did you mean '" : "",
            near ? near : "", near ? "'?" : "");
    return 2;
}
