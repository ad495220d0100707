/* check_table.h - the table that `sluice check --kernels` makes, and what fills it. Private to
 * cli/check_*.c.
 *
 * A line: {"device", "family", "format", "rows", "shape", "error", "allowed", "us", "gb_s" or
 * "tflops", "percent", "ok", "why"}. Error is rms(difference) / rms(reference). Few rows are
 * limited by memory: GB/s of weights or cache, and percent of what the device was measured to read;
 * many rows by arithmetic: TFLOPS. */
#ifndef SL_CLI_CHECK_TABLE_H
#define SL_CLI_CHECK_TABLE_H

#include "cli/check.h"
#include "cli/check_side.h"

/* Allowed errors. Rows are rounded to 11 bits or better; where tensor cores take weights of 8 and 4
 * bits as they are, rows become as narrow. */
#define SL_CHECK_ERROR 2e-3
#define SL_CHECK_ERROR_8_BITS 0.06
#define SL_CHECK_ERROR_4_BITS 0.2

struct sl_check_table {
    json_t *lines;
    void (*shown)(void *arg, const json_t *line);
    void *arg;
    const char *format; /* only this one; NULL: all */
    struct sl_check_side *s;
    struct sl_backend *ref;
    const struct sl_backend_ops *oracle;
};

/* What a line reports beside the error: seconds of a call (0: not timed), and the bytes or
 * operations in it. */
struct sl_check_speed {
    double seconds, bytes, flops;
};

/* Adds a line; `failed` with a code says why there is no error to report. check_kernels.c */
void sl_check_line(struct sl_check_table *t, const char *family, const char *format, int n,
                   const char *shape, double error, double allowed, struct sl_check_speed v,
                   const struct sl_err *failed);

/* rms(got - want) / rms(want) over n numbers. */
double sl_check_error(const float *got, const float *want, int64_t n);

void sl_check_products(struct sl_check_table *t); /* check_products.c */
void sl_check_embeds(struct sl_check_table *t);
void sl_check_norms(struct sl_check_table *t); /* check_layers.c */
void sl_check_attentions(struct sl_check_table *t);
void sl_check_feeds(struct sl_check_table *t); /* check_feeds.c */
void sl_check_draws(struct sl_check_table *t);

#endif
