/* pack_form.c - which form of cuda.h a matrix takes in device memory, and where its tables lie.
 * Formats of files: base/dtype.h, base/matrix.h, kernels/ref. */
#include "kernels/cuda/pack.h"

#include <math.h>
#include <string.h>

#include "kernels/cuda/matmul.h"

#define ALIGN 256         /* bytes */
#define GRID_COLS 128     /* the one width of blocks that multiply accumulators */
#define GRID_ROWS_STEP 16 /* rows of a tile, which has one row of the grid */
#define GRID_ROWS_ALL (1 << 30)
#define TABLE_TOP_BITS 7 /* a codebook is brought to magnitudes in [64, 128) */

/* ---- blocks ---------------------------------------------------------------------------------- */

struct block_form {
    enum sl_cuda_code code;
    enum sl_cuda_scale scale;
    enum sl_cuda_min min;
    int group;
    float offset;
};

static const struct block_form blocks[SL_DTYPE_COUNT] = {
    [SL_Q4_0] = {SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, 32, 8},
    [SL_Q4_1] = {SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_F16, 32, 0},
    [SL_Q5_0] = {SL_CUDA_U5, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, 32, 16},
    [SL_Q5_1] = {SL_CUDA_U5, SL_CUDA_SCALE_F16, SL_CUDA_MIN_F16, 32, 0},
    [SL_Q8_0] = {SL_CUDA_I8, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, 32, 0},
    [SL_Q2_K] = {SL_CUDA_U2, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, 16, 0},
    [SL_Q3_K] = {SL_CUDA_U3, SL_CUDA_SCALE_SUB_I, SL_CUDA_MIN_NONE, 16, 4},
    [SL_Q4_K] = {SL_CUDA_U4, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, 32, 0},
    [SL_Q5_K] = {SL_CUDA_U5, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, 32, 0},
    [SL_Q6_K] = {SL_CUDA_U6, SL_CUDA_SCALE_SUB_I, SL_CUDA_MIN_NONE, 16, 32},
    [SL_IQ4_NL] = {SL_CUDA_LUT4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, 32, 0},
    [SL_IQ4_XS] = {SL_CUDA_LUT4, SL_CUDA_SCALE_SUB_I, SL_CUDA_MIN_NONE, 32, 0},
    [SL_MXFP4] = {SL_CUDA_E2M1, SL_CUDA_SCALE_E8M0, SL_CUDA_MIN_NONE, 32, 0},
    [SL_NVFP4] = {SL_CUDA_E2M1, SL_CUDA_SCALE_UE4M3, SL_CUDA_MIN_NONE, 16, 0},
};

static void block_form(const struct sl_matrix *m, struct sl_cuda_weight *w)
{
    static const float iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
    const struct block_form *b = &blocks[m->type];
    w->code_kind = b->code;
    w->scale_kind = b->scale;
    w->min_kind = b->min;
    w->group = b->group;
    w->offset = b->offset;
    if (b->code == SL_CUDA_LUT4) memcpy(w->lut, iq4, sizeof iq4);
}

/* ---- planar ---------------------------------------------------------------------------------- */

/* A codebook by a power of two, so that its halfs have all their bits. */
static void set_table(const float *codebook, struct sl_pack_form *f)
{
    float top = 0;
    int exp;
    for (int i = 0; i < 16; i++)
        if (isfinite(codebook[i])) top = fmaxf(top, fabsf(codebook[i]));
    if (top == 0) top = 1;
    frexpf(top, &exp); /* top < 2^exp */
    for (int i = 0; i < 16; i++) f->w.lut[i] = ldexpf(codebook[i], TABLE_TOP_BITS - exp);
    f->factor *= ldexpf(1, exp - TABLE_TOP_BITS);
}

static int planar_code(enum sl_dtype t)
{
    switch (t) {
    case SL_F8_E4M3:
        return SL_CUDA_E4M3;
    case SL_F8_E5M2:
        return SL_CUDA_E5M2;
    case SL_F4:
        return SL_CUDA_E2M1;
    case SL_U4:
        return SL_CUDA_U4;
    case SL_U8:
        return SL_CUDA_U8;
    case SL_I8:
        return SL_CUDA_I8;
    case SL_CB4:
        return SL_CUDA_LUT4;
    default:
        return -1;
    }
}

/* The widest group that scales of `cols` columns can be told in; 0: none. */
static int group_of(int64_t cols)
{
    for (int g = 128; g >= 16; g /= 2)
        if (cols % g == 0) return g;
    return 0;
}

static int small_float(enum sl_cuda_code code)
{
    return code == SL_CUDA_E4M3 || code == SL_CUDA_E5M2 || code == SL_CUDA_E2M1;
}

static int planar_form(const struct sl_matrix *m, struct sl_pack_form *f)
{
    struct sl_cuda_weight *w = &f->w;
    int shared = m->row_step == 1 && m->row_first % m->scale_rows == 0;
    w->code_kind = (enum sl_cuda_code)planar_code(m->type);
    w->min_kind = m->zeros ? SL_CUDA_MIN_ZERO_U8 : SL_CUDA_MIN_NONE;
    f->scale_rows = shared ? m->scale_rows : 1;
    if (w->code_kind == SL_CUDA_LUT4) {
        if (!m->codebook) return -1;
        set_table(m->codebook, f);
    }
    f->row_scale = m->scale_cols >= m->cols;
    if (f->row_scale || (!m->scales && !m->zeros)) {
        w->scale_kind = SL_CUDA_SCALE_NONE;
        w->group = w->cols_padded;
        return 0;
    }
    w->group = group_of(m->scale_cols);
    if (!w->group) return -1;
    int fp8 = w->code_kind == SL_CUDA_E4M3 || w->code_kind == SL_CUDA_E5M2;
    int all = f->scale_rows >= m->rows;
    if (!m->scales) {
        w->scale_kind = SL_CUDA_SCALE_NONE;
    } else if (fp8 && w->group == GRID_COLS && f->scale_rows > 1 &&
               (all || f->scale_rows % GRID_ROWS_STEP == 0)) {
        w->scale_kind = SL_CUDA_SCALE_GRID;
        w->grid_rows = all ? GRID_ROWS_ALL : (int)f->scale_rows;
        w->grid_cols = GRID_COLS;
        w->grid_stride = (int)((w->cols_padded + GRID_COLS - 1) / GRID_COLS + 3) / 4 * 4;
        w->group = w->cols_padded;
    } else if (m->scale_type == SL_E8M0 && small_float(w->code_kind) && w->group >= 32) {
        w->scale_kind = SL_CUDA_SCALE_E8M0;
    } else if (m->scale_type == SL_F8_E4M3 && w->code_kind == SL_CUDA_E2M1 && w->group == 16) {
        w->scale_kind = SL_CUDA_SCALE_UE4M3;
    } else {
        w->scale_kind = SL_CUDA_SCALE_F16;
    }
    return 0;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static int code_bits(enum sl_cuda_code c)
{
    switch (c) {
    case SL_CUDA_F32:
        return 32;
    case SL_CUDA_F16:
        return 16;
    case SL_CUDA_U2:
    case SL_CUDA_U3:
        return 2;
    case SL_CUDA_E2M1:
    case SL_CUDA_LUT4:
    case SL_CUDA_U4:
    case SL_CUDA_U5:
    case SL_CUDA_U6:
        return 4;
    default:
        return 8;
    }
}

static int high_bits(enum sl_cuda_code c)
{
    return c == SL_CUDA_U3 || c == SL_CUDA_U5 ? 1 : c == SL_CUDA_U6 ? 2 : 0;
}

static void lay_out(const struct sl_matrix *m, struct sl_pack_form *f)
{
    struct sl_cuda_weight *w = &f->w;
    uint64_t rows = (uint64_t)w->rows, groups = (uint64_t)sl_cuda_groups(w),
             supers = (uint64_t)sl_cuda_supers(w), size[SL_PACK_PARTS] = {0};
    w->code_stride = (int64_t)w->cols_padded * code_bits(w->code_kind) / 8;
    w->high_stride = (int64_t)w->cols_padded * high_bits(w->code_kind) / 8;
    size[SL_PACK_CODE] = rows * (uint64_t)w->code_stride;
    size[SL_PACK_HIGH] = rows * (uint64_t)w->high_stride;
    if (w->scale_kind == SL_CUDA_SCALE_GRID)
        size[SL_PACK_SCALE] =
            ((rows - 1) / (uint64_t)w->grid_rows + 1) * (uint64_t)w->grid_stride * sizeof(float);
    else if (w->scale_kind != SL_CUDA_SCALE_NONE)
        size[SL_PACK_SCALE] = rows * groups * (w->scale_kind == SL_CUDA_SCALE_F16 ? 2 : 1);
    if (w->scale_kind == SL_CUDA_SCALE_SUB_U || w->scale_kind == SL_CUDA_SCALE_SUB_I)
        size[SL_PACK_SUPER] = rows * supers * 2;
    if (w->min_kind != SL_CUDA_MIN_NONE)
        size[SL_PACK_MIN] = rows * groups * (w->min_kind == SL_CUDA_MIN_F16 ? 2 : 1);
    if (w->min_kind == SL_CUDA_MIN_SUB) size[SL_PACK_SUPMIN] = rows * supers * 2;
    size[SL_PACK_ROW] = rows * sizeof(float);
    if (m->order) size[SL_PACK_ORDER] = (uint64_t)w->cols * sizeof(int32_t);
    for (int i = 0; i < SL_PACK_PARTS; i++) {
        f->at[i] = f->bytes;
        f->has[i] = size[i] > 0;
        f->bytes += (size[i] + ALIGN - 1) / ALIGN * ALIGN;
    }
}

int sl_pack_form(const struct sl_matrix *m, struct sl_pack_form *f)
{
    *f = (struct sl_pack_form){.scale_rows = 1, .factor = m->factor};
    if (m->rows < 1 || m->cols < 1 || m->rows > INT32_MAX / 2 || m->cols > INT32_MAX / 2) return -1;
    f->w.rows = (int32_t)m->rows;
    f->w.cols = (int32_t)m->cols;
    f->w.cols_padded = (int32_t)sl_cuda_pad(m->cols);
    f->w.group = f->w.cols_padded;
    switch (sl_dtype_kind(m->type)) {
    case SL_KIND_FLOAT:
        f->w.code_kind = m->type == SL_F32 ? SL_CUDA_F32 : SL_CUDA_F16;
        break;
    case SL_KIND_BLOCK:
        block_form(m, &f->w);
        break;
    case SL_KIND_PLANAR:
        if (planar_form(m, f)) return -1;
        break;
    default:
        return -1;
    }
    lay_out(m, f);
    return 0;
}

uint64_t sl_cuda_weight_bytes(const struct sl_matrix *m)
{
    struct sl_pack_form f;
    return sl_pack_form(m, &f) ? 0 : f.bytes;
}
