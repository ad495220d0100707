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


def take_varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7f) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at


def fields(data):
    """{number: the last value} of a message whose fields are numbers, floats and byte strings."""
    v, at = {}, 0
    while at < len(data):
        key, at = take_varint(data, at)
        if key & 7 == 0:
            v[key >> 3], at = take_varint(data, at)
        elif key & 7 == 2:
            n, at = take_varint(data, at)
            v[key >> 3], at = data[at:at + n], at + n
        else:
            assert key & 7 == 5, f"wire type {key & 7}"
            v[key >> 3], at = struct.unpack_from("<f", data, at)[0], at + 4
    return v


def read_message(s):
    """(id, number of the body's field, the body)"""
    def exactly(n):
        data = b""
        while len(data) < n:
            piece = s.recv(n - len(data))
            assert piece, "the connection ended"
            data += piece
        return data
    v = fields(exactly(struct.unpack("<I", exactly(4))[0]))
    ident = v.pop(1, 0)
    (number, body), = v.items()
    return ident, number, body
