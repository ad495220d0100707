/* linear_check.c - scales and codes that a damaged file gives away: NaN, infinity, a sign where
 * none can be.
 *
 * A corrupted shard otherwise shows as silent NaN many layers later. Every byte of the scales and
 * of 8-bit float codes is looked at once, eight bytes at a time: the pass runs at the speed of
 * memory. Bits: OCP OFP8 and MX specifications 2023; GGUF blocks: kernels/ref/dequant.c. */
#include <inttypes.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/linear_part.h"

/* A lane is bad when (lane & mask) + carry has its top bit set: all ones from the top of the
 * exponent down to where NaN begins. `also` are bits that must be clear. */
struct lanes {
    int bytes; /* of a lane */
    uint64_t mask, carry, top, also;
};

#define REP8(x) (0x0101010101010101u * (uint64_t)(x))
#define REP16(x) (0x0001000100010001u * (uint64_t)(x))
#define REP32(x) (0x0000000100000001u * (uint64_t)(x))

static const struct lanes f32_lanes = {4, REP32(0x7f800000), REP32(0x00800000), REP32(0x80000000),
                                       0};
static const struct lanes f16_lanes = {2, REP16(0x7c00), REP16(0x0400), REP16(0x8000), 0};
static const struct lanes bf16_lanes = {2, REP16(0x7f80), REP16(0x0080), REP16(0x8000), 0};
static const struct lanes e4m3_lanes = {1, REP8(0x7f), REP8(0x01), REP8(0x80), 0};
static const struct lanes e5m2_lanes = {1, REP8(0x7f), REP8(0x04), REP8(0x80), 0};
static const struct lanes e4m3_scale = {1, REP8(0x7f), REP8(0x01), REP8(0x80), REP8(0x80)};

#define RUN 1024 /* bytes */

/* Index of the first bad lane of n bytes, or -1. F16's top bit is the sign, so the sum is masked
 * before; no lane carries into its neighbour because the mask leaves the top bit clear. */
static int64_t first_bad(const struct lanes *l, const uint8_t *p, uint64_t n)
{
    uint64_t good = 0; /* whole runs without a bad lane; a loop that the compiler vectorizes */
    for (; n - good >= RUN; good += RUN) {
        uint64_t any = 0;
        for (int i = 0; i < RUN; i += 8) {
            uint64_t v;
            memcpy(&v, p + good + i, 8);
            any |= (((v & l->mask) + l->carry) & l->top) | (v & l->also);
        }
        if (any) break;
    }
    for (uint64_t at = good; at < n; at += 8) {
        uint64_t v = 0;
        memcpy(&v, p + at, (size_t)SL_MIN(8, n - at));
        uint64_t bad = (((v & l->mask) + l->carry) & l->top) | (v & l->also);
        if (bad) return (int64_t)(at + (uint64_t)__builtin_ctzll(bad) / 8) / l->bytes;
    }
    return -1;
}

static int bad_scale(const struct sl_linear_job *j, const struct sl_piece *p, int64_t i)
{
    return sl_job_bad(j, p->t, SL_EINPUT,
                      "scale %" PRId64 " is NaN, infinite or negative; the file is damaged, "
                      "download it again",
                      i);
}

int sl_check_scales(const struct sl_linear_job *j, const struct sl_piece *p)
{
    const struct lanes *l = NULL;
    switch (p->type) {
    case SL_F32:
        l = &f32_lanes;
        break;
    case SL_F16:
        l = &f16_lanes;
        break;
    case SL_BF16:
        l = &bf16_lanes;
        break;
    case SL_F8_E4M3:
        l = &e4m3_scale;
        break;
    case SL_E8M0: {
        const uint8_t *hit = memchr(p->data, 0xff, (size_t)p->bytes);
        return hit ? bad_scale(j, p, hit - p->data) : 0;
    }
    default:
        return sl_job_bad(j, p->t, SL_EUNSUPPORTED,
                          "scales of type %s are not read; use a model with F32, F16, BF16, "
                          "F8_E4M3 or F8_E8M0 scales",
                          p->t->type_name);
    }
    int64_t i = first_bad(l, p->data, p->bytes);
    return i >= 0 ? bad_scale(j, p, i) : 0;
}

int sl_check_codes(const struct sl_linear_job *j, const struct sl_piece *p, enum sl_dtype type)
{
    SL_ASSERT(type == SL_F8_E4M3 || type == SL_F8_E5M2);
    int64_t i = first_bad(type == SL_F8_E4M3 ? &e4m3_lanes : &e5m2_lanes, p->data, p->bytes);
    if (i < 0) return 0;
    return sl_job_bad(j, p->t, SL_EINPUT,
                      "element %" PRId64 " is 0x%02x, no finite %s; the file is damaged, download "
                      "it again",
                      i, p->data[i], sl_dtype_name(type));
}

/* Where the F16 numbers of a block are; -1 ends. */
static const struct {
    enum sl_dtype type;
    int at[2];
} halves[] = {
    {SL_Q4_0, {0, -1}}, {SL_Q4_1, {0, 2}},    {SL_Q5_0, {0, -1}},   {SL_Q5_1, {0, 2}},
    {SL_Q8_0, {0, -1}}, {SL_Q2_K, {80, 82}},  {SL_Q3_K, {108, -1}}, {SL_Q4_K, {0, 2}},
    {SL_Q5_K, {0, 2}},  {SL_Q6_K, {208, -1}}, {SL_IQ4_NL, {0, -1}}, {SL_IQ4_XS, {0, -1}},
};

static int bad_block(const struct sl_linear_job *j, const struct sl_piece *p, uint64_t i)
{
    return sl_job_bad(j, p->t, SL_EINPUT,
                      "block %" PRIu64 " has a scale that is NaN or infinite; the file is damaged, "
                      "download or convert it again",
                      i);
}

/* One field of every block. */
static int check_half(const struct sl_linear_job *j, const struct sl_piece *p, int at,
                      uint64_t size)
{
    for (uint64_t i = 0, n = p->bytes / size; i < n; i++)
        if ((p->data[i * size + (uint64_t)at + 1] & 0x7c) == 0x7c) return bad_block(j, p, i);
    return 0;
}

int sl_check_blocks(const struct sl_linear_job *j, const struct sl_piece *p)
{
    uint64_t size = (uint64_t)sl_dtype_block_bytes(p->type);
    for (size_t i = 0; i < SL_ARRAY_LEN(halves); i++) {
        if (halves[i].type != p->type) continue;
        int r = check_half(j, p, halves[i].at[0], size);
        return r || halves[i].at[1] < 0 ? r : check_half(j, p, halves[i].at[1], size);
    }
    if (p->type == SL_MXFP4)
        for (uint64_t i = 0, n = p->bytes / size; i < n; i++)
            if (p->data[i * size] == 0xff) return bad_block(j, p, i);
    return 0; /* NVFP4: ggml reads every scale byte as a number */
}
