/* random_weights.c - see random_weights.h. The file is laid out first (names, sizes, offsets), then
 * written by several threads from a pool of random bytes, so that 70 GB take seconds. Codes and
 * scales are drawn so that activations keep their size from layer to layer. */
#include "cli/random_weights.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/sl_assert.h"
#include "kernels/kernels.h"

#define HEADER_MAX (64u << 20)  /* bytes of the safetensors header */
#define POOL_BYTES (32u << 20)  /* of random numbers of each kind */
#define PIECE_BYTES (16u << 20) /* written at a time */
#define WRITERS 8
#define CONTEXT 131072 /* longest sequence, tokens */

struct shape {
    const char *name, *type; /* type: model_type of config.json */
    int n_embd, n_ff, n_layers, n_heads, n_kv_heads, head_dim, n_vocab;
    int n_experts, n_used, n_ff_expert; /* 0: dense */
};

static const struct shape shapes[] = {
    {"smollm2-135m", "llama", 576, 1536, 30, 9, 3, 64, 49152, 0, 0, 0},
    {"llama-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128256, 0, 0, 0},
    {"llama-8b", "llama", 4096, 14336, 32, 32, 8, 128, 128256, 0, 0, 0},
    {"llama-70b", "llama", 8192, 28672, 80, 64, 8, 128, 128256, 0, 0, 0},
    {"qwen-32b", "qwen3", 5120, 25600, 64, 64, 8, 128, 151936, 0, 0, 0},
    {"qwen3-30b-a3b", "qwen3_moe", 2048, 6144, 48, 32, 4, 128, 151936, 128, 8, 768},
    {"mixtral-8x7b", "mixtral", 4096, 14336, 32, 32, 8, 128, 32000, 8, 2, 14336},
};

/* What a tensor is filled with. */
enum fill {
    FILL_ONES,
    FILL_BF16,
    FILL_E4M3,
    FILL_NIBBLES,
    FILL_UE4M3,
    FILL_E8M0,
    FILL_FLOAT,
    FILLS
};

struct tensor {
    uint64_t offset, bytes;
    enum fill fill;
    float value; /* FLOAT: of every element */
};

struct plan {
    const struct shape *s;
    const char *format;
    struct sl_buf header;
    struct tensor *tensors;
    size_t n, cap;
    uint64_t bytes;
    int failed;
};

/* ---- layout ---------------------------------------------------------------------------------- */

static void add(struct plan *p, const char *name, const char *dtype, int64_t rows, int64_t cols,
                size_t one, enum fill fill, float value)
{
    char shape[64];
    uint64_t bytes = (uint64_t)rows * (uint64_t)(cols ? cols : 1) * one;
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 1024;
        struct tensor *grown = realloc(p->tensors, cap * sizeof *grown);
        if (!grown) {
            p->failed = 1;
            return;
        }
        p->tensors = grown;
        p->cap = cap;
    }
    if (cols)
        snprintf(shape, sizeof shape, "%lld,%lld", (long long)rows, (long long)cols);
    else
        snprintf(shape, sizeof shape, "%lld", (long long)rows);
    p->failed |= sl_buf_printf(&p->header,
                               "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%llu,"
                               "%llu]}",
                               p->n ? "," : "", name, dtype, shape, (unsigned long long)p->bytes,
                               (unsigned long long)(p->bytes + bytes)) != 0;
    p->tensors[p->n++] = (struct tensor){p->bytes, bytes, fill, value};
    p->bytes += bytes;
}

static void vector(struct plan *p, const char *name, int n)
{
    add(p, name, "BF16", n, 0, 2, FILL_ONES, 1);
}

static void plain(struct plan *p, const char *name, int64_t rows, int64_t cols)
{
    add(p, name, "BF16", rows, cols, 2, FILL_BF16, 0);
}

/* One of a layer's matrices in the format asked for; root mean square of its elements about
 * 1 / sqrt(cols). */
static void matrix(struct plan *p, const char *stem, int64_t rows, int64_t cols)
{
    const double codes4 = 2.93, codes8 = 85; /* root mean square of the codes we draw */
    float wanted = (float)(1 / sqrt((double)cols));
    char name[192];
#define NAME(suffix) (snprintf(name, sizeof name, "%s." suffix, stem), name)
    if (strcmp(p->format, "bf16") == 0) {
        plain(p, NAME("weight"), rows, cols);
    } else if (strcmp(p->format, "fp8") == 0) {
        add(p, NAME("weight"), "F8_E4M3", rows, cols, 1, FILL_E4M3, 0);
        add(p, NAME("weight_scale"), "F32", 1, 0, 4, FILL_FLOAT, wanted / (float)codes8);
    } else if (strcmp(p->format, "fp8-block") == 0) {
        add(p, NAME("weight"), "F8_E4M3", rows, cols, 1, FILL_E4M3, 0);
        add(p, NAME("weight_scale_inv"), "F32", (rows + 127) / 128, (cols + 127) / 128, 4,
            FILL_FLOAT, wanted / (float)codes8);
    } else if (strcmp(p->format, "nvfp4") == 0) {
        add(p, NAME("weight"), "U8", rows, cols / 2, 1, FILL_NIBBLES, 0);
        add(p, NAME("weight_scale"), "F8_E4M3", rows, cols / 16, 1, FILL_UE4M3, 0);
        add(p, NAME("weight_scale_2"), "F32", 1, 0, 4, FILL_FLOAT, wanted / (float)codes4);
    } else {
        add(p, NAME("weight_packed"), "U8", rows, cols / 2, 1, FILL_NIBBLES, 0);
        add(p, NAME("weight_scale"), "U8", rows, cols / 32, 1, FILL_E8M0,
            (float)floor(127.5 + log2((double)wanted / codes4)));
    }
#undef NAME
}

static void feed_forward(struct plan *p, const char *layer, const char *const names[3], int n_ff)
{
    char stem[160];
    for (int k = 0; k < 3; k++) {
        snprintf(stem, sizeof stem, "%s.%s", layer, names[k]);
        matrix(p, stem, k < 2 ? n_ff : p->s->n_embd, k < 2 ? p->s->n_embd : n_ff);
    }
}

static void experts(struct plan *p, const char *layer)
{
    static const char *const usual[] = {"gate_proj", "up_proj", "down_proj"};
    static const char *const mixtral[] = {"w1", "w3", "w2"};
    int is_mixtral = strcmp(p->s->type, "mixtral") == 0;
    const char *block = is_mixtral ? "block_sparse_moe" : "mlp";
    char stem[128];
    snprintf(stem, sizeof stem, "%s.%s.gate.weight", layer, block);
    plain(p, stem, p->s->n_experts, p->s->n_embd);
    for (int e = 0; e < p->s->n_experts; e++) {
        snprintf(stem, sizeof stem, "%s.%s.experts.%d", layer, block, e);
        feed_forward(p, stem, is_mixtral ? mixtral : usual, p->s->n_ff_expert);
    }
}

static void layer(struct plan *p, int i)
{
    static const char *const dense[] = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
    const struct shape *s = p->s;
    char stem[64], name[128];
    snprintf(stem, sizeof stem, "model.layers.%d", i);
#define NAME(suffix) (snprintf(name, sizeof name, "%s." suffix, stem), name)
    vector(p, NAME("input_layernorm.weight"), s->n_embd);
    matrix(p, NAME("self_attn.q_proj"), (int64_t)s->n_heads * s->head_dim, s->n_embd);
    matrix(p, NAME("self_attn.k_proj"), (int64_t)s->n_kv_heads * s->head_dim, s->n_embd);
    matrix(p, NAME("self_attn.v_proj"), (int64_t)s->n_kv_heads * s->head_dim, s->n_embd);
    matrix(p, NAME("self_attn.o_proj"), s->n_embd, (int64_t)s->n_heads * s->head_dim);
    if (strncmp(s->type, "qwen3", 5) == 0) {
        vector(p, NAME("self_attn.q_norm.weight"), s->head_dim);
        vector(p, NAME("self_attn.k_norm.weight"), s->head_dim);
    }
    vector(p, NAME("post_attention_layernorm.weight"), s->n_embd);
#undef NAME
    if (s->n_experts)
        experts(p, stem);
    else
        feed_forward(p, stem, dense, s->n_ff);
}

static void lay_out(struct plan *p)
{
    sl_buf_init(&p->header, HEADER_MAX);
    p->failed |= sl_buf_putc(&p->header, '{') != 0;
    plain(p, "model.embed_tokens.weight", p->s->n_vocab, p->s->n_embd);
    for (int i = 0; i < p->s->n_layers; i++) layer(p, i);
    vector(p, "model.norm.weight", p->s->n_embd);
    plain(p, "lm_head.weight", p->s->n_vocab, p->s->n_embd);
    p->failed |= sl_buf_putc(&p->header, '}') != 0;
    while (p->header.len % 64) p->failed |= sl_buf_putc(&p->header, ' ') != 0;
}

/* ---- numbers --------------------------------------------------------------------------------- */

static uint8_t *pools[FILLS];

static void fill_pool(enum fill f, uint8_t *out)
{
    uint64_t seed = 0x736c75696365 + (uint64_t)f;
    for (size_t i = 0; i < POOL_BYTES; i += 8) {
        uint64_t r = seed = sl_mix64(seed + 0x9e3779b97f4a7c15u);
        if (f == FILL_BF16)
            for (int k = 0; k < 4; k++) { /* sign and mantissa at random, 2^-7 or 2^-6 */
                uint16_t v = (uint16_t)(r >> (16 * k));
                v = (uint16_t)((v & 0x80ff) | 0x3c00);
                memcpy(out + i + 2 * k, &v, 2);
            }
        else
            memcpy(out + i, &r, 8);
        for (int k = 0; k < 8 && f == FILL_E4M3; k++)
            if ((out[i + (size_t)k] & 0x7f) == 0x7f) out[i + (size_t)k] ^= 1; /* NaN */
        for (int k = 0; k < 8 && f == FILL_UE4M3; k++)                        /* 0.75 to 1.4 */
            out[i + (size_t)k] = (uint8_t)(0x34 + out[i + (size_t)k] % 8);
    }
}

static int make_pools(struct sl_err *err)
{
    static const enum fill kinds[] = {FILL_BF16, FILL_E4M3, FILL_NIBBLES, FILL_UE4M3};
    for (size_t i = 0; i < SL_ARRAY_LEN(kinds); i++) {
        if (!pools[kinds[i]]) pools[kinds[i]] = malloc(POOL_BYTES);
        if (!pools[kinds[i]]) return sl_err_set(err, SL_ENOMEM, "no memory for random numbers");
        fill_pool(kinds[i], pools[kinds[i]]);
    }
    return 0;
}

/* n bytes of the tensor, from byte `at` on. */
static void numbers(const struct tensor *t, uint64_t at, size_t n, uint8_t *out)
{
    uint16_t one = sl_float_to_bf16(1);
    switch (t->fill) {
    case FILL_ONES:
        for (size_t i = 0; i + 1 < n; i += 2) memcpy(out + i, &one, 2);
        return;
    case FILL_FLOAT:
        for (size_t i = 0; i + 3 < n; i += 4) memcpy(out + i, &t->value, 4);
        return;
    case FILL_E8M0:
        memset(out, (int)t->value, n);
        return;
    default:
        break;
    }
    /* another place of the pool for each piece, so that no two look the same */
    size_t from = (size_t)(sl_mix64(t->offset + at) % (POOL_BYTES / 64)) * 64;
    for (size_t done = 0, k; done < n; done += k, from = 0) {
        k = SL_MIN(n - done, POOL_BYTES - from);
        memcpy(out + done, pools[t->fill] + from, k);
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

struct writing {
    const struct plan *p;
    int fd;
    uint64_t base; /* of the tensors in the file */
    _Atomic size_t next;
    _Atomic int error; /* errno */
};

static void write_tensor(struct writing *w, const struct tensor *t, uint8_t *piece)
{
    for (uint64_t at = 0; at < t->bytes && !w->error;) {
        size_t n = (size_t)SL_MIN(t->bytes - at, (uint64_t)PIECE_BYTES);
        numbers(t, at, n, piece);
        for (size_t done = 0; done < n;) {
            ssize_t k =
                pwrite(w->fd, piece + done, n - done, (off_t)(w->base + t->offset + at + done));
            if (k <= 0) {
                w->error = k < 0 ? errno : ENOSPC;
                return;
            }
            done += (size_t)k;
        }
        at += n;
    }
}

static void *writer(void *arg)
{
    struct writing *w = arg;
    uint8_t *piece = malloc(PIECE_BYTES);
    if (!piece) w->error = ENOMEM;
    for (size_t i; piece && (i = atomic_fetch_add(&w->next, 1)) < w->p->n;)
        write_tensor(w, &w->p->tensors[i], piece);
    free(piece);
    return NULL;
}

static int write_tensors(const struct plan *p, const char *path, struct sl_err *err)
{
    uint64_t n = p->header.len;
    struct writing w = {.p = p, .fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644)};
    pthread_t threads[WRITERS];
    int started = 0;
    if (w.fd < 0) return sl_err_set(err, SL_EIO, "%s: %s", path, strerror(errno));
    w.base = sizeof n + n;
    if (pwrite(w.fd, &n, sizeof n, 0) != (ssize_t)sizeof n ||
        pwrite(w.fd, p->header.data, n, sizeof n) != (ssize_t)n)
        w.error = errno ? errno : ENOSPC;
    while (started < WRITERS && pthread_create(&threads[started], NULL, writer, &w) == 0) started++;
    if (!started) writer(&w);
    for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
    if (close(w.fd) && !w.error) w.error = errno;
    if (!w.error) return 0;
    return sl_err_set(err, SL_EIO, "%s: %s after part of %.1f GB; set TMPDIR to a larger disk",
                      path, strerror(w.error), (double)p->bytes / 1e9);
}

static int write_text(const char *folder, const char *name, const struct sl_buf *text,
                      struct sl_err *err)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    int bad = !f || fwrite(text->data, 1, text->len, f) != text->len;
    if (f && fclose(f)) bad = 1;
    return bad ? sl_err_set(err, SL_EIO, "%s: %s", path, strerror(errno)) : 0;
}

static const char *quantization(const char *format)
{
    if (strcmp(format, "fp8") == 0)
        return ",\"quantization_config\":{\"quant_method\":\"fp8\",\"activation_scheme\":"
               "\"dynamic\"}";
    if (strcmp(format, "fp8-block") == 0)
        return ",\"quantization_config\":{\"quant_method\":\"fp8\",\"activation_scheme\":"
               "\"dynamic\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}";
    if (strcmp(format, "nvfp4") == 0)
        return ",\"quantization_config\":{\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\","
               "\"ignore\":[\"lm_head\"]}";
    if (strcmp(format, "mxfp4") == 0)
        return ",\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":"
               "\"mxfp4-pack-quantized\",\"ignore\":[\"lm_head\"],\"config_groups\":{\"group_0\":{"
               "\"targets\":[\"Linear\"],\"format\":\"mxfp4-pack-quantized\",\"weights\":{"
               "\"num_bits\":4,\"type\":\"float\",\"strategy\":\"group\",\"group_size\":32,"
               "\"symmetric\":true,\"dynamic\":false}}}}";
    return "";
}

static int write_config(const struct shape *s, const char *format, const char *folder,
                        struct sl_err *err)
{
    const char *const arch = strcmp(s->type, "qwen3") == 0       ? "Qwen3ForCausalLM"
                             : strcmp(s->type, "qwen3_moe") == 0 ? "Qwen3MoeForCausalLM"
                             : strcmp(s->type, "mixtral") == 0   ? "MixtralForCausalLM"
                                                                 : "LlamaForCausalLM";
    struct sl_buf b;
    sl_buf_init(&b, 1 << 16);
    int r = sl_buf_printf(
        &b,
        "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":%d,"
        "\"intermediate_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,"
        "\"num_key_value_heads\":%d,\"head_dim\":%d,\"vocab_size\":%d,"
        "\"max_position_embeddings\":%d,\"rms_norm_eps\":1e-05,\"rope_theta\":500000.0,"
        "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\","
        "\"bos_token_id\":0,\"eos_token_id\":1",
        arch, s->type, s->n_embd, s->n_ff, s->n_layers, s->n_heads, s->n_kv_heads, s->head_dim,
        s->n_vocab, CONTEXT);
    if (r == 0 && s->n_experts)
        r = sl_buf_printf(&b,
                          ",\"%s\":%d,\"num_experts_per_tok\":%d,\"moe_intermediate_size\":%d,"
                          "\"norm_topk_prob\":true,\"decoder_sparse_step\":1,"
                          "\"mlp_only_layers\":[]",
                          strcmp(s->type, "mixtral") == 0 ? "num_local_experts" : "num_experts",
                          s->n_experts, s->n_used, s->n_ff_expert);
    if (r == 0) r = sl_buf_printf(&b, "%s}\n", quantization(format));
    r = r ? sl_err_set(err, SL_ENOMEM, "no memory") : write_text(folder, "config.json", &b, err);
    sl_buf_close(&b);
    return r;
}

/* The letter that stands for a byte in a byte-level vocabulary (Radford et al. 2019): the printable
 * ones for themselves, the rest from U+0100 on. */
static int letter(int byte)
{
    int moved = 0;
    for (int b = 0; b < 256; b++) {
        int printable = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        if (b == byte) return printable ? b : 256 + moved;
        moved += !printable;
    }
    return 0;
}

static int write_tokenizer(const char *folder, struct sl_err *err)
{
    struct sl_buf b;
    sl_buf_init(&b, 1 << 16);
    int r = sl_buf_puts(&b, "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,"
                            "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                            "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
                            "\"model\":{\"type\":\"BPE\",\"merges\":[\"t h\"],\"vocab\":{");
    for (int i = 0; r == 0 && i < 256; i++)
        r = sl_buf_printf(&b, "\"\\u%04x\":%d,", (unsigned)letter(i), i);
    if (r == 0) r = sl_buf_puts(&b, "\"th\":256}}}\n");
    r = r ? sl_err_set(err, SL_ENOMEM, "no memory") : write_text(folder, "tokenizer.json", &b, err);
    sl_buf_close(&b);
    return r;
}

/* ---- what is called -------------------------------------------------------------------------- */

const char *sl_random_weights_shapes(void)
{
    static char names[256];
    size_t at = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(shapes) && at < sizeof names; i++)
        at +=
            (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", shapes[i].name);
    return names;
}

const char *sl_random_weights_formats(void)
{
    return "bf16, fp8, fp8-block, nvfp4, mxfp4";
}

int sl_random_weights_write(const char *shape, const char *format, const char *folder,
                            struct sl_err *err)
{
    static const char *const formats[] = {"bf16", "fp8", "fp8-block", "nvfp4", "mxfp4"};
    struct plan p = {.format = format};
    char path[4096];
    int known = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(shapes); i++)
        if (strcmp(shapes[i].name, shape) == 0) p.s = &shapes[i];
    for (size_t i = 0; i < SL_ARRAY_LEN(formats); i++) known |= strcmp(formats[i], format) == 0;
    if (!p.s)
        return sl_err_set(err, SL_EUSAGE, "no shape '%s' is known; there are %s", shape,
                          sl_random_weights_shapes());
    if (!known)
        return sl_err_set(err, SL_EUSAGE, "random weights are not made in '%s'; there are %s",
                          format, sl_random_weights_formats());
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    lay_out(&p);
    int r = p.failed ? sl_err_set(err, SL_ENOMEM, "no memory for the header of %s", path)
                     : make_pools(err);
    if (r == 0) r = write_config(p.s, format, folder, err);
    if (r == 0) r = write_tokenizer(folder, err);
    if (r == 0) r = write_tensors(&p, path, err);
    for (int i = 0; i < FILLS; i++) {
        free(pools[i]);
        pools[i] = NULL;
    }
    sl_buf_close(&p.header);
    free(p.tensors);
    return r;
}
