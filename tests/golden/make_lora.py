#!/usr/bin/env python3
"""Makes the LoRA adapters of tests/golden/data/lora and what they answer (run by hand; needs torch, transformers, peft, gguf).

usage: make_lora.py SHARED_MODELS OUT

Adapters are random, saved by PEFT itself; logits and continuations are PEFT's, unmerged, in float32. The base of `turned` is a
GGUF file, whose heads of q and k lie in another order than the adapter's rows.
"""
import json
import pathlib
import sys

import gguf
import numpy
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPT = [1] + [(7 * i * i + 11 * i + 5) % 500 + 3 for i in range(20)]


def from_gguf(path, config):
    """A LlamaForCausalLM with the numbers of a GGUF file, rows of q and k brought back to the order of Hugging Face."""
    reader = gguf.GGUFReader(path)
    t = {x.name: torch.from_numpy(numpy.array(gguf.dequantize(x.data, x.tensor_type), dtype=numpy.float32)) for x in reader.tensors}
    heads, kv, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim

    def turn(w, n):
        return w.reshape(n, d // 2, 2, -1).transpose(1, 2).reshape(n * d, -1)

    state = {"model.embed_tokens.weight": t["token_embd.weight"], "model.norm.weight": t["output_norm.weight"],
             "lm_head.weight": t["output.weight"]}
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    for i in range(config.num_hidden_layers):
        at, to = f"blk.{i}.", f"model.layers.{i}."
        state |= {to + hf + ".weight": t[at + name + ".weight"] for name, hf in names.items()}
        state[to + "self_attn.q_proj.weight"] = turn(t[at + "attn_q.weight"], heads)
        state[to + "self_attn.k_proj.weight"] = turn(t[at + "attn_k.weight"], kv)
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.float().eval()


def adapt(model, out, name, seed, **settings):
    torch.manual_seed(seed)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0, **settings)).eval()
    for key, p in peft.named_parameters():
        if "lora_" in key:
            p.data = (torch.randn_like(p) * 0.12).bfloat16().float()
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        logits = peft(ids).logits[0]
        with peft.disable_adapter():
            base = peft(ids).logits[0]
        greedy = []
        for _ in range(16):
            greedy.append(int(peft(torch.tensor([PROMPT + greedy])).logits[0, -1].argmax()))
    print(name, "moves the logits by", float((logits - base).std() / base.std()), "std")
    folder = out / name
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tiny"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    bf16 = {k: v.bfloat16().contiguous() for k, v in peft.state_dict().items() if "lora_" in k}
    if settings["r"] > 4:  # one adapter in BF16, one in F32
        save_file({k.replace(".default", ""): v for k, v in bf16.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
    save_file({"prompt0.input_ids": torch.tensor(PROMPT, dtype=torch.int32), "prompt0.greedy": torch.tensor(greedy, dtype=torch.int32),
               "prompt0.logits": logits[-4:].contiguous()}, folder / "golden.safetensors")
    peft.unload()


def main():
    models, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

    def llama():
        return LlamaForCausalLM.from_pretrained(models / "llama", dtype=torch.float32, attn_implementation="eager").eval()

    adapt(llama(), out, "all", 1, r=8, lora_alpha=16, target_modules=LINEAR)
    adapt(llama(), out, "rs", 2, r=4, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "v_proj"], alpha_pattern={"v_proj": 5})
    golden = json.loads((models / "gguf/llama-Q8_0.golden.json").read_text())
    c = golden["config"]
    config = LlamaConfig(**{k: v for k, v in c.items() if k not in ("torch_dtype", "dtype")}, attn_implementation="eager")
    adapt(from_gguf(models / "gguf/llama-Q8_0.gguf", config), out, "turned", 3, r=8, lora_alpha=8, target_modules=["q_proj", "k_proj", "o_proj"])


main()
