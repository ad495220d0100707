#!/usr/bin/env python3
"""test_cards.py - pipelines with stages on NVIDIA cards: one card, one card twice, cards and CPUs together, two cards where
there are two. Where only cards compute the answer is that of one card, whatever carries the activations.

usage: test_cards.py SLUICE DATA. Takes the tiny model of DATA/models/gguf; exit 77 without it or without a card."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77
TOKENS = ",".join(str(1 + i * 7 % 200) for i in range(40))
HERE, THREAD = "local", "thread"
CARD, HALF, CPU = "{gpu: %d}", "{gpu: %d, memory: 4GiB}", "{cpu: 0}"

# name: cards needed, launch, devices, link, what the first stage's link must be called, exactly the answer of one card
CASES = {
    "one card twice, threads": (1, THREAD, [HALF % 0, HALF % 0], "", "device/local", True),
    "one card twice, processes": (1, HERE, [HALF % 0, HALF % 0], "", "ucx-shm", True),
    "one card twice, over TCP": (1, HERE, [HALF % 0, HALF % 0], "transport: ucx-tcp", "ucx-tcp", True),
    "one card twice, FP8": (1, HERE, [HALF % 0, HALF % 0], "activations: fp8", "ucx-shm", False),
    "a card, then CPUs": (1, HERE, [CARD % 0, CPU], "", "ucx-shm", False),
    "CPUs, then a card": (1, HERE, [CPU, CARD % 0], "", "ucx-shm", False),
    "two cards, processes": (2, HERE, [CARD % 0, CARD % 1], "", "nccl/ucx-shm", True),
    "two cards, threads": (2, THREAD, [CARD % 0, CARD % 1], "", "nccl/local", True),
    "two cards, without NCCL": (2, HERE, [CARD % 0, CARD % 1], "transport: ucx-shm", "ucx-shm", True),
    "two cards, BF16": (2, HERE, [CARD % 0, CARD % 1], "activations: bf16", "nccl/ucx-shm", False),
}


def count_cards():
    if not shutil.which("nvidia-smi"):
        return 0
    r = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return r.stdout.count("GPU ") if r.returncode == 0 else 0


def run(program, folder, model, launch, devices, link):
    nodes = "".join(f"  - {{name: n{i}, launch: {launch}, devices: [{d}]}}\n" for i, d in enumerate(devices))
    links = f"links: [{{between: [n0, n1], {link}}}]\n" if link else ""
    p = pathlib.Path(folder, "cards.yaml")
    p.write_text(f"model: {{path: {model}, context: 512, sequences: 2}}\nnodes:\n{nodes}{links}serve: {{http: off}}\n")
    r = subprocess.run([program, "run", str(p), "--tokens", TOKENS, "-n", "300", "--ignore-eos", "--json"],
                       capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def main():
    program, data = sys.argv[1:3]
    model = pathlib.Path(data, "models/gguf/llama-Q8_0.gguf").resolve()
    cards = count_cards()
    if not cards or not model.exists():
        print("skipped: no NVIDIA card, or no model, is here")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        alone = run(program, folder, model, HERE, [CARD % 0], "")["tokens"]
        assert len(alone) == 300
        for name, (need, launch, devices, link, transport, exact) in CASES.items():
            if need > cards:
                print(f"{name}: left out, there is one card")
                continue
            answer = run(program, folder, model, launch, devices, link)
            out = answer["stages"][0]["link_out"]
            assert len(answer["tokens"]) == 300, name
            assert not exact or answer["tokens"] == alone, f"{name}: another answer than on one card"
            # a lane of NCCL may come up after a short answer: then the link alone has carried it, as it should
            assert out["transport"] in (transport, transport.removeprefix("nccl/")), (name, out)
            print(f"{name}: {out['transport']}, {out['bytes']} bytes, {answer['timings']['decode_tokens_per_second']:.0f} tok/s")
    return 0


sys.exit(main())
