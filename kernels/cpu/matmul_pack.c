/* matmul_pack.c - turns a matrix of the file into tiles (layout: matmul.h) and owns the memory they
 * live in.
 *
 * Nothing is requantized: codes are moved, scales are moved or, for the K formats, unpacked from
 * six bits to a byte. Expected use: once per matrix at start, hundreds of matrices of 0.1 to 100
 * MB, freed all together. */
#include "kernels/cpu/matmul.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/sl_assert.h"

/* ---- memory ---------------------------------------------------------------------------------- */

/* Matrices share slabs, so that small ones get huge pages too: decode reads all of the weights for
 * each token, and 4 KB pages would make it walk page tables. A slab goes when its last matrix goes.
 */
#define HUGE_PAGE ((size_t)2 << 20)
#define SLAB_BYTES (4 * HUGE_PAGE)
#define HEAD 64 /* bytes before a matrix, holding its slab */

struct slab {
    size_t bytes, used;
    int live;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct slab *current; /* where the next small matrix goes; NULL or with live > 0 */

static struct slab *slab_map(size_t bytes)
{
    bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    size_t over = bytes + HUGE_PAGE;
    uint8_t *p = mmap(NULL, over, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t skip = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (skip) munmap(p, skip);
    if (HUGE_PAGE - skip) munmap(p + skip + bytes, HUGE_PAGE - skip);
    madvise(p + skip, bytes, MADV_HUGEPAGE);
    struct slab *s = (struct slab *)(p + skip);
    *s = (struct slab){.bytes = bytes, .used = HEAD};
    return s;
}

static void *slab_take(struct slab *s, size_t bytes)
{
    uint8_t *p = (uint8_t *)s + s->used;
    memcpy(p, &s, sizeof(struct slab *));
    s->used += bytes;
    s->live++;
    return p + HEAD;
}

/* Zeroed, 64-byte aligned; NULL when memory is out. */
static void *mem_get(size_t bytes)
{
    bytes = HEAD + ((bytes + 63) & ~(size_t)63);
    if (bytes > SLAB_BYTES / 2) {
        struct slab *s = slab_map(HEAD + bytes);
        return s ? slab_take(s, bytes) : NULL;
    }
    pthread_mutex_lock(&lock);
    if (!current || current->bytes - current->used < bytes) {
        struct slab *s = slab_map(SLAB_BYTES);
        if (!s) {
            pthread_mutex_unlock(&lock);
            return NULL;
        }
        current = s;
    }
    void *p = slab_take(current, bytes);
    pthread_mutex_unlock(&lock);
    return p;
}

static void mem_put(void *p)
{
    if (!p) return;
    struct slab *s;
    memcpy(&s, (uint8_t *)p - HEAD, sizeof(struct slab *));
    pthread_mutex_lock(&lock);
    if (--s->live == 0) {
        if (s == current) current = NULL;
        munmap(s, s->bytes);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static size_t scale_bytes(enum sl_mm_scales s, int64_t groups)
{
    size_t g = (size_t)groups, super = g / SL_MM_SUPER;
    switch (s) {
    case SL_MM_NONE:
        break;
    case SL_MM_D:
        return g * 32;
    case SL_MM_DM:
        return g * 64;
    case SL_MM_K:
        return super * 64 + g * 32;
    case SL_MM_K16:
        return super * 32 + g * 32;
    }
    return 0;
}

static void shape(enum sl_dtype type, int64_t rows, int64_t cols, struct sl_mm_tiles *t)
{
    const struct sl_mm_format *f = sl_mm_format(type);
    size_t code = (size_t)sl_mm_code_bytes(f->codes);
    t->cols = cols;
    t->n = (rows + SL_MM_LANES - 1) / SL_MM_LANES;
    if (f->scales == SL_MM_NONE) {
        t->scales_at = (size_t)cols * SL_MM_LANES * code;
        t->bytes = (t->scales_at + 63) & ~(size_t)63;
        return;
    }
    int64_t groups = cols / SL_MM_GROUP;
    t->scales_at = (size_t)groups * code;
    t->bytes = (t->scales_at + scale_bytes(f->scales, groups) + 63) & ~(size_t)63;
}

void sl_mm_tiles(const struct sl_weight *w, struct sl_mm_tiles *t)
{
    shape(w->m.type, w->rows, w->cols, t);
    t->data = w->packed;
}

/* ---- codes of one group, one byte per element, as the file's block holds them ---------------- */

static uint32_t load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void store32(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}

static void nibbles(const uint8_t *b, uint8_t out[SL_MM_GROUP])
{
    for (int i = 0; i < 16; i++) {
        out[i] = b[i] & 15;
        out[i + 16] = b[i] >> 4;
    }
}

static void fifth_bits(uint32_t bits, uint8_t out[SL_MM_GROUP])
{
    for (int i = 0; i < SL_MM_GROUP; i++) out[i] |= (uint8_t)((bits >> i & 1) << 4);
}

/* Group g (of the row) of a row of blocks. */
static void codes_of(enum sl_dtype type, const uint8_t *row, int64_t g, uint8_t out[SL_MM_GROUP])
{
    int block = sl_dtype_block(type), j = (int)(g % (block / SL_MM_GROUP));
    const uint8_t *b = row + g * SL_MM_GROUP / block * sl_dtype_block_bytes(type);
    switch (type) {
    case SL_Q4_0:
        nibbles(b + 2, out);
        break;
    case SL_Q4_1:
        nibbles(b + 4, out);
        break;
    case SL_Q5_0:
        nibbles(b + 6, out);
        fifth_bits(load32(b + 2), out);
        break;
    case SL_Q5_1:
        nibbles(b + 8, out);
        fifth_bits(load32(b + 4), out);
        break;
    case SL_Q8_0:
        for (int i = 0; i < SL_MM_GROUP; i++) out[i] = b[2 + i] ^ 0x80;
        break;
    case SL_Q4_K:
    case SL_Q5_K: {
        const uint8_t *qs = b + (type == SL_Q4_K ? 16 : 48) + 32 * (j / 2);
        for (int i = 0; i < SL_MM_GROUP; i++) out[i] = qs[i] >> (j & 1) * 4 & 15;
        if (type == SL_Q5_K)
            for (int i = 0; i < SL_MM_GROUP; i++) out[i] |= (uint8_t)((b[16 + i] >> j & 1) << 4);
        break;
    }
    case SL_Q6_K: {
        int half = j / 4, quarter = j % 4; /* of 128 elements */
        const uint8_t *ql = b + 64 * half + 32 * (quarter & 1), *qh = b + 128 + 32 * half;
        for (int i = 0; i < SL_MM_GROUP; i++)
            out[i] =
                (uint8_t)((ql[i] >> (quarter >> 1) * 4 & 15) | (qh[i] >> quarter * 2 & 3) << 4);
        break;
    }
    default:
        SL_ASSERT(!"a quantized format");
    }
}

/* One lane of one group: codes[32] to its 4 bytes of each word. `at` is lane's place in the group's
 * first word. */
static void put_codes(enum sl_mm_codes kind, const uint8_t codes[SL_MM_GROUP], uint8_t *at)
{
    enum { WORD = 64 };
    if (kind == SL_MM_C8) {
        for (int j = 0; j < 8; j++) store32(at + j * WORD, load32(codes + 4 * j));
        return;
    }
    uint32_t fifth = 0, high[2] = {0, 0};
    for (int j = 0; j < 4; j++) {
        uint32_t a = load32(codes + 4 * j), b = load32(codes + 16 + 4 * j);
        store32(at + j * WORD, (a & 0x0f0f0f0f) | (b & 0x0f0f0f0f) << 4);
        fifth |= (a >> 4 & 0x01010101) << j | (b >> 4 & 0x01010101) << (j + 4);
        high[0] |= (a >> 4 & 0x03030303) << 2 * j;
        high[1] |= (b >> 4 & 0x03030303) << 2 * j;
    }
    if (kind == SL_MM_C5) store32(at + 4 * WORD, fifth);
    if (kind == SL_MM_C6) {
        store32(at + 4 * WORD, high[0]);
        store32(at + 5 * WORD, high[1]);
    }
}

/* ---- scales of one row ----------------------------------------------------------------------- */

/* The 6-bit scale and minimum of sub-block j of Q4_K and Q5_K; s is the 12-byte table. */
static void k_scale(const uint8_t *s, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (uint8_t)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        *min = (uint8_t)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

static void put_scales(enum sl_dtype type, const uint8_t *row, int64_t groups, int lane,
                       uint8_t *at)
{
    int bytes = sl_dtype_block_bytes(type);
    int64_t supers = groups / SL_MM_SUPER;
    switch (sl_mm_format(type)->scales) {
    case SL_MM_NONE:
        break;
    case SL_MM_D:
        for (int64_t g = 0; g < groups; g++) memcpy(at + g * 32 + lane * 2, row + g * bytes, 2);
        break;
    case SL_MM_DM:
        for (int64_t g = 0; g < groups; g++) {
            memcpy(at + g * 64 + lane * 2, row + g * bytes, 2);
            memcpy(at + g * 64 + 32 + lane * 2, row + g * bytes + 2, 2);
        }
        break;
    case SL_MM_K:
        for (int64_t s = 0; s < supers; s++) {
            memcpy(at + s * 64 + lane * 2, row + s * bytes, 2);
            memcpy(at + s * 64 + 32 + lane * 2, row + s * bytes + 2, 2);
            uint8_t *sub = at + supers * 64 + s * SL_MM_SUPER * 32 + lane;
            for (int j = 0; j < SL_MM_SUPER; j++)
                k_scale(row + s * bytes + 4, j, sub + j * 32, sub + j * 32 + 16);
        }
        break;
    case SL_MM_K16:
        for (int64_t s = 0; s < supers; s++) {
            memcpy(at + s * 32 + lane * 2, row + s * bytes + 208, 2);
            uint8_t *sub = at + supers * 32 + s * SL_MM_SUPER * 32 + lane;
            for (int j = 0; j < 2 * SL_MM_SUPER; j++) sub[j * 16] = row[s * bytes + 192 + j];
        }
        break;
    }
}

/* ---- load ------------------------------------------------------------------------------------ */

static void pack_row(enum sl_dtype type, const uint8_t *row, int64_t cols, int lane, uint8_t *tile,
                     size_t scales_at)
{
    const struct sl_mm_format *f = sl_mm_format(type);
    int bytes = sl_mm_code_bytes(f->codes);
    if (f->scales == SL_MM_NONE) {
        uint8_t *at = tile + lane * bytes;
        for (int64_t k = 0; k < cols; k++, at += SL_MM_LANES * bytes)
            memcpy(at, row + k * bytes, (size_t)bytes);
        return;
    }
    for (int64_t g = 0; g < cols / SL_MM_GROUP; g++) {
        uint8_t codes[SL_MM_GROUP];
        codes_of(type, row, g, codes);
        put_codes(f->codes, codes, tile + g * bytes + lane * 4);
    }
    put_scales(type, row, cols / SL_MM_GROUP, lane, tile + scales_at);
}

/* Whether there is a kernel for the file's own codes; else the values are packed as F32. */
static int has_kernel(const struct sl_matrix *m)
{
    return !m->order && m->factor == 1 &&
           (sl_dtype_kind(m->type) == SL_KIND_FLOAT || sl_mm_format(m->type)->scales != SL_MM_NONE);
}

static int check(const struct sl_matrix *m, struct sl_err *err)
{
    const char *name = sl_dtype_name(m->type);
    if (sl_dtype_kind(m->type) == SL_KIND_STORAGE)
        return sl_err_set(err, SL_EUNSUPPORTED, "no kernel for %s matrices", name);
    if (m->rows < 1 || m->cols < 1 || m->cols % sl_dtype_block(m->type) != 0)
        return sl_err_set(err, SL_EINPUT,
                          "a %s matrix of %lld x %lld: both sizes must be positive and the second "
                          "a multiple of %d; the model file is damaged",
                          name, (long long)m->rows, (long long)m->cols, sl_dtype_block(m->type));
    return 0;
}

int sl_mm_load(const struct sl_matrix *m, struct sl_weight *w, struct sl_err *err)
{
    int rc = check(m, err);
    if (rc) return rc;
    int wide = !has_kernel(m);
    enum sl_dtype type = wide ? SL_F32 : m->type;
    struct sl_mm_tiles t;
    shape(type, m->rows, m->cols, &t);
    size_t bytes = (size_t)t.n * t.bytes;
    float *row = wide ? malloc((size_t)m->cols * sizeof *row) : NULL;
    uint8_t *packed = wide && !row ? NULL : mem_get(bytes);
    if (!packed) {
        free(row);
        return sl_err_set(err, SL_ENOMEM,
                          "no memory for %zu bytes of weights: give this stage fewer layers or the "
                          "host more memory",
                          bytes);
    }
    for (int64_t r = 0; r < m->rows; r++) {
        if (wide) sl_matrix_row(m, r, row);
        pack_row(type, wide ? (const uint8_t *)row : sl_matrix_row_data(m, r), m->cols,
                 (int)(r % SL_MM_LANES), packed + (size_t)(r / SL_MM_LANES) * t.bytes, t.scales_at);
    }
    free(row);
    *w = (struct sl_weight){.rows = m->rows,
                            .cols = m->cols,
                            .m = sl_matrix_plain(type, m->rows, m->cols, NULL),
                            .packed = packed,
                            .packed_bytes = bytes};
    return 0;
}

void sl_mm_unload(struct sl_weight *w)
{
    mem_put(w->packed);
    *w = (struct sl_weight){0};
}
