/* conf.h - command-line options as tables: one row gives parsing, default, --help and aliases.
 *
 * A command declares a struct with its settings and a table of rows that point into it;
 * sl_conf_parse fills the struct. Names that users know from llama.cpp and vLLM are aliases in the
 * same row. */
#ifndef SL_BASE_CONF_H
#define SL_BASE_CONF_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

enum sl_conf_type {
    SL_CONF_FLAG,   /* int: 1 when given; "--no-NAME" sets 0 */
    SL_CONF_INT,    /* int64_t */
    SL_CONF_FLOAT,  /* double */
    SL_CONF_STRING, /* const char *: points into argv */
    SL_CONF_LIST,   /* struct sl_conf_list: every value given, in order */
    SL_CONF_HEADING /* no option: `help` is a heading in --help */
};

#define SL_CONF_LIST_MAX 64 /* times that an option may be given */
struct sl_conf_list {
    const char *v[SL_CONF_LIST_MAX]; /* point into argv */
    int n;
};

struct sl_conf_row {
    enum sl_conf_type type;
    const char *names; /* "-n --predict --n-predict": short and long names, the first long one is
                          the main one */
    const char *value; /* what stands for the value in --help: "N", "FILE"; NULL for flags */
    size_t offset;     /* of the member in the settings struct */
    const char *help;
    double min, max; /* INT and FLOAT: allowed range, both 0 for any */
};

/* Parses argv[1..argc) into *settings (which holds the defaults already). Words that are no options
 * go to positional[0..*n_positional), at most max_positional. "--" ends the options; "--name=value"
 * works. An unknown option is SL_EUSAGE with the nearest known one in the message. "--help"/"-h"
 * sets *help. */
int sl_conf_parse(const struct sl_conf_row *rows, size_t n_rows, void *settings, int argc,
                  char **argv, const char **positional, int max_positional, int *n_positional,
                  int *help, struct sl_err *err);

/* Writes the option part of --help to stdout, aligned. */
void sl_conf_help(const struct sl_conf_row *rows, size_t n_rows);

#ifdef __cplusplus
}
#endif
#endif
