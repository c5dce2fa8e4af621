"""Hashes of files, by which recordings are identified: of sampled blocks, and of all bytes in the table file_hashes.

Runs of the stage `recordings` read the files and write the table; the watched-folder sensor only reads it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from resources.errors import RecordingError
from resources.schema.recording_tables import FILE_HASHES
from resources.storage.delta_store import Store
from resources.watched_files import FileState

_BLOCK_COUNT = 16
_BLOCK_BYTES = 65_536
_HASH_BYTES = 16
_READ_AGAIN_AFTER = timedelta(minutes=10)  # a file that could not be read whole


def content_fingerprint(path: Path, size_bytes: int | None = None) -> str:
    """Compute a file's fingerprint, 16 hexadecimal digits: a hash of its size and of blocks sampled evenly over it.

    Args:
        path: The file.
        size_bytes: Size of the beginning of the file to compute the fingerprint of; None means the whole file.
    """
    size_bytes = path.stat().st_size if size_bytes is None else size_bytes
    digest = hashlib.blake2b(str(size_bytes).encode(), digest_size=8)
    with path.open("rb") as file:
        if not is_sampled(size_bytes):
            digest.update(file.read(size_bytes))
        else:
            last_position = size_bytes - _BLOCK_BYTES
            for number in range(_BLOCK_COUNT):
                file.seek(last_position * number // (_BLOCK_COUNT - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def new_content_digest() -> "hashlib.blake2b":
    """Begin the hash of all bytes of a file, for content that arrives in parts."""
    return hashlib.blake2b(digest_size=_HASH_BYTES)


def is_sampled(size_bytes: int) -> bool:
    """Whether a file of this size is so large that its fingerprint covers only a part of it."""
    return size_bytes > _BLOCK_COUNT * _BLOCK_BYTES


def read_content_hash(path: Path) -> tuple[FileState, str]:
    """Hash all bytes of a file, in one sequential read.

    Returns:
        Size and mtime of the file, which are the same before and after the read, and the hash, 32 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
        RecordingError: The file changed while it was read.
    """
    state = FileState.read(path)
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, new_content_digest)
    if FileState.read(path) != state:
        raise RecordingError("The file changed while it was read: leave it unchanged while it is processed.")
    return state, digest.hexdigest()


@dataclass(frozen=True)
class FileHash:
    """The hash of one version of a file, or the reason why it could not be read; every field is a column."""

    recording_id: str
    source_path: str
    size_bytes: int
    mtime_ns: int
    content_hash: str | None
    error: str | None = None
    read_at_utc: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def file_state(self) -> FileState:
        """Size and mtime of the file that was read."""
        return FileState(self.size_bytes, self.mtime_ns)

    @property
    def is_final(self) -> bool:
        """Whether the file is not read again: it was read, or a short time ago it could not be."""
        return self.error is None or datetime.now(UTC) - self.read_at_utc < _READ_AGAIN_AFTER


class FileHashes:
    """The hashes of files, by path and version.

    Args:
        hashes: The hashes.
    """

    def __init__(self, hashes: Iterable[FileHash] = ()) -> None:
        self._hashes: Mapping[tuple[str, FileState], FileHash] = {
            (file_hash.source_path, file_hash.file_state): file_hash
            for file_hash in sorted(hashes, key=lambda file_hash: file_hash.error is None)
            if file_hash.is_final
        }

    def find(self, source_path: str, file_state: FileState) -> FileHash | None:
        """Find the hash of one version of a file; None if that version is still to be read."""
        return self._hashes.get((source_path, file_state))


def read_file_hashes(store: Store, recording_ids: Sequence[str] | None = None) -> list[FileHash]:
    """Read the stored hashes of files, for all recordings or for some."""
    rows = store.read(FILE_HASHES, recording_ids, [column.name for column in fields(FileHash)])
    return [FileHash(**row) for row in rows.to_pylist()]


def store_file_hashes(store: Store, recording_id: str, hashes: Iterable[FileHash]) -> None:
    """Replace the stored hashes of the files of a recording."""
    rows = [vars(file_hash) for file_hash in hashes]
    store.replace(FILE_HASHES, [recording_id], pa.Table.from_pylist(rows, schema=FILE_HASHES.arrow_schema))
