"""tree.py - the files of the source tree and the way findings are reported, for all lint checks.

A check is a function taking a Tree and returning findings, one text a finding: "file:line: what; what to do"."""
import os
import re
import subprocess

SKIPPED = {"build", ".git", ".venv", ".gpu", "__pycache__"}
# strings first, so that what looks like a comment inside one ("http://...") is none
COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*', re.S)


class Tree:
    def __init__(self, source, build=None, program=None, compilers=None):
        self.source = os.path.abspath(source)
        self.build = build and os.path.abspath(build)
        self.program = program  # the sluice executable
        self.compilers = compilers or {}  # "c", "c++", "flags"
        self.files = sorted(self._files())
        self._texts = {}

    def _files(self):
        """Tracked files and those that git does not ignore; without git, everything but build folders."""
        try:
            out = subprocess.run(["git", "-C", self.source, "ls-files", "-co", "--exclude-standard", "-z"],
                                 capture_output=True, check=True).stdout.decode()
            top = subprocess.run(["git", "-C", self.source, "rev-parse", "--show-toplevel"],
                                 capture_output=True, check=True).stdout.decode().strip()
            if os.path.realpath(top) == os.path.realpath(self.source):
                return {f for f in out.split("\0") if f and os.path.isfile(self.path(f))}
        except (OSError, subprocess.CalledProcessError):
            pass
        found = set()
        for folder, folders, files in os.walk(self.source):
            folders[:] = [d for d in folders if d not in SKIPPED]
            found |= {os.path.relpath(os.path.join(folder, f), self.source) for f in files}
        return found

    def path(self, file):
        return os.path.join(self.source, file)

    def text(self, file):
        if file not in self._texts:
            with open(self.path(file), encoding="utf-8", errors="replace") as f:
                self._texts[file] = f.read()
        return self._texts[file]

    def texts_of(self, file):
        """The text, empty when there is no such file."""
        return self.text(file) if file in self.files else ""

    def lines(self, file):
        return self.text(file).split("\n")

    def code(self, file):
        """The text with comments blanked, line numbers kept."""
        return COMMENT.sub(lambda m: m.group() if m.group()[0] == '"' else re.sub(r"[^\n]", " ", m.group()), self.text(file))

    def named(self, *suffixes, under=""):
        return [f for f in self.files if f.endswith(suffixes) and f.startswith(under)]

    def is_text(self, file):
        with open(self.path(file), "rb") as f:
            return b"\0" not in f.read(8192)


def folder(file):
    return file.split("/")[0] if "/" in file else ""


def line_of(text, position):
    return text.count("\n", 0, position) + 1
