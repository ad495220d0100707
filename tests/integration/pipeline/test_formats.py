#!/usr/bin/env python3
"""test_formats.py - the format in which activations travel: what the topology asks for is what the link carries, and only
float32 promises the answer of one stage.

usage: test_formats.py SLUICE DATA. Takes the tiny model of DATA/models/gguf or the real one; exit 77 without either."""
import json
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77
TOKENS = "1,2,3,4,5,6,7,8,9,10"


def find_model(data):
    real = pathlib.Path.home() / ".cache/sluice/SmolLM2-135M-Instruct.Q4_1.gguf"
    return next((m for m in (real, pathlib.Path(data, "models/gguf/llama-Q8_0.gguf").resolve()) if m.exists()), None)


def topology(folder, name, model, link):
    p = pathlib.Path(folder, f"{name}.yaml")
    p.write_text(f"model: {{path: {model}, context: 64, sequences: 1}}\n"
                 "nodes:\n  - {name: a, devices: [{cpu: 0}]}\n  - {name: b, devices: [{cpu: 0}]}\n"
                 f"links: [{{between: [a, b], transport: ucx-tcp, {link}}}]\nserve: {{http: off}}\n")
    return p


def run(program, *words):
    r = subprocess.run([program, "run", *map(str, words), "--tokens", TOKENS, "-n", "6", "--ignore-eos", "--json"],
                       capture_output=True, text=True, timeout=240)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def main():
    program, data = sys.argv[1:3]
    model = find_model(data)
    if not model:
        print("skipped: no model is here")
        return SKIPPED
    alone = run(program, "-m", model, "--cpus", "0")["tokens"]
    sent = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, link, want in (("f32", "activations: f32", "F32"), ("bf16", "activations: bf16", "BF16"),
                                 ("fp8", "activations: fp8", "F8_E4M3"), ("slow", "bandwidth: 1Gbit/s", "BF16"),
                                 ("fast", "bandwidth: 25Gbit/s", "F32")):
            answer = run(program, topology(folder, name, model, link))
            out = answer["stages"][0]["link_out"]
            assert out["transport"] == "ucx-tcp" and out["activations"] == want, (name, out)
            assert "activations" not in answer["stages"][1]["link_out"], "the last stage sends results"
            assert len(answer["tokens"]) == 6, answer
            assert want != "F32" or answer["tokens"] == alone, (name, answer["tokens"], alone)
            sent[name] = out["bytes"]
            rows = answer["stages"][0]["rows"]
    assert sent["f32"] == sent["fast"] and sent["bf16"] == sent["slow"], sent
    # 4 n, 2 n and n + 4 per row, beside the same descriptors
    assert sent["f32"] > sent["bf16"] and sent["f32"] - sent["bf16"] == 2 * (sent["bf16"] - sent["fp8"] + 4 * rows), (sent, rows)
    print(f"formats: {sent}")
    return 0


sys.exit(main())
