/* dtype.c - see dtype.h. */
#include "base/dtype.h"

#include <strings.h>

#include "base/sl_assert.h"

static const struct row {
    const char *name;
    int block, bytes;
    uint32_t ggml;
    enum sl_dtype_kind kind;
} rows[] = {
#define X(name, block, bytes, ggml, kind) {#name, block, bytes, ggml, SL_KIND_##kind},
    SL_DTYPES(X)
#undef X
};
_Static_assert(SL_ARRAY_LEN(rows) == SL_DTYPE_COUNT, "one row per dtype");

/* ggml ids that exist in files but have no row above; used to say what a file holds and to check
 * its layout. */
static const struct row known[] = {
    {"Q8_1", 32, 36, 9, SL_KIND_BLOCK},      {"Q8_K", 256, 292, 15, SL_KIND_BLOCK},
    {"IQ2_XXS", 256, 66, 16, SL_KIND_BLOCK}, {"IQ2_XS", 256, 74, 17, SL_KIND_BLOCK},
    {"IQ3_XXS", 256, 98, 18, SL_KIND_BLOCK}, {"IQ1_S", 256, 50, 19, SL_KIND_BLOCK},
    {"IQ3_S", 256, 110, 21, SL_KIND_BLOCK},  {"IQ2_S", 256, 82, 22, SL_KIND_BLOCK},
    {"IQ1_M", 256, 56, 29, SL_KIND_BLOCK},   {"TQ1_0", 256, 54, 34, SL_KIND_BLOCK},
    {"TQ2_0", 256, 66, 35, SL_KIND_BLOCK},
};

static const struct row *ggml_row(uint32_t id)
{
    if (id == SL_GGML_NONE) return NULL;
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++)
        if (rows[i].ggml == id) return &rows[i];
    for (size_t i = 0; i < SL_ARRAY_LEN(known); i++)
        if (known[i].ggml == id) return &known[i];
    return NULL;
}

static const struct row *row(enum sl_dtype t)
{
    SL_ASSERT((int)t >= 0 && t < SL_DTYPE_COUNT);
    return &rows[t];
}

const char *sl_dtype_name(enum sl_dtype t)
{
    return row(t)->name;
}

enum sl_dtype_kind sl_dtype_kind(enum sl_dtype t)
{
    return row(t)->kind;
}

int sl_dtype_block(enum sl_dtype t)
{
    return row(t)->block;
}

int sl_dtype_block_bytes(enum sl_dtype t)
{
    return row(t)->bytes;
}

int sl_dtype_from_ggml(uint32_t ggml_type)
{
    for (int i = 0; i < SL_DTYPE_COUNT; i++)
        if (rows[i].ggml == ggml_type && ggml_type != SL_GGML_NONE) return i;
    return -1;
}

int sl_dtype_from_name(const char *name)
{
    for (int i = 0; i < SL_DTYPE_COUNT; i++)
        if (strcasecmp(rows[i].name, name) == 0) return i;
    return -1;
}

const char *sl_dtype_ggml_name(uint32_t ggml_type)
{
    const struct row *r = ggml_row(ggml_type);
    return r ? r->name : NULL;
}

int sl_dtype_ggml_size(uint32_t ggml_type, int *block, int *bytes)
{
    const struct row *r = ggml_row(ggml_type);
    if (!r) return -1;
    *block = r->block;
    *bytes = r->bytes;
    return 0;
}

uint64_t sl_dtype_row_bytes(enum sl_dtype t, uint64_t n)
{
    const struct row *r = row(t);
    SL_ASSERT(n % (uint64_t)r->block == 0);
    return n / (uint64_t)r->block * (uint64_t)r->bytes;
}
