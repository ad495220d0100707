/* check.h - the parts of `sluice check`: what this machine is, and whether its kernels compute what
 * they should. Each adds to a JSON object, which cmd_check.c prints as it is or as text. */
#ifndef SL_CLI_CHECK_H
#define SL_CLI_CHECK_H

#include <jansson.h>

#include "base/err.h"
#include "base/matrix.h"

/* Versions, CPU, cards, transports; "problems" holds a line for everything that is wrong, with its
 * remedy. check_machine.c */
json_t *sl_check_machine(void);

/* Frames from a port to another one over `transport`: {"name", "works", "frame_us" or "why"}.
 * check_links.c */
json_t *sl_check_link(const char *transport);

/* Kernel families of every device here against the reference: an array of lines (see
 * check_kernels.c). `device` ("cpu", "avx2", "cuda:0"; NULL: all) limits it, as does `format`
 * (NULL: all). Calls shown(arg, line) after each. */
json_t *sl_check_kernels(const char *device, const char *format,
                         void (*shown)(void *arg, const json_t *line), void *arg,
                         struct sl_err *err);

/* ---- weights to check with: check_weights.c -------------------------------------------------- */

struct sl_check_format {
    const char *name; /* "Q4_K", "FP8 128x128" */
    enum sl_dtype type, scale_type;
    int scale_rows, scale_cols; /* of planar formats; 0 in scale_rows: no table; in scale_cols: a
                                   row's */
    int zeros;
    int narrow; /* bits of an element as rows may be quantized for it: 8, 4; 0: they are not */
};
extern const struct sl_check_format sl_check_formats[];
extern const int sl_check_n_formats;

/* A random matrix of that format; elements of sensible size. memory[] (free() each) holds it. 0 or
 * SL_ENOMEM. */
#define SL_CHECK_PIECES 4
int sl_check_matrix(const struct sl_check_format *f, int64_t rows, int64_t cols,
                    struct sl_matrix *out, void *memory[SL_CHECK_PIECES]);

/* n numbers of about normal distribution, the same for the same seed. NULL: no memory. */
float *sl_check_numbers(uint64_t seed, int64_t n);

#endif
