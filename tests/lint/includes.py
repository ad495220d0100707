"""includes.py - which folder may include which, and where the headers of other people's libraries may be included.

The first table is the picture in ARCHITECTURE.md; the second keeps a library replaceable: whoever wants to know what we need
of it has few files to read."""
import re

from tree import folder, line_of

ALL = {"base", "model", "kernels", "proto", "transport", "topology", "stage", "coordinator", "client", "cli"}
ALLOWED = {
    "base": {"base"},
    "kernels": {"kernels", "base"},
    "model": {"model", "base"},
    "topology": {"topology", "base"},
    "proto": {"proto", "base"},
    "transport": {"transport", "proto", "base"},
    "client": {"client", "proto", "base"},
    "stage": {"stage", "model", "kernels", "transport", "proto", "base"},
    "coordinator": {"coordinator", "topology", "transport", "proto", "base"},
    "cli": ALL,
    "bench": ALL,
    "tests": ALL | {"tests"},
}
# Of model/ the coordinator sees what a request is made of, not how layers are computed.
ALLOWED_FILES = {"coordinator": {"model/tokenizer.h", "model/template.h", "model/answer.h", "model/chat.h", "model/config.h", "model/weights.h"}}

# header pattern -> file patterns that may include it; tests/ may include anything
HOMES = [
    (r"uv\.h", r"[^/]+/(loop|listen|launch|control)\.c|coordinator/(service\.c|http\.c|internal\.h)|transport/.*|cli/.*"),
    (r"uc[ps]/.*", r"transport/ucx.*"),
    (r".*\.pb-c\.h|protobuf-c/.*", r"(proto|client)/.*"),
    (r"hwloc\.h", r"(kernels/cpu|base)/.*"),
    (r"libwebsockets\.h", r"coordinator/http.*"),
    (r"jansson\.h", r"(model|coordinator|cli|bench)/.*"),
    (r"c?yaml(/.*)?\.h", r"topology/.*"),
    (r"pcre2\.h", r"model/tok_regex\.c"),
    (r"utf8proc\.h", r"model/tok_unicode\.c"),
    (r"xxhash\.h", r"(proto|transport)/.*"),
    (r"openssl/.*", r"coordinator/(keys|http)[^/]*\.c|base/.*"),
    (r"histedit\.h|editline/.*", r"cli/.*"),
    (r"cmocka\.h", r"tests/.*"),
    (r"cublasLt\.h", r"kernels/cuda/lt[^/]*\.c"),
    (r"nccl\.h", r"transport/nccl.*"),
    (r"(cuda|cooperative_groups)(_\w+)?\.h|library_types\.h", r"kernels/cuda/.*|transport/(nccl|gpu).*"),
]
# The C library, POSIX, the kernel and the compiler: at home everywhere.
SYSTEM = re.compile(
    r"(aio|alloca|assert|complex|ctype|cpuid|dirent|dlfcn|elf|endian|errno|fcntl|fenv|float|fnmatch|getopt|glob|grp|ifaddrs|"
    r"immintrin|inttypes|libgen|limits|link|locale|malloc|math|netdb|poll|pthread|pty|pwd|regex|sched|semaphore|setjmp|"
    r"signal|spawn|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|stdnoreturn|string|strings|syslog|termios|"
    r"tgmath|threads|time|uchar|unistd|utime|wchar|wctype|x86intrin)\.h|(arpa|linux|net|netinet|sys)/.*")
# CUDA C++ may use what needs no library of C++ at run time.
SYSTEM_CXX = re.compile(r"(algorithm|array|climits|cmath|cstddef|cstdint|initializer_list|limits|new|tuple|type_traits|utility)")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)
# time, chance and the environment have one door, base/env.h: code that decides can then be simulated
DOORS = re.compile(r"\b(getenv|secure_getenv|clock_gettime|gettimeofday|time|rand|random|srand|srandom|getrandom|arc4random)\s*\(")


def sources(tree):
    return [f for f in tree.named(".c", ".h", ".cu", ".cuh") if folder(f) in ALLOWED]


def check_directions(tree):
    out = []
    for f in sources(tree):
        home, text = folder(f), tree.code(f)
        for m in INCLUDE.finditer(text):
            kind, name = m.groups()
            top = folder(name)
            where = f"{f}:{line_of(text, m.start())}"
            if kind == "<" or name.endswith(".pb-c.h"):
                continue
            if not top and home == "tests":
                continue  # a helper beside the test
            if top not in ALL and top != "tests":
                out.append(f'{where}: "{name}" is not spelled from the root of the tree; write "folder/{name}"')
            elif top not in ALLOWED[home] and name not in ALLOWED_FILES.get(home, ()):
                out.append(f"{where}: {home}/ may not include {name} (it sees {', '.join(sorted(ALLOWED[home]))}); "
                           "move what is needed down, or let cli/ join the two")
    return out


def check_homes(tree):
    out = []
    for f in sources(tree):
        if folder(f) == "tests":
            continue
        text = tree.code(f)
        for m in INCLUDE.finditer(text):
            kind, name = m.groups()
            if (kind == '"' and not name.endswith(".pb-c.h")) or SYSTEM.fullmatch(name):
                continue
            if f.endswith((".cu", ".cuh")) and SYSTEM_CXX.fullmatch(name):
                continue
            where = f"{f}:{line_of(text, m.start())}"
            homes = [files for header, files in HOMES if re.fullmatch(header, name)]
            if not homes:
                out.append(f"{where}: <{name}> is a library that tests/lint/includes.py gives no home yet")
            elif not any(re.fullmatch(files, f) for files in homes):
                out.append(f"{where}: <{name}> belongs in {' or '.join(homes)}; wrap what is needed there")
    return out


def check_doors(tree):
    out = []
    for f in sources(tree):
        if folder(f) in ("tests", "bench", "") or f == "base/env.c":
            continue
        text = tree.code(f)
        text = re.sub(r'"(\\.|[^"\\\n])*"', lambda m: " " * len(m.group()), text)
        for m in DOORS.finditer(text):
            out.append(f"{f}:{line_of(text, m.start())}: {m.group(1)}() goes through base/env.h, so that tests can decide it")
    return out
