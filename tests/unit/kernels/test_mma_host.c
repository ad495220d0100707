/* test_mma_host.c - the C version of the warp's multiply-accumulate, which is also what the device
 * emulates with, against dense products. The matrices here are packed into registers by the tables
 * of the PTX manual, lane by lane; the code under test goes the other way, from elements to lanes.
 *
 * Sums of chosen inputs are exact in every order and width, so results are compared bit for bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "kernels/cuda/mma_fp4.cuh"
#include "kernels/kernels.h"

#define K_MAX 64
#define GROUPS_MAX 4
#define NO_SCALE 0x7f /* E8M0 of 1 */

/* One step's matrices as codes: A by rows, B by columns, scales by groups. */
struct step {
    enum sl_mma_kind kind;
    int bid, tid_a, tid_b;
    uint8_t a[16][K_MAX], b[8][K_MAX], scale_a[16][GROUPS_MAX], scale_b[8][GROUPS_MAX];
    float c[16][8];
};

static const float E2M1[16] = {0,    0.5f,  1,  1.5f,  2,  3,  4,  6,
                               -0.f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

static uint64_t seed = 1;

static unsigned draw(unsigned n)
{
    seed = sl_mix64(seed + 0x9e3779b97f4a7c15u);
    return (unsigned)(seed >> 33) % n;
}

static int wide(enum sl_mma_kind kind, int is_a) /* 8-bit codes? */
{
    return kind == SL_MMA_MXFP4_A8 ? !is_a : kind == SL_MMA_MXFP8 || kind == SL_MMA_FP8;
}

static int steps_k(enum sl_mma_kind kind)
{
    return kind == SL_MMA_NVFP4 || kind == SL_MMA_MXFP4 ? 64 : 32;
}

static int groups(enum sl_mma_kind kind)
{
    static const int n[SL_MMA_KINDS] = {4, 2, 1, 1, 0};
    return n[kind];
}

/* What kernels/ref says the bytes mean. */
static float bytes_mean[256];

static double e4m3(int code)
{
    return (double)bytes_mean[code & 0xff];
}

static double scale(enum sl_mma_kind kind, int byte)
{
    if (kind == SL_MMA_NVFP4) return e4m3(byte & 0x7f);
    return byte == 255 ? (double)NAN : ldexp(1, byte - 127);
}

static double element(enum sl_mma_kind kind, int is_a, int code)
{
    return wide(kind, is_a) ? e4m3(code) : (double)E2M1[code];
}

/* Eight nibbles or four bytes of `codes` from k on, as a register. */
static uint32_t word(const struct step *s, int is_a, const uint8_t *codes, int k)
{
    uint32_t w = 0;
    if (steps_k(s->kind) == 64)
        for (int i = 0; i < 8; i++) w |= (uint32_t)codes[k + i] << 4 * i;
    else
        for (int i = 0; i < 4; i++)
            w |= (uint32_t)codes[k + i] << (wide(s->kind, is_a) ? 0 : 2) << 8 * i;
    return w;
}

/* What lane l = 4g + t holds; scale registers that nobody may read hold rubbish. */
static void pack(const struct step *s, struct sl_mma_lane lanes[32])
{
    int half = steps_k(s->kind) / 2, per = half / 4;
    for (int l = 0; l < 32; l++) {
        int g = l / 4, t = l % 4;
        struct sl_mma_lane *to = &lanes[l];
        to->a[0] = word(s, 1, s->a[g], per * t);
        to->a[1] = word(s, 1, s->a[g + 8], per * t);
        to->a[2] = word(s, 1, s->a[g], half + per * t);
        to->a[3] = word(s, 1, s->a[g + 8], half + per * t);
        to->b[0] = word(s, 0, s->b[g], per * t);
        to->b[1] = word(s, 0, s->b[g], half + per * t);
        to->scale_a = to->scale_b = 0x7a000000u | draw(1 << 24);
        for (int i = 0; i < groups(s->kind); i++) {
            uint32_t at = 8 * (unsigned)(s->bid + i), mask = ~(0xffu << at);
            if (t / 2 == s->tid_a)
                to->scale_a = (to->scale_a & mask) | (uint32_t)s->scale_a[g + 8 * (t % 2)][i] << at;
            if (t == s->tid_b)
                to->scale_b = (to->scale_b & mask) | (uint32_t)s->scale_b[g][i] << at;
        }
    }
}

/* Runs the step and compares with the dense product: bit for bit, or within `tolerance` of the sum
 * of magnitudes. */
static void check(const struct step *s, double tolerance)
{
    struct sl_mma_lane lanes[32];
    float out[32][4];
    pack(s, lanes);
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) out[l][i] = s->c[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
    sl_mma_host(s->kind, lanes, s->bid, s->tid_a, s->tid_b, out);
    int k_all = steps_k(s->kind), n = groups(s->kind);
    for (int row = 0; row < 16; row++)
        for (int col = 0; col < 8; col++) {
            double sum = (double)s->c[row][col], size = fabs(sum);
            for (int k = 0; k < k_all; k++) {
                int group = n ? k / (k_all / n) : 0;
                double v = element(s->kind, 1, s->a[row][k]) * element(s->kind, 0, s->b[col][k]);
                if (n)
                    v *= scale(s->kind, s->scale_a[row][group]) *
                         scale(s->kind, s->scale_b[col][group]);
                sum += v;
                size += fabs(v);
            }
            float got = out[4 * (row % 8) + col / 2][col % 2 + 2 * (row / 8)];
            if (isnan(sum))
                assert_true(isnan(got));
            else if (tolerance > 0)
                assert_true(fabs((double)got - sum) <= tolerance * size);
            else
                assert_true(got == (float)sum);
        }
}

static void clear(struct step *s, enum sl_mma_kind kind)
{
    memset(s, 0, sizeof *s);
    s->kind = kind;
    memset(s->scale_a, kind == SL_MMA_NVFP4 ? 0x38 : NO_SCALE, sizeof s->scale_a);
    memset(s->scale_b, kind == SL_MMA_NVFP4 ? 0x38 : NO_SCALE, sizeof s->scale_b);
}

/* A code of 0, +-0.5, +-1, +-2: sums of their products with scales 0.5, 1, 2 are exact. */
static uint8_t exact_code(int is_wide)
{
    static const uint8_t narrow[8] = {0, 1, 2, 4, 8, 9, 10, 12},
                         byte[8] = {0, 0x30, 0x38, 0x40, 0x80, 0xb0, 0xb8, 0xc0};
    return (is_wide ? byte : narrow)[draw(8)];
}

static void fill(struct step *s, int any)
{
    for (int k = 0; k < K_MAX; k++) {
        int wa = wide(s->kind, 1), wb = wide(s->kind, 0);
        for (int r = 0; r < 16; r++)
            s->a[r][k] = any ? (uint8_t)draw(wa ? 0x7f : 16) : exact_code(wa);
        for (int c = 0; c < 8; c++)
            s->b[c][k] =
                any ? (uint8_t)(draw(wb ? 0x7f : 16) | (wb ? draw(2) << 7 : 0)) : exact_code(wb);
    }
    int one = s->kind == SL_MMA_NVFP4 ? 0x38 : NO_SCALE, per = s->kind == SL_MMA_NVFP4 ? 8 : 1;
    for (int i = 0; i < GROUPS_MAX; i++) {
        for (int r = 0; r < 16; r++)
            s->scale_a[r][i] =
                (uint8_t)(any && per == 8 ? (int)draw(0x7f) : one + per * ((int)draw(3) - 1));
        for (int c = 0; c < 8; c++)
            s->scale_b[c][i] =
                (uint8_t)(any && per == 8 ? (int)draw(0x7f) : one + per * ((int)draw(3) - 1));
    }
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) s->c[r][c] = (float)((int)draw(64) - 32) * 0.25f;
}

/* Calls fn with every byte and lane selector that the instruction allows. */
static void selections(enum sl_mma_kind kind, void (*fn)(enum sl_mma_kind, int, int, int))
{
    int step = groups(kind) ? groups(kind) : 4;
    for (int bid = 0; bid < 4; bid += step)
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 4; b++) fn(kind, bid, a, b);
}

static void random_step(enum sl_mma_kind kind, int bid, int tid_a, int tid_b)
{
    struct step s;
    for (int i = 0; i < 8; i++) {
        clear(&s, kind);
        s.bid = bid, s.tid_a = tid_a, s.tid_b = tid_b;
        fill(&s, 0);
        check(&s, 0);
        fill(&s, 1);
        check(&s, 0x1p-22);
    }
}

static void random_products(void **state)
{
    (void)state;
    for (int kind = 0; kind < SL_MMA_KINDS; kind++) selections((enum sl_mma_kind)kind, random_step);
}

/* One element of A at every place meets a B whose columns all differ, and the other way round. */
static void one_hot_elements(void **state)
{
    (void)state;
    for (int kind = 0; kind < SL_MMA_KINDS; kind++)
        for (int k = 0; k < steps_k((enum sl_mma_kind)kind); k++)
            for (int row = 0; row < 16; row++) {
                struct step s;
                clear(&s, (enum sl_mma_kind)kind);
                fill(&s, 0);
                memset(s.a, 0, sizeof s.a);
                s.a[row][k] = wide(s.kind, 1) ? 0x38 : 2;
                check(&s, 0);
                fill(&s, 0);
                memset(s.b, 0, sizeof s.b);
                s.b[row % 8][k] = wide(s.kind, 0) ? 0x38 : 2;
                check(&s, 0);
            }
}

/* Ones everywhere and a different power of two as scale of every row, column and group: a scale
 * taken from the wrong byte, lane or group changes some output. */
static void scale_step(enum sl_mma_kind kind, int bid, int tid_a, int tid_b)
{
    struct step s;
    clear(&s, kind);
    s.bid = bid, s.tid_a = tid_a, s.tid_b = tid_b;
    memset(s.a, wide(kind, 1) ? 0x38 : 2, sizeof s.a);
    memset(s.b, wide(kind, 0) ? 0x38 : 2, sizeof s.b);
    for (int one = 0; one < 16 * groups(kind); one++) {
        int row = one % 16, group = one / 16;
        for (int i = 0; i < GROUPS_MAX; i++)
            for (int r = 0; r < 16; r++)
                s.scale_a[r][i] = kind == SL_MMA_NVFP4 ? 0 : 127 - 40; /* nothing, or nearly */
        s.scale_a[row][group] =
            kind == SL_MMA_NVFP4 ? (uint8_t)(8 + 8 * (row % 8)) : (uint8_t)(120 + row);
        for (int c = 0; c < 8; c++)
            for (int i = 0; i < GROUPS_MAX; i++)
                s.scale_b[c][i] = (uint8_t)(kind == SL_MMA_NVFP4 ? 8 + 8 * c + i : 120 + 4 * c + i);
        check(&s, 0);
    }
}

static void one_hot_scales(void **state)
{
    (void)state;
    for (int kind = 0; kind < SL_MMA_FP8; kind++) selections((enum sl_mma_kind)kind, scale_step);
}

static void edges(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x00, 0x01, 0x7e, 0x7f, 0xff};
    for (int kind = 0; kind < SL_MMA_KINDS; kind++)
        for (size_t i = 0; i < sizeof bytes; i++)
            for (int code = 0; code < 16; code++) {
                struct step s;
                clear(&s, (enum sl_mma_kind)kind);
                fill(&s, 0);
                for (int k = 0; k < K_MAX; k++) s.a[3][k] = s.a[12][k] = (uint8_t)code;
                s.b[5][7] = wide(s.kind, 0) ? 0x7f : 15; /* NaN, or -6 */
                memset(s.scale_a[12], bytes[i], GROUPS_MAX);
                check(&s, 0x1p-22);
            }
}

static void numbers(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        double a = sl_mma_e4m3(code), b = e4m3((int)code);
        assert_true(a == b || (isnan(a) && isnan(b)));
        assert_int_equal(signbit(a) != 0, signbit(b) != 0);
        double e = sl_mma_e8m0(code);
        assert_true(code == 255 ? isnan(e) : log2(e) == (double)code - 127);
    }
    for (uint32_t code = 0; code < 16; code++) {
        assert_true(sl_mma_e2m1(code) == (double)E2M1[code]);
        assert_int_equal(signbit(sl_mma_e2m1(code)) != 0, code >= 8);
    }
}

int main(void)
{
    uint8_t bytes[256];
    for (int i = 0; i < 256; i++) bytes[i] = (uint8_t)i;
    struct sl_matrix m = sl_matrix_plain(SL_F8_E4M3, 1, 256, bytes);
    sl_matrix_row(&m, 0, bytes_mean);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),
        cmocka_unit_test(random_products),
        cmocka_unit_test(one_hot_elements),
        cmocka_unit_test(one_hot_scales),
        cmocka_unit_test(edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
