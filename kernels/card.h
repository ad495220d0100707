/* card.h - what NVIDIA cards and their software are here: for `check`, placement by name, reports.
 */
#ifndef SL_KERNELS_CARD_H
#define SL_KERNELS_CARD_H

#include <stdint.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_CARD_CAPABILITY_LEAST 89 /* of cards that kernels are made for: Ada */

/* Versions as CUDA counts them, 13000 is 13.0; 0: there is none. */
struct sl_cuda_versions {
    int built;   /* the toolkit that compiled this program */
    int runtime; /* the run-time library in it */
    int driver;  /* the newest that the installed driver can do */
};
void sl_cuda_versions(struct sl_cuda_versions *out);

struct sl_card {
    char name[64];
    int capability; /* 90: Hopper */
    int multiprocessors;
    uint64_t memory_bytes, free_bytes, l2_bytes;
};
/* Card `number`, < sl_backend_cards(). SL_EUNSUPPORTED, in the driver's words, where there is no
 * such card. */
int sl_card_describe(int number, struct sl_card *out, struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
