#!/usr/bin/env python3
"""Measures sluice beside llama.cpp: same file, same threads, one run, turn by turn, and writes one CSV.

    bench/compare-llama.py --sluice build/release/sluice --llama DIR --model FILE.gguf... -o bench/results/NAME.csv

DIR holds llama-bench and llama-batched-bench. The two programs take turns within every repeat, so that a noisy machine hurts both;
the table gives the medians and their ratio. Only ratios are worth comparing between machines. --real-time runs both sides with
real-time priority (chrt, needs root): on a machine that others use a waking thread else waits for their time slices.
The column `limit` says what bounds sluice: bytes (the weights it reads a second are what the memory gives) or instructions.
"""
import argparse
import csv
import datetime
import json
import os
import re
import statistics
import subprocess
import sys


PREFIX = []
BYTES_SHARE = 0.7  # of the speed at which one sequence streams the weights: from here on bytes are the limit


def output(cmd):
    return subprocess.run(PREFIX + cmd, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def sluice(args, model, threads, prompt, generate, parallel):
    o = json.loads(output([args.sluice, "bench", "-m", model, "-t", str(threads), "-p", str(prompt), "-n", str(generate),
                           "-np", str(parallel), "-c", "2048", "-r", "1", "-o", "json"]))
    r = o["results"][0]
    return r["tokens_per_second"], r["weights_gb_per_second"], o["backend"]


def llama(args, model, threads, prompt, generate, parallel):
    if parallel == 1:
        o = json.loads(output([os.path.join(args.llama, "llama-bench"), "-m", model, "-t", str(threads), "-p", str(prompt),
                               "-n", str(generate), "-r", "1", "-o", "json"]))
        return o[0]["avg_ts"]
    text = output([os.path.join(args.llama, "llama-batched-bench"), "-m", model, "-t", str(threads), "-c", "4096",
                   "-npp", "16", "-ntg", str(generate), "-npl", str(parallel)])
    rows = [re.split(r"\s*\|\s*", line.strip(" |\n")) for line in text.splitlines() if re.match(r"\|\s*16\s*\|", line)]
    return float(rows[0][7])  # S_TG t/s


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sluice", required=True)
    p.add_argument("--llama", required=True)
    p.add_argument("--model", required=True, nargs="+")
    p.add_argument("--real-time", action="store_true", help="run both sides with real-time priority")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("-o", "--output", required=True)
    args = p.parse_args()
    commit = output(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty"]).strip()
    PREFIX.extend(["chrt", "-r", "1"] if args.real_time else [])
    tests = [("tg128", 0, 128, 1), ("tg128 x8", 0, 128, 8), ("pp512", 512, 0, 1)]
    rows = []
    for model in args.model:
        for threads in map(int, args.threads.split(",")):
            stream = 0
            for name, prompt, generate, parallel in tests:
                ours, theirs, rates, backend = [], [], [], ""
                for _ in range(args.repeats):
                    speed, rate, backend = sluice(args, model, threads, prompt, generate, parallel)
                    ours.append(speed)
                    rates.append(rate)
                    theirs.append(llama(args, model, threads, prompt, generate, parallel))
                a, b, rate = statistics.median(ours), statistics.median(theirs), statistics.median(rates)
                stream = max(stream, rate)
                limit = "bytes" if rate >= BYTES_SHARE * stream else "instructions"
                rows.append([datetime.date.today().isoformat(), commit, cpu_name(), os.path.basename(model), backend, threads, name,
                             f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}", f"{rate:.1f}", limit])
                print(f"{os.path.basename(model)} {threads} threads {name:10s} sluice {a:8.1f}  llama.cpp {b:8.1f}  "
                      f"ratio {a / b:.2f}  weights {rate:.1f} GB/s: {limit}", flush=True)
    with open(args.output, "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["date", "commit", "machine", "model", "row", "threads", "test", "sluice_tok_s", "llama_cpp_tok_s", "ratio",
                    "weights_gb_s", "limit"])
        w.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
