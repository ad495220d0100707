/* arch_mistral.c - Mistral and Mixtral as Hugging Face folders: Llama's layer with a sliding window
 * (Beltagy et al. 2020; Mistral 7B, 2023), and with eight experts of which two are used (Jiang et
 * al. 2024). GGUF files of both are "llama". */
#include "model/arch.h"

static const struct sl_names mistral_names[SL_ROLE_COUNT] = {SL_NAMES_EDGES, SL_NAMES_NORMS,
                                                             SL_NAMES_ATTENTION, SL_NAMES_FFN};

static const struct sl_names mixtral_names[SL_ROLE_COUNT] = {
    SL_NAMES_EDGES,
    SL_NAMES_NORMS,
    SL_NAMES_ATTENTION,
    [SL_ROLE_ROUTER] = SL_NAMED(NULL, "block_sparse_moe.gate"),
    [SL_ROLE_GATE_EXPS] = SL_NAMED(NULL, "block_sparse_moe.experts.*.w1"),
    [SL_ROLE_UP_EXPS] = SL_NAMED(NULL, "block_sparse_moe.experts.*.w3"),
    [SL_ROLE_DOWN_EXPS] = SL_NAMED(NULL, "block_sparse_moe.experts.*.w2"),
};

static const struct sl_hf_default mistral_defaults[] = {
    {"sliding_window", 4096}, {"num_key_value_heads", 8}, {"rms_norm_eps", 1e-6}, {NULL, 0}};
static const struct sl_hf_default mixtral_defaults[] = {
    {"num_key_value_heads", 8}, {"rms_norm_eps", 1e-5}, {"rope_theta", 1e6}, {NULL, 0}};

static int read_mistral(struct sl_reader *r)
{
    int e = sl_read_act(r, "hidden_act", SL_FFN_SILU);
    return e ? e : sl_arch_read_window(r, 0);
}

static int read_mixtral(struct sl_reader *r)
{
    int e = read_mistral(r);
    return e ? e : sl_arch_read_experts(r, 1, "num_local_experts", "num_experts_per_tok", NULL);
}

const struct sl_arch sl_arch_mistral = {
    .name = "mistral",
    .hf = {"mistral"},
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = mistral_defaults,
    .names = mistral_names,
    .read = read_mistral,
};

const struct sl_arch sl_arch_mixtral = {
    .name = "mixtral",
    .hf = {"mixtral"},
    .rope_hf = SL_ROPE_NEOX,
    .hf_defaults = mixtral_defaults,
    .names = mixtral_names,
    .read = read_mixtral,
};
