/* gpu_form.c - see gpu_form.h. */
#include "tests/gpu/gpu_form.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"

const struct gpu_form gpu_forms[] = {
    {"f16", SL_CUDA_F16, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_NONE, 0, 0, 0},
    {"f32", SL_CUDA_F32, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_NONE, 0, 0, 0},
    {"fp8 row", SL_CUDA_E4M3, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_NONE, 0, 0, 0},
    {"fp8 block", SL_CUDA_E4M3, SL_CUDA_SCALE_GRID, SL_CUDA_MIN_NONE, 0, 0, 0},
    {"fp8 group", SL_CUDA_E4M3, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, 128, 0, 0},
    {"e5m2", SL_CUDA_E5M2, SL_CUDA_SCALE_NONE, SL_CUDA_MIN_NONE, 0, 0, 0},
    {"nvfp4", SL_CUDA_E2M1, SL_CUDA_SCALE_UE4M3, SL_CUDA_MIN_NONE, 16, 0, 0},
    {"mxfp4", SL_CUDA_E2M1, SL_CUDA_SCALE_E8M0, SL_CUDA_MIN_NONE, 32, 0, 0},
    {"mxfp8", SL_CUDA_E4M3, SL_CUDA_SCALE_E8M0, SL_CUDA_MIN_NONE, 32, 0, 0},
    {"nf4", SL_CUDA_LUT4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, 64, 0, 0},
    {"q2_k", SL_CUDA_U2, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, 16, 0, 0},
    {"q3_k", SL_CUDA_U3, SL_CUDA_SCALE_SUB_I, SL_CUDA_MIN_NONE, 16, 4, 0},
    {"q4_0", SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, 32, 8, 0},
    {"q4_1", SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_F16, 32, 0, 0},
    {"q4_k", SL_CUDA_U4, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, 32, 0, 0},
    {"awq", SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_ZERO_U8, 128, 0, 0},
    {"gptq act-order", SL_CUDA_U4, SL_CUDA_SCALE_F16, SL_CUDA_MIN_ZERO_U8, 128, 0, 1},
    {"q5_k", SL_CUDA_U5, SL_CUDA_SCALE_SUB_U, SL_CUDA_MIN_SUB, 32, 0, 0},
    {"q6_k", SL_CUDA_U6, SL_CUDA_SCALE_SUB_I, SL_CUDA_MIN_NONE, 16, 32, 0},
    {"q8_0", SL_CUDA_I8, SL_CUDA_SCALE_F16, SL_CUDA_MIN_NONE, 32, 0, 0},
    {"gptq 8 bits", SL_CUDA_U8, SL_CUDA_SCALE_F16, SL_CUDA_MIN_ZERO_U8, 128, 0, 0},
};
const int gpu_forms_n = (int)(sizeof gpu_forms / sizeof *gpu_forms);

/* Bits of a code in its two planes, and the code's limit. */
static const struct {
    int low, high;
} BITS[SL_CUDA_CODES] = {[SL_CUDA_F16] = {16, 0}, [SL_CUDA_F32] = {32, 0}, [SL_CUDA_E4M3] = {8, 0},
                         [SL_CUDA_E5M2] = {8, 0}, [SL_CUDA_E2M1] = {4, 0}, [SL_CUDA_LUT4] = {4, 0},
                         [SL_CUDA_U2] = {2, 0},   [SL_CUDA_U3] = {2, 1},   [SL_CUDA_U4] = {4, 0},
                         [SL_CUDA_U5] = {4, 1},   [SL_CUDA_U6] = {4, 2},   [SL_CUDA_I8] = {8, 0},
                         [SL_CUDA_U8] = {8, 0}};

static float small_float(unsigned code, int exp_bits, int man_bits)
{
    int bias = (1 << (exp_bits - 1)) - 1, m = (int)(code & ((1u << man_bits) - 1));
    int e = (int)(code >> man_bits & ((1u << exp_bits) - 1));
    float v = e ? ldexpf((float)(m + (1 << man_bits)), e - bias - man_bits)
                : ldexpf((float)m, 1 - bias - man_bits);
    return code >> (exp_bits + man_bits) & 1 ? -v : v;
}

float gpu_e4m3(int code)
{
    return small_float((unsigned)code, 4, 3);
}

struct maker {
    const struct gpu_form *f;
    struct sl_cuda_weight *w;
    uint64_t seed;
    uint8_t *code, *high;
    float lut[16];
};

static unsigned draw(struct maker *m)
{
    m->seed = sl_mix64(m->seed + 0x9e3779b97f4a7c15u);
    return (unsigned)(m->seed >> 32);
}

/* Stores a random code at (row, k); returns what it means. */
static float put_code(struct maker *m, int64_t row, int64_t k)
{
    uint8_t *at = m->code + row * m->w->code_stride;
    unsigned code = draw(m);
    int low = BITS[m->f->code].low, high = BITS[m->f->code].high;
    if (low >= 16) {
        float v = gpu_normal(&m->seed);
        uint16_t h = sl_float_to_half(v);
        memcpy(at + k * low / 8, low == 16 ? (void *)&h : (void *)&v, (size_t)low / 8);
        return low == 16 ? sl_half_to_float(h) : v;
    }
    if (m->f->code == SL_CUDA_E4M3 && (code & 0x7f) == 0x7f) code ^= 1;
    if (m->f->code == SL_CUDA_E5M2) code = (code & 0x9f) | 0x20; /* no infinities, some spread */
    code &= (1u << (low + high)) - 1;
    at[k * low / 8] |= (uint8_t)((code & ((1u << low) - 1)) << k * low % 8);
    if (high)
        m->high[row * m->w->high_stride + k * high / 8] |= (uint8_t)(code >> low << k * high % 8);
    switch (m->f->code) {
    case SL_CUDA_E4M3:
        return small_float(code, 4, 3);
    case SL_CUDA_E5M2:
        return small_float(code, 5, 2);
    case SL_CUDA_E2M1:
        return small_float(code, 2, 1);
    case SL_CUDA_LUT4:
        return m->lut[code];
    case SL_CUDA_I8:
        return (float)(int8_t)code;
    default:
        return (float)code;
    }
}

/* A random table of n entries of one of the kinds of scale: bytes for the device, numbers for us.
 */
enum entry { HALF, UE4M3, E8M0, UBYTE, SBYTE };

static void *table(struct maker *m, enum entry kind, int64_t n, double size, float *number)
{
    uint8_t *bytes = calloc((size_t)n + 1, kind == HALF ? 2 : 1);
    for (int64_t i = 0; i < n; i++) {
        unsigned r = draw(m);
        uint16_t h = sl_float_to_half((float)(size * (0.5 + r % 1024 / 1024.0)));
        bytes[kind == HALF ? 2 * i : i] = (uint8_t)(kind == UE4M3   ? 0x20 + r % 40
                                                    : kind == E8M0  ? 118 + r % 6
                                                    : kind == UBYTE ? 1 + r % (unsigned)size
                                                                    : r % 64 - 32);
        if (kind == HALF) memcpy(bytes + 2 * i, &h, 2);
        number[i] = kind == HALF    ? sl_half_to_float(h)
                    : kind == UE4M3 ? small_float(bytes[i], 4, 3)
                    : kind == E8M0  ? ldexpf(1, bytes[i] - 127)
                    : kind == UBYTE ? (float)bytes[i]
                                    : (float)(int8_t)bytes[i];
    }
    return bytes;
}

static const void *send(struct gpu_weight *o, int part, void *host, size_t bytes)
{
    o->parts[part] = gpu_copy(host, bytes);
    free(host);
    return o->parts[part];
}

/* Numbers of the tables: per group, per 256, per block of the grid. */
struct tables {
    float *scale, *super, *min, *supmin, *grid;
};

static void make_scales(struct maker *m, struct gpu_weight *o, struct tables *t)
{
    struct sl_cuda_weight *w = &o->w;
    int64_t groups = w->rows * sl_cuda_groups(w), supers = w->rows * sl_cuda_supers(w);
    int sub = m->f->scale == SL_CUDA_SCALE_SUB_U || m->f->scale == SL_CUDA_SCALE_SUB_I;
    enum entry kind = m->f->scale == SL_CUDA_SCALE_F16     ? HALF
                      : m->f->scale == SL_CUDA_SCALE_UE4M3 ? UE4M3
                      : m->f->scale == SL_CUDA_SCALE_E8M0  ? E8M0
                      : m->f->scale == SL_CUDA_SCALE_SUB_U ? UBYTE
                                                           : SBYTE;
    if (m->f->scale == SL_CUDA_SCALE_GRID) {
        w->grid_rows = w->grid_cols = 128;
        w->grid_stride = ((w->cols + 127) / 128 + 3) / 4 * 4;
        int64_t n = (w->rows + 127) / 128 * w->grid_stride;
        float *grid = malloc((size_t)n * 4);
        t->grid = malloc((size_t)n * 4);
        for (int64_t i = 0; i < n; i++) grid[i] = t->grid[i] = 0.5f + (float)(draw(m) % 256) / 256;
        w->scale = send(o, 2, grid, (size_t)n * 4);
    } else if (m->f->scale != SL_CUDA_SCALE_NONE) {
        t->scale = malloc((size_t)groups * 4);
        w->scale = send(o, 2, table(m, kind, groups, kind == HALF ? 0.02 : 63, t->scale),
                        (size_t)groups * (kind == HALF ? 2 : 1));
    }
    if (sub) {
        t->super = malloc((size_t)supers * 4);
        w->super = send(o, 3, table(m, HALF, supers, 0.001, t->super), (size_t)supers * 2);
    }
    if (m->f->min == SL_CUDA_MIN_NONE) return;
    kind = m->f->min == SL_CUDA_MIN_F16 ? HALF : UBYTE;
    double size = kind == HALF                   ? -0.15
                  : m->f->code == SL_CUDA_U8     ? 255
                  : m->f->min == SL_CUDA_MIN_SUB ? 63
                                                 : 15;
    t->min = malloc((size_t)groups * 4);
    w->min =
        send(o, 4, table(m, kind, groups, size, t->min), (size_t)groups * (kind == HALF ? 2 : 1));
    if (m->f->min == SL_CUDA_MIN_SUB) {
        t->supmin = malloc((size_t)supers * 4);
        w->supmin = send(o, 5, table(m, HALF, supers, 0.003, t->supmin), (size_t)supers * 2);
    }
}

static float element(const struct maker *m, const struct tables *t, int64_t r, int64_t k,
                     float code)
{
    const struct sl_cuda_weight *w = m->w;
    int64_t g = r * sl_cuda_groups(w) + k / w->group, s = r * sl_cuda_supers(w) + k / 256;
    float scale = 1, min = 0;
    if (t->scale) scale = t->scale[g];
    if (t->super) scale *= t->super[s];
    if (t->grid) scale = k < w->cols ? t->grid[r / 128 * w->grid_stride + k / 128] : 1;
    if (m->f->min == SL_CUDA_MIN_F16) min = t->min[g];
    if (m->f->min == SL_CUDA_MIN_SUB) min = -t->supmin[s] * t->min[g];
    if (m->f->min == SL_CUDA_MIN_ZERO_U8) code -= t->min[g];
    return scale * (code - m->f->offset) + min;
}

static void make_rows(struct maker *m, struct gpu_weight *o)
{
    o->row = malloc((size_t)o->w.rows * 4);
    for (int i = 0; i < o->w.rows; i++) /* a grid goes with one factor */
        o->row[i] = m->f->scale == SL_CUDA_SCALE_GRID
                        ? 0.75f
                        : ldexpf(1 + (float)(draw(m) % 128) / 256, (int)(draw(m) % 5) - 2);
    o->w.row = o->parts[6] = gpu_copy(o->row, (size_t)o->w.rows * 4);
    if (!m->f->ordered) return;
    o->order = malloc((size_t)o->w.cols * 4);
    for (int i = 0; i < o->w.cols; i++) o->order[i] = i;
    for (int i = o->w.cols - 1; i > 0; i--) {
        int j = (int)(draw(m) % (unsigned)(i + 1)), k = o->order[i];
        o->order[i] = o->order[j], o->order[j] = k;
    }
    o->w.order = o->parts[7] = gpu_copy(o->order, (size_t)o->w.cols * 4);
}

void gpu_weight_make(const struct gpu_form *f, int rows, int cols, uint64_t seed,
                     struct gpu_weight *o)
{
    memset(o, 0, sizeof *o);
    struct sl_cuda_weight *w = &o->w;
    struct maker m = {.f = f, .w = w, .seed = seed * 77 + 1};
    struct tables t = {0};
    w->code_kind = f->code, w->scale_kind = f->scale, w->min_kind = f->min;
    w->rows = rows, w->cols = cols, w->cols_padded = (int32_t)sl_cuda_pad(cols);
    w->group = f->group ? f->group : w->cols_padded;
    w->offset = f->offset;
    int64_t n = w->cols_padded;
    w->code_stride = (n * BITS[f->code].low / 8 + 15) / 16 * 16;
    w->high_stride = (n * BITS[f->code].high / 8 + 7) / 8 * 8;
    for (int i = 0; i < 16; i++) w->lut[i] = m.lut[i] = gpu_uniform(&m.seed);
    m.code = calloc((size_t)(rows * w->code_stride), 1);
    m.high = calloc((size_t)(rows * w->high_stride) + 1, 1);
    make_scales(&m, o, &t);
    o->value = malloc((size_t)(rows * n) * sizeof *o->value);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < n; k++)
            o->value[r * n + k] = element(&m, &t, r, k, put_code(&m, r, k));
    w->code = send(o, 0, m.code, (size_t)(rows * w->code_stride));
    w->high = send(o, 1, m.high, (size_t)(rows * w->high_stride) + 1);
    make_rows(&m, o);
    free(t.scale), free(t.super), free(t.min), free(t.supmin), free(t.grid);
    o->handle = (struct sl_weight){.rows = rows, .cols = cols, .packed = &o->w};
}

void gpu_weight_free(struct gpu_weight *o)
{
    for (int i = 0; i < 8; i++)
        if (o->parts[i]) gpu_free(o->parts[i]);
    free(o->value);
    free(o->row);
    free(o->order);
}

double gpu_weight_at(const struct gpu_weight *o, int row, int k)
{
    return (double)o->row[row] * (double)o->value[(int64_t)row * o->w.cols_padded + k];
}
