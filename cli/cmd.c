/* cmd.c - what all subcommands do the same way. */
#include "cli/cmd.h"

#include <stdio.h>

int sl_cmd_main(const struct sl_cmd *c, void *settings, int argc, char **argv)
{
    struct sl_err err = {0};
    const char *words[SL_CMD_WORDS_MAX] = {NULL};
    int n_words, help;
    int r = sl_conf_parse(c->rows, c->n_rows, settings, argc, argv, words, c->words, &n_words,
                          &help, &err);
    if (r == 0 && help) {
        fputs(c->usage, stdout);
        sl_conf_help(c->rows, c->n_rows);
        return 0;
    }
    if (r == 0) r = c->work(settings, words, &err);
    if (r) fprintf(stderr, "sluice %s: %s\n", c->name, err.msg);
    return sl_err_exit_status(r);
}
