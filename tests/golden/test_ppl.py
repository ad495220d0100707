#!/usr/bin/env python3
"""test_ppl.py - perplexity of an English text through `sluice ppl`, against float32 arithmetic.

usage: test_ppl.py SLUICE DATA...: the program, and folders that may hold text/english.txt and smollm2/ppl.json. Eight-bit
activations would move the figure by 0.4 %; the fast kernels must stay within 0.2 %. Exit 77: no data or no model."""
import json
import pathlib
import subprocess
import sys

LIMIT = 0.002  # relative
SKIPPED = 77


def find(folders, name):
    for folder in folders:
        path = pathlib.Path(folder, name)
        if path.is_file():
            return path
    print(f"skipped: {name} is in none of {' '.join(folders)}")
    sys.exit(SKIPPED)


def main():
    program, folders = sys.argv[1], sys.argv[2:]
    text = find(folders, "text/english.txt")
    golden = json.loads(find(folders, "smollm2/ppl.json").read_text())
    if subprocess.run([program, "inspect", "smollm2"], capture_output=True).returncode:
        print("skipped: no model")
        sys.exit(SKIPPED)
    command = [program, "ppl", "-m", "smollm2", "-f", text, "-c", str(golden["context"]), "--chunks", str(golden["chunks"]),
               "--json"]
    r = subprocess.run(command, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    got = json.loads(r.stdout)
    assert set(got) == {"ppl", "error", "chunks", "tokens"}, got
    assert got["chunks"] == golden["chunks"] and got["tokens"] == golden["chunks"] * 255, got
    off = got["ppl"] / golden["ppl"] - 1
    print(f"perplexity {got['ppl']:.4f}, float32 {golden['ppl']:.4f}: {100 * off:+.4f} %")
    assert abs(off) < LIMIT, "the fast path has lost precision"


main()
