#!/usr/bin/env python3
"""Makes the tiny models of data/models: random weights, real architectures, golden answers.

usage: make_models.py OUTPUT [NAME...]      needs torch, transformers (5), safetensors

Each folder is what a hub download looks like, without a tokenizer: config.json and model.safetensors
in BF16. twin.gguf, where there is one, holds the same numbers under GGUF names. golden.safetensors
has what transformers gives in float32 with eager attention and no KV cache: for three prompts the
ids, the logits (the last position of the longest only) and a greedy continuation, and for the first
prompt the residual stream before and after each layer.

Scales are chosen so that logits have a standard deviation of about 3 and every detail counts; a seed
is taken only when no step of the continuations is a near tie and no expert is chosen by a hair.
"""
import json, math, os, struct, sys

import torch
import transformers
from safetensors.torch import load_file, save_file

VOCAB, HIDDEN, LENGTHS, STEPS, MARGIN = 96, 32, (5, 37, 100), 16, 0.004
BASE = dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            bos_token_id=1, eos_token_id=2, pad_token_id=2, attn_implementation="eager")
SHORT = [1.0 + 0.1 * i for i in range(8)]
LONG = [1.5 + 0.7 * i for i in range(8)]

# name: (config class, what differs from BASE, GGUF architecture of the twin or None)
MODELS = {
    "llama-linear": ("LlamaConfig", dict(rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10000.0),
                                         head_dim=8), "llama"),
    "llama3": ("LlamaConfig", dict(head_dim=32, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)), "llama"),
    "llama-bias": ("LlamaConfig", dict(attention_bias=True, mlp_bias=True, head_dim=8,
                                       rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=10000.0)), None),
    "internlm2": ("LlamaConfig", dict(head_dim=8, rope_parameters=dict(rope_type="default", rope_theta=1e6)), "internlm2"),
    "mistral": ("MistralConfig", dict(head_dim=16, sliding_window=12), "llama"),
    "mixtral-v5": ("MixtralConfig", dict(head_dim=8, num_local_experts=4, num_experts_per_tok=2, intermediate_size=24), "llama"),
    "qwen2-window": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=9, max_window_layers=1), None),
    "qwen2-yarn": ("Qwen2Config", dict(rope_parameters=dict(rope_type="yarn", factor=4.0, rope_theta=10000.0,
                                                            original_max_position_embeddings=64)), "qwen2"),
    "qwen2_moe": ("Qwen2MoeConfig", dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12,
                                         shared_expert_intermediate_size=24, norm_topk_prob=False), "qwen2moe"),
    "qwen3_moe-sparse": ("Qwen3MoeConfig", dict(head_dim=16, num_experts=6, num_experts_per_tok=3, num_hidden_layers=4,
                                         moe_intermediate_size=12, norm_topk_prob=False, mlp_only_layers=[1],
                                         decoder_sparse_step=2), None),
    "qwen3": ("Qwen3Config", dict(head_dim=16, tie_word_embeddings=True), "qwen3"),
    "qwen3_moe": ("Qwen3MoeConfig", dict(head_dim=16, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12,
                                         norm_topk_prob=True), "qwen3moe"),
    "qwen3-bias": ("Qwen3Config", dict(head_dim=16, attention_bias=True), None),
    "phi3": ("Phi3Config", dict(sliding_window=20, rope_parameters=dict(rope_type="default", rope_theta=10000.0)), "phi3"),
    "phi3-longrope": ("Phi3Config", dict(num_attention_heads=2, num_key_value_heads=1, original_max_position_embeddings=16,
                                         tie_word_embeddings=True, rope_parameters=dict(
                                             rope_type="longrope", rope_theta=10000.0, short_factor=SHORT[:6], long_factor=LONG[:6],
                                             partial_rotary_factor=0.75, original_max_position_embeddings=16)), "phi3"),
    "gemma2": ("Gemma2Config", dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=10, attn_logit_softcapping=5.0,
                                    final_logit_softcapping=9.0, num_hidden_layers=3), "gemma2"),
    "gemma3": ("Gemma3TextConfig", dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=10, num_hidden_layers=3,
                                        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                                        rope_parameters=dict(
                                            full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                            sliding_attention=dict(rope_type="default", rope_theta=1e4))), "gemma3"),
    "gpt_oss-small": ("GptOssConfig", dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=10,
                                     intermediate_size=16, rope_parameters=dict(
                                         rope_type="yarn", factor=4.0, rope_theta=150000.0, truncate=False, beta_fast=32.0,
                                         beta_slow=1.0, original_max_position_embeddings=64)), "gpt-oss"),
    "deepseek_v2": ("DeepseekV2Config", dict(q_lora_rank=None, kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8,
                                             num_key_value_heads=4, v_head_dim=12, n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2,
                                             moe_intermediate_size=12, first_k_dense_replace=1, topk_method="greedy",
                                             n_group=1, topk_group=1, routed_scaling_factor=1.0,
                                             rope_parameters=dict(rope_type="yarn", factor=8.0, rope_theta=10000.0, mscale=0.707,
                                                                  mscale_all_dim=0.707, beta_fast=32, beta_slow=1,
                                                                  original_max_position_embeddings=32)), "deepseek2"),
    "deepseek_v2-groups": ("DeepseekV2Config", dict(q_lora_rank=20, kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8,
                                                    num_key_value_heads=4, v_head_dim=16, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3,
                                                    moe_intermediate_size=12, first_k_dense_replace=0,
                                                    topk_method="group_limited_greedy", n_group=4, topk_group=2,
                                                    routed_scaling_factor=4.0), None),
    "deepseek_v3-v5": ("DeepseekV3Config", dict(q_lora_rank=20, kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8,
                                             num_key_value_heads=4, v_head_dim=16, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3,
                                             moe_intermediate_size=12, first_k_dense_replace=1, n_group=4, topk_group=2,
                                             routed_scaling_factor=2.5, norm_topk_prob=True,
                                             rope_parameters=dict(rope_type="yarn", factor=8.0, rope_theta=10000.0, mscale=1.0,
                                                                  mscale_all_dim=1.0, beta_fast=32, beta_slow=1,
                                                                  original_max_position_embeddings=32)), "deepseek2"),
    "granite": ("GraniteConfig", dict(embedding_multiplier=0.5, logits_scaling=2.0, residual_multiplier=0.9,
                                      attention_multiplier=0.2), "granite"),
}


def randomise(model, seed):
    """Weights of sizes that make attention peaked and every feature visible, rounded to BF16."""
    g = torch.Generator().manual_seed(seed)
    plus_one = model.config.model_type.startswith("gemma")
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=g)
        if "norm" in name and p.ndim == 1:
            x = 0.2 * x + (0 if plus_one else 1)
        elif "sinks" in name:
            pass
        elif p.ndim == 1 or "bias" in name:
            x *= 0.3
        elif "embed_tokens" in name:
            x *= 0.3 if plus_one else 1.0
        elif "experts" in name and p.ndim == 3:
            fan = p.shape[1] if model.config.model_type == "gpt_oss" else p.shape[2]
            x *= 1.5 / math.sqrt(fan)
        else:
            gain = 2.0 if any(k in name for k in ("q_proj", "k_proj", "q_b", "kv_b", "qkv", "gate.weight", "router")) else 1.2
            x *= gain / math.sqrt(p.shape[-1])
        p.data = x.bfloat16().float()
    for name, b in model.named_buffers():
        if "correction" in name:
            b.data = 0.2 * torch.randn(b.shape, generator=g)


def scale_logits(model, prompts):
    """Stretches the last norm (or the output matrix) until logits have a standard deviation of 3."""
    with torch.no_grad():
        std = model(prompts[1]).logits.std().item()
        cap = getattr(model.config, "final_logit_softcapping", None)
        if cap:
            return
        norm = model.model.norm.weight
        plus = 1.0 if model.config.model_type.startswith("gemma") else 0.0
        norm.data = ((norm.data + plus) * (3 / std) - plus).bfloat16().float()


def answers(model, prompts):
    """Golden tensors, and how near to a tie the closest step is."""
    out, margin = {}, 1e9
    layers, seen = model.model.layers, []
    hooks = [layers[0].register_forward_pre_hook(lambda m, a, k: seen.append(a[0] if a else k["hidden_states"]), with_kwargs=True)]
    hooks += [l.register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o)) for l in layers]
    with torch.no_grad():
        for i, ids in enumerate(prompts):
            seen.clear()
            logits = model(ids, use_cache=False).logits[0]
            if i == 0:
                out["prompt0.hidden"] = torch.stack([s.reshape(ids.shape[1], -1) for s in seen]).contiguous()
            std = logits.std().item()
            top = (logits if i < 2 else logits[-1:]).topk(2, dim=-1).values
            margin = min(margin, ((top[:, 0] - top[:, 1]) / std).min().item())
            out[f"prompt{i}.input_ids"] = ids[0].int()
            out[f"prompt{i}.logits"] = (logits if i < 2 else logits[-1:]).contiguous().clone()
            run = ids
            for _ in range(STEPS):
                last = model(run, use_cache=False).logits[0, -1]
                top = last.topk(2)
                margin = min(margin, (top.values[0] - top.values[1]).item() / std)
                run = torch.cat([run, top.indices[:1][None]], dim=1)
            out[f"prompt{i}.greedy"] = run[0, ids.shape[1]:].int()
    for h in hooks:
        h.remove()
    return out, margin


# ---- GGUF twins ---------------------------------------------------------------------------------

def gguf_write(path, metas, tensors):
    """GGUF v3: metadata as Python values, tensors as numpy-order torch tensors (float32 or BF16)."""
    def text(s):
        b = s.encode()
        return struct.pack("<Q", len(b)) + b

    def value(v):
        if isinstance(v, bool):
            return struct.pack("<I?", 7, v)
        if isinstance(v, int):
            return struct.pack("<II", 4, v)
        if isinstance(v, float):
            return struct.pack("<If", 6, v)
        if isinstance(v, str):
            return struct.pack("<I", 8) + text(v)
        return struct.pack("<IIQ", 9, 7, len(v)) + bytes(bool(x) for x in v)

    head = b"".join(text(k) + value(v) for k, v in metas.items())
    infos, data = b"", b""
    for name, t in tensors.items():
        kind = 30 if t.dtype == torch.bfloat16 else 0
        raw = t.contiguous().view(torch.int16 if kind else torch.int32).numpy().tobytes()
        infos += text(name) + struct.pack("<I", t.ndim) + b"".join(struct.pack("<q", n) for n in reversed(t.shape))
        infos += struct.pack("<IQ", kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    front = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metas)) + head + infos
    with open(path, "wb") as f:
        f.write(front + b"\0" * (-len(front) % 32) + data)


def permute(w, heads):
    """Rows of q or k as converters leave them for pairs of neighbours."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


ROLES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
         "post_attention_layernorm": "ffn_norm", "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
         "block_sparse_moe.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
         "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b", "self_attn.q_a_layernorm": "attn_q_a_norm",
         "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm"}
for part in ("gate", "up", "down"):
    ROLES[f"mlp.shared_expert.{part}_proj"] = ROLES[f"mlp.shared_experts.{part}_proj"] = f"ffn_{part}_shexp"
EXPERTS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}


def twin(arch, c, weights, path):
    t, experts = {}, {}
    norm = arch in ("llama", "internlm2", "granite")
    gemma = arch.startswith("gemma")
    for name, w in weights.items():
        if name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
            new = {"model.embed": "token_embd.weight", "model.norm.": "output_norm.weight", "lm_head.wei": "output.weight"}[name[:11]]
            t[new] = w.float() + 1 if gemma and "norm" in new else w.float() if "norm" in new else w
            continue
        _, _, layer, rest = name.split(".", 3)
        stem, _, kind = rest.rpartition(".")
        b = f"blk.{layer}."
        if rest == "self_attn.sinks":
            t[b + "attn_sinks.weight"] = w.float()
        elif rest == "mlp.gate.e_score_correction_bias":
            t[b + "exp_probs_b.bias"] = w.float()
        elif rest == "self_attn.kv_b_proj.weight":
            kv = w.reshape(c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank)
            t[b + "attn_k_b.weight"] = kv[:, :c.qk_nope_head_dim].transpose(1, 2).contiguous()
            t[b + "attn_v_b.weight"] = kv[:, c.qk_nope_head_dim:].contiguous()
        elif rest.startswith("mlp.experts.gate_up_proj"):
            last = w.float() if rest.endswith("bias") else w.transpose(1, 2)
            end = "bias" if rest.endswith("bias") else "weight"
            t[f"{b}ffn_gate_exps.{end}"], t[f"{b}ffn_up_exps.{end}"] = last[:, ::2].contiguous(), last[:, 1::2].contiguous()
        elif rest.startswith("mlp.experts.down_proj"):
            bias = rest.endswith("bias")
            t[b + ("ffn_down_exps.bias" if bias else "ffn_down_exps.weight")] = w.float() if bias else w.transpose(1, 2).contiguous()
        elif ".experts." in rest:
            _, _, number, part, _ = rest.split(".")
            experts.setdefault(f"{b}ffn_{EXPERTS[part]}_exps.weight", {})[int(number)] = w
        else:
            role = ROLES.get(stem)
            if gemma or arch == "gpt-oss":
                role = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
                        "post_feedforward_layernorm": "post_ffw_norm"}.get(stem, role)
            if norm and stem.endswith(("q_proj", "k_proj")):
                w = permute(w, c.num_attention_heads if "q_proj" in stem else c.num_key_value_heads)
            if w.ndim == 1 or stem.endswith("shared_expert_gate"):
                w = w.float().reshape(-1) + (1 if gemma and "norm" in stem else 0)
            t[f"{b}{role}.{kind}"] = w
    for name, rows in experts.items():
        t[name] = torch.stack([rows[i] for i in range(len(rows))])
    rope = c.rope_parameters.get("full_attention", c.rope_parameters)
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    m = {"general.architecture": arch, f"{arch}.block_count": c.num_hidden_layers,
         f"{arch}.context_length": c.max_position_embeddings, f"{arch}.embedding_length": c.hidden_size,
         f"{arch}.feed_forward_length": c.intermediate_size, f"{arch}.attention.head_count": c.num_attention_heads,
         f"{arch}.attention.head_count_kv": c.num_key_value_heads,
         f"{arch}.attention.layer_norm_rms_epsilon": float(c.rms_norm_eps), f"{arch}.rope.freq_base": float(rope["rope_theta"]),
         f"{arch}.attention.key_length": head, f"{arch}.attention.value_length": head}
    if rope["rope_type"] in ("linear", "yarn"):
        m[f"{arch}.rope.scaling.type"] = rope["rope_type"]
        m[f"{arch}.rope.scaling.factor"] = float(rope["factor"])
    if rope["rope_type"] == "llama3":
        plain = rope["rope_theta"] ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
        scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](c, "cpu")
        t["rope_freqs.weight"] = (plain / scaled.double()).float()
    if rope["rope_type"] in ("yarn", "longrope"):
        m[f"{arch}.rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if getattr(c, "sliding_window", None) and arch != "qwen2moe":
        m[f"{arch}.attention.sliding_window"] = c.sliding_window
    if rope["rope_type"] == "longrope":
        factor = c.max_position_embeddings / c.original_max_position_embeddings
        m[f"{arch}.rope.dimension_count"] = int(head * rope["partial_rotary_factor"])
        m[f"{arch}.rope.scaling.attn_factor"] = math.sqrt(1 + math.log(factor) / math.log(c.original_max_position_embeddings))
        t["rope_factors_long.weight"] = torch.tensor(rope["long_factor"])
        t["rope_factors_short.weight"] = torch.tensor(rope["short_factor"])
    if getattr(c, "num_experts_per_tok", None):
        m[f"{arch}.expert_count"] = getattr(c, "n_routed_experts", None) or getattr(c, "num_experts", None) or c.num_local_experts
        m[f"{arch}.expert_used_count"] = c.num_experts_per_tok
        m[f"{arch}.expert_feed_forward_length"] = getattr(c, "moe_intermediate_size", c.intermediate_size)
    if arch == "qwen2moe":
        m[f"{arch}.expert_shared_feed_forward_length"] = c.shared_expert_intermediate_size
    if arch == "gemma2":
        m[f"{arch}.attn_logit_softcapping"] = float(c.attn_logit_softcapping)
        m[f"{arch}.final_logit_softcapping"] = float(c.final_logit_softcapping)
    if arch == "gemma3":
        m[f"{arch}.attention.sliding_window_pattern"] = [x == "sliding_attention" for x in c.layer_types]
    if arch == "granite":
        m |= {"granite.attention.scale": float(c.attention_multiplier), "granite.embedding_scale": float(c.embedding_multiplier),
              "granite.residual_scale": float(c.residual_multiplier), "granite.logit_scale": float(c.logits_scaling)}
    if arch == "deepseek2":
        v3 = c.model_type == "deepseek_v3"
        m |= {"deepseek2.attention.kv_lora_rank": c.kv_lora_rank, "deepseek2.attention.head_count_kv": 1,
              "deepseek2.attention.key_length": c.kv_lora_rank + c.qk_rope_head_dim,
              "deepseek2.attention.value_length": c.kv_lora_rank,
              "deepseek2.attention.key_length_mla": c.qk_nope_head_dim + c.qk_rope_head_dim,
              "deepseek2.attention.value_length_mla": c.v_head_dim, "deepseek2.rope.dimension_count": c.qk_rope_head_dim,
              "deepseek2.leading_dense_block_count": c.first_k_dense_replace, "deepseek2.expert_shared_count": c.n_shared_experts,
              "deepseek2.expert_weights_scale": float(c.routed_scaling_factor), "deepseek2.expert_weights_norm": v3,
              "deepseek2.expert_gating_func": 2 if v3 else 1, "deepseek2.expert_group_count": c.n_group,
              "deepseek2.expert_group_used_count": c.topk_group,
              "deepseek2.rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"]}
        if c.q_lora_rank:
            m["deepseek2.attention.q_lora_rank"] = c.q_lora_rank
    if arch == "gemma2":
        c_scale = c.query_pre_attn_scalar
        m["gemma2.attention.scale"] = 1 / math.sqrt(c_scale)
    gguf_write(path, m, t)


# ---- files --------------------------------------------------------------------------------------

def as_internlm2(c, weights, config):
    """Llama's numbers under InternLM2's names: wqkv cut KV head by KV head."""
    d, kv = c.head_dim, c.num_key_value_heads
    names = {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo",
             "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2"}
    out = {"model.tok_embeddings.weight": weights["model.embed_tokens.weight"], "model.norm.weight": weights["model.norm.weight"],
           "output.weight": weights["lm_head.weight"]}
    for i in range(c.num_hidden_layers):
        p = f"model.layers.{i}."
        for old, new in names.items():
            out[f"{p}{new}.weight"] = weights[f"{p}{old}.weight"]
        q, k, v = (weights[f"{p}self_attn.{x}_proj.weight"].reshape(kv, -1, d, c.hidden_size) for x in "qkv")
        out[f"{p}attention.wqkv.weight"] = torch.cat([q, k, v], dim=1).reshape(-1, c.hidden_size).contiguous()
    keep = {k: config[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                   "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings",
                                   "bos_token_id", "eos_token_id", "pad_token_id")}
    return out, dict(keep, architectures=["InternLM2ForCausalLM"], model_type="internlm2", bias=False, rope_theta=1000000,
                     rope_scaling={"type": "dynamic", "factor": 2.0}, torch_dtype="bfloat16", attn_implementation="eager",
                     auto_map={"AutoConfig": "configuration_internlm2.InternLM2Config"})


def make(name, root):
    cls, more, arch = MODELS[name]
    config = getattr(transformers, cls)(**(BASE | more))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    g = torch.Generator().manual_seed(7)
    prompts = [torch.randint(3, VOCAB, (1, n), generator=g) for n in LENGTHS]
    for seed in range(1000):
        randomise(model, seed)
        model.tie_weights()
        scale_logits(model, prompts)
        golden, margin = answers(model, prompts)
        if margin > MARGIN:
            break
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    keep = {n: b.clone() for n, b in model.named_buffers() if "correction" in n}
    model.to(torch.bfloat16)
    for n, b in model.named_buffers():
        if n in keep:
            b.data = keep[n]
    model.save_pretrained(folder)
    for junk in ("generation_config.json",):
        if os.path.exists(os.path.join(folder, junk)):
            os.remove(os.path.join(folder, junk))
    file = os.path.join(folder, "model.safetensors")
    weights = load_file(file)
    weights = {k: keep.get(k, w) for k, w in weights.items()}
    if arch:
        twin(arch, config, weights, os.path.join(folder, "twin.gguf"))
    if name == "internlm2":
        path = os.path.join(folder, "config.json")
        weights, described = as_internlm2(config, weights, json.load(open(path)))
        json.dump(described, open(path, "w"), indent=1)
    save_file(weights, file, metadata={"format": "pt"})
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{name}: seed {seed}, margin {margin:.3f}, std {golden['prompt1.logits'].std():.2f}, {size // 1024} KiB", flush=True)


def respell(name, root):
    """The same models as older hub folders describe and name them."""
    source, folder = os.path.join(root, RESPELLED[name]), os.path.join(root, name)
    config = json.load(open(os.path.join(source, "config.json")))
    weights = load_file(os.path.join(source, "model.safetensors"))
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    if name == "phi3-longrope-v4":
        config |= dict(rope_theta=rope["rope_theta"], partial_rotary_factor=rope["partial_rotary_factor"],
                       rope_scaling=dict(type="longrope", short_factor=rope["short_factor"], long_factor=rope["long_factor"]))
    else:
        keep = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "head_dim", "query_pre_attn_scalar", "sliding_window", "max_position_embeddings")
        config = dict(architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3", torch_dtype="bfloat16",
                      boi_token_index=90, eoi_token_index=91, image_token_index=92, mm_tokens_per_image=4,
                      text_config={k: config[k] for k in keep} | dict(model_type="gemma3_text", sliding_window_pattern=3,
                                                                     rope_scaling=dict(rope_type="linear", factor=8.0)),
                      vision_config=dict(model_type="siglip_vision_model", hidden_size=8, num_hidden_layers=1))
        weights = {"language_model." + k: w for k, w in weights.items()}
        weights["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(8)
        weights["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.ones(8)
    os.makedirs(folder, exist_ok=True)
    json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=1)
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    save_file(load_file(os.path.join(source, "golden.safetensors")), os.path.join(folder, "golden.safetensors"))


RESPELLED = {"phi3-longrope-v4": "phi3-longrope", "gemma3-vision": "gemma3"}

if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for each in sys.argv[2:] or list(MODELS) + list(RESPELLED):
        (respell if each in RESPELLED else make)(each, sys.argv[1])
