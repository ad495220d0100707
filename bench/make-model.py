#!/usr/bin/env python3
"""Writes a llama-like GGUF of random F16 weights, to be quantized and measured: speed does not depend on what weights say.

    bench/make-model.py --like SmolLM2.gguf -o random.gguf [--hidden 1024 --ffn 2816 --layers 8 --heads 16 --kv-heads 4]

Tokenizer and metadata are those of --like; all sizes are multiples of 256, so that every K-quant fits every matrix, which the small
models at hand do not allow. llama-quantize of llama.cpp makes the other formats of it.
"""
import argparse
import random
import struct

ALIGN = 32
SCALAR = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
F32, F16 = 0, 1


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def scalar(self, fmt):
        v = struct.unpack_from(fmt, self.data, self.at)[0]
        self.at += struct.calcsize(fmt)
        return v

    def skip(self, kind):
        if kind == STRING:
            n = self.scalar("<Q")
            self.at += n
        elif kind == ARRAY:
            item, n = self.scalar("<I"), self.scalar("<Q")
            for _ in range(n):
                self.skip(item)
        else:
            self.at += struct.calcsize(SCALAR[kind])


def metadata(path):
    """Key to the bytes of its type and value, in order."""
    with open(path, "rb") as f:
        r = Reader(f.read())
    assert r.data[:4] == b"GGUF", "not a GGUF file"
    r.at = 16
    out = {}
    for _ in range(r.scalar("<Q")):
        n = r.scalar("<Q")
        key = r.data[r.at:r.at + n].decode()
        r.at += n
        start = r.at
        r.skip(r.scalar("<I"))
        out[key] = r.data[start:r.at]
    return out


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def weights(rng, n):
    """n random halves of either sign, between 2^-7 and 2^-5: sign and mantissa random, the exponent one of two."""
    bits = int.from_bytes(rng.randbytes(2 * n), "little")
    keep = int.from_bytes(b"\xff\x87" * n, "little")
    base = int.from_bytes(b"\x00\x20" * n, "little")
    return (bits & keep | base).to_bytes(2 * n, "little")


def tensors(a, vocab):
    head = a.hidden // a.heads
    yield "token_embd.weight", [a.hidden, vocab]
    yield "output.weight", [a.hidden, vocab]
    yield "output_norm.weight", [a.hidden]
    for i in range(a.layers):
        for name, dims in (("attn_norm", [a.hidden]), ("ffn_norm", [a.hidden]), ("attn_q", [a.hidden, a.hidden]),
                           ("attn_k", [a.hidden, a.kv_heads * head]), ("attn_v", [a.hidden, a.kv_heads * head]),
                           ("attn_output", [a.hidden, a.hidden]), ("ffn_gate", [a.hidden, a.ffn]), ("ffn_up", [a.hidden, a.ffn]),
                           ("ffn_down", [a.ffn, a.hidden])):
            yield f"blk.{i}.{name}.weight", dims


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--like", required=True)
    p.add_argument("-o", "--output", required=True)
    for name, value in (("hidden", 1024), ("ffn", 2816), ("layers", 8), ("heads", 16), ("kv-heads", 4)):
        p.add_argument("--" + name, type=int, default=value)
    a = p.parse_args()
    kv = metadata(a.like)
    vocab = struct.unpack_from("<Q", kv["tokenizer.ggml.tokens"], 8)[0]
    sizes = {"embedding_length": a.hidden, "feed_forward_length": a.ffn, "block_count": a.layers, "attention.head_count": a.heads,
             "attention.head_count_kv": a.kv_heads, "rope.dimension_count": a.hidden // a.heads}
    for name, value in sizes.items():
        kv["llama." + name] = struct.pack("<II", 4, value)
    kv["general.file_type"] = struct.pack("<II", 4, F16)
    kv["general.name"] = struct.pack("<I", STRING) + text("random")
    kv.pop("general.quantization_version", None)
    rng = random.Random(1)
    plan, at = [], 0
    for name, dims in tensors(a, vocab):
        n = 1
        for d in dims:
            n *= d
        size = n * (2 if len(dims) > 1 else 4)
        plan.append((name, dims, n, at, size))
        at += (size + ALIGN - 1) // ALIGN * ALIGN
    head = b"GGUF" + struct.pack("<IQQ", 3, len(plan), len(kv))
    head += b"".join(text(key) + value for key, value in kv.items())
    for name, dims, _, where, _ in plan:
        head += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        head += struct.pack("<IQ", F16 if len(dims) > 1 else F32, where)
    with open(a.output, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGN))
        for _, dims, n, _, size in plan:
            f.write(weights(rng, n) if len(dims) > 1 else struct.pack("<f", 1.0) * n)
            f.write(bytes(-size % ALIGN))


if __name__ == "__main__":
    main()
