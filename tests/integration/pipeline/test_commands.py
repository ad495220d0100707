#!/usr/bin/env python3
"""test_commands.py - the manners of every command: --help, exit status, one line for what is wrong, JSON and nothing else.

usage: test_commands.py SLUICE usage|json [DATA]. `usage` needs no model. `json` takes the real model or, when it is absent,
the tiny one of DATA/models/gguf; exit 77 without either."""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

SKIPPED = 77
COMMANDS = ["run", "serve", "stage", "bench", "ppl", "logits", "tokenize", "render", "inspect"]
MODEL_COMMANDS = {  # how each is asked to use a model; {m} is its name
    "run": ["-m", "{m}", "-p", "x"],
    "serve": ["-m", "{m}", "--http", "off"],
    "bench": ["-m", "{m}"],
    "ppl": ["-m", "{m}", "-f", __file__],
    "logits": ["-m", "{m}", "--tokens", "1", "--json"],
    "tokenize": ["-m", "{m}"],
    "render": ["-m", "{m}"],
    "inspect": ["{m}"],
}
STAGE_KEYS = {"device", "state", "stage", "cpu", "backend", "threads", "pid", "restarts", "layers", "weight_bytes", "kv_bytes",
              "steps", "rows", "busy_ms", "busy", "bubble", "link_out"}
TIMING_KEYS = {"queue_ms", "prefill_ms", "decode_ms", "prefill_tokens_per_second", "decode_tokens_per_second"}

program = sys.argv[1]
folder = tempfile.TemporaryDirectory()


def path(name, content=b""):
    p = pathlib.Path(folder.name, name)
    p.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(p)


def call(*words, stdin=""):
    return subprocess.run([program, *map(str, words)], input=stdin, capture_output=True, text=True, timeout=120)


def check_refused(words, *hints, stdin="", code=2):
    """Exit status 2, nothing on stdout, one line on stderr that begins with the command's name and holds every hint."""
    r = call(*words, stdin=stdin)
    where = f"sluice {' '.join(map(str, words))}"
    assert r.returncode == code, f"{where}: exit {r.returncode}: {r.stderr}"
    assert r.stdout == "", f"{where}: stdout {r.stdout!r}"
    lines = r.stderr.splitlines()
    assert len(lines) == 1, f"{where}: {len(lines)} lines: {r.stderr}"
    assert lines[0].startswith("sluice"), f"{where}: {lines[0]}"
    for hint in hints:
        assert hint in lines[0], f"{where}: {hint!r} is not in {lines[0]!r}"


# ---- usage ----

def check_help():
    for words in (["--help"], *([c, "--help"] for c in COMMANDS)):
        r = call(*words)
        assert r.returncode == 0 and r.stderr == "", f"{words}: {r.returncode} {r.stderr}"
        assert r.stdout.startswith("usage: sluice " + words[0]) or words == ["--help"], r.stdout[:80]
        assert all(len(line) <= 130 for line in r.stdout.splitlines()), words
    listed = call("--help").stdout
    assert all(f"  {c} " in listed for c in COMMANDS), listed


def check_bad_usage():
    check_refused(["nonsense"], "nonsense", "--help")
    for c in COMMANDS:
        check_refused([c, "--nonsense"], f"sluice {c}:", "unknown option --nonsense")
        check_refused([c, "a", "b"], f"sluice {c}:", "unexpected argument")
        check_refused([c], f"sluice {c}:")
    for c in ("run", "serve", "bench", "ppl", "logits"):
        check_refused([c, "-t", "0"], "-t", "0")
        check_refused([c, "-t", "many"], "-t", "many")
        check_refused([c, "-t"], "-t")
    for c in ("run", "serve"):
        check_refused([c, "--stage", "2"], "--stages")  # the nearest known name


def check_bad_models():
    absent = os.path.join(folder.name, "absent.gguf")
    text = path("text.gguf", "this is no model\n" * 100)
    empty = path("empty.gguf")
    cut = path("cut.gguf", b"GGUF" + struct.pack("<IQQ", 3, 10, 10))
    huge = path("huge.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + b"\0" * 64)
    for c, words in MODEL_COMMANDS.items():
        for m in (absent, text, empty, cut, huge, folder.name):
            check_refused([c, *(w.format(m=m) for w in words)], f"sluice {c}:", m)


def check_bad_clusters():
    def cluster(text):
        return path("cluster.yaml", text)

    nodes = "nodes:\n  - name: a\n    devices: [{cpu: 0}]\n"
    model = "model: {path: x.gguf}\n"
    for c, rest in (("run", ["-p", "x"]), ("bench", []), ("logits", ["--tokens", "1", "--json"]), ("serve", [])):
        check_refused([c, os.path.join(folder.name, "absent.yaml"), *rest], "absent.yaml")
        check_refused([c, cluster(model + nodes + "sevre: {}\n"), *rest], "cluster.yaml:5", "sevre", "serve")
        check_refused([c, cluster(nodes), *rest], "model")
        check_refused([c, cluster(model), *rest], "nodes")
        check_refused([c, cluster(model + nodes.replace("cpu: 0", "cpu: 0, memory: 4XB")), *rest], "cluster.yaml:4", "4XB")
        check_refused([c, cluster(model + nodes), *rest], "x.gguf")
        check_refused([c, cluster("a: [b"), *rest], "cluster.yaml")


# ---- answers ----

def parse(r, keys):
    """The one JSON object on stdout, with the keys."""
    assert r.returncode == 0, r.stderr
    assert r.stdout.count("\n") == 1 and r.stdout.endswith("\n"), r.stdout[:200]
    got = json.loads(r.stdout)
    assert set(got) == set(keys), sorted(set(got) ^ set(keys))
    return got


def check_run(model):
    keys = ["text", "tokens", "finish_reason", "prompt_tokens", "completion_tokens", "timings", "stages"]
    words = ["run", "-m", model, "--tokens", "5,6,7,8", "-n", "6", "--ignore-eos"]
    alone = parse(call(*words, "--json"), keys)
    assert alone["prompt_tokens"] == 4 and alone["completion_tokens"] == 6 and len(alone["tokens"]) == 6, alone
    assert alone["finish_reason"] == "length" and set(alone["timings"]) == TIMING_KEYS, alone
    split = parse(call(*words, "--stages", "2", "--json"), keys)
    assert split["text"] == alone["text"] and split["tokens"] == alone["tokens"], (split, alone)
    assert len(split["stages"]) == 2
    for s in split["stages"]:
        assert set(s) == STAGE_KEYS and s["state"] == "wired" and s["rows"] >= 9 and 0 < s["busy"] <= 1, s
        assert abs(s["busy"] + s["bubble"] - 1) < 1e-6, s
    plain = call(*words)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout == alone["text"] + "\n", (plain.stdout, alone["text"])
    stats = call(*words, "--stats")
    assert stats.stdout == plain.stdout and "tok/s" in stats.stderr and "local/0" in stats.stderr, stats.stderr
    return alone


def check_processes(model, alone):
    """The same question to real stage processes."""
    text = f"model: {{path: {model}, context: 256}}\nnodes:\n  - name: here\n    devices: [{{cpu: all}}, {{cpu: all}}]\n"
    r = call("run", path("two.yaml", text), "--tokens", "5,6,7,8", "-n", "6", "--ignore-eos", "--json")
    assert r.returncode == 0, r.stderr
    got = json.loads(r.stdout)
    assert got["tokens"] == alone["tokens"], (got, alone)
    assert len({s["pid"] for s in got["stages"]}) == 2, got["stages"]


def check_seeds(model):
    def text(seed, *more):
        words = ["run", "-m", model, "--tokens", "5,6,7,8", "-n", "12", "--ignore-eos", "--temp", "1", "-s", seed, "--json"]
        r = call(*words, *more)
        assert r.returncode == 0, r.stderr
        return json.loads(r.stdout)["tokens"]

    assert text(1) == text(1, "--stages", "2") == text(1, "--chunk", "3")
    assert text(1) != text(2)


def check_logits(model):
    out = os.path.join(folder.name, "logits.safetensors")
    words = ["logits", "-m", model, "--tokens", "5,6,7"]
    got = parse(call(*words, "-o", out, "--json"), ["shape", "argmax"])
    raw = pathlib.Path(out).read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    tensor = json.loads(raw[8:8 + n])["logits"]
    assert n % 8 == 0 and tensor["dtype"] == "F32" and tensor["shape"] == got["shape"], tensor
    assert got["shape"][0] == 3 and len(raw) == 8 + n + 4 * 3 * got["shape"][1]
    width = got["shape"][1]
    for t, best in enumerate(got["argmax"]):
        row = struct.unpack_from(f"<{width}f", raw, 8 + n + 4 * t * width)
        assert row[best] == max(row), (t, best)
    quiet = call(*words, "-o", out)
    assert quiet.returncode == 0 and quiet.stdout == "", quiet
    check_refused([*words[:3], "--tokens", "1,x", "-o", out], "1,x")
    check_refused([*words[:3], "--tokens", str(width), "-o", out], str(width))
    check_refused([*words, "-o", "/nonexistent/x"], "/nonexistent/x")
    return width


def check_bench(model):
    keys = ["model", "bytes", "backend", "threads", "stages", "results"]
    got = parse(call("bench", "-m", model, "-p", "8", "-n", "4", "-np", "1,2", "-r", "1", "--stages", "2", "-o", "json"), keys)
    assert [r["test"] for r in got["results"]] == ["pp8", "tg4", "pp8 x2", "tg4 x2"] or len(got["results"]) == 4, got
    for r in got["results"]:
        assert r["tokens_per_second"] > 0 and len(r["busy"]) == 2, r
    check_refused(["bench", "-m", model, "-o", "xml"], "xml")


def check_ppl(model, tokenizes):
    text = path("text.txt", "The quick brown fox jumps over the lazy dog. " * 20)
    if tokenizes:
        got = parse(call("ppl", "-m", model, "-f", text, "-c", "32", "--chunks", "2", "--json"),
                    ["ppl", "error", "chunks", "tokens"])
        assert got["chunks"] == 2 and got["tokens"] == 2 * 15 and got["ppl"] > 1, got
    check_refused(["ppl", "-m", model, "-f", "/nonexistent/x"], "/nonexistent/x")
    check_refused(["ppl", "-m", model, "-f", path("short.txt", "Hi.")], "short.txt", "-c")


def check_inspect(model):
    got = parse(call("inspect", model, "--json"), ["file", "container", "quantization", "config", "parameters", "text", "bytes", "formats", "tensors", "metadata"])
    assert sum(t["bytes"] for t in got["tensors"]) == sum(got["formats"].values()), got["formats"]
    assert len(got["bytes"]["layers"]) == got["config"]["layers"], got["bytes"]


def check_tokenize(model):
    r = call("tokenize", "-m", model, stdin="Hello world")
    assert r.returncode == 0, r.stderr
    ids = json.loads(r.stdout)
    back = call("tokenize", "-m", model, "-d", stdin=r.stdout)
    assert back.returncode == 0 and back.stdout.rstrip("\n") == "Hello world", (ids, back)
    check_refused(["tokenize", "-m", model, "-d"], stdin="[1, 2", code=2)


def check_render(model):
    request = json.dumps({"messages": [{"role": "user", "content": "Hi!"}], "add_generation_prompt": True})
    r = call("render", "-m", model, stdin=request)
    assert r.returncode == 0 and "Hi!" in r.stdout and r.stdout.rstrip("\n").endswith("<|im_start|>assistant"), r
    check_refused(["render", "-m", model], stdin="{")


def main():
    if sys.argv[2] == "usage":
        check_help()
        check_bad_usage()
        check_bad_models()
        check_bad_clusters()
        return
    model, real = "smollm2", call("inspect", "smollm2").returncode == 0
    if not real:
        model = os.path.join(sys.argv[3], "models/gguf/llama-Q8_0.gguf")
        if not os.path.exists(model):
            print("skipped: no model")
            sys.exit(SKIPPED)
    alone = check_run(model)
    check_processes(model, alone)
    check_seeds(model)
    check_logits(model)
    check_bench(model)
    check_ppl(model, real)
    check_inspect(model)
    if real:
        check_tokenize(model)
        check_render(model)


main()
