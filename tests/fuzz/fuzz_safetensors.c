/* fuzz_safetensors.c - any bytes as a safetensors file, and layers of every scheme in it.
 *
 * The first byte chooses the shape that is asked for. With its top bit set the rest is a header, a
 * newline and data, and the length is put before it here, so that changes to the header keep a file
 * whole; else the rest is the file itself. The header must be refused or give tensors that can be
 * read to the last byte; a layer "l" must be refused or give a matrix whose every row can be
 * decoded. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/kernels.h"
#include "model/linear.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define DIM_MAX 256 /* rows and columns that are asked for, so that a run stays short */

static volatile unsigned sink; /* keeps the reads */

static void read_tensors(struct sl_weights *w)
{
    struct sl_err err = {0};
    for (size_t i = 0; i < sl_weights_count(w); i++) {
        const struct sl_tensor *t = sl_weights_at(w, i);
        unsigned sum = 0;
        SL_ASSERT(sl_weights_find(w, t->name) == t && t->type_name);
        const uint8_t *p = sl_weights_map(w, t, &err);
        SL_ASSERT(p != NULL);
        for (uint64_t k = 0; k < t->bytes; k++) sum += p[k];
        sink += sum;
        sl_weights_unmap(w, t);
    }
}

static void read_layer(struct sl_weights *w, int expert, int n_experts, int64_t rows, int64_t cols)
{
    struct sl_linear l;
    struct sl_err err = {0};
    uint64_t bytes;
    int r = sl_linear_open(w, "l", expert, n_experts, rows, cols, &l, &err);
    if (r != 0) {
        SL_ASSERT(err.code == r && err.msg[0] != 0);
        return;
    }
    SL_ASSERT(sl_linear_exists(w, "l") && l.m.rows == rows && l.m.cols == cols);
    SL_ASSERT(sl_linear_bytes(w, "l", expert, n_experts, &bytes, &err) == 0 && bytes == l.bytes);
    float *row = malloc((size_t)cols * sizeof *row);
    for (int64_t i = 0; row && i < rows; i++) sl_matrix_row(&l.m, i, row);
    free(row);
    sl_linear_close(w, &l);
}

/* Length, header and data of "header \n data"; free() it. */
static uint8_t *with_length(const uint8_t *data, size_t n, size_t *len)
{
    const uint8_t *end = n ? memchr(data, '\n', n) : NULL;
    uint64_t head = end ? (uint64_t)(end - data) : n;
    size_t rest = end ? n - head - 1 : 0;
    uint8_t *file = malloc(8 + n);
    if (!file) abort();
    memcpy(file, &head, 8);
    if (head) memcpy(file + 8, data, head);
    if (rest) memcpy(file + 8 + head, end + 1, rest);
    *len = 8 + head + rest;
    return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const int16_t shapes[8][2] = {{16, 64}, {8, 32}, {1, 16},  {16, 96},
                                         {64, 64}, {3, 17}, {128, 8}, {200, 256}};
    struct sl_weights *w = NULL;
    struct sl_err err = {0};
    if (n < 1) return 0;
    int64_t rows = shapes[*data & 7][0], cols = shapes[*data & 7][1];
    SL_ASSERT(rows <= DIM_MAX && cols <= DIM_MAX);
    size_t len = n - 1;
    uint8_t *made = *data & 0x80 ? with_length(data + 1, n - 1, &len) : NULL;
    int r = sl_weights_open_memory("fuzz.safetensors", made ? made : data + 1, len, &w, &err);
    if (r != 0) {
        SL_ASSERT(w == NULL && err.code == r && err.msg[0] != 0);
        free(made);
        return 0;
    }
    read_tensors(w);
    SL_ASSERT(sl_linear_scheme(w) != NULL);
    read_layer(w, -1, 0, rows, cols);
    read_layer(w, 1, 2, rows, cols);
    sl_weights_close(w);
    free(made);
    return 0;
}
