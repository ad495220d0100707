"""The socket API (proto/api.proto) byte by byte, for tests that send what no client library would."""
import socket
import struct


def varint(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7f | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(ident, number, body):
    envelope = (field(1, ident) if ident else b"") + field(number, body)
    return struct.pack("<I", len(envelope)) + envelope


HELLO = message(0, 2, field(1, 1))


def generate(ident, prompt=b"She opened the letter and", n=8, logprobs=0):
    more = field(8, logprobs) + field(9, 1) if logprobs else b""
    return message(ident, 3, field(1, prompt) + field(5, n) + field(7, 1) + more)


def dial(c, first=b""):
    """A connection to the socket API of a cluster."""
    s = socket.socket(socket.AF_UNIX)
    s.connect(c.socket)
    s.settimeout(10)
    s.sendall(first)
    return s


def read_message(s):
    """(number of the body's field, whole envelope)"""
    def exactly(n):
        data = b""
        while len(data) < n:
            piece = s.recv(n - len(data))
            assert piece, "the connection ended"
            data += piece
        return data
    envelope = exactly(struct.unpack("<I", exactly(4))[0])
    at = 0
    if envelope[0] == 8:  # the id
        at = 1
        while envelope[at] & 0x80:
            at += 1
        at += 1
    return envelope[at] >> 3, envelope
