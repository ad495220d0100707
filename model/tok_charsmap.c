/* tok_charsmap.c - SentencePiece's precompiled_charsmap.
 *
 * The blob: u32 bytes of the trie; the trie; then strings with NULs. The trie is a double array of
 * 32-bit units as Darts-clone writes it (S. Yata): a unit holds the label (bits 0-7, and bit 31
 * for a value), whether a value hangs below (bit 8) and the offset of its children (bits 10-30,
 * shifted by 8 more when bit 9 is set). The value of a key is where its replacement begins. All
 * offsets are checked while walking, since the file is not to be trusted. */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#define CHARSMAP_MAX (64u << 20) /* bytes; T5's has 240 KB */

struct sl_tok_charsmap {
    uint32_t *units;
    size_t n_units;
    char *strings; /* ends in a NUL */
    size_t n_strings;
};

int sl_tok_charsmap_open(const void *blob, size_t n, const char *where,
                         struct sl_tok_charsmap **out, struct sl_err *err)
{
    const uint8_t *b = blob;
    *out = NULL;
    uint32_t bytes =
        n < 4 ? 0 : b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    if (n > CHARSMAP_MAX || bytes == 0 || bytes % 4 != 0 || bytes > n - 4)
        return sl_err_set(err, SL_EINPUT,
                          "%s: the precompiled character map is damaged (%zu bytes, a trie of %u)",
                          where, n, bytes);
    struct sl_tok_charsmap *m = calloc(1, sizeof *m);
    if (m) {
        m->n_units = bytes / 4;
        m->n_strings = n - 4 - bytes;
        m->units = malloc(bytes);
        m->strings = malloc(m->n_strings + 1);
    }
    if (!m || !m->units || !m->strings) {
        sl_tok_charsmap_close(m);
        return sl_err_set(err, SL_ENOMEM, "%s: out of memory for the character map", where);
    }
    for (size_t i = 0; i < m->n_units; i++) {
        const uint8_t *u = b + 4 + 4 * i;
        m->units[i] = u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
    }
    memcpy(m->strings, b + 4 + bytes, m->n_strings);
    m->strings[m->n_strings] = 0;
    *out = m;
    return 0;
}

void sl_tok_charsmap_close(struct sl_tok_charsmap *m)
{
    if (!m) return;
    free(m->units);
    free(m->strings);
    free(m);
}

static size_t children(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

size_t sl_tok_charsmap_find(const struct sl_tok_charsmap *m, const char *s, size_t n, int longest,
                            const char **to)
{
    size_t at = children(m->units[0]), found = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)s[i];
        if (c == 0) break;
        at ^= c;
        if (at >= m->n_units) break;
        uint32_t unit = m->units[at];
        if ((unit & 0x800000ffu) != c) break;
        at ^= children(unit);
        if (!(unit & 0x100)) continue;
        if (at >= m->n_units) break;
        size_t value = m->units[at] & 0x7fffffffu;
        if (value > m->n_strings) break;
        found = i + 1;
        *to = m->strings + value;
        if (!longest) break;
    }
    return found;
}
