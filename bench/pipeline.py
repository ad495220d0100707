#!/usr/bin/env python3
"""Measures what a pipeline gains: N one-core stages against one one-core stage, decode, turn by turn.

    bench/pipeline.py --sluice build/release/sluice --model FILE.gguf --cuts 0-19,20-29 -o bench/results/NAME.csv

Stages are real processes (launch: local), one CPU each, joined by UCX. --cuts gives each stage's layers, else the plan cuts.
The limit is what N stages could reach without any bubble: each carries 1/N of the sequences, so N times the speed of one stage
with 1/N of them. It is below N because a smaller micro-batch reads and unpacks the same weights for fewer rows.
--real-time runs all of it with real-time priority (chrt, needs root): on a machine that others use a waking thread else waits for
their time slices, which a pipeline, with two wake-ups a step, feels far more than a single stage.
"""
import argparse
import csv
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile


PREFIX = []


def output(cmd):
    return subprocess.run(PREFIX + cmd, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def topology(model, cuts, parallel):
    lines = ["cluster: bench", f"model: {{path: {model}, context: 1024, sequences: {parallel}}}", "nodes:",
             "  - name: here", "    host: 127.0.0.1", "    launch: local", "    devices:"]
    for cpu, cut in enumerate(cuts):
        layers = f", layers: [{cut.replace('-', ', ')}]" if cut else ""
        lines.append(f"      - {{cpu: {cpu}{layers}}}")
    return "\n".join(lines) + "\n"


def bench(args, cuts, parallel):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write(topology(args.model, cuts, parallel))
        f.flush()
        o = json.loads(output([args.sluice, "bench", f.name, "-p", "0", "-n", "128", "-np", str(parallel), "-r", "1", "-o",
                               "json"]))
    r = o["results"][0]
    return r["tokens_per_second"], r["busy"]


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sluice", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--stages", type=int, default=2)
    p.add_argument("--cuts", help="layers of each stage, first-last, comma separated")
    p.add_argument("--parallel", default="8", help="sequences at once, comma separated")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--real-time", action="store_true", help="run with real-time priority")
    p.add_argument("-o", "--output", required=True)
    args = p.parse_args()
    PREFIX.extend(["chrt", "-r", "1"] if args.real_time else [])
    cuts = args.cuts.split(",") if args.cuts else [""] * args.stages
    commit = output(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty"]).strip()
    rows = []
    for parallel in map(int, args.parallel.split(",")):
        one, many, part, busy = [], [], [], []
        for _ in range(args.repeats):
            one.append(bench(args, [""], parallel)[0])
            part.append(bench(args, [""], max(1, parallel // len(cuts)))[0])
            speed, busy = bench(args, cuts, parallel)
            many.append(speed)
        a, b, limit = statistics.median(one), statistics.median(many), len(cuts) * statistics.median(part)
        shares = " ".join(f"{100 * x:.0f}%" for x in busy)
        print(f"{parallel} sequences: 1 stage {a:.1f} tok/s, {len(cuts)} stages {b:.1f} tok/s: x{b / a:.2f}, limit x{limit / a:.2f}; "
              f"busy {shares}", flush=True)
        rows.append([datetime.date.today().isoformat(), commit, cpu_name(), os.path.basename(args.model), len(cuts),
                     args.cuts or "planned", parallel, f"{a:.1f}", f"{b:.1f}", f"{b / a:.2f}", f"{limit / a:.2f}", shares])
    with open(args.output, "w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["date", "commit", "machine", "model", "stages", "cuts", "sequences", "tok_s_one_stage", "tok_s", "ratio",
                    "limit_of_ratio", "busy"])
        w.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
