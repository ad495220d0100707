/* cmd.h - the subcommands. Each is called with its own name in argv[0] and returns the process exit
 * status (0 done, 1 failed while running, 2 wrong input or usage). */
#ifndef SL_CLI_CMD_H
#define SL_CLI_CMD_H

#include "base/conf.h"

#define SL_CMD_WORDS_MAX 2

/* What every subcommand is made of; sl_cmd_main does the rest. */
struct sl_cmd {
    const char *name;
    const char *usage; /* what --help says before the options */
    const struct sl_conf_row *rows;
    size_t n_rows;
    int words; /* so many words that are no options may be given, at most SL_CMD_WORDS_MAX */
    /* Does the work; `settings` is filled, words[] NULL where none was given. Returns 0 or an
     * error. */
    int (*work)(void *settings, const char *const words[], struct sl_err *err);
};

/* Parses argv into *settings (which holds the defaults), prints --help, or works and prints what
 * went wrong as one line. Returns the exit status. */
int sl_cmd_main(const struct sl_cmd *c, void *settings, int argc, char **argv);

int sl_cmd_serve(int argc, char **argv);    /* cmd_serve.c */
int sl_cmd_stage(int argc, char **argv);    /* cmd_stage.c */
int sl_cmd_run(int argc, char **argv);      /* cmd_run.c */
int sl_cmd_chat(int argc, char **argv);     /* cmd_chat.c */
int sl_cmd_bench(int argc, char **argv);    /* cmd_bench.c */
int sl_cmd_check(int argc, char **argv);   /* cmd_check.c */
int sl_cmd_ppl(int argc, char **argv);      /* cmd_ppl.c */
int sl_cmd_logits(int argc, char **argv);   /* cmd_logits.c */
int sl_cmd_tokenize(int argc, char **argv); /* cmd_tokenize.c */
int sl_cmd_render(int argc, char **argv);   /* cmd_render.c */
int sl_cmd_inspect(int argc, char **argv);  /* cmd_inspect.c */
int sl_cmd_quantize(int argc, char **argv); /* cmd_quantize.c */

#endif
