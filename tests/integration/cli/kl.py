#!/usr/bin/env python3
"""`ppl --save-logits` and `--kl-base`: a model against itself, against a coarser format of itself, and what must be refused.

usage: kl.py PROGRAM DATA
"""
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

SKIPPED = 77
CHUNKS, CONTEXT = 3, 64


def main():
    program, data = sys.argv[1], pathlib.Path(sys.argv[2])
    fine, coarse = data / "models/gguf/llama-Q8_0.gguf", data / "models/gguf/llama-Q4_0.gguf"
    text = data / "text/english.txt"
    if not fine.exists() or not text.exists():
        print("skipped: no data")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        saved = pathlib.Path(folder) / "base.safetensors"

        def ppl(model, *more, chunks=CHUNKS, ok=True):
            command = [program, "ppl", "-m", model, "-f", text, "-c", CONTEXT, "--chunks", chunks, "--json", *more]
            r = subprocess.run([str(w) for w in command], capture_output=True, text=True)
            assert (r.returncode == 0) == ok, r.stderr
            return json.loads(r.stdout) if ok else r

        base = ppl(fine, "--save-logits", saved)
        assert math.isclose(base["ppl"], ppl(fine)["ppl"], rel_tol=1e-6), "scoring by logits gives other figures"
        same = ppl(fine, "--kl-base", saved)["kl"]
        assert same["tokens"] == CHUNKS * (CONTEXT // 2 - 1), same
        assert abs(same["kld"]["max"]) < 1e-3 and same["same_top"] == 1, same
        assert abs(same["ppl"] / same["ppl_base"] - 1) < 1e-3 and math.isclose(same["ppl"], base["ppl"], rel_tol=1e-6), same
        other = ppl(coarse, "--kl-base", saved)["kl"]
        assert other["kld"]["mean"] > 100 * abs(same["kld"]["mean"]) and other["kld"]["min"] > -1e-3, other
        order = [other["kld"][k] for k in ("min", "p1", "p5", "p10", "median", "p90", "p95", "p99", "p99.9", "max")]
        assert order == sorted(order) and other["same_top"] < 1, other

        for wrong in (2, CHUNKS + 1):
            r = ppl(fine, "--kl-base", saved, chunks=wrong, ok=False)
            assert r.returncode == 2 and "--save-logits" in r.stderr, r.stderr
        r = ppl(fine, "--kl-base", saved.with_name("none"), ok=False)
        assert "none" in r.stderr and len(r.stderr.splitlines()) == 1, r.stderr
        raw = saved.read_bytes()
        header = struct.unpack("<Q", raw[:8])[0]
        saved.write_bytes(raw[:8 + header] + b"\1" + raw[9 + header:])
        assert "another text" in ppl(fine, "--kl-base", saved, ok=False).stderr
        saved.write_bytes(raw[:-1])
        assert ppl(fine, "--kl-base", saved, ok=False).returncode == 2
        r = ppl(fine, "--save-logits", "/dev/full", ok=False)
        assert "/dev/full" in r.stderr, r.stderr


main()
