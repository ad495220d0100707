/* cmd.h - the subcommands. Each is called with its own name in argv[0] and returns the process exit status
 * (0 done, 1 failed while running, 2 wrong input or usage). */
#ifndef SL_CLI_CMD_H
#define SL_CLI_CMD_H

int sl_cmd_tokenize(int argc, char **argv); /* cmd_tokenize.c */

#endif
