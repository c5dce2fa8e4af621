"""The zip file of a pack: stored without compression, so that each of its bytes follows from names and contents."""

import hashlib
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LIMIT, _COUNT_LIMIT = 0xFFFFFFFF, 0xFFFF  # from here on, numbers are in the fields of zip64
_UTF_8_NAMES, _MIDNIGHT_OF_1980, _FILE_MODE = 0x800, (0, 0x21), 0o100644 << 16
_VERSION, _VERSION_64, _UNIX = 20, 45, 3
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileDigest:
    """What an archive has to know of the bytes of a file.

    Attributes:
        size_bytes: Their number.
        sha256: Their SHA-256 in hexadecimal digits.
        crc32: Their CRC-32.
    """

    size_bytes: int
    sha256: str
    crc32: int


@dataclass(frozen=True)
class ArchiveEntry:
    """A file in an archive.

    Attributes:
        name: Its path, with slashes.
        digest: Its bytes.
        position: Where its header begins in the archive.
        content_position: Where its bytes begin in the archive.
    """

    name: str
    digest: FileDigest
    position: int
    content_position: int


@dataclass(frozen=True)
class ArchiveScan:
    """What an archive contains.

    Attributes:
        entries: The files that could be read, in their order.
        problems: What is not as `write_archive` writes it, a phrase each.
    """

    entries: Sequence[ArchiveEntry]
    problems: Sequence[str]


def hash_stream(stream: BinaryIO, size_bytes: int) -> FileDigest:
    """Hash bytes from the position of a stream on; fewer where it ends early."""
    sha256, crc32, count = hashlib.sha256(), 0, 0
    while count < size_bytes and (block := stream.read(min(_BLOCK_BYTES, size_bytes - count))):
        sha256.update(block)
        crc32 = zlib.crc32(block, crc32)
        count += len(block)
    return FileDigest(count, sha256.hexdigest(), crc32)


def hash_file(path: Path) -> FileDigest:
    """Hash a file."""
    with path.open("rb") as stream:
        return hash_stream(stream, path.stat().st_size)


def write_archive(output: Path, files: Sequence[tuple[str, Path]]) -> None:
    """Write files into a zip file.

    Args:
        output: The zip file.
        files: Name in the archive and path of each.
    """
    entries = []
    with output.open("wb") as archive:
        for name, path in files:
            digest, position = hash_file(path), archive.tell()
            archive.write(_local_header(name, digest))
            entries.append(ArchiveEntry(name, digest, position, archive.tell()))
            with path.open("rb") as content:
                while block := content.read(_BLOCK_BYTES):
                    archive.write(block)
        archive.write(_directory(entries, archive.tell()))


def scan_archive(path: Path) -> ArchiveScan:
    """Read a zip file from its first byte to its last, and compare each with what `write_archive` writes.

    Args:
        path: The zip file.
    """
    entries: list[ArchiveEntry] = []
    problems: list[str] = []
    size_bytes = path.stat().st_size
    with path.open("rb") as archive:
        while True:
            position = archive.tell()
            header = _read_local_header(archive)
            if header is None:
                break
            name, content_bytes = header
            content_position = archive.tell()
            if content_bytes > size_bytes - content_position:
                problems.append(f"cut off, or its header changed: {show_name(name)}")
                return ArchiveScan(entries, problems)
            digest = hash_stream(archive, content_bytes)
            entries.append(ArchiveEntry(name, digest, position, content_position))
            end = archive.tell()
            archive.seek(position)
            if archive.read(content_position - position) != _local_header(name, digest):
                problems.append(f"header changed: {show_name(name)}")
            archive.seek(end)
        expected = _directory(entries, position)
        archive.seek(position)
        found = archive.read(len(expected) + 1)
    if found != expected:
        places = enumerate(zip(found, expected, strict=False))
        first = next((place for place, (a, b) in places if a != b), min(len(found), len(expected)))
        where = f"from byte {position + first} on"
        if not found.startswith((b"PK\x01\x02", b"PK\x05\x06")):
            last = f", after {show_name(entries[-1].name)}" if entries else ""
            problems.append(f"unreadable {where}{last}: cut off or changed")
        elif len(found) > len(expected) and first == len(expected):
            problems.append(f"{size_bytes - position - len(expected)} bytes added at the end")
        else:
            problems.append(f"list of contents at the end changed or cut off, {where}")
    return ArchiveScan(entries, problems)


def read_entry(path: Path, entry: ArchiveEntry) -> bytes:
    """Read the bytes of a file in an archive."""
    with path.open("rb") as archive:
        archive.seek(entry.content_position)
        return archive.read(entry.digest.size_bytes)


def is_safe_name(name: str) -> bool:
    """Whether a name leads to a file below the folder into which an archive is unpacked, on every system."""
    has_odd_character = bool(re.search(r'[\\:*?"<>|]', name)) or not name.isprintable()
    return not has_odd_character and all(part.strip(" .") for part in name.split("/"))


def show_name(name: str) -> str:
    """A name as a terminal may show it."""
    return name if name.isprintable() else ascii(name)


def _read_local_header(archive: BinaryIO) -> tuple[str, int] | None:
    """Read a header and go to the first byte of the content; None if there is no header."""
    fixed = archive.read(_LOCAL.size)
    if len(fixed) < _LOCAL.size or not fixed.startswith(b"PK\x03\x04"):
        return None
    *_, size_bytes, name_bytes, extra_bytes = _LOCAL.unpack(fixed)
    name = archive.read(name_bytes).decode("utf-8", "backslashreplace")
    extra = archive.read(extra_bytes)
    if size_bytes == _LIMIT and len(extra) >= 12:
        (size_bytes,) = struct.unpack("<Q", extra[4:12])
    return name, size_bytes


def _local_header(name: str, digest: FileDigest) -> bytes:
    is_large = digest.size_bytes >= _LIMIT
    extra = struct.pack("<2H2Q", 1, 16, digest.size_bytes, digest.size_bytes) if is_large else b""
    size = _LIMIT if is_large else digest.size_bytes
    encoded = name.encode()
    version = _VERSION_64 if is_large else _VERSION
    numbers = (version, _UTF_8_NAMES, 0, *_MIDNIGHT_OF_1980, digest.crc32, size, size, len(encoded), len(extra))
    return _LOCAL.pack(b"PK\x03\x04", *numbers) + encoded + extra


def _directory(entries: Sequence[ArchiveEntry], position: int) -> bytes:
    """The list of contents, which begins at a position."""
    parts = [_central_header(entry) for entry in entries]
    size, count = sum(map(len, parts)), len(entries)
    if position >= _LIMIT or size >= _LIMIT or count >= _COUNT_LIMIT:
        numbers = (_VERSION_64, _VERSION_64, 0, 0, count, count, size, position)
        parts.append(_END_64.pack(b"PK\x06\x06", _END_64.size - 12, *numbers))
        parts.append(_LOCATOR_64.pack(b"PK\x06\x07", 0, position + size, 1))
    count = min(count, _COUNT_LIMIT)
    parts.append(_END.pack(b"PK\x05\x06", 0, 0, count, count, min(size, _LIMIT), min(position, _LIMIT), 0))
    return b"".join(parts)


def _central_header(entry: ArchiveEntry) -> bytes:
    size, position = entry.digest.size_bytes, entry.position
    large = [size, size] * (size >= _LIMIT) + [position] * (position >= _LIMIT)
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version = _VERSION_64 if large else _VERSION
    name = entry.name.encode()
    size, position = min(size, _LIMIT), min(position, _LIMIT)
    lengths = (len(name), len(extra), 0, 0, 0)
    fixed = _CENTRAL.pack(
        b"PK\x01\x02", version, _UNIX, version, 0, _UTF_8_NAMES, 0, *_MIDNIGHT_OF_1980, entry.digest.crc32, size, size,
        *lengths, _FILE_MODE, position,
    )  # fmt: skip
    return fixed + name + extra
