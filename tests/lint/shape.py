"""shape.py - sizes, words and file modes: what keeps the tree readable and free of leftovers."""
import os
import re

from tree import folder, line_of

FILE_LINES_MAX = 900
FUNCTION_LINES_MAX = 120
# "file:function": why it reads best in one piece
LONG_FUNCTIONS = {}
EXECUTABLE = ["deploy/quickstart", "deploy/check", ".ci/run"]

# spelled in pieces, so that this file passes its own check
LEFTOVERS = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
MACHINE = re.compile(r"(?<![\w.$}/-])/(wo" r"rk|ro" r"ot|ho" r"me/\w+|Us" r"ers/\w+)(/|\b)")
FUNCTION = re.compile(r"^(?!\s|#|//|/\*|\}|typedef|struct \w+ \{|enum)(?=[^;]*\()[^;{}]*?\b(\w+)\s*\([^;{}]*\)[^;{}()=]*\n\{\n", re.M)


def check_sizes(tree):
    out = []
    for f in tree.named(".c", ".h", ".cu", ".cuh", ".cmake", ".py", ".sh"):
        n = tree.text(f).count("\n")
        if n > FILE_LINES_MAX:
            out.append(f"{f}:{n}: {n} lines, at most {FILE_LINES_MAX}; split it by noun")
    return out


def functions(text):
    """(name, first line, number of lines) of each function definition; bodies end at a } in the first column."""
    for m in FUNCTION.finditer(text):
        end = text.find("\n}", m.end() - 2)
        if end > 0:
            first = line_of(text, m.start())
            yield m.group(1), first, line_of(text, end) + 1 - first + 1


def check_functions(tree):
    out, seen = [], set()
    for f in tree.named(".c", ".h", ".cu", ".cuh"):
        for name, first, n in functions(tree.code(f)):
            seen.add(f"{f}:{name}")
            if n > FUNCTION_LINES_MAX and f"{f}:{name}" not in LONG_FUNCTIONS:
                out.append(f"{f}:{first}: {name} has {n} lines, at most {FUNCTION_LINES_MAX}; split it, "
                           "or say in LONG_FUNCTIONS of tests/lint/shape.py why it is one piece")
    out += [f"tests/lint/shape.py: LONG_FUNCTIONS names {name}, which is gone" for name in LONG_FUNCTIONS if name not in seen]
    return out


def check_words(tree):
    out = []
    for f in tree.files:
        if "/corpus/" in f or f.startswith("tests/golden/") or not tree.is_text(f):
            continue
        text = tree.text(f)
        for pattern, why in ((LEFTOVERS, "do it, or open an issue"), (MACHINE, "no path of one machine belongs in the tree")):
            out += [f"{f}:{line_of(text, m.start())}: '{m.group().strip()}': {why}" for m in pattern.finditer(text)]
    return out


def check_modes(tree):
    out = [f"{f}: missing" for f in EXECUTABLE if f not in tree.files]
    for f in tree.files:
        if "/corpus/" in f:
            continue
        with open(tree.path(f), "rb") as file:
            script = file.read(2) == b"#!"
        if script and not os.access(tree.path(f), os.X_OK):
            out.append(f"{f}: begins with #! and is not executable; chmod +x {f}")
        if not script and os.access(tree.path(f), os.X_OK):
            out.append(f"{f}: executable, but no script; chmod -x {f}")
        if script and folder(f) in ("deploy", ".ci"):
            first = tree.lines(f)[0]
            if not first.startswith("#!/usr/bin/env ") and first != "#!/bin/sh":
                out.append(f"{f}:1: {first} is not where every system has it; use #!/usr/bin/env bash")
    return out
