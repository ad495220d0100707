/* main.c - the table of subcommands. Each is one file, cmd_NAME.c; `sluice NAME --help` documents
 * it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/cmd.h"
#include "transport/link.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"serve", sl_cmd_serve, "launch a cluster (or one process with -m) and serve it until SIGTERM"},
    {"stage", sl_cmd_stage, "run one stage of a cluster that waits for it"},
    {"run", sl_cmd_run, "answer one prompt"},
    {"chat", sl_cmd_chat, "talk to the model in the terminal"},
    {"check", sl_cmd_check, "is this machine right: CPU, cards, drivers, transports, kernels"},
    {"bench", sl_cmd_bench, "measure prefill and decode speed and what each stage does"},
    {"ppl", sl_cmd_ppl, "perplexity of a text"},
    {"logits", sl_cmd_logits, "logits of a token sequence, as safetensors"},
    {"tokenize", sl_cmd_tokenize, "text to token ids and back"},
    {"render", sl_cmd_render, "chat messages to prompt text"},
    {"inspect", sl_cmd_inspect, "what is in a model file"},
    {"quantize", sl_cmd_quantize, "write a model in another format"},
};

static void usage(FILE *out)
{
    fprintf(out, "sluice " SLUICE_VERSION
                 ": pipeline-parallel inference for machines that do not match\n\n"
                 "usage: sluice COMMAND [options]\n\n");
    for (size_t i = 0; i < SL_ARRAY_LEN(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\n`sluice COMMAND --help` documents each. First steps:\n"
                 "  sluice run -m smollm2 -p \"The capital of France is\"\n"
                 "  sluice serve deploy/clusters/three-stages.yaml\n");
}

/* With 0, 1 or 2 closed by whoever started us, the next socket would get that number, and our
 * messages with it. */
static void keep_standard_files(void)
{
    int fd;
    do fd = open("/dev/null", O_RDWR); /* the lowest free number */
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

/* The command's status, unless what it printed did not arrive. */
static int finish(int status)
{
    if (!fflush(stdout) && !ferror(stdout)) return status;
    if (!status)
        fprintf(stderr, "sluice: standard output could not be written: %s\n", strerror(errno));
    return status ? status : 1;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* a client that left is an error code, not a death */
    sl_transport_setup();
    keep_standard_files();
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("sluice " SLUICE_VERSION "\n");
        return 0;
    }
    const char *names[SL_ARRAY_LEN(commands)];
    for (size_t i = 0; i < SL_ARRAY_LEN(commands); i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return finish(commands[i].run(argc - 1, argv + 1));
        names[i] = commands[i].name;
    }
    const char *near = sl_nearest(argv[1], names, SL_ARRAY_LEN(names));
    fprintf(stderr, "sluice: unknown command '%s'%s%s%s; `sluice --help` lists them\n", argv[1],
            near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return 2;
}
