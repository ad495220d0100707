/* gpu_form.h - weights of every form that the device can hold, random, with what they mean on the
 * host: for tests of whatever reads struct sl_cuda_weight. Not made by packing, so that a mistake
 * of the packer and one of the reader cannot cancel. */
#ifndef SL_TESTS_GPU_GPU_FORM_H
#define SL_TESTS_GPU_GPU_FORM_H

#include "tests/gpu/gpu.h"

struct gpu_form {
    const char *name;
    enum sl_cuda_code code;
    enum sl_cuda_scale scale;
    enum sl_cuda_min min;
    int group; /* 0: the whole row */
    float offset;
    int ordered;
};

extern const struct gpu_form gpu_forms[];
extern const int gpu_forms_n;

/* A weight of this form in device memory, `w` pointing there, and its elements on the host:
 * without row factors [rows][cols_padded], then row factors. Padding decodes to finite numbers. */
struct gpu_weight {
    struct sl_cuda_weight w;
    struct sl_weight handle; /* packed: &w */
    float *value, *row;
    int32_t *order; /* host, or NULL */
    void *parts[8];
};

void gpu_weight_make(const struct gpu_form *f, int rows, int cols, uint64_t seed,
                     struct gpu_weight *out);
void gpu_weight_free(struct gpu_weight *w);

/* Element (row, stored column k), all factors in. It meets input order[k]. */
double gpu_weight_at(const struct gpu_weight *w, int row, int k);

/* What an E4M3 code means. */
float gpu_e4m3(int code);

#endif
