"""docs.py - documents that stay true: links lead somewhere, named files and functions exist, each folder says what it is."""
import os
import re

FOLDERS = ["base", "bench", "cli", "client", "coordinator", "deploy", "docs", "kernels", "model", "proto", "stage", "tests",
           "topology", "transport"]
README_LINES_MAX = 60
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
# `coordinator/listen.c` and `coordinator/listen.c:on_read`, wherever they stand in backquotes
PLACE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:c|h|cuh|cu|py|sh|proto|yaml|md|txt))(?::(\w+))?`")


def anchors(text):
    """GitHub's names for the headings of a page."""
    out = set()
    for line in re.sub(r"^```.*?^```", "", text, flags=re.S | re.M).split("\n"):
        if re.match(r"#{1,6} ", line):
            title = re.sub(r"[`*]", "", line.lstrip("#").strip().lower())
            out.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return out


def check_links(tree):
    out = []
    for f in tree.named(".md"):
        for number, line in enumerate(tree.lines(f), 1):
            for target in LINK.findall(line):
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                at = os.path.normpath(os.path.join(os.path.dirname(f), file)) if file else f
                if not os.path.exists(tree.path(at)):
                    out.append(f"{f}:{number}: link to {target}: there is no {at}")
                elif anchor and at.endswith(".md") and anchor not in anchors(tree.text(at)):
                    out.append(f"{f}:{number}: link to {target}: {at} has no such heading")
    return out


def check_places(tree):
    """A file named in a document exists (from the root, or beside the document), and so does the function after the colon."""
    out = []
    for f in tree.named(".md"):
        if f == "CHANGELOG.md" or f.startswith("docs/decisions/"):
            continue  # history
        for number, line in enumerate(tree.lines(f), 1):
            for file, function in PLACE.findall(line):
                beside = os.path.normpath(os.path.join(os.path.dirname(f), file))
                found = [p for p in (file, beside) if p in tree.files]
                if not found and "/" in file:
                    out.append(f"{f}:{number}: there is no {file}")
                elif found and function and not re.search(rf"\b{function}\b", tree.text(found[0])):
                    out.append(f"{f}:{number}: {found[0]} has no {function}")
    return out


def check_readmes(tree):
    out = []
    for name in FOLDERS:
        f = f"{name}/README.md"
        if f not in tree.files:
            if any(g.startswith(f"{name}/") for g in tree.files):
                out.append(f"{f}: missing; say what the folder is, who calls it and whom it calls")
        elif tree.text(f).count("\n") > README_LINES_MAX:
            out.append(f"{f}: longer than {README_LINES_MAX} lines; the code's own comments carry the detail")
    return out
