/* tiny.c - see tiny.h. */
#include "tests/unit/stage/tiny.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sl_assert.h"
#include "tests/lib/gguf_writer.h"

void tiny_write(const char *arch, char *path)
{
    struct gguf_writer g;
    gguf_init(&g);
    gguf_add_model(&g, arch, TINY_LAYERS, NULL);
    SL_ASSERT(g.data.len % sizeof(float) == 0);
    uint32_t seed = 12345;
    for (size_t i = 0; i < g.data.len / sizeof(float); i++) { /* every tensor is float32 */
        seed = seed * 1664525u + 1013904223u;
        float v = (float)(seed >> 8) / (float)(1 << 24) * 2 - 1;
        memcpy(g.data.data + i * sizeof v, &v, sizeof v);
    }
    snprintf(path, TINY_PATH_MAX, "/tmp/sluice-tiny-XXXXXX");
    int fd = mkstemp(path);
    SL_ASSERT(fd >= 0);
    close(fd);
    int r = gguf_save(&g, path);
    SL_ASSERT(r == 0);
    gguf_close(&g);
}

struct sl_stage_params tiny_params(const char *path, int stage, int n_stages)
{
    int per = TINY_LAYERS / n_stages;
    return (struct sl_stage_params){.model = path,
                                    .stage = stage,
                                    .n_stages = n_stages,
                                    .layer_from = stage * per,
                                    .layer_to = (stage + 1) * per,
                                    .block_tokens = TINY_BLOCK,
                                    .n_blocks = 8,
                                    .max_seqs = 4,
                                    .max_rows = 64,
                                    .kv_type = "f32"};
}

struct sl_frame *tiny_frame(const struct sl_batch *b, uint32_t epoch, uint64_t slot)
{
    struct sl_buf packed;
    sl_buf_init(&packed, SL_FRAME_DESC_MAX);
    int r = sl_batch_pack(b, &packed);
    SL_ASSERT(r == 0);
    struct sl_frame_head h = {.kind = SL_FRAME_BATCH,
                              .epoch = epoch,
                              .slot = slot,
                              .desc_len = (uint32_t)packed.len,
                              .dtype = SL_F32,
                              .n_hops = 1};
    struct sl_frame *f = sl_frame_alloc(&h);
    SL_ASSERT(f);
    memcpy(f->body, packed.data, packed.len);
    sl_buf_close(&packed);
    return f;
}

struct sl_batch_seq tiny_share(uint32_t seq, uint32_t flags, int n, int block, int n_blocks)
{
    static struct sl_sampling greedy;
    static int32_t tokens[2][256], blocks[2][256];
    static int turn;
    SL_ASSERT(n <= 256 && n_blocks <= 256);
    turn = !turn;
    sl_sampling_default(&greedy);
    for (int i = 0; i < n; i++) tokens[turn][i] = i % TINY_VOCAB;
    for (int i = 0; i < n_blocks; i++) blocks[turn][i] = block + i;
    return (struct sl_batch_seq){.seq = seq,
                                 .flags = flags | SL_SEQ_REGISTER,
                                 .n_tokens = n,
                                 .n_blocks = n_blocks,
                                 .tokens = tokens[turn],
                                 .blocks = blocks[turn],
                                 .prompt_len = n,
                                 .sampling = &greedy};
}
