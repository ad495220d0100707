/* http_body.h - decodes a chunked request body, byte by byte as it comes.
 *
 * libwebsockets hands a server the raw bytes of such a body; this turns them into content. Chunk
 * extensions and trailers are skipped, their length is bounded. */
#ifndef SL_COORDINATOR_HTTP_BODY_H
#define SL_COORDINATOR_HTTP_BODY_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define SL_HTTP_CHUNK_LINE_MAX 4096 /* bytes of one size line, and of all trailers */

struct sl_http_chunks {
    int state;
    uint64_t left; /* of the chunk */
    int digits;
    size_t line; /* bytes of this line */
};

void sl_http_chunks_init(struct sl_http_chunks *c);
/* Appends content to out. Returns 1 at the end of the body (*used tells where), 0 for more,
 * SL_EPROTO for nonsense, SL_ELIMIT when out is full. */
int sl_http_chunks_feed(struct sl_http_chunks *c, const char *in, size_t n, size_t *used,
                        struct sl_buf *out);

#endif
