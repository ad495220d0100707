/* test_linear_int.c - layers of integer codes: compressed-tensors, AWQ, GPTQ, bitsandbytes.
 *
 * Every case starts from logical codes, zero points and scales, is packed here by the layout of its
 * format, and must come back exactly. */
#include "linear_case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 16
#define K 96
#define G 3 /* groups of a row */
#define SIZE (K / G)

/* What every scheme means: want = s * (q - z). */
struct logical {
    int bits;
    int q[N][K], z[N][G], group[K];
    float s[N][G];
    uint16_t s16[N][G]; /* the same in F16 */
    float want[N * K];
};

/* `zero` < 0: by chance. */
static void make(struct logical *l, int bits, int zero)
{
    l->bits = bits;
    for (int n = 0; n < N; n++) {
        for (int k = 0; k < K; k++) l->q[n][k] = (int)case_chance(1u << bits);
        for (int g = 0; g < G; g++) {
            l->z[n][g] = zero >= 0 ? zero : 1 + (int)case_chance((1u << bits) - 1);
            l->s[n][g] = case_scale(&l->s16[n][g], NULL);
        }
    }
    for (int k = 0; k < K; k++) l->group[k] = k / SIZE;
}

/* Groups by chance, each of SIZE columns: act-order. */
static void shuffle(struct logical *l)
{
    for (int k = K - 1; k > 0; k--) {
        int other = (int)case_chance((uint32_t)k + 1), t = l->group[k];
        l->group[k] = l->group[other];
        l->group[other] = t;
    }
}

static const float *wanted(struct logical *l)
{
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) {
            int g = l->group[k];
            l->want[n * K + k] = (float)(l->q[n][k] - l->z[n][g]) * l->s[n][g];
        }
    return l->want;
}

/* Puts a value of some bits at index i of a run of words. */
static void put(uint32_t *words, int bits, int i, int value)
{
    int per_word = 32 / bits;
    words[i / per_word] |= (uint32_t)value << bits * (i % per_word);
}

/* The same for a stream of bits without gaps (GPTQ with 3 bits). */
static void put_stream(uint32_t *words, int bits, int i, int value)
{
    for (int b = 0; b < bits; b++) {
        int at = i * bits + b;
        words[at / 32] |= (uint32_t)(value >> b & 1) << at % 32;
    }
}

/* ---- compressed-tensors ---------------------------------------------------------------------- */

static void ct_codes(struct linear_case *c, const struct logical *l)
{
    int words = K * l->bits / 32;
    uint32_t *packed = calloc((size_t)(N * words), 4);
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) put(packed + n * words, l->bits, k, l->q[n][k]);
    case_2d(c, ".weight_packed", "I32", N, words, packed, (size_t)(N * words) * 4);
    case_2d(c, ".weight_scale", "F16", N, G, l->s16, sizeof l->s16);
    case_tensor(c, ".weight_shape", "I64", 1, (int64_t[]){2}, (int64_t[]){N, K}, 16);
    free(packed);
}

static void ct_packed(void **state)
{
    (void)state;
    static const int widths[] = {4, 8, 2};
    for (int i = 0; i < 3; i++)
        for (int kind = 0; kind < 4; kind++) { /* symmetric, packed zeros, I8 zeros, act-order */
            int bits = widths[i], half = 1 << (bits - 1), per_word = 32 / bits;
            struct linear_case c;
            struct logical l;
            case_init(&c);
            make(&l, bits, kind == 1 || kind == 2 ? -1 : half);
            if (kind == 3) shuffle(&l);
            ct_codes(&c, &l);
            uint32_t words[N * G] = {0};
            int8_t bytes[N][G];
            for (int n = 0; n < N; n++)
                for (int g = 0; g < G; g++) {
                    words[n / per_word * G + g] |= (uint32_t)l.z[n][g] << bits * (n % per_word);
                    bytes[n][g] = (int8_t)(l.z[n][g] - half);
                }
            int rows = (N + per_word - 1) / per_word;
            if (kind == 1)
                case_2d(&c, ".weight_zero_point", "I32", rows, G, words, (size_t)(rows * G) * 4);
            if (kind == 2) case_2d(&c, ".weight_zero_point", "I8", N, G, bytes, sizeof bytes);
            if (kind == 3)
                case_tensor(&c, ".weight_g_idx", "I32", 1, (int64_t[]){K}, l.group, sizeof l.group);
            case_expect(&c, N, K, wanted(&l));
        }
}

/* One scale for a row; and an index of groups that says nothing new. */
static void ct_channel(void **state)
{
    (void)state;
    struct linear_case c;
    struct logical l;
    uint16_t s16[N];
    int zeros[K] = {0};
    case_init(&c);
    make(&l, 4, 8);
    uint32_t packed[N * K / 8] = {0};
    for (int n = 0; n < N; n++) {
        for (int k = 0; k < K; k++) put(packed + n * K / 8, 4, k, l.q[n][k]);
        for (int g = 0; g < G; g++) l.s[n][g] = l.s[n][0];
        s16[n] = l.s16[n][0];
    }
    case_2d(&c, ".weight_packed", "I32", N, K / 8, packed, sizeof packed);
    case_2d(&c, ".weight_scale", "F16", N, 1, s16, sizeof s16);
    case_tensor(&c, ".weight_g_idx", "I32", 1, (int64_t[]){K}, zeros, sizeof zeros);
    case_expect(&c, N, K, wanted(&l));
}

static void ct_int8(void **state)
{
    (void)state;
    for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
        struct linear_case c;
        int8_t q[N * K], z[N];
        float s[N], want[N * K];
        case_init(&c);
        for (int n = 0; n < N; n++) {
            s[n] = case_scale(NULL, NULL);
            z[n] = asymmetric ? (int8_t)((int)case_chance(256) - 128) : 0;
        }
        for (int i = 0; i < N * K; i++) {
            q[i] = (int8_t)((int)case_chance(256) - 128);
            want[i] = (float)(q[i] - z[i / K]) * s[i / K];
        }
        case_2d(&c, ".weight", "I8", N, K, q, sizeof q);
        case_2d(&c, ".weight_scale", "F32", N, 1, s, sizeof s);
        case_2d(&c, ".weight_zero_point", "I8", N, 1, z, sizeof z);
        case_expect(&c, N, K, want);
    }
}

/* ---- AWQ ------------------------------------------------------------------------------------- */

static const int awq_order[8] = {0, 2, 4, 6, 1, 3, 5, 7}; /* output of nibble i */

static void awq_write(struct linear_case *c, const struct logical *l, int zeros)
{
    uint32_t q[K * N / 8] = {0}, z[G * N / 8] = {0};
    uint16_t s[G][N];
    for (int w = 0; w < N / 8; w++)
        for (int i = 0; i < 8; i++) {
            int n = w * 8 + awq_order[i];
            for (int k = 0; k < K; k++) q[k * (N / 8) + w] |= (uint32_t)l->q[n][k] << 4 * i;
            for (int g = 0; g < G; g++) z[g * (N / 8) + w] |= (uint32_t)l->z[n][g] << 4 * i;
        }
    for (int g = 0; g < G; g++)
        for (int n = 0; n < N; n++) s[g][n] = l->s16[n][g];
    case_2d(c, ".qweight", "I32", K, N / 8, q, sizeof q);
    if (zeros) case_2d(c, ".qzeros", "I32", G, N / 8, z, sizeof z);
    case_2d(c, ".scales", "F16", G, N, s, sizeof s);
}

static void awq_gemm(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) { /* with a config, without one, without zero points */
        struct linear_case c;
        struct logical l;
        case_init(&c);
        make(&l, 4, i == 2 ? 8 : -1);
        if (i == 0)
            case_config(&c, "{\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4,"
                            "\"group_size\":32,\"version\":\"gemm\"}}");
        awq_write(&c, &l, i != 2);
        case_expect(&c, N, K, wanted(&l));
    }
}

/* Larger than the tiles of the repacking, and no multiple of them. */
static void awq_gemm_tiles(void **state)
{
    (void)state;
    enum { ROWS = 8 * 37, COLS = 8 * 27 };
    static uint32_t q[COLS * ROWS / 8], z[ROWS / 8];
    static uint16_t s[ROWS];
    static float want[ROWS * COLS];
    struct linear_case c;
    case_init(&c);
    memset(q, 0, sizeof q);
    for (int n = 0; n < ROWS; n++) {
        int nibble = 0;
        while (awq_order[nibble] != n % 8) nibble++;
        int zero = (int)case_chance(16);
        float scale = case_scale(&s[n], NULL);
        z[n / 8] |= (uint32_t)zero << 4 * nibble;
        for (int k = 0; k < COLS; k++) {
            int v = (int)case_chance(16);
            q[k * (ROWS / 8) + n / 8] |= (uint32_t)v << 4 * nibble;
            want[n * COLS + k] = (float)(v - zero) * scale;
        }
    }
    case_2d(&c, ".qweight", "I32", COLS, ROWS / 8, q, sizeof q);
    case_2d(&c, ".qzeros", "I32", 1, ROWS / 8, z, sizeof z);
    case_2d(&c, ".scales", "F16", 1, ROWS, s, sizeof s);
    case_expect(&c, ROWS, COLS, want);
}

static void awq_gemv(void **state)
{
    (void)state;
    enum { PADDED = 8 };
    struct linear_case c;
    struct logical l;
    uint32_t q[N * K / 8] = {0}, z[N * PADDED / 8] = {0};
    uint16_t s[N][PADDED] = {{0}};
    case_init(&c);
    case_config(&c, "{\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4,"
                    "\"group_size\":32,\"version\":\"gemv\"}}");
    make(&l, 4, -1);
    for (int n = 0; n < N; n++) {
        for (int k = 0; k < K; k++) put(q + n * K / 8, 4, k, l.q[n][k]);
        for (int g = 0; g < G; g++) {
            put(z + n * PADDED / 8, 4, g, l.z[n][g]);
            s[n][g] = l.s16[n][g];
        }
    }
    case_2d(&c, ".qweight", "I32", N, K / 8, q, sizeof q);
    case_2d(&c, ".qzeros", "I32", N, PADDED / 8, z, sizeof z);
    case_2d(&c, ".scales", "F16", N, PADDED, s, sizeof s);
    case_expect(&c, N, K, wanted(&l));
}

/* ---- GPTQ ------------------------------------------------------------------------------------ */

static void gptq_write(struct linear_case *c, const struct logical *l, int less, int index)
{
    int bits = l->bits, k_words = K * bits / 32, n_words = (N * bits + 31) / 32;
    if (bits == 3) n_words = (N + 31) / 32 * 3;
    uint32_t *q = calloc((size_t)(k_words * N), 4), *z = calloc((size_t)(G * n_words), 4);
    uint32_t column[K];
    uint16_t s[G][N];
    for (int n = 0; n < N; n++) {
        memset(column, 0, sizeof column);
        for (int k = 0; k < K; k++) put_stream(column, bits, k, l->q[n][k]);
        for (int w = 0; w < k_words; w++) q[w * N + n] = column[w];
        for (int g = 0; g < G; g++) {
            put_stream(z + g * n_words, bits, n, l->z[n][g] - less);
            s[g][n] = l->s16[n][g];
        }
    }
    case_2d(c, ".qweight", "I32", k_words, N, q, (size_t)(k_words * N) * 4);
    case_2d(c, ".qzeros", "I32", G, n_words, z, (size_t)(G * n_words) * 4);
    case_2d(c, ".scales", "F16", G, N, s, sizeof s);
    if (index) case_tensor(c, ".g_idx", "I32", 1, (int64_t[]){K}, l->group, sizeof l->group);
    free(q);
    free(z);
}

static void gptq_widths(void **state)
{
    (void)state;
    static const int widths[] = {2, 3, 4, 8};
    for (int i = 0; i < 4; i++)
        for (int kind = 0; kind < 4; kind++) { /* no index, trivial index, act-order, version 2 */
            struct linear_case c;
            struct logical l;
            case_init(&c);
            make(&l, widths[i], -1);
            if (kind == 2) shuffle(&l);
            if (kind == 3)
                case_config(&c, "{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,"
                                "\"group_size\":32,\"checkpoint_format\":\"gptq_v2\"}}");
            gptq_write(&c, &l, kind != 3, kind > 0);
            case_expect(&c, N, K, wanted(&l));
        }
}

/* A zero point of 0 is stored as -1, which has all bits set; with 8 bits it comes back. */
static void gptq_zero_of_zero(void **state)
{
    (void)state;
    struct linear_case c;
    struct logical l;
    case_init(&c);
    make(&l, 8, 0);
    gptq_write(&c, &l, 0, 0); /* zeros, to be replaced */
    memset(c.file.tensors[1].data, 0xff, c.file.tensors[1].bytes);
    case_expect(&c, N, K, wanted(&l));
}

/* ---- bitsandbytes ---------------------------------------------------------------------------- */

/* Rows of 96 and blocks of 64: a block reaches into the next row. */
static void bnb_4bit(void **state)
{
    (void)state;
    enum { BLOCKS = N * K / 64, NESTED = (BLOCKS + 7) / 8 };
    static const char *const storages[] = {"U8", "BF16", "U8"};
    for (int nested = 0; nested < 3; nested++) {
        struct linear_case c;
        float map[16], absmax[BLOCKS], codes256[256], nested_absmax[NESTED], want[N * K];
        uint8_t q[N * K / 2], absmax8[BLOCKS];
        char state_json[256];
        float offset = nested ? 0.125f : 0;
        case_init(&c);
        for (int i = 0; i < 16; i++) map[i] = (float)(i - 7) / 8;
        for (int i = 0; i < 256; i++) codes256[i] = (float)(i - 128) / 128;
        for (int i = 0; i < NESTED; i++) nested_absmax[i] = case_scale(NULL, NULL);
        for (int i = 0; i < BLOCKS; i++) {
            absmax8[i] = (uint8_t)case_chance(256);
            absmax[i] = nested ? codes256[absmax8[i]] * nested_absmax[i / 8] + offset
                               : case_scale(NULL, NULL);
        }
        for (int i = 0; i < N * K; i++) {
            int code = (int)case_chance(16);
            if (i % 2 == 0) q[i / 2] = 0;
            q[i / 2] |= (uint8_t)(code << (i % 2 ? 0 : 4)); /* the even one is high */
            want[i] = map[code] * absmax[i / 64];
        }
        snprintf(state_json, sizeof state_json,
                 "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"bfloat16\",\"shape\":[%d,%d]"
                 "%s}",
                 N, K, nested ? ",\"nested_blocksize\":8,\"nested_offset\":0.125" : "");
        case_2d(&c, ".weight", storages[nested], nested == 1 ? N * K / 4 : N * K / 2, 1, q,
                sizeof q);
        case_tensor(&c, ".weight.quant_map", "F32", 1, (int64_t[]){16}, map, sizeof map);
        case_tensor(&c, ".weight.absmax", nested ? "U8" : "F32", 1, (int64_t[]){BLOCKS},
                    nested ? (void *)absmax8 : absmax, nested ? sizeof absmax8 : sizeof absmax);
        if (nested) {
            case_tensor(&c, ".weight.nested_absmax", "F32", 1, (int64_t[]){NESTED}, nested_absmax,
                        sizeof nested_absmax);
            case_tensor(&c, ".weight.nested_quant_map", "F32", 1, (int64_t[]){256}, codes256,
                        sizeof codes256);
        }
        case_tensor(&c,
                    nested == 2 ? ".weight.quant_state.bitsandbytes__fp4"
                                : ".weight.quant_state.bitsandbytes__nf4",
                    "U8", 1, (int64_t[]){(int64_t)strlen(state_json)}, state_json,
                    strlen(state_json));
        case_expect(&c, N, K, want);
    }
}

static void bnb_8bit(void **state)
{
    (void)state;
    struct linear_case c;
    int8_t q[N * K];
    float scb[N], want[N * K];
    case_init(&c);
    for (int n = 0; n < N; n++) scb[n] = case_scale(NULL, NULL);
    for (int i = 0; i < N * K; i++) {
        q[i] = (int8_t)((int)case_chance(255) - 127);
        want[i] = (float)q[i] * scb[i / K] * (1.0f / 127);
    }
    case_2d(&c, ".weight", "I8", N, K, q, sizeof q);
    case_tensor(&c, ".SCB", "F32", 1, (int64_t[]){N}, scb, sizeof scb);
    case_tensor(&c, ".weight_format", "U8", 0, NULL, (uint8_t[]){0}, 1);
    case_expect(&c, N, K, want);
}

/* ---- names ----------------------------------------------------------------------------------- */

static void scheme_in_words(void **state)
{
    (void)state;
    struct linear_case c;
    struct logical l;
    case_init(&c);
    case_config(&c, "{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,"
                    "\"group_size\":32,\"desc_act\":true}}");
    make(&l, 4, -1);
    gptq_write(&c, &l, 1, 1);
    case_open(&c, -1, 0, N, K);
    assert_string_equal(sl_linear_scheme(c.w), "gptq 4-bit g32 act-order");
    case_close(&c);
    case_init(&c);
    make(&l, 4, -1);
    case_config(&c, "{\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4,"
                    "\"group_size\":32}}");
    awq_write(&c, &l, 1);
    case_open(&c, -1, 0, N, K);
    assert_string_equal(sl_linear_scheme(c.w), "awq 4-bit g32");
    assert_int_equal(c.l.bytes, N * K / 2 + N * G / 2 + N * G * 2);
    case_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ct_packed),       cmocka_unit_test(ct_channel),
        cmocka_unit_test(ct_int8),         cmocka_unit_test(awq_gemm),
        cmocka_unit_test(awq_gemm_tiles),  cmocka_unit_test(awq_gemv),
        cmocka_unit_test(gptq_widths),     cmocka_unit_test(gptq_zero_of_zero),
        cmocka_unit_test(bnb_4bit),        cmocka_unit_test(bnb_8bit),
        cmocka_unit_test(scheme_in_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
