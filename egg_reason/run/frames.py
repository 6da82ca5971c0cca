"""Frames of the scalar log: a head with checksums, then the payload. Their layout: `egg_reason.run.log`."""

import struct
import zlib

__all__ = ["HEAD", "HEAD_BYTES", "MAGIC", "another_follows", "frame_of", "intact", "length_at"]

MAGIC = b"EGGS"
HEAD = struct.Struct("<4sqII")  # magic, step, payload length, payload CRC; its own CRC follows
CRC = struct.Struct("<I")
HEAD_BYTES = HEAD.size + CRC.size


def frame_of(step: int, payload: bytes) -> bytes:
    """Return a whole frame."""
    # A checksum of its own for the head: a damaged length must not lead the reader astray.
    head = HEAD.pack(MAGIC, step, len(payload), zlib.crc32(payload))
    return head + CRC.pack(zlib.crc32(head)) + payload


def length_at(data, offset: int) -> int | None:
    """Return the length of the whole frame at `offset`, from its intact frame header; None if that is damaged
    or incomplete."""
    head = data[offset : offset + HEAD_BYTES]
    if (
        len(head) < HEAD_BYTES
        or head[: len(MAGIC)] != MAGIC
        or CRC.unpack_from(head, HEAD.size)[0] != zlib.crc32(head[: HEAD.size])
    ):
        return None
    return HEAD_BYTES + HEAD.unpack_from(head)[2]


def intact(frame: bytes) -> bool:
    """Return whether these bytes are one whole frame without damage."""
    return length_at(frame, 0) == len(frame) and zlib.crc32(frame[HEAD_BYTES:]) == HEAD.unpack_from(frame)[3]


def another_follows(data, offset: int, length: int | None) -> bool:
    """Return whether anything was written after the bad frame at `offset`: then it is not the last one, and
    cutting would lose good steps."""
    if length is not None:
        return offset + length < len(data)
    # The length cannot be believed: any intact head further on is a later record.
    while (offset := data.find(MAGIC, offset + 1)) >= 0:
        if length_at(data, offset) is not None:
            return True
    return False
