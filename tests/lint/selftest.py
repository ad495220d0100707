#!/usr/bin/env python3
"""selftest.py - each lint check finds the one wrong thing it is for in a tree made for it, and nothing in the same tree put right.

No git here, so this also tests the walk that a tarball of the sources needs."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

import built
import docs
import includes
import shape
from tree import Tree

LONG = "static int f(void)\n{\n" + "    ;\n" * 130 + "}\n"
# check, file, wrong text, right text, a word of the finding
CASES = [
    (includes.check_directions, "kernels/a.c", '#include "model/config.h"\n', '#include "base/err.h"\n', "kernels/ may not"),
    (includes.check_directions, "model/a.c", '#include "kernels/kernels.h"\n', '#include "model/config.h"\n', "model/ may not"),
    (includes.check_directions, "coordinator/a.c", '#include "stage/stage.h"\n', '#include "topology/plan.h"\n', "may not"),
    (includes.check_directions, "coordinator/a.c", '#include "model/arch.h"\n', '#include "model/tokenizer.h"\n', "may not"),
    (includes.check_directions, "stage/a.c", '#include "topology/plan.h"\n', '// #include "topology/plan.h"\n', "may not"),
    (includes.check_directions, "base/a.c", '#include "err.h"\n', '#include "base/err.h"\n', "from the root"),
    (includes.check_homes, "stage/exec.c", "#include <uv.h>\n", "#include <stdio.h>\n", "belongs in"),
    (includes.check_homes, "coordinator/api.c", '#include "proto/api.pb-c.h"\n', '#include "proto/api.h"\n', "belongs in"),
    (includes.check_homes, "base/a.c", "#include <glib.h>\n", "#include <string.h>\n", "no home yet"),
    (includes.check_homes, "stage/a.c", "#include <cuda_runtime_api.h>\n", '#include "kernels/kernels.h"\n', "belongs in"),
    (includes.check_homes, "kernels/cuda/a.cu", "#include <cublasLt.h>\n", "#include <cuda_fp16.h>\n#include <utility>\n", "belongs in"),
    (includes.check_homes, "base/a.c", "#include <utility>\n", "#include <math.h>\n", "no home yet"),
    (includes.check_homes, "transport/tcp.c", "#include <nccl.h>\n", "#include <uv.h>\n", "belongs in"),
    (includes.check_directions, "kernels/cuda/a.cuh", '#include "model/config.h"\n', '#include "base/err.h"\n', "kernels/ may not"),
    (includes.check_doors, "kernels/cuda/a.cu", "int f() { return rand(); }\n", "int f() { return 1; }\n", "rand()"),
    (includes.check_doors, "stage/a.c", "int f(void) { return rand(); }\n", "/* rand() */ int brand(int);\n", "rand()"),
    (includes.check_doors, "base/a.c", 'char *s = getenv("A");\n', 'char *s = "getenv (A)";\n', "getenv()"),
    (shape.check_sizes, "base/a.c", "\n" * 901, "\n" * 900, "901 lines"),
    (shape.check_sizes, "kernels/cuda/a.cu", "\n" * 901, "\n" * 900, "901 lines"),
    (shape.check_functions, "kernels/cuda/a.cu", LONG.replace("static int", "template <int N>\nstatic __global__ void"),
     LONG.replace("    ;\n", "", 20), "f has 134 lines"),
    (shape.check_functions, "base/a.c", LONG, LONG.replace("    ;\n", "", 20), "f has 133 lines"),
    (shape.check_words, "base/a.c", "/* TO" "DO: later */\n", "/* TODOS */\n", "do it"),
    (shape.check_words, "deploy/a", "x=/ho" "me/me/model\n", "x=$HOME/model ~/model a/home/b\n", "one machine"),
    (shape.check_words, "docs/a.md", "see /wo" "rk/shared\n", "see https://example.org/work/a\n", "one machine"),
    (docs.check_links, "a.md", "[b](b.md)\n", "[a](a.md) [w](https://example.org/b.md)\n", "no b.md"),
    (docs.check_links, "a.md", "# One two\n[b](#two)\n", "# One `two`\n[b](#one-two)\n", "no such heading"),
    (docs.check_places, "a.md", "`base/b.c`\n", "`b.c` names no folder\n", "no base/b.c"),
    (docs.check_readmes, "base/README.md", "\n" * 61, "base\n", "longer"),
]


def findings(check, files, **options):
    with tempfile.TemporaryDirectory() as d:
        for name, text in files.items():
            path = os.path.join(d, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        return check(Tree(d, **options))


def expect(what, ok, seen):
    if not ok:
        print(f"selftest: {what}: {seen}")
    return ok


def cases():
    ok = True
    for check, file, wrong, right, word in CASES:
        seen = findings(check, {file: wrong})
        ok &= expect(f"{check.__name__} on {wrong[:40]!r}", len(seen) == 1 and word in seen[0], seen)
        seen = findings(check, {file: right})
        ok &= expect(f"{check.__name__} on {right[:40]!r}", not seen, seen)
    seen = findings(docs.check_places, {"a.md": "`base/b.c:gone`\n", "base/b.c": "void here(void);\n"})
    ok &= expect("a function that is gone", len(seen) == 1 and "no gone" in seen[0], seen)
    seen = findings(docs.check_places, {"a.md": "`base/b.c:here`\n", "base/b.c": "void here(void);\n"})
    return ok & expect("a function that is there", not seen, seen)


def modes():
    with tempfile.TemporaryDirectory() as d:
        for name in shape.EXECUTABLE:
            path = os.path.join(d, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write("#!/usr/bin/env bash\n")
            os.chmod(path, 0o755)
        ok = expect("executable scripts", not shape.check_modes(Tree(d)), shape.check_modes(Tree(d)))
        os.chmod(path, 0o644)
        seen = shape.check_modes(Tree(d))
        return ok & expect("a script that is not executable", len(seen) == 1 and ".ci/run" in seen[0], seen)


def compiled(cc, cxx):
    """Symbols, headers, sources and tests of a tree of a few files, built by hand."""
    with tempfile.TemporaryDirectory() as d:
        def put(name, text):
            os.makedirs(os.path.join(d, os.path.dirname(name)), exist_ok=True)
            with open(os.path.join(d, name), "w", encoding="utf-8") as f:
                f.write(text)

        put("base/good.h", '#ifdef __cplusplus\nextern "C" {\n#endif\nint sl_good(void);\n#ifdef __cplusplus\n}\n#endif\n')
        put("base/good.c", '#include "base/good.h"\nint sl_good(void) { return 0; }\n')
        put("base/bad.c", "int bad(void) { return 0; }\n")
        put("build/CTestTestfile.cmake", 'add_test(good "test_good")\nset_tests_properties(good PROPERTIES LABELS "unit")\n')
        put("build/compile_commands.json", json.dumps([{"directory": d, "file": "base/good.c"}]))
        tree = {"source": d, "build": os.path.join(d, "build"), "compilers": {"c": cc, "c++": cxx, "flags": []}}
        seen = built.check_sources(Tree(**tree))
        ok = expect("a source nothing builds", len(seen) == 1 and "base/bad.c" in seen[0], seen)
        put("kernels/cuda/lost.cu", "")
        put("tests/gpu/test_lost.c", "")
        seen = [built.check_sources(Tree(**tree)), built.check_tests(Tree(**tree))]
        ok &= expect("CUDA files in a build without CUDA", len(seen[0]) == 1 and not seen[1], seen)
        put("kernels/cuda/found.cu", "")
        put("build/compile_commands.json", json.dumps([{"directory": d, "file": "base/good.c"},
                                                       {"directory": d, "file": "kernels/cuda/found.cu"}]))
        put("build/CTestTestfile.cmake", 'add_test(cuda_a "test_cuda_a")\nset_tests_properties(cuda_a PROPERTIES LABELS "gpu")\n')
        seen = [built.check_sources(Tree(**tree)), built.check_tests(Tree(**tree))]
        ok &= expect("CUDA files nothing builds", len(seen[0]) == 3 and len(seen[1]) == 1, seen)
        shutil.rmtree(os.path.join(d, "kernels"))
        shutil.rmtree(os.path.join(d, "tests"))
        put("build/CTestTestfile.cmake", 'add_test(good "test_good")\nset_tests_properties(good PROPERTIES LABELS "unit")\n')
        os.mkdir(f"{d}/build/base")
        for name in ("good", "bad"):
            subprocess.run([cc, "-I", d, "-c", f"{d}/base/{name}.c", "-o", f"{d}/build/{name}.o"], check=True)
        subprocess.run(["ar", "rc", f"{d}/build/base/libsl_base.a", f"{d}/build/good.o", f"{d}/build/bad.o"], check=True)
        seen = built.check_symbols(Tree(**tree))
        ok &= expect("a stray symbol", len(seen) == 1 and "exports bad" in seen[0], seen)
        for name in ("one", "two"):
            put(f"build/{name}.cpp", "namespace { int own() { return 0; } }\ninline int shared() { return own(); }\n"
                f"int sl_{name}() {{ return own() + shared(); }}\nint stray_{name}() {{ return 0; }}\n")
            subprocess.run([cxx, "-c", f"{d}/build/{name}.cpp", "-o", f"{d}/build/{name}.cu.o"], check=True)
        subprocess.run(["ar", "rc", f"{d}/build/base/libsl_base.a", f"{d}/build/one.cu.o", f"{d}/build/two.cu.o"], check=True)
        seen = built.check_symbols(Tree(**tree))
        ok &= expect("stray symbols of CUDA C++", len(seen) == 4 and sum("stray" in s for s in seen) == 2, seen)
        ok &= expect("a good header", not built.check_headers(Tree(**tree)), built.check_headers(Tree(**tree)))
        put("base/bad.h", "size_t sl_bad(void);\n")
        put("base/bad2.h", 'extern "C" {\nint sl_bad(void *class);\n}\n')
        seen = built.check_headers(Tree(**tree))
        ok &= expect("headers that need others", len(seen) == 3, seen)
        ok &= expect("a test that runs", not built.check_tests(Tree(**tree)), built.check_tests(Tree(**tree)))
        put("tests/unit/test_lost.c", "")
        seen = built.check_tests(Tree(**tree))
        ok &= expect("a test that nothing runs", len(seen) == 1 and "test_lost" in seen[0], seen)
        os.remove(os.path.join(d, "tests/unit/test_lost.c"))
        put("tests/integration/faults/lost.py", "#!/usr/bin/env python3\n")
        put("tests/integration/faults/CMakeLists.txt", "# found\n")
        seen = built.check_tests(Tree(**tree))
        ok &= expect("a script that nothing runs", len(seen) == 1 and "lost.py" in seen[0], seen)
        put("tests/integration/faults/CMakeLists.txt", "foreach(name found lost)\n")
        ok &= expect("a script that runs", not built.check_tests(Tree(**tree)), built.check_tests(Tree(**tree)))
        put("build/sluice", "#!/bin/sh\necho 'usage: sluice x'; echo '  run  does'\n")
        os.chmod(os.path.join(d, "build/sluice"), 0o755)
        seen = built.check_help(Tree(program=os.path.join(d, "build/sluice"), **tree))
        return ok & expect("a program that accepts everything", len(seen) == 2, seen)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cc", default="cc")
    p.add_argument("--cxx", default="c++")
    a = p.parse_args()
    results = [cases(), modes(), compiled(a.cc, a.cxx)]
    print("selftest: every check finds what it is for" if all(results) else "selftest: failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
