#!/usr/bin/env python3
"""opcodes.py - finds the tensor-core instructions in compiled kernels.

    opcodes.py FOLDER      with FILE.sm_ARCH.cubin as CMakeLists.txt beside this makes them

The toolkit here may lack a disassembler, so this walks the ELF file: sections .text.KERNEL hold 16-byte instructions, the low
12 bits of each are its opcode. The numbers were compared with nvdisasm's names.

sm_100a has no such instruction in our own code: its tcgen05 is left to cuBLASLt, our kernels there use HMMA."""
import collections
import glob
import os
import re
import struct
import sys

OMMA, QMMA_SF, QMMA, HMMA, IMMA = 0x47F, 0x47A, 0x27A, 0x23C, 0x237
QGMMA, QGMMA_REGISTERS, HGMMA = 0x9F3, 0xDF3, 0x9F0
TENSOR = {OMMA: "OMMA.SF", QMMA_SF: "QMMA.SF", QMMA: "QMMA", HMMA: "HMMA", IMMA: "IMMA", QGMMA: "QGMMA",
          QGMMA_REGISTERS: "QGMMA", HGMMA: "HGMMA", 0x5EA: "UTCMMA", 0xDEA: "UTCMMA"}
LOCAL = {0x983: "LDL", 0x387: "STL"}  # registers that did not suffice
OMMA_SCALES = {1: ".UE4M3.4X", 2: ".E8"}

# (file, arch) -> [(kernel pattern, the only tensor instruction in it, or None for none at all)]; every kernel is matched once
FP4 = r"sl_mma_kind%d"
EXPECTED = {
    ("matmul_fp4", "120a"): [(FP4 % 0, "OMMA.SF.UE4M3.4X"), (FP4 % 1, "OMMA.SF.E8"), (FP4 % 2, "QMMA.SF"),
                             (FP4 % 3, "QMMA.SF"), (FP4 % 4, "QMMA")],
    ("matmul_fp4", "89"): [(FP4 % 4, "QMMA"), ("", None)],
    # never chosen there; FP8 is taken apart into half precision, which the tests of the GPU use
    ("matmul_fp4", "90a"): [(FP4 % 4, "HMMA"), ("", None)],
    ("matmul_fp4", "100a"): [(FP4 % 4, "HMMA"), ("", None)],
}
# (file, arch) -> the tensor instruction that its kernels have, whichever of them
CONTAINED = {
    ("attention_tile90", "90a"): "HGMMA",
    ("matmul_e2m1", "100a"): "HMMA",  # NVFP4 and MXFP4 of decode steps
}
NO_LOCAL = {("matmul_fp4", "120a"), ("matmul_fp4", "89")}


def kernels(path):
    """(name, Counter of instruction names of interest) of each kernel."""
    with open(path, "rb") as f:
        data = f.read()
    if data[:4] != b"\x7fELF":
        raise ValueError("no ELF file")
    at, = struct.unpack_from("<Q", data, 0x28)
    size, count, strings = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, at + i * size) for i in range(count)]
    names = sections[strings][4]
    for name_at, _, _, _, offset, length in sections:
        name = data[names + name_at:data.index(b"\0", names + name_at)].decode()
        if not name.startswith(".text."):
            continue
        seen = collections.Counter()
        for i in range(offset, offset + length, 16):
            low, high = struct.unpack_from("<QQ", data, i)
            code = low & 0xFFF
            if code in TENSOR:
                seen[TENSOR[code] + (OMMA_SCALES.get(high >> 18 & 3, ".?") if code == OMMA else "")] += 1
            elif code in LOCAL:
                seen[LOCAL[code]] += 1
        yield name[len(".text."):], seen


def check_contained(path, wanted):
    found = collections.Counter()
    for _, seen in kernels(path):
        found += seen
    print(f"{os.path.basename(path)}: {dict(found)}")
    return [] if found[wanted] else [f"{os.path.basename(path)}: has no {wanted}, but {dict(found)}"]


def check(path, rules, no_local):
    out, unused = [], {pattern for pattern, _ in rules}
    where = os.path.basename(path)
    for name, seen in kernels(path):
        found = {k for k in seen if k not in LOCAL.values()}
        rule = next(((p, want) for p, want in rules if re.search(p, name)), None)
        if rule is None:
            out.append(f"{where}: {name}: no rule for this kernel; it has {dict(seen)}")
            continue
        unused.discard(rule[0])
        if found != ({rule[1]} if rule[1] else set()):
            out.append(f"{where}: {name}: wants {rule[1] or 'no tensor instruction'}, has {dict(seen)}")
        if no_local and any(k in LOCAL.values() for k in seen):
            out.append(f"{where}: {name}: spills registers: {dict(seen)}")
        print(f"{where}: {name[:60]}: {dict(seen)}")
    return out + [f"{where}: no kernel matches {p!r}" for p in sorted(unused)]


def main():
    folder, findings = sys.argv[1], []
    paths = {key: os.path.join(folder, "{}.sm_{}.cubin".format(*key)) for key in [*EXPECTED, *CONTAINED]}
    for key, path in paths.items():
        if not os.path.exists(path):
            findings.append(f"{path}: missing; build the target sl_cubins")
        elif key in CONTAINED:
            findings += check_contained(path, CONTAINED[key])
        else:
            findings += check(path, EXPECTED[key], key in NO_LOCAL)
    known = {os.path.basename(path) for path in paths.values()}
    findings += [f"{os.path.basename(p)}: nothing is expected of it; add it to EXPECTED or CONTAINED"
                 for p in sorted(glob.glob(os.path.join(folder, "*.sm_*.cubin"))) if os.path.basename(p) not in known]
    print("\n".join(findings) if findings else "opcodes: all as expected")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
