"""Media checksums: those that FFmpeg compares and, when they differ, only mentions in its log.

In:   bytes of a packet or a page
Out:  whether they are what their writer wrote
From: media_container, media_integrity
"""

import zlib

REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
FFV1_TRAILER_BYTES = 8  # after each slice: its length (3), an error status (1) and the checksum (4)


def crc32_msb_first(data: bytes) -> int:
    """The CRC-32 of FFV1 and Ogg: the polynomial of zlib with the highest bit first, starting from 0."""
    reflected = zlib.crc32(data.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def ffv1_slices_are_intact(packet: bytes) -> bool:
    """Whether a packet is a row of FFV1 slices with right checksums (version 3 and later, unless turned off)."""
    end = len(packet)
    while end > FFV1_TRAILER_BYTES:
        length = int.from_bytes(packet[end - FFV1_TRAILER_BYTES : end - 5], "big") + FFV1_TRAILER_BYTES
        if length > end or crc32_msb_first(packet[end - length : end]):
            return False
        end -= length
    return end == 0 and len(packet) > 0
