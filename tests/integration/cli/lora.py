#!/usr/bin/env python3
"""LoRA adapters as a user meets them: `logits --lora`, a server with two adapters asked by name, and adapters that must be refused.

usage: lora.py PROGRAM DATA ADAPTERS
"""
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

SKIPPED = 77
PROMPT = [1] + [(7 * i * i + 11 * i + 5) % 500 + 3 for i in range(20)]


def tensors(path):
    """Header and bytes of a safetensors file."""
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + n]), raw[8 + n:]


def golden(folder):
    head, data = tensors(folder / "golden.safetensors")
    a, b = head["prompt0.greedy"]["data_offsets"]
    return list(struct.unpack(f"<{(b - a) // 4}i", data[a:b]))


class Test:
    def __init__(self, program, data, adapters):
        self.program, self.data, self.adapters = program, data, adapters
        self.model = data / "models/llama"

    def logits(self, adapter, model=None):
        words = [self.program, "logits", "-m", model or self.model, "--lora", adapter, "--tokens", "1,2,3", "--json"]
        return subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=60)

    def refused(self, folder, *says, model=None):
        r = self.logits(folder, model)
        lines = [line for line in r.stderr.splitlines() if line.startswith("sluice")]
        assert r.returncode == 2, (says, r)
        assert len(lines) == 1 and all(re.search(s, lines[0]) for s in says), (says, r.stderr)

    def bad_adapters(self, folder):
        def copy(**changes):
            to = folder / "bad"
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(self.adapters / "all", to)
            config = json.loads((to / "adapter_config.json").read_text())
            (to / "adapter_config.json").write_text(json.dumps(config | changes))
            return to

        def renamed(old, new):
            to = copy()
            head, data = tensors(to / "adapter_model.safetensors")
            text = json.dumps({k.replace(old, new): v for k, v in head.items()}).encode()
            (to / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
            return to

        self.refused(folder / "none", "none", "adapter_config.json")
        self.refused(copy(peft_type="IA3"), "peft_type", "LORA")
        self.refused(copy(use_dora=True), "use_dora", "DoRA", "merge")
        self.refused(copy(modules_to_save=["lm_head"]), "modules_to_save")
        self.refused(copy(bias="all"), "bias")
        self.refused(copy(init_lora_weights="pissa_niter_4"), "pissa")
        self.refused(copy(r=0), "r should be an integer")
        self.refused(copy(r=9), "rank 8", "says 9")
        self.refused(copy(lora_alpha="x"), "lora_alpha")
        self.refused(copy(alpha_pattern={"q_.*": 3}), "alpha_pattern")
        self.refused(renamed("layers.0.mlp.up_proj.lora_B", "layers.0.mlp.up_proj.lora_C"), "lora_C")
        self.refused(renamed("layers.3.", "layers.4."), "layers.4", "another model")
        self.refused(renamed("layers.0.mlp.up_proj", "layers.0.mlp.experts.0.up_proj"), "experts")
        self.refused(renamed("layers.0.self_attn.q_proj.lora_A", "embed_tokens.lora_embedding_A"), "embed_tokens")
        self.refused(copy(), "another model", model=self.data / "models/qwen2")
        for name, content in (("adapter_config.json", b"{"), ("adapter_model.safetensors", b"xx"), ("adapter_config.json", b"[1]")):
            to = copy()
            (to / name).write_bytes(content)
            self.refused(to, name)
        to = copy()
        whole = (to / "adapter_model.safetensors").read_bytes()
        (to / "adapter_model.safetensors").write_bytes(whole[:-100])
        self.refused(to, "adapter_model.safetensors")
        to = copy()
        (to / "adapter_model.safetensors").unlink()
        self.refused(to, "adapter_model.safetensors")

    def served(self):
        lora = [w for name in ("all", "rs") for w in ("--lora", f"{name}={self.adapters / name}")]
        command = [self.program, "serve", "-m", self.model, "--http", "127.0.0.1:0", "--kv-format", "f32", *lora]
        server = subprocess.Popen([str(w) for w in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            url = None
            for line in server.stdout:
                m = re.search(r"http://[\d.]+:\d+", line)
                if m:
                    url = m.group()
                    break
            assert url, server.stderr.read()

            def ask(path, body=None):
                request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None,
                                                 {"Content-Type": "application/json"})
                return json.load(urllib.request.urlopen(request, timeout=60))

            names = [m["id"] for m in ask("/v1/models")["data"]]
            assert names[1:] == ["all", "rs"], names
            texts = {}
            for name in [*names, "all"]:
                got = ask("/v1/completions", {"model": name, "prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True})
                assert got["model"] == name, got
                text = got["choices"][0]["text"]
                assert texts.setdefault(name, text) == text
            assert len(set(texts.values())) == 3, texts
            for name in ("all", "rs"):
                want = ask("/detokenize", {"tokens": golden(self.adapters / name)})
                assert texts[name] == next(v for k, v in want.items() if k in ("content", "prompt", "text")), (name, texts[name], want)
            try:
                ask("/v1/completions", {"model": "other", "prompt": "x", "max_tokens": 1})
                raise AssertionError("a model that is not there was served")
            except urllib.error.HTTPError as e:
                assert e.code == 404, e.code
        finally:
            server.terminate()
            assert server.wait(60) == 0


def main():
    program, data, adapters = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    if not (data / "models/llama").exists():
        print("skipped: no data")
        sys.exit(SKIPPED)
    t = Test(program, data, adapters)
    r = t.logits(adapters / "all")
    assert r.returncode == 0, r.stderr
    with tempfile.TemporaryDirectory() as folder:
        t.bad_adapters(pathlib.Path(folder))
    t.served()


main()
