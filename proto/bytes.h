/* bytes.h - little-endian words in and out of byte arrays; private to proto/.
 *
 * Writing goes to memory reserved beforehand; reading goes through a cursor that remembers running
 * past the end, so a parser checks once per record instead of once per field. Arrays are used in
 * place by the receiver, hence only little-endian machines are supported; the static assert says
 * so. */
#ifndef SL_PROTO_BYTES_H
#define SL_PROTO_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "frames are used in place: little-endian only");
_Static_assert(sizeof(float) == 4, "floats travel as 4 bytes");

static inline char *put32(char *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

static inline char *put_f32(char *p, float v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

static inline char *put_words(char *p, const void *src, size_t words)
{
    if (words) memcpy(p, src, words * 4);
    return p + words * 4;
}

struct reader {
    const uint8_t *p, *end;
    int short_of; /* a read went past the end; everything read since is 0 */
};

static inline size_t read_left(const struct reader *r)
{
    return (size_t)(r->end - r->p);
}

static inline uint32_t read32(struct reader *r)
{
    uint32_t v;
    if (read_left(r) < 4) {
        r->short_of = 1;
        return 0;
    }
    memcpy(&v, r->p, 4);
    r->p += 4;
    return v;
}

static inline int32_t read_i32(struct reader *r)
{
    return (int32_t)read32(r);
}

static inline float read_f32(struct reader *r)
{
    uint32_t v = read32(r);
    float f;
    memcpy(&f, &v, 4);
    return f;
}

/* `words` 4-byte words in place; NULL (and short_of) when there are fewer. */
static inline const void *read_words(struct reader *r, size_t words)
{
    const void *p = r->p;
    if (read_left(r) / 4 < words) {
        r->short_of = 1;
        return NULL;
    }
    r->p += words * 4;
    return p;
}

#endif
