"""Uploads: each is written to a part file, and renamed into the watched folder once it is complete.

Part files are in a hidden folder of the watched folder, which the pipeline does not list: on the same file system, so
that the file appears whole, under its name. Each part file is locked by the process that writes it; those of a killed
process are deleted at the next start.
"""

import errno
import fcntl
import os
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from resources.config.settings import Settings
from resources.file_hashes import content_fingerprint, new_content_digest, read_content_hash
from resources.file_identification import KnownContents, new_recording_id
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from resources.storage.durability import sync_path
from serve.problems import ProblemError

_PART_FOLDER, _PART_SUFFIX = ".cv-assets-uploads", ".part"
_RESERVED_BYTES = 500_000_000  # left free on the disk of the watched folder
_MAX_RECENT = 1000
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class StoredUpload:
    """The result of an upload.

    Attributes:
        recording_id: The recording.
        source_path: Its file, relative to the watched folder.
        is_new: Whether the file was added; otherwise a file with this content was there.
    """

    recording_id: str
    source_path: str
    is_new: bool


class PartFile:
    """The part file of one upload; leaving the block deletes it, unless it was renamed.

    Args:
        watched_folder: The watched folder.
        max_bytes: Largest size.
    """

    def __init__(self, watched_folder: Path, max_bytes: int) -> None:
        self._folder = watched_folder / _PART_FOLDER
        self.path = self._folder / f"{uuid.uuid4().hex}{_PART_SUFFIX}"
        self._max_bytes = max_bytes
        self._digest = new_content_digest()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        """Create the file and lock it.

        Raises:
            ProblemError: The watched folder cannot be written.
        """
        try:
            self._file = self._create()
        except OSError as error:
            raise _write_problem(error, self._folder.parent) from error
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def _create(self) -> FileIO:
        while True:
            with suppress(FileExistsError):  # not exist_ok, which fails where the folder is removed in that moment
                self._folder.mkdir()
            with suppress(FileNotFoundError):  # the last of the other uploads has just removed the folder
                return self.path.open("xb", buffering=0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close and delete the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # other uploads are in it
            self._folder.rmdir()

    @property
    def content_hash(self) -> str:
        """Hash of the bytes so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            ProblemError: The upload is too large, or the disk is full.
        """
        self.size_bytes += len(data)
        check_upload_size(self.size_bytes, self._max_bytes)
        self._digest.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _write_problem(error, self._folder.parent) from error

    def sync(self) -> None:
        """Bring the bytes to the disk, with the mode of a file that people put into the watched folder.

        Raises:
            ProblemError: The disk is full.
        """
        try:
            os.fchmod(self._file.fileno(), self._folder.parent.stat().st_mode & 0o666 | 0o600)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _write_problem(error, self._folder.parent) from error


class Uploads:
    """Puts complete uploads into the watched folder, each content once.

    Args:
        store: The tables, for the contents of known recordings.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._recent: dict[str, StoredUpload] = {}  # by content hash: the pipeline knows a file some seconds later

    def store_upload(self, part: PartFile, target: Path, settings: Settings) -> StoredUpload:
        """Rename a complete part file into the watched folder, unless a file with its content is there.

        Raises:
            ProblemError: The upload is empty, a file with other content has its name, or the folder cannot be written.
        """
        if part.size_bytes == 0:
            raise ProblemError(422, "body: the upload is empty: send the bytes of the file.")
        part.sync()
        fingerprint = content_fingerprint(part.path)
        with self._lock:
            if stored := self._find_stored(part, fingerprint, target, settings):
                return stored
            _rename(part.path, target)
            source_path = target.relative_to(settings.watched_folder).as_posix()
            stored = StoredUpload(self._new_id(target.name, fingerprint, part.content_hash), source_path, True)
            self._recent[part.content_hash] = stored
            while len(self._recent) > _MAX_RECENT:
                del self._recent[next(iter(self._recent))]
            return stored

    def _find_stored(self, part: PartFile, fingerprint: str, target: Path, settings: Settings) -> StoredUpload | None:
        """Find a file of the watched folders that has the content of an upload; None if there is none."""
        recent = self._recent.get(part.content_hash)
        if recent is not None and _has_size(settings.watched_folder / recent.source_path, part.size_bytes):
            return StoredUpload(recent.recording_id, recent.source_path, False)
        for file in SourceIndex(self._store).load().values():
            if file.fingerprint != fingerprint or file.recording_id is None or not file.is_confirmed:
                continue
            if self._has_content(settings.watched_folder / file.source_path, part):
                return StoredUpload(file.recording_id, file.source_path, False)
        if target.exists() and self._has_content(target, part):  # uploaded before a restart, and not identified yet
            source_path = target.relative_to(settings.watched_folder).as_posix()
            return StoredUpload(self._new_id(target.name, fingerprint, part.content_hash), source_path, False)
        return None

    def _has_content(self, file: Path, part: PartFile) -> bool:
        """Whether a file has the content of an upload; only a file of the same size is read."""
        try:
            return _has_size(file, part.size_bytes) and read_content_hash(file)[1] == part.content_hash
        except OSError:
            return False

    def _new_id(self, name: str, fingerprint: str, content_hash: str) -> str:
        """The id that the pipeline will give to a new file."""
        contents = KnownContents.load(self._store)
        same = [key for key, value in contents.fingerprints.items() if value == fingerprint]
        for recording_id in same:
            if contents.content_hashes.get(recording_id) == content_hash:
                return recording_id  # its file was deleted, and this is it again
        known_hash = content_hash if any(key in contents.content_hashes for key in same) else None
        return new_recording_id(name, fingerprint, known_hash, contents.fingerprints)


def check_upload_size(size_bytes: int, max_bytes: int) -> None:
    """Check the size of an upload, announced or received so far.

    Raises:
        ProblemError: The upload is too large.
    """
    if size_bytes > max_bytes:
        raise ProblemError(
            413,
            f"body: the file is larger than serve.max_upload_gb ({max_bytes / 1e9:g} GB): raise it or split the file.",
        )


def check_free_space(folder: Path, size_bytes: int) -> None:
    """Check that the disk of the watched folder has space for an upload.

    Raises:
        ProblemError: The disk does not have it, or the folder is missing, such as a share that is not mounted.
    """
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise _write_problem(error, folder) from error
    free_bytes = status.f_bavail * status.f_frsize - _RESERVED_BYTES
    if size_bytes > free_bytes:
        raise ProblemError(
            507, f"The watched folder has {max(0, free_bytes) / 1e9:.1f} GB free for uploads: free some space."
        )


def delete_abandoned_parts(watched_folder: Path) -> int:
    """Delete the part files of killed processes; returns their number."""
    count = 0
    for path in (watched_folder / _PART_FOLDER).glob(f"*{_PART_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:  # another process deletes it, or writes it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            count += 1
    with suppress(OSError):
        (watched_folder / _PART_FOLDER).rmdir()
    return count


def _rename(part: Path, target: Path) -> None:
    """Give a part file its name; a file that has it is never replaced."""
    try:
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(part, target)
        except FileExistsError as error:
            raise ProblemError(
                409, f"name: a file {target.name!a} with other content exists: choose another name."
            ) from error
        except OSError:  # the file system has no hard links
            if target.exists():
                raise
            part.rename(target)
        sync_path(target.parent)
    except OSError as error:
        raise _write_problem(error, target.parent) from error


def _has_size(file: Path, size_bytes: int) -> bool:
    try:
        return file.stat().st_size == size_bytes
    except OSError:
        return False


def _write_problem(error: OSError, folder: Path) -> ProblemError:
    """The problem of a watched folder that cannot be written."""
    if error.errno in _FULL_ERRNOS:
        return ProblemError(507, f"The disk of the watched folder {folder.name} is full: free some space.")
    return ProblemError(503, f"The watched folder {folder.name} cannot be written: {error.strerror or error}.")
