/* wire.c - the frame header as 128 bytes and back.
 *
 * The only place that knows the offsets (docs/wire.md repeats them for people). Unpacking trusts
 * nothing: it runs on bytes of whoever reached our port, before any memory is set aside for the
 * body. */
#include "proto/wire.h"

#include <xxhash.h>

#include "base/dtype.h"
#include "base/sl_assert.h"
#include "proto/bytes.h"

/* Offsets in bytes. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4, /* u16 */
    AT_KIND = 6,    /* u16 */
    AT_EPOCH = 8,
    AT_BRANCH = 12,
    AT_SLOT = 16, /* u64 */
    AT_DESC_LEN = 24,
    AT_ROWS = 28,
    AT_COLS = 32,
    AT_DTYPE = 36,
    AT_SENT = 40,   /* u64 */
    AT_N_HOPS = 48, /* u8 */
    AT_HOP = 49,    /* u8 */
    AT_LANE = 50,   /* u16, 0 or 1 */
    AT_LINK = 52,
    AT_SEQ = 56,
    AT_SUM = 60, /* XXH32 of the header with 0 here */
    AT_ROUTE = 64
};
_Static_assert(AT_ROUTE + SL_ROUTE_MAX == SL_FRAME_HEAD_BYTES, "the route fills the header");

/* Payload formats and their numbers on the wire. */
static const struct {
    uint32_t number, dtype;
} dtypes[] = {{0, SL_F32}, {2, SL_BF16}, {3, SL_F8_E4M3}};

static void put_u16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

static void put_u32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static void put_u64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static uint16_t get_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

uint64_t sl_frame_payload_bytes(const struct sl_frame_head *h)
{
    uint64_t elements = (uint64_t)h->rows * h->cols;
    if (elements == 0) return 0;
    SL_ASSERT(h->dtype == SL_F32 || h->dtype == SL_BF16 || h->dtype == SL_F8_E4M3);
    uint64_t size = h->dtype == SL_F32 ? 4 : h->dtype == SL_BF16 ? 2 : 1;
    uint64_t scales = h->dtype == SL_F8_E4M3 ? (uint64_t)h->rows * 4 : 0;
    if (elements > (UINT64_MAX - scales) / size) return UINT64_MAX;
    return elements * size + scales;
}

size_t sl_frame_desc_padded(const struct sl_frame_head *h)
{
    return ((size_t)h->desc_len + SL_FRAME_ALIGN - 1) & ~(size_t)(SL_FRAME_ALIGN - 1);
}

uint64_t sl_frame_body_bytes(const struct sl_frame_head *h)
{
    return sl_frame_desc_padded(h) + (h->lane ? 0 : sl_frame_payload_bytes(h));
}

static uint32_t checksum(const uint8_t head[SL_FRAME_HEAD_BYTES])
{
    uint8_t copy[SL_FRAME_HEAD_BYTES];
    memcpy(copy, head, sizeof copy);
    memset(copy + AT_SUM, 0, 4);
    return XXH32(copy, sizeof copy, 0);
}

uint32_t sl_frame_dtype_number(uint32_t dtype)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(dtypes); i++)
        if (dtypes[i].dtype == dtype) return dtypes[i].number;
    return UINT32_MAX; /* refused where it arrives */
}

int sl_frame_dtype_of(uint32_t number)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(dtypes); i++)
        if (dtypes[i].number == number) return (int)dtypes[i].dtype;
    return -1;
}

void sl_frame_head_pack(const struct sl_frame_head *h, uint8_t out[SL_FRAME_HEAD_BYTES])
{
    memset(out, 0, SL_FRAME_HEAD_BYTES);
    put_u32(out + AT_MAGIC, SL_FRAME_MAGIC);
    put_u16(out + AT_VERSION, SL_FRAME_VERSION);
    put_u16(out + AT_KIND, h->kind);
    put_u32(out + AT_EPOCH, h->epoch);
    put_u32(out + AT_BRANCH, h->branch);
    put_u64(out + AT_SLOT, h->slot);
    put_u32(out + AT_DESC_LEN, h->desc_len);
    put_u32(out + AT_ROWS, h->rows);
    put_u32(out + AT_COLS, h->cols);
    put_u32(out + AT_DTYPE, sl_frame_dtype_number(h->dtype));
    put_u64(out + AT_SENT, h->sent_ns);
    out[AT_N_HOPS] = h->n_hops;
    out[AT_HOP] = h->hop;
    put_u16(out + AT_LANE, h->lane);
    put_u32(out + AT_LINK, h->link);
    put_u32(out + AT_SEQ, h->seq);
    memset(out + AT_ROUTE, SL_ROUTE_COORD, SL_ROUTE_MAX);
    memcpy(out + AT_ROUTE, h->route, SL_MIN(h->n_hops, SL_ROUTE_MAX));
    put_u32(out + AT_SUM, checksum(out));
}

static int check_limits(const struct sl_frame_head *h, struct sl_err *err)
{
    if (h->kind != SL_FRAME_BATCH && h->kind != SL_FRAME_RESULTS)
        return sl_err_set(err, SL_EPROTO, "frame header: kind %u is unknown", h->kind);
    if (h->desc_len > SL_FRAME_DESC_MAX)
        return sl_err_set(err, SL_EPROTO, "frame header: descriptor of %u bytes, at most %u",
                          h->desc_len, SL_FRAME_DESC_MAX);
    if (h->dtype == SL_DTYPE_COUNT)
        return sl_err_set(err, SL_EPROTO, "frame header: payload of unknown format");
    if (h->lane > 1)
        return sl_err_set(err, SL_EPROTO, "frame header: lane %u, expected 0 or 1", h->lane);
    uint64_t payload = sl_frame_payload_bytes(h);
    if (payload > SL_FRAME_PAYLOAD_MAX)
        return sl_err_set(err, SL_EPROTO,
                          "frame header: payload of %u x %u elements, at most %llu bytes", h->rows,
                          h->cols, (unsigned long long)SL_FRAME_PAYLOAD_MAX);
    if (h->kind == SL_FRAME_RESULTS && payload)
        return sl_err_set(err, SL_EPROTO, "frame header: a results frame has no payload");
    if (h->n_hops < 1 || h->n_hops > SL_ROUTE_MAX || h->hop > h->n_hops)
        return sl_err_set(err, SL_EPROTO, "frame header: hop %u of a route of %u, at most %d",
                          h->hop, h->n_hops, SL_ROUTE_MAX);
    return 0;
}

int sl_frame_head_unpack(const uint8_t in[SL_FRAME_HEAD_BYTES], struct sl_frame_head *h,
                         struct sl_err *err)
{
    memset(h, 0, sizeof *h);
    if (get_u32(in + AT_MAGIC) != SL_FRAME_MAGIC)
        return sl_err_set(err, SL_EPROTO, "frame header: not a sluice frame (magic %08x)",
                          get_u32(in + AT_MAGIC));
    if (get_u16(in + AT_VERSION) != SL_FRAME_VERSION)
        return sl_err_set(err, SL_EPROTO,
                          "frame header: version %u, this program speaks %d; run the same release "
                          "everywhere",
                          get_u16(in + AT_VERSION), SL_FRAME_VERSION);
    if (get_u32(in + AT_SUM) != checksum(in))
        return sl_err_set(err, SL_EPROTO, "frame header: checksum does not match");
    h->link = get_u32(in + AT_LINK);
    h->seq = get_u32(in + AT_SEQ);
    h->kind = get_u16(in + AT_KIND);
    h->epoch = get_u32(in + AT_EPOCH);
    h->branch = get_u32(in + AT_BRANCH);
    h->slot = get_u64(in + AT_SLOT);
    h->desc_len = get_u32(in + AT_DESC_LEN);
    h->rows = get_u32(in + AT_ROWS);
    h->cols = get_u32(in + AT_COLS);
    int dtype = sl_frame_dtype_of(get_u32(in + AT_DTYPE));
    h->dtype = dtype < 0 ? SL_DTYPE_COUNT : (uint32_t)dtype;
    h->sent_ns = get_u64(in + AT_SENT);
    h->n_hops = in[AT_N_HOPS];
    h->hop = in[AT_HOP];
    h->lane = get_u16(in + AT_LANE);
    memcpy(h->route, in + AT_ROUTE, SL_ROUTE_MAX);
    return check_limits(h, err);
}
