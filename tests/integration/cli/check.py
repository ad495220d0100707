#!/usr/bin/env python3
"""`sluice check` as a user meets it: what it says of this machine, the table of kernels of one row and one format, wrong words.

usage: check.py PROGRAM
"""
import json
import subprocess
import sys


def run(program, *words):
    return subprocess.run([program, "check", *words], capture_output=True, text=True, timeout=240)


def test_machine(program):
    r = run(program, "--json")
    assert r.returncode == 0, r.stderr
    said = json.loads(r.stdout)
    assert {"ref", "portable"} <= set(said["cpu"]["rows"]) and said["cpu"]["cpus"] >= 1, said["cpu"]
    assert said["problems"] == [] and "kernels" not in said, said
    links = {t["name"]: t for t in said["transports"]}
    assert {"local", "ucx-shm", "ucx-tcp"} <= set(links), links
    assert all(t["works"] and t["frame_us"] > 0 for t in links.values()), links
    for card in said["cuda"]["cards"]:
        assert card["memory"] >= card["memory_free"] > 0 and float(card["capability"]) >= 7, card
    text = run(program)
    assert text.returncode == 0 and "PROBLEM" not in text.stdout, text.stdout
    for word in [said["cpu"]["name"], said["ucx"], *links]:
        assert word in text.stdout, (word, text.stdout)


def test_kernels(program):
    r = run(program, "--kernels", "--device", "portable", "--format", "Q4_0", "--json")
    assert r.returncode == 0, r.stderr
    lines = json.loads(r.stdout)["kernels"]
    assert {line["device"] for line in lines} == {"portable"}, lines
    assert {line["format"] for line in lines} == {"Q4_0"}, lines
    assert {line["family"] for line in lines} == {"product", "embed"}, lines
    for line in lines:
        assert line["ok"] and 0 <= line["error"] <= line["allowed"] <= 0.01, line
    products = [line for line in lines if line["family"] == "product"]
    assert min(line["rows"] for line in products) == 1 and max(line["rows"] for line in products) > 64
    assert any(line["error"] > 0 for line in products), "float products of rounded rows cannot be exact"
    timed = [line for line in products if "us" in line]
    assert len(timed) >= 3 and all(line.get("gb_s", line.get("tflops")) > 0 for line in timed), timed


def test_wrong_words(program):
    for words, said in ((["--device", "cpu"], "--kernels"), (["--kernels", "--device", "cuda:99"], "cuda:99"),
                        (["--kernels", "--device", "portable", "--format", "Q9_Z"], "Q9_Z"), (["model.gguf"], "model.gguf"),
                        (["--kernel"], "--kernels")):
        r = run(program, *words)
        assert r.returncode == 2 and said in r.stderr and r.stderr.count("\n") == 1, (words, r.returncode, r.stderr)


def main():
    for test in (test_machine, test_kernels, test_wrong_words):
        test(sys.argv[1])
        print("ok", test.__name__)


main()
