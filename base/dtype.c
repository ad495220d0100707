/* dtype.c - see dtype.h. */
#include "base/dtype.h"

#include <strings.h>

#include "base/sl_assert.h"

static const struct row {
    const char *name;
    int block, bytes;
    uint32_t ggml;
} rows[] = {
#define X(name, block, bytes, ggml) {#name, block, bytes, ggml},
    SL_DTYPES(X)
#undef X
};
_Static_assert(SL_ARRAY_LEN(rows) == SL_DTYPE_COUNT, "one row per dtype");

/* ggml ids that exist in files but have no row above; used to say what a file holds. */
static const struct {
    uint32_t id;
    const char *name;
} known[] = {
    {9, "Q8_1"},     {10, "Q2_K"},    {11, "Q3_K"},   {15, "Q8_K"},   {16, "IQ2_XXS"}, {17, "IQ2_XS"},
    {18, "IQ3_XXS"}, {19, "IQ1_S"},   {20, "IQ4_NL"}, {21, "IQ3_S"},  {22, "IQ2_S"},   {23, "IQ4_XS"},
    {24, "I8"},      {25, "I16"},     {26, "I32"},    {27, "I64"},    {28, "F64"},     {29, "IQ1_M"},
    {34, "TQ1_0"},   {35, "TQ2_0"},   {39, "MXFP4"},  {40, "NVFP4"},
};

static const struct row *row(enum sl_dtype t)
{
    SL_ASSERT((int)t >= 0 && t < SL_DTYPE_COUNT);
    return &rows[t];
}

const char *sl_dtype_name(enum sl_dtype t)
{
    return row(t)->name;
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
        if (rows[i].ggml == ggml_type) return i;
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
    int t = sl_dtype_from_ggml(ggml_type);
    if (t >= 0) return rows[t].name;
    for (size_t i = 0; i < SL_ARRAY_LEN(known); i++)
        if (known[i].id == ggml_type) return known[i].name;
    return NULL;
}

uint64_t sl_dtype_row_bytes(enum sl_dtype t, uint64_t n)
{
    const struct row *r = row(t);
    SL_ASSERT(n % (uint64_t)r->block == 0);
    return n / (uint64_t)r->block * (uint64_t)r->bytes;
}
