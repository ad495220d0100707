"""built.py - checks that need a build: symbols of the libraries, headers alone, sources and tests that nothing builds, --help."""
import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

from tree import folder

NEEDS_CUDA = re.compile(r"kernels/cuda/|tests/gpu/|transport/(nccl|gpu)\w*\.[ch]")  # built when the toolkit is there
EITHER_OR = re.compile(r".*/x86/.*|.*\.cu|.*nccl\w*\.c|.*_none\.c")  # built by some configurations: a line in a CMakeLists.txt counts
SYMBOL = re.compile(r"sl_\w+|main|sluice__\w+|LLVMFuzzer\w+|(__odr_asan|___asan|__asan|__sanitizer|__ubsan|__tsan).*")
PRODUCT = ["base", "model", "kernels", "proto", "transport", "topology", "stage", "coordinator", "client", "cli"]


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, errors="replace", **options)


# CUDA C++ has mangled names: ours hold sl_, those of a file's own namespace cannot meet others
SYMBOL_CXX = re.compile(r".*(sl_|_GLOBAL__N_).*|DW\.ref\.__gxx_personality_v0|_ZN?K?St.*")


def check_symbol_cxx(place, kind, name, weak):
    """The linker takes one of several weak definitions (templates, inline functions) and says nothing when they differ."""
    if SYMBOL_CXX.fullmatch(name):
        return None
    if kind in "WVu":
        other = weak.setdefault(name, place)
        return None if other == place else f"{place}: defines {name} as {other} does, and one of them is lost; name one of them sl_..."
    return f"{place}: exports {name}; make it static, or name it sl_<noun>_<verb>"


def check_symbols(tree):
    """What the static libraries export begins with sl_ (sluice__ is protobuf-c's), so that they link beside anything."""
    libraries = [os.path.join(tree.build, d, f) for d in PRODUCT if os.path.isdir(os.path.join(tree.build, d))
                 for f in os.listdir(os.path.join(tree.build, d)) if f.startswith("lib") and f.endswith(".a")]
    if not libraries:
        return [f"{tree.build}: no static library; build first"]
    out, weak = [], {}
    for lib in sorted(libraries):
        for line in run(["nm", "-g", "--defined-only", "-A", lib]).stdout.splitlines():
            kind, name = line.split()[-2:]
            place = ":".join(os.path.relpath(line, tree.build).split(":")[:2])
            if place.endswith(".cu.o"):
                out += filter(None, [check_symbol_cxx(place, kind, name, weak)])
            elif not SYMBOL.fullmatch(name):
                out.append(f"{place}: exports {name}; make it static or name it sl_<noun>_<verb>")
    return out


def check_headers(tree):
    """Every header compiles alone, as C11 and, when it says extern "C", as C++17; those of CUDA where its headers are."""
    headers = [f for f in tree.named(".h") if folder(f) in PRODUCT and "/x86/" not in f
               and (tree.compilers.get("cuda") or not NEEDS_CUDA.match(f))]
    jobs = [(f, "c", "c11") for f in headers]
    jobs += [(f, "c++", "c++17") for f in headers if 'extern "C"' in tree.text(f)]

    def compile_alone(job):
        f, language, standard = job
        command = [tree.compilers[language], f"-std={standard}", "-D_GNU_SOURCE", "-fsyntax-only", "-x", language, "-Wall",
                   "-Werror", "-I", tree.source, *tree.compilers["flags"], "-"]
        r = run(command, input=f'#include "{f}"\n')
        first = next((line for line in r.stderr.splitlines() if "error" in line), r.stderr.strip())
        return None if r.returncode == 0 else f"{f}: does not compile alone as {standard}: {first}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [finding for finding in pool.map(compile_alone, jobs) if finding]


def cmake_text(tree):
    return "\n".join(tree.text(f) for f in tree.files if os.path.basename(f) == "CMakeLists.txt")


def check_sources(tree):
    """Every C and CUDA file is built by something. Fuzzers are only built by clang, so their line in CMakeLists.txt counts;
    what needs CUDA is looked at in a build that has it."""
    with open(os.path.join(tree.build, "compile_commands.json"), encoding="utf-8") as f:
        built = {os.path.relpath(os.path.realpath(os.path.join(c["directory"], c["file"])), os.path.realpath(tree.source))
                 for c in json.load(f)}
    listed, out = cmake_text(tree), []
    cuda = any(f.endswith(".cu") for f in built)
    for f in tree.named(".c", ".cu"):
        name = os.path.basename(f)
        if NEEDS_CUDA.match(f) and not cuda:
            continue
        if f.startswith("tests/fuzz/"):
            ok = re.search(rf"\b{re.sub('^fuzz_', '', name[:-2])}\b", tree.text("tests/fuzz/CMakeLists.txt"))
        else:
            ok = f in built or (EITHER_OR.fullmatch(f) and name in listed)
        if not ok:
            out.append(f"{f}: nothing builds it; list it in {os.path.dirname(f)}/CMakeLists.txt or remove it")
    return out


def scripts_text(tree, file):
    """What the scripts beside a test say: one may run another."""
    beside = os.path.dirname(file)
    return "".join(tree.text(f) for f in tree.named(".sh", under=beside + "/") if f != file)


def check_tests(tree):
    """Every test program and test script is known to ctest, and every suite has one of the labels."""
    r = run(["ctest", "--test-dir", tree.build, "--show-only=json-v1"])
    tests = json.loads(r.stdout)["tests"]
    words = " ".join(" ".join(t.get("command", [])) for t in tests)
    names = {t["name"] for t in tests}
    cuda = any(name.startswith("cuda_") for name in names)
    out = []
    for f in tree.files:
        name = os.path.basename(f)
        script = f.startswith("tests/integration/") and name.endswith((".py", ".sh")) and tree.text(f).startswith("#!")
        test = f.startswith("tests/") and name.startswith("test_") and name.endswith((".c", ".py", ".sh"))
        if (not script and not test) or (NEEDS_CUDA.match(f) and not cuda):
            continue
        stem = name.rsplit(".", 1)[0]
        if f.startswith("tests/gpu/") and stem.replace("test_", "cuda_", 1) in names:
            continue
        own = tree.texts_of(f"{os.path.dirname(f)}/CMakeLists.txt")
        if not re.search(rf"\b{stem}\b", words) and not re.search(rf"\b{stem}\b", own) and name not in scripts_text(tree, f):
            out.append(f"{f}: ctest does not run it; add it to {os.path.dirname(f)}/CMakeLists.txt")
    labels = {"unit", "golden", "link", "integration", "gpu", "fuzz", "lint", "long"}
    for t in tests:
        mine = {v for p in t.get("properties", []) if p["name"] == "LABELS" for v in p["value"]}
        if not mine & labels:
            out.append(f"test {t['name']}: no label; give it one of {', '.join(sorted(labels))}")
    return out


def check_help(tree):
    """--help of the program and of each command: status 0, text on stdout, nothing on stderr; wrong usage: status 2, one line."""
    if not os.access(tree.program, os.X_OK):
        return [f"{tree.program}: missing; build first"]
    out = []
    top = run([tree.program, "--help"], stdin=subprocess.DEVNULL, timeout=20)
    listed = top.stdout.split("\n\n`sluice COMMAND")[0]  # after it come examples
    commands = re.findall(r"^  ([a-z]+) +\S", listed, re.M)
    if top.returncode or not commands:
        return [f"sluice --help: status {top.returncode}, {len(commands)} commands listed"]
    for name in commands:
        r = run([tree.program, name, "--help"], stdin=subprocess.DEVNULL, timeout=20)
        if r.returncode or not r.stdout.startswith("usage: sluice ") or r.stderr:
            out.append(f"sluice {name} --help: status {r.returncode}, begins {r.stdout[:40]!r}, stderr {r.stderr[:80]!r}")
        r = run([tree.program, name, "--no-such-option"], stdin=subprocess.DEVNULL, timeout=20)
        if r.returncode != 2 or r.stdout or r.stderr.count("\n") != 1:
            out.append(f"sluice {name} --no-such-option: status {r.returncode} (wants 2), {r.stderr.count(chr(10))} lines "
                       f"on stderr (wants 1), stdout {r.stdout[:40]!r}")
    r = run([tree.program, "no-such-command"], stdin=subprocess.DEVNULL, timeout=20)
    if r.returncode != 2:
        out.append(f"sluice no-such-command: status {r.returncode}, wants 2")
    return out
