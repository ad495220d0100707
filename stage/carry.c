/* carry.c - how activations come in and leave: from the frame that brought them, or the berth
 * beside it, to the residual stream the layers work on, and back, in the format the next edge
 * carries.
 *
 * On the host the stream is the payload of a frame wherever that is possible: with float32 on both
 * sides it is the very frame that arrived, changed in place. On a device the stream is s->x; a
 * payload that leaves goes into a berth while the next edge has a lane that is up, else into the
 * frame's body, as the last thing of the step. */
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/encode.h"
#include "stage/internal.h"

/* ---- formats on the host --------------------------------------------------------------------- */

static void pack_host(enum sl_dtype type, const float *x, int n, int cols, void *out)
{
    SL_ASSERT(type == SL_BF16 || type == SL_F8_E4M3);
    int64_t count = (int64_t)n * cols;
    uint16_t *half = out;
    float *scales = out;
    uint8_t *codes = (uint8_t *)(scales + n);
    for (int64_t i = 0; type == SL_BF16 && i < count; i++) half[i] = sl_float_to_bf16(x[i]);
    for (int i = 0; type == SL_F8_E4M3 && i < n; i++)
        sl_encode_row_e4m3(x + (int64_t)i * cols, cols, codes + (int64_t)i * cols, &scales[i]);
}

static void unpack_host(enum sl_dtype type, const void *in, int n, int cols, float *x)
{
    int64_t count = (int64_t)n * cols;
    const uint16_t *half = in;
    const float *scales = in;
    const uint8_t *codes = (const uint8_t *)(scales + n);
    float values[256];
    if (type == SL_F32) memcpy(x, in, (size_t)count * sizeof *x);
    for (int64_t i = 0; type == SL_BF16 && i < count; i++) x[i] = sl_bf16_to_float(half[i]);
    if (type != SL_F8_E4M3) return;
    for (int c = 0; c < 256; c++) values[c] = sl_decode_e4m3((uint8_t)c);
    for (int64_t i = 0; i < count; i++) x[i] = scales[i / cols] * values[codes[i]];
}

/* ---- frames ---------------------------------------------------------------------------------- */

/* Does the frame carry what its descriptor needs? */
static int check(const struct sl_stage *s, const struct sl_frame *in, struct sl_err *err)
{
    const struct sl_frame_head *h = &in->head;
    int rows = s->in.batch.n_rows;
    if (h->rows != (uint32_t)rows || h->cols != (uint32_t)s->c.n_embd)
        return sl_err_set(err, SL_EPROTO, "activations are %u x %u, expected %d x %d", h->rows,
                          h->cols, rows, s->c.n_embd);
    if (h->lane && (!in->berth || !s->ops->unpack))
        return sl_err_set(err, SL_EPROTO,
                          "activations lie in the memory of a card where this stage is not");
    return 0;
}

/* A frame for the next hop with the descriptor of this one; berth NULL: its payload is in its body.
 */
static int new_frame(const struct sl_stage *s, const struct sl_frame *in, enum sl_dtype type,
                     struct sl_berth *berth, struct sl_frame **out, struct sl_err *err)
{
    struct sl_frame_head h = in->head;
    h.rows = (uint32_t)s->in.batch.n_rows;
    h.cols = (uint32_t)s->c.n_embd;
    h.dtype = type;
    h.lane = berth != NULL;
    struct sl_frame *f = sl_frame_alloc(&h);
    if (!f) {
        sl_berth_free(berth);
        return sl_err_set(err, SL_ENOMEM, "no memory for the activations of %u rows", h.rows);
    }
    f->recv_ns = in->recv_ns;
    memcpy(f->body, in->body, h.desc_len);
    f->berth = berth;
    *out = f;
    return 0;
}

static int open_host(struct sl_stage *s, struct sl_carry *c, struct sl_err *err)
{
    int r = 0;
    if (sl_stage_is_first(s) || c->in->head.dtype != SL_F32)
        r = new_frame(s, c->in, SL_F32, NULL, &c->stream, err);
    else
        c->stream = c->in;
    if (r) return r;
    c->x = sl_frame_payload(c->stream);
    if (sl_stage_is_last(s)) return 0;
    if (s->send_as == SL_F32)
        c->out = c->stream;
    else
        r = new_frame(s, c->in, s->send_as, NULL, &c->out, err);
    return r;
}

static int open_device(struct sl_stage *s, struct sl_carry *c, struct sl_err *err)
{
    c->x = s->x;
    if (sl_stage_is_last(s)) return 0;
    struct sl_frame_head h = {
        .rows = (uint32_t)s->in.batch.n_rows, .cols = (uint32_t)s->c.n_embd, .dtype = s->send_as};
    struct sl_berth *berth = sl_berths_take_for(s->berths, (size_t)sl_frame_payload_bytes(&h));
    return new_frame(s, c->in, s->send_as, berth, &c->out, err);
}

int sl_carry_open(struct sl_stage *s, struct sl_frame *in, struct sl_carry *c, struct sl_err *err)
{
    c->in = in;
    int r = sl_stage_is_first(s) ? 0 : check(s, in, err);
    if (r) return r;
    return s->ops->begin ? open_device(s, c, err) : open_host(s, c, err);
}

/* ---- there and back -------------------------------------------------------------------------- */

void sl_carry_in(struct sl_stage *s, struct sl_carry *c)
{
    const struct sl_frame *f = c->in;
    enum sl_dtype type = (enum sl_dtype)f->head.dtype;
    size_t bytes = (size_t)sl_frame_payload_bytes(&f->head);
    int n = s->in.batch.n_rows, cols = s->c.n_embd;
    if (sl_stage_is_first(s) || c->stream == f) return;
    if (!s->ops->begin) {
        unpack_host(type, sl_frame_payload(f), n, cols, c->x);
    } else if (f->berth) {
        s->ops->unpack(s->b, type, f->berth->data, n, cols, c->x);
    } else if (type == SL_F32) {
        s->ops->upload(s->b, c->x, sl_frame_payload(f), bytes);
    } else {
        s->ops->upload(s->b, s->packed_x, sl_frame_payload(f), bytes);
        s->ops->unpack(s->b, type, s->packed_x, n, cols, c->x);
    }
}

void sl_carry_out(struct sl_stage *s, struct sl_carry *c)
{
    struct sl_frame *f = c->out;
    int n = s->in.batch.n_rows, cols = s->c.n_embd;
    if (!f || f == c->stream) return;
    size_t bytes = (size_t)sl_frame_payload_bytes(&f->head);
    if (!s->ops->begin) {
        pack_host(s->send_as, c->x, n, cols, sl_frame_payload(f));
    } else if (f->berth) {
        s->ops->pack(s->b, s->send_as, c->x, n, cols, f->berth->data);
    } else if (s->send_as == SL_F32) {
        s->ops->download(s->b, sl_frame_payload(f), c->x, bytes);
    } else {
        s->ops->pack(s->b, s->send_as, c->x, n, cols, s->packed_x);
        s->ops->download(s->b, sl_frame_payload(f), s->packed_x, bytes);
    }
}

struct sl_frame *sl_carry_close(struct sl_carry *c, int keep)
{
    struct sl_frame *out = keep ? c->out : NULL;
    if (c->stream && c->stream != c->in && c->stream != c->out) sl_frame_free(c->stream);
    if (c->out && c->out != c->in && c->out != out) sl_frame_free(c->out);
    if (c->in != out) sl_frame_free(c->in);
    if (out) out->next = NULL;
    return out;
}
