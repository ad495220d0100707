/* kl_part.h - what kl_file.c and kl_stats.c share; private to them. */
#ifndef SL_CLI_KL_PART_H
#define SL_CLI_KL_PART_H

#include <sys/types.h>

#include "cli/kl.h"

struct sl_kl_file {
    int fd, writing, broken;
    char *path, *header;
    size_t header_len;
    struct sl_kl_shape shape;
    off_t tokens_at, right_at, low_at, step_at, codes_at, end;
    uint16_t *codes; /* [n_vocab] one row */
    float *logp;     /* [n_vocab] one row */
};

int sl_kl_read(struct sl_kl_file *f, void *data, size_t n, off_t at, struct sl_err *err);
/* out[i] = log softmax(logits)[i]; sums in double. */
void sl_kl_log_softmax(const float *logits, int n, float *out);

#endif
