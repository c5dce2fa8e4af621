"""The files of a recording, checked before and after each read: a recording is its content, not what its path holds.

Whatever reads a source file reads it through `RecordingFile.reading`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resources.config.settings import Settings
from resources.errors import RecordingError
from resources.file_hashes import (
    FileHash,
    FileHashes,
    content_fingerprint,
    read_content_hash,
    read_file_hashes,
    store_file_hashes,
)
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import CANNOT_BE_READ, SourceFile, SourceIndex
from resources.storage.delta_store import Store
from resources.watched_files import FileState, resolve_source_path


def mtime_utc(mtime_ns: int) -> datetime:
    """A modification time as the column `mtime_utc` has it."""
    return datetime.fromtimestamp(mtime_ns / 1e9, UTC)


@dataclass(frozen=True)
class RecordingFile:
    """A file that has the content of a recording.

    Attributes:
        source: The file as in `source_files`, in the version that has this content.
        path: Its path.
    """

    source: SourceFile
    path: Path

    @contextmanager
    def reading(self) -> Iterator[Path]:
        """Provide the path for reading, and check the file again afterwards.

        Raises:
            RecordingError: The file changed while it was read.
        """
        try:
            yield self.path
        except Exception:
            # Whatever a reader of any library raises, a changed file is the reason to report; else the error goes on.
            self.check_unchanged()
            raise
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Check that the file is still in the version that has the content of the recording.

        Raises:
            RecordingError: The file was changed, replaced or deleted.
        """
        if _read_state(self.path) != self.source.file_state:
            raise RecordingError(
                f"{self.source.source_path}: the file changed while it was read: leave it unchanged while the "
                f"recording {self.source.recording_id} is processed."
            )


class RecordingFiles:
    """The files of one recording.

    Args:
        recording_id: The recording.
        store: The tables.
        settings: Settings that name the watched folders.

    Attributes:
        header: The recording's row of `recordings`; None before it was probed.
        content_hash: Hash of its content; None while it is unknown.
    """

    def __init__(self, recording_id: str, store: Store, settings: Settings) -> None:
        self._recording_id, self._store, self._settings = recording_id, store, settings
        files = SourceIndex(store).load([recording_id]).values()
        self._files = sorted(files, key=lambda file: (file.is_unverified, file.state != "known"))
        self.header: dict[str, Any] | None = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
        self.content_hash: str | None = self.header["content_hash"] if self.header else None
        self._hashes = {file_hash.source_path: file_hash for file_hash in read_file_hashes(store, [recording_id])}

    def read_hashes(self, *, adopts_unverified: bool) -> bool:
        """Read whole the files that are to be compared, and one of the recording if the hash of its content is unknown.

        Args:
            adopts_unverified: Whether a file with the fingerprint of the recording defines its content if no unchanged
                file does: before the recording is probed, and after an older version did so without a hash.

        Returns:
            Whether there were files to compare.
        """
        if self.content_hash is None:
            self.content_hash = self._find_content_hash(adopts_unverified=adopts_unverified)
        known_hashes = FileHashes(self._hashes.values())
        to_compare = [file for file in self._files if file.is_unverified]
        for file in to_compare:
            if known_hashes.find(file.source_path, file.file_state) is None:
                self._read_hash(file)
        return bool(to_compare)

    def store_hashes(self) -> None:
        """Store the hashes of the files, for the sensor `watched_folder`."""
        store_file_hashes(self._store, self._recording_id, self._hashes.values())

    def find(self) -> RecordingFile | None:
        """Find a file that has the content of the recording now; None if there is none.

        A file in a version that was compared is not read. Any other is read whole.
        """
        present = [
            RecordingFile(replace(file, size_bytes=state.size_bytes, mtime_ns=state.mtime_ns), path)
            for file, path, state in self._present_files()
        ]
        for is_content in (self._was_compared, self._was_identified, self._has_content):
            for file in present:
                if is_content(file):
                    return file
        return None

    def problem(self) -> str:
        """Why no file has the content of the recording, and what to do, in one sentence."""
        paths = list(self._paths())
        if not paths:
            return (
                f"The recording {self._recording_id} has no file in the source index of "
                f"{self._settings.watched_folder}: copy its file into the watched folder again."
            )
        present = {file.source_path: state for file, _, state in self._present_files()}
        for path, state in present.items():
            file_hash = self._hashes.get(path)
            if file_hash is not None and file_hash.error and file_hash.file_state == state:
                return f"{path}: {file_hash.error[0].lower()}{file_hash.error[1:]}"
        if present:
            return _other_content_sentence(next(iter(present)), self._recording_id)
        return _missing_sentence(paths[0], self._recording_id)

    def _paths(self) -> Mapping[str, SourceFile]:
        """The paths at which the recording's file is or was, in the order in which they are tried."""
        files = {file.source_path: file for file in self._files}
        if self.header is not None and self.header["source_path"] not in files:
            path, camera, fingerprint = (self.header[name] for name in ("source_path", "camera", "fingerprint"))
            files[path] = SourceFile(path, 0, 0, self._recording_id, fingerprint, "replaced", None, camera)
        return files

    def _path(self, file: SourceFile) -> Path:
        return self._settings.watched_folder / file.source_path

    def _present_files(self) -> Iterator[tuple[SourceFile, Path, FileState]]:
        for file in list(self._paths().values()):
            try:
                path = resolve_source_path(self._settings, file.source_path)
                yield file, path, FileState.read(path)
            except (OSError, RecordingError):
                continue

    def _find_content_hash(self, *, adopts_unverified: bool) -> str | None:
        for file in self._files:
            is_unchanged = file.is_confirmed and _read_state(self._path(file)) == file.file_state
            if is_unchanged or adopts_unverified:
                content_hash = self._read_hash(file).content_hash
                if content_hash is not None:
                    return content_hash
        return None

    def _read_hash(self, file: SourceFile) -> FileHash:
        state, content_hash, error = file.file_state, None, None
        try:
            path = resolve_source_path(self._settings, file.source_path)
            state, content_hash = read_content_hash(path)
            if state != file.file_state and (file.is_unverified or content_fingerprint(path) != file.fingerprint):
                state, content_hash, error = file.file_state, None, "The file has changed since it was listed."
        except OSError as os_error:
            error = f"{CANNOT_BE_READ} whole: {os_error.strerror or os_error}."
        except RecordingError as recording_error:
            error = str(recording_error)
        file_hash = FileHash(
            self._recording_id, file.source_path, state.size_bytes, state.mtime_ns, content_hash, error
        )
        self._hashes[file.source_path] = file_hash
        return file_hash

    def _was_compared(self, file: RecordingFile) -> bool:
        file_hash = self._hashes.get(file.source.source_path)
        return (
            file_hash is not None
            and file_hash.file_state == file.source.file_state
            and file_hash.content_hash is not None
            and file_hash.content_hash == self.content_hash
        )

    def _was_identified(self, file: RecordingFile) -> bool:
        """Whether the file is in the version in which it was identified or probed as the recording's file."""
        source = next((known for known in self._files if known.source_path == file.source.source_path), None)
        if source is not None and source.is_confirmed and source.file_state == file.source.file_state:
            return True
        header = self.header
        return header is not None and header["source_path"] == file.source.source_path and _is_version(file, header)

    def _has_content(self, file: RecordingFile) -> bool:
        file_hash = self._hashes.get(file.source.source_path)
        was_read = file_hash is not None and file_hash.file_state == file.source.file_state
        if was_read or self.header is None or not _may_have_content(file, self.header):
            return False
        return self._read_hash(file.source).content_hash == self.content_hash


def find_recording_file(recording_id: str, store: Store, settings: Settings) -> RecordingFile:
    """Find a file of the watched folders that has the content of a recording.

    Raises:
        RecordingError: There is none; the sentence says what to do.
    """
    files = RecordingFiles(recording_id, store, settings)
    file = files.find()
    if file is None:
        raise RecordingError(files.problem())
    return file


def find_referenced_file(path: Path, row: Mapping[str, Any]) -> RecordingFile:
    """Check that the file to which the normalized video of a recording refers has the content of the recording.

    Args:
        path: The file.
        row: The recording's row of `recordings`.

    Raises:
        RecordingError: The file is missing, or has other content.
    """
    recording_id, source_path, fingerprint = (row[name] for name in ("recording_id", "source_path", "fingerprint"))
    state = _read_state(path)
    if state is None:
        raise RecordingError(_missing_sentence(source_path, recording_id))
    source = SourceFile(
        source_path, state.size_bytes, state.mtime_ns, recording_id, fingerprint, "known", None, row["camera"]
    )
    file = RecordingFile(source, path)
    if _is_version(file, row):
        return file
    try:
        if _may_have_content(file, row) and read_content_hash(path) == (state, row["content_hash"]):
            return file
    except OSError as error:
        raise RecordingError(f"{source_path}: the file cannot be read: {error.strerror or error}.") from error
    raise RecordingError(_other_content_sentence(source_path, recording_id))


def _is_version(file: RecordingFile, header: Mapping[str, Any]) -> bool:
    """Whether size and mtime of a file are those of the file that was probed."""
    source = file.source
    if header["mtime_ns"] is None:  # ingested by an older version
        return bool((source.size_bytes, mtime_utc(source.mtime_ns)) == (header["size_bytes"], header["mtime_utc"]))
    return bool((source.size_bytes, source.mtime_ns) == (header["size_bytes"], header["mtime_ns"]))


def _may_have_content(file: RecordingFile, header: Mapping[str, Any]) -> bool:
    """Whether a file has the size and fingerprint of the content, whose hash is known; only then it is read whole."""
    if header["content_hash"] is None or file.source.size_bytes != header["size_bytes"]:
        return False
    try:
        return bool(content_fingerprint(file.path) == header["fingerprint"])
    except OSError:
        return True  # reading all of it gives the reason


def _read_state(path: Path) -> FileState | None:
    """Size and mtime of a file; None if it is missing or not accessible."""
    try:
        return FileState.read(path)
    except OSError:
        return None


def _missing_sentence(source_path: str, recording_id: str) -> str:
    return f"{source_path}: the file of the recording {recording_id} is missing: put it back into the watched folder."


def _other_content_sentence(source_path: str, recording_id: str) -> str:
    return (
        f"{source_path}: the file does not have the content of the recording {recording_id} any more: put the original "
        "file back into the watched folder."
    )
