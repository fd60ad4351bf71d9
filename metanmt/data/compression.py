"""Compressed text files: what they are called, how they begin, and reading them as plain ones."""

from __future__ import annotations

import gzip
import io
import lzma
from pathlib import Path
from typing import IO, Any

COMPRESSIONS = (".gz", ".xz", ".zst")
MAGIC = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ", ".zst": b"(\xb5/\xfd", ".bz2": b"BZh", ".zip": b"PK\x03\x04"}
START_BYTES = 8
CHUNK_BYTES = 1 << 17


def open_bytes(path: Path) -> IO[bytes] | io.BufferedIOBase:
    """Return a file opened for reading, decompressed as its name says."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path), CHUNK_BYTES)
    return path.open("rb")


class _Zstandard(io.RawIOBase):
    """A decompressed file of Zstandard frames.

    The library's own reader stops after the first frame and takes half a file for a whole one, both in silence.
    """

    def __init__(self, path: Path) -> None:
        import zstandard

        self._decompressor = zstandard.ZstdDecompressor()
        self._file = path.open("rb")
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        """Return True: it is for reading alone."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return how many bytes were put there; 0 at the end. EOFError: the last frame is cut."""
        while not self._ready:
            inside = self._frame is not None and not self._frame.eof
            unused = b"" if inside or self._frame is None else self._frame.unused_data
            compressed = unused or self._file.read(CHUNK_BYTES)
            if not compressed:
                if inside:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            if not inside:
                self._frame = self._decompressor.decompressobj()
            self._ready = self._frame.decompress(compressed)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        """Close the file below, too."""
        self._file.close()
        super().close()


def with_compression(path: Path) -> Path:
    """Return the path with whichever compression suffix exists on the disk, or as it is."""
    candidates = (path, *(path.with_name(path.name + suffix) for suffix in COMPRESSIONS))
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def compression_of(start: bytes) -> str | None:
    """Return the suffix of what a file of these first bytes is compressed by, or None."""
    return next((suffix for suffix, magic in MAGIC.items() if start.startswith(magic)), None)
