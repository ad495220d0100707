/* cmd.h - the subcommands. Each is called with its own name in argv[0] and returns the process exit
 * status (0 done, 1 failed while running, 2 wrong input or usage). */
#ifndef SL_CLI_CMD_H
#define SL_CLI_CMD_H

int sl_cmd_serve(int argc, char **argv);    /* cmd_serve.c */
int sl_cmd_stage(int argc, char **argv);    /* cmd_stage.c */
int sl_cmd_run(int argc, char **argv);      /* cmd_run.c */
int sl_cmd_chat(int argc, char **argv);     /* cmd_chat.c */
int sl_cmd_bench(int argc, char **argv);    /* cmd_bench.c */
int sl_cmd_ppl(int argc, char **argv);      /* cmd_ppl.c */
int sl_cmd_logits(int argc, char **argv);   /* cmd_logits.c */
int sl_cmd_tokenize(int argc, char **argv); /* cmd_tokenize.c */
int sl_cmd_render(int argc, char **argv);   /* cmd_render.c */
int sl_cmd_inspect(int argc, char **argv);  /* cmd_inspect.c */

#endif
