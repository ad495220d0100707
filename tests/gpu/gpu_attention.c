/* gpu_attention.c - see gpu_attention.h. */
#include "tests/gpu/gpu_attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sl_assert.h"

static int failures, checks;

static void send(void *to, const void *from, size_t bytes)
{
    SL_ASSERT(!cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
    SL_ASSERT(!cudaDeviceSynchronize()); /* streams of ours do not wait for the copy */
}

void at_deal(struct at_step *s, struct sl_cuda *c, int n_seqs, int keys, uint64_t seed)
{
    int per = (keys + c->step.block_tokens - 1) / c->step.block_tokens;
    SL_ASSERT(n_seqs <= AT_SEQS_MAX && per <= c->step.max_blocks);
    *s = (struct at_step){.c = c, .n_seqs = n_seqs, .n_blocks = n_seqs * per + 1};
    int32_t *deck = malloc(sizeof *deck * (size_t)s->n_blocks);
    for (int i = 0; i < s->n_blocks; i++) deck[i] = i;
    for (int i = s->n_blocks - 1; i > 0; i--) {
        int k = (int)((double)(gpu_uniform(&seed) * 0.5f + 0.5f) * i);
        int32_t t = deck[i];
        deck[i] = deck[k], deck[k] = t;
    }
    size_t words = (size_t)n_seqs * (size_t)c->step.max_blocks;
    s->tables = malloc(sizeof *s->tables * words);
    for (size_t i = 0; i < words; i++) s->tables[i] = -1; /* must not be followed */
    for (int q = 0; q < n_seqs; q++)
        memcpy(s->tables + (size_t)q * (size_t)c->step.max_blocks, deck + q * per,
               sizeof *deck * (size_t)per);
    free(deck);
    send(c->step.tables, s->tables, 4 * words);
}

void at_free(struct at_step *s)
{
    free(s->tables);
}

void at_fill(struct at_step *s, const struct at_share *shares, int n_seqs, int padding)
{
    struct sl_cuda_step *to = &s->c->step;
    int n = padding, row = 0, lone = 0, tiles = 0;
    for (int q = 0; q < n_seqs; q++) n += shares[q].n;
    size_t room = (size_t)n + 1;
    int32_t *pos = calloc(room, 4), *slot = calloc(room, 4), *alone = calloc(room, 4);
    struct sl_cuda_tile *tile = calloc(room, sizeof *tile);
    to->max_len = 1;
    for (int q = 0; q < n_seqs; q++) {
        struct at_share h = shares[q];
        s->views[q] = (struct sl_seq_view){
            row, h.n, h.pos, s->tables + (size_t)q * (size_t)to->max_blocks, q, 0, 0};
        for (int i = 0; i < h.n; i++) pos[row + i] = h.pos + i, slot[row + i] = q;
        if (h.n > SL_CUDA_LONE_MAX)
            for (int i = 0; i < h.n; i += SL_CUDA_TILE_ROWS)
                tile[tiles++] = (struct sl_cuda_tile){row + i, SL_MIN(SL_CUDA_TILE_ROWS, h.n - i),
                                                      q, h.pos + i};
        else
            for (int i = 0; i < h.n; i++) {
                alone[lone++] = row + i;
                to->max_len = SL_MAX(to->max_len, h.pos + i + 1);
            }
        row += h.n;
    }
    s->n_rows = row;
    for (; row < n; row++) pos[row] = -1;
    for (int i = 0; i < padding && lone > 0 && tiles == 0; i++) alone[lone++] = -1;
    to->n_rows = n, to->n_lone = lone, to->n_tiles = tiles;
    send(to->pos, pos, 4 * (size_t)n);
    send(to->slot, slot, 4 * (size_t)n);
    send(to->lone, alone, 4 * (size_t)lone);
    send(to->tiles, tile, sizeof *tile * (size_t)tiles);
    free(pos);
    free(slot);
    free(alone);
    free(tile);
}

struct sl_backend *at_reference(void)
{
    struct sl_backend *b;
    struct sl_err err;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct sl_backend_params p = {.kind = "ref", .n_threads = (int)SL_MIN(SL_MAX(cpus, 1), 16)};
    SL_ASSERT(!sl_backend_create(&p, &b, &err));
    return b;
}

float at_e4m3(int code)
{
    int e = code >> 3 & 15, m = code & 7;
    float x = e ? ldexpf(1 + (float)m / 8, e - 7) : ldexpf((float)m / 8, -6);
    return code & 0x80 ? -x : x;
}

float *at_floats(uint64_t seed, int64_t n, int e4m3)
{
    float *x = malloc(sizeof *x * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) {
        float u = gpu_normal(&seed);
        if (e4m3) { /* exponents -3 .. 0 */
            int e = u * u < 0.02f ? 4 : u * u < 0.2f ? 5 : u * u < 0.8f ? 6 : 7;
            u = at_e4m3(e << 3 | ((int)(fabsf(u) * 1000) & 7) | (u < 0 ? 0x80 : 0));
        }
        x[i] = u;
    }
    return x;
}

size_t at_bytes(enum sl_dtype type)
{
    return type == SL_F32 ? 4 : type == SL_F8_E4M3 ? 1 : 2;
}

void at_expect(const char *what, double error, double limit)
{
    checks++;
    if (error <= limit) return; /* and not when it is no number */
    printf("FAIL %s: error %.3g, at most %.3g\n", what, error, limit);
    failures++;
}

void at_same(const char *what, const void *a, const void *b, size_t bytes)
{
    checks++;
    if (!memcmp(a, b, bytes)) return;
    printf("FAIL %s: bits differ\n", what);
    failures++;
}

int at_verdict(void)
{
    printf("%d checks, %d failed\n", checks, failures);
    return failures || !checks;
}

void at_poison(struct sl_cuda *c, void *p, size_t bytes)
{
    SL_ASSERT(!cudaMemset(c->scratch, 0xff, c->scratch_bytes));
    SL_ASSERT(!cudaMemset(p, 0xff, bytes) && !cudaDeviceSynchronize());
}
