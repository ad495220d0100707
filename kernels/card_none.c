/* card_none.c - a build without CUDA knows no cards. */
#include "kernels/card.h"

void sl_cuda_versions(struct sl_cuda_versions *out)
{
    *out = (struct sl_cuda_versions){0};
}

int sl_card_describe(int number, struct sl_card *out, struct sl_err *err)
{
    *out = (struct sl_card){0};
    return sl_err_set(err, SL_EUNSUPPORTED,
                      "cuda:%d: this sluice was built without CUDA; build it with -DSLUICE_CUDA=ON",
                      number);
}
