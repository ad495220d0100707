/* wire.h - the fixed header of every data frame, byte by byte.
 *
 *  body = descriptor (desc_len bytes, padded with zeros to SL_FRAME_ALIGN) | payload
 *
 * Payload: rows x cols of F32 or BF16; F8_E4M3: a float32 scale per row, then rows x cols bytes. A
 * frame whose payload takes a lane of its own (transport/lane.h) has none in its body.
 *
 * 128 bytes, little-endian (docs/wire.md has the table). The header is checked before anything is
 * allocated for the body; a frame that fails is dropped with its link, for a peer that sends one
 * will send more. */
#ifndef SL_PROTO_WIRE_H
#define SL_PROTO_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_FRAME_MAGIC 0x434c5331u /* "1SLC" in memory order */
#define SL_FRAME_VERSION 1
#define SL_FRAME_HEAD_BYTES 128
#define SL_FRAME_ALIGN 64                 /* bytes: the payload starts on such a boundary */
#define SL_FRAME_DESC_MAX (128u << 20)    /* bytes of a descriptor; results may hold logits */
#define SL_FRAME_PAYLOAD_MAX (1ull << 30) /* bytes of a payload */
#define SL_ROUTE_MAX 64                   /* stages a frame can visit */
#define SL_ROUTE_COORD 0xff /* route entry: the coordinator; also fills the unused entries */

enum sl_frame_kind {
    SL_FRAME_BATCH =
        1, /* descriptor: packed sl_batch; payload: activations, none on the way to stage 0 */
    SL_FRAME_RESULTS = 2 /* descriptor: packed sl_results; no payload */
};

struct sl_frame_head {
    uint16_t kind;     /* enum sl_frame_kind */
    uint32_t epoch;    /* plan epoch; stages drop frames of an older one */
    uint32_t branch;   /* speculation branch, 0 = the committed line */
    uint64_t slot;     /* micro-batch number, grows by one */
    uint32_t desc_len; /* bytes */
    uint32_t rows, cols;
    uint32_t dtype;      /* enum sl_dtype of the payload: F32, BF16 or F8_E4M3 */
    uint16_t lane;       /* 1: the payload does not travel in the body (transport/lane.h) */
    uint64_t sent_ns;    /* sender's monotonic clock; comparable on one host only */
    uint8_t n_hops, hop; /* route length (>= 1), and the entry that receives this frame; hop ==
                            n_hops: the coordinator, beyond the route's end */
    uint8_t route[SL_ROUTE_MAX]; /* stage numbers to visit */
    uint32_t link, seq; /* set by the transport: the sender's number for its link, and the frame's
                           number in it */
};

/* The number a payload format has on the wire, UINT32_MAX for one that may not travel; and back,
 * -1 for an unknown number. */
uint32_t sl_frame_dtype_number(uint32_t dtype);
int sl_frame_dtype_of(uint32_t number);

/* Bytes of the payload, wherever it travels; UINT64_MAX when that does not fit. dtype is one of the
 * three unless there are no elements. */
uint64_t sl_frame_payload_bytes(const struct sl_frame_head *h);
size_t sl_frame_desc_padded(const struct sl_frame_head *h);
/* Padded descriptor and, unless it takes a lane, payload. */
uint64_t sl_frame_body_bytes(const struct sl_frame_head *h);

void sl_frame_head_pack(const struct sl_frame_head *h, uint8_t out[SL_FRAME_HEAD_BYTES]);
/* Checks magic, version, checksum (XXH32 over the header) and every limit. SL_EPROTO says what is
 * wrong; h->link and h->seq are valid even then when the checksum held, and 0 when it did not. */
int sl_frame_head_unpack(const uint8_t in[SL_FRAME_HEAD_BYTES], struct sl_frame_head *h,
                         struct sl_err *err);

#ifdef __cplusplus
}
#endif
#endif
