/* seed_gguf.c - writes the seeds of fuzz_gguf into the folder given: run once, its output is
 * committed. */
#include <stdio.h>

#include "tests/lib/gguf_writer.h"

static int save(struct gguf_writer *g, const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s.gguf", dir, name);
    int r = gguf_save(g, path);
    if (r) perror(path);
    gguf_close(g);
    return r != 0;
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    struct gguf_writer g;
    int bad = 0;
    gguf_init(&g);
    bad |= save(&g, argv[1], "empty");

    gguf_init(&g);
    for (int type = GGUF_U8; type <= GGUF_F64; type++) {
        char key[8];
        if (type == GGUF_STRING || type == GGUF_ARRAY) continue;
        snprintf(key, sizeof key, "k%d", type);
        gguf_value(&g, key, (enum gguf_type)type, &(uint64_t){1});
        snprintf(key, sizeof key, "a%d", type);
        gguf_array(&g, key, (enum gguf_type)type, 2, (uint64_t[]){1, 0});
    }
    gguf_string(&g, "s", "text");
    gguf_array(&g, "as", GGUF_STRING, 2, (const char *[]){"x", ""});
    bad |= save(&g, argv[1], "types");

    gguf_init(&g);
    gguf_u32(&g, "general.alignment", 64);
    g.align = 64;
    gguf_tensor(&g, "q", 2, (int64_t[]){32, 2}, 8, NULL, 68);
    gguf_tensor(&g, "x", 1, (int64_t[]){64}, 40, NULL, 36);
    bad |= save(&g, argv[1], "tensors");

    gguf_init(&g);
    gguf_u32(&g, "split.no", 0);
    gguf_u32(&g, "split.count", 2);
    bad |= save(&g, argv[1], "split");

    gguf_init(&g);
    gguf_add_model(&g, "llama", 1, NULL);
    gguf_string(&g, "llama.rope.scaling.type", "linear");
    gguf_f32(&g, "llama.rope.scaling.factor", 2);
    gguf_tensor(&g, "rope_freqs.weight", 1, (int64_t[]){2}, 0, NULL, 8);
    bad |= save(&g, argv[1], "llama");

    gguf_init(&g);
    gguf_add_model(&g, "qwen2", 1, NULL);
    bad |= save(&g, argv[1], "qwen2");
    return bad;
}
