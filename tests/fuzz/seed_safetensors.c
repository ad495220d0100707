/* seed_safetensors.c - writes the seeds of fuzz_safetensors: one small layer in each scheme, all
 * codes and scales the same, as "shape header newline data". Run once: seed_safetensors FOLDER. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/hf_writer.h"

/* A tensor of `n` bytes of `fill`. */
struct part {
    const char *name, *dtype;
    int rank;
    int64_t shape[4];
    size_t bytes;
    uint8_t fill;
};

static const struct {
    const char *file;
    uint8_t shape; /* the fuzzer's first byte: 0 is 16 x 64, 1 is 8 x 32 */
    struct part parts[6];
} seeds[] = {
    {"plain", 1, {{"l.weight", "BF16", 2, {8, 32}, 512, 0x3c}}},
    {"fp8",
     1,
     {{"l.weight", "F8_E4M3", 2, {8, 32}, 256, 0x38},
      {"l.weight_scale_inv", "F32", 2, {1, 1}, 4, 0x3c}}},
    {"fp8_channel",
     1,
     {{"l.weight", "F8_E5M2", 2, {8, 32}, 256, 0x38},
      {"l.weight_scale", "BF16", 2, {8, 1}, 16, 0x3c}}},
    {"nvfp4",
     1,
     {{"l.weight", "U8", 2, {8, 16}, 128, 0x21},
      {"l.weight_scale", "F8_E4M3", 2, {8, 2}, 16, 0x38},
      {"l.weight_scale_2", "F32", 0, {0}, 4, 0x3c}}},
    {"nvfp4_ct",
     1,
     {{"l.weight_packed", "U8", 2, {8, 16}, 128, 0x21},
      {"l.weight_scale", "F8_E4M3", 2, {8, 2}, 16, 0x38},
      {"l.weight_global_scale", "F32", 1, {1}, 4, 0x44}}},
    {"mxfp4",
     1,
     {{"l.weight_packed", "U8", 2, {8, 16}, 128, 0x21},
      {"l.weight_scale", "U8", 2, {8, 1}, 8, 0x7f}}},
    {"blocks",
     1,
     {{"l_blocks", "U8", 4, {2, 8, 1, 16}, 256, 0x21}, {"l_scales", "U8", 3, {2, 8, 1}, 16, 0x7f}}},
    {"fused", 1, {{"l", "F16", 3, {2, 32, 8}, 1024, 0x3c}}},
    {"ct4",
     1,
     {{"l.weight_packed", "I32", 2, {8, 4}, 128, 0x21},
      {"l.weight_scale", "F16", 2, {8, 2}, 32, 0x3c},
      {"l.weight_zero_point", "I32", 2, {1, 2}, 8, 0x88},
      {"l.weight_shape", "I32", 1, {2}, 8, 0x00},
      {"l.weight_g_idx", "I32", 1, {32}, 128, 0x00}}},
    {"ct8",
     1,
     {{"l.weight_packed", "I32", 2, {8, 8}, 256, 0x81},
      {"l.weight_scale", "F16", 2, {8, 1}, 16, 0x3c},
      {"l.weight_zero_point", "I8", 2, {8, 1}, 8, 0x01}}},
    {"int8",
     1,
     {{"l.weight", "I8", 2, {8, 32}, 256, 0x21},
      {"l.weight_scale", "F32", 2, {8, 1}, 32, 0x3c},
      {"l.weight_zero_point", "I8", 2, {8, 1}, 8, 0x01}}},
    {"awq",
     0,
     {{"l.qweight", "I32", 2, {64, 2}, 512, 0x21},
      {"l.qzeros", "I32", 2, {2, 2}, 16, 0x88},
      {"l.scales", "F16", 2, {2, 16}, 64, 0x3c}}},
    {"gptq4",
     1,
     {{"l.qweight", "I32", 2, {4, 8}, 128, 0x21},
      {"l.qzeros", "I32", 2, {1, 1}, 4, 0x77},
      {"l.scales", "F16", 2, {1, 8}, 16, 0x3c},
      {"l.g_idx", "I32", 1, {32}, 128, 0x00}}},
    {"gptq3",
     1,
     {{"l.qweight", "I32", 2, {3, 8}, 96, 0x21},
      {"l.qzeros", "I32", 2, {1, 3}, 12, 0x77},
      {"l.scales", "F16", 2, {1, 8}, 16, 0x3c}}},
    {"bnb8",
     1,
     {{"l.weight", "I8", 2, {8, 32}, 256, 0x21},
      {"l.SCB", "F32", 1, {8}, 32, 0x3c},
      {"l.weight_format", "U8", 0, {0}, 1, 0x00}}},
};

static void write_file(const char *dir, const char *name, uint8_t shape, const struct hf_writer *w)
{
    char path[512];
    size_t n;
    uint64_t head;
    uint8_t *file = hf_build(w, &n);
    memcpy(&head, file, 8);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fputc(shape | 0x80, f) == EOF || fwrite(file + 8, 1, head, f) != head ||
        fputc('\n', f) == EOF || fwrite(file + 8 + head, 1, n - 8 - head, f) != n - 8 - head ||
        fclose(f) != 0) {
        perror(path);
        exit(1);
    }
    free(file);
}

/* bitsandbytes says its sizes in text. */
static void write_bnb(const char *dir)
{
    static const char state[] =
        "{\"blocksize\":64,\"shape\":[8,32],\"nested_blocksize\":256,\"nested_offset\":0.5}";
    uint8_t fill[1024];
    struct hf_writer w;
    memset(fill, 0x3c, sizeof fill);
    hf_init(&w);
    hf_tensor(&w, "l.weight", "U8", 2, (int64_t[]){128, 1}, fill, 128);
    hf_tensor(&w, "l.weight.absmax", "U8", 1, (int64_t[]){4}, fill, 4);
    hf_tensor(&w, "l.weight.quant_map", "F32", 1, (int64_t[]){16}, fill, 64);
    hf_tensor(&w, "l.weight.nested_absmax", "F32", 1, (int64_t[]){1}, fill, 4);
    hf_tensor(&w, "l.weight.nested_quant_map", "F32", 1, (int64_t[]){256}, fill, 1024);
    hf_tensor(&w, "l.weight.quant_state.bitsandbytes__nf4", "U8", 1, (int64_t[]){sizeof state - 1},
              state, sizeof state - 1);
    write_file(dir, "bnb4", 1, &w);
    hf_close(&w);
}

int main(int argc, char **argv)
{
    uint8_t fill[2048];
    if (argc != 2) return 2;
    for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++) {
        struct hf_writer w;
        hf_init(&w);
        for (const struct part *p = seeds[i].parts; p < seeds[i].parts + 6 && p->name; p++) {
            memset(fill, p->fill, sizeof fill);
            if (strcmp(p->name, "l.weight_shape") == 0) memcpy(fill, (int32_t[]){8, 32}, 8);
            hf_tensor(&w, p->name, p->dtype, p->rank, p->shape, fill, p->bytes);
        }
        write_file(argv[1], seeds[i].file, seeds[i].shape, &w);
        hf_close(&w);
    }
    write_bnb(argv[1]);
    return 0;
}
