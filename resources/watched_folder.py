"""What is in the watched folder, and which recording each file is.

The folder is only ever read. A recording is recognised by its content, so a renamed or copied file is the same
recording, and a changed file under an old name is a new one.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from resources.errors import PipelineError, RecordingError
from resources.schema import SOURCE_FILES
from resources.settings import IntakeSettings
from resources.storage import Store

_SAMPLES = 16
_SAMPLE_BYTES = 65_536
_SLUG_LENGTH = 60
_PARTIAL_ENDINGS = ("part", "partial", "crdownload", "download", "tmp", "temp", "filepart", "!qb", "aria2")


@dataclass(frozen=True)
class FileState:
    """A file as the directory lists it; two equal states some seconds apart mean that it rests."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class SourceFile:
    """A file of the watched folder that has settled, and the recording it holds."""

    source_path: str
    size_bytes: int
    mtime_ns: int
    recording_id: str | None
    fingerprint: str | None
    state: str
    reason: str | None

    @property
    def camera(self) -> str | None:
        """The first folder under the watched folder."""
        return camera_of(self.source_path)

    @property
    def file_state(self) -> FileState:
        """Size and mtime when it was read."""
        return FileState(self.size_bytes, self.mtime_ns)


def camera_of(source_path: str) -> str | None:
    """The first folder of a path relative to the watched folder; None for a file directly in it."""
    parts = PurePosixPath(source_path).parts
    return parts[0] if len(parts) > 1 else None


def list_recordings(folder: Path, settings: IntakeSettings) -> dict[str, FileState]:
    """Every file that could be a recording, by its path relative to the folder.

    Hidden files and folders, partial downloads, other endings and links that lead out of the folder are left out.

    Raises:
        PipelineError: The folder is not there (an unmounted folder is not an empty one) or cannot be read.
    """
    if folder.is_file():
        raise PipelineError(f"{folder} is a file: name the folder that it lies in.")
    if not folder.is_dir():
        raise PipelineError(f"The watched folder {folder} does not exist: create it, mount it or name another.")
    found: dict[str, FileState] = {}
    root = folder.resolve()
    for entry in _walk(folder):
        name = entry.name.lower()
        ending = name.rpartition(".")[2] if "." in name else ""
        if ending not in settings.extensions or ending in _PARTIAL_ENDINGS:
            continue
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            continue
        try:
            stat = entry.stat()
        except FileNotFoundError:
            continue  # gone since it was listed, or a link to nothing
        relative = Path(entry.path).relative_to(folder).as_posix()
        # A name that is not valid UTF-8 cannot be stored; it is listed with its odd bytes spelt out.
        relative = os.fsencode(relative).decode("utf-8", "backslashreplace")
        found[relative] = FileState(stat.st_size, stat.st_mtime_ns)
    return found


def file_of(folder: Path, source_path: str) -> Path:
    """The file of a path relative to the watched folder, looked up anew.

    Raises:
        RecordingError: It leads out of the folder, as a link may that was put there since the file was found.
    """
    file = folder / source_path
    if not file.resolve().is_relative_to(folder.resolve()):
        raise RecordingError(f"{source_path} leads out of the watched folder: put the file itself there.")
    return file


def _walk(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Files below a folder in the order of their names, folders too; linked folders are not entered."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except PermissionError as error:
        raise PipelineError(f"The folder {folder} may not be read by this user: change its permissions.") from error
    except FileNotFoundError:
        return  # removed while we looked
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file():
            yield entry


def content_fingerprint(path: Path) -> str:
    """Hash of a file's size and of blocks sampled evenly over its content, 16 hexadecimal digits."""
    size_bytes = path.stat().st_size
    digest = hashlib.blake2b(str(size_bytes).encode(), digest_size=8)
    with path.open("rb") as file:
        if size_bytes <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(file.read())
        else:
            last = size_bytes - _SAMPLE_BYTES
            for number in range(_SAMPLES):
                file.seek(last * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def recording_id_of(file_name: str, fingerprint: str) -> str:
    """A readable and unique name: letters and digits of the file name, then the start of the fingerprint.

    >>> recording_id_of("front door (2).mp4", "0123456789abcdef")
    'front-door-2-01234567'
    """
    stem = unicodedata.normalize("NFC", PurePosixPath(file_name).stem)
    slug = re.sub(r"[^\w]+", "-", stem).strip("-")[:_SLUG_LENGTH].strip("-")
    return f"{slug or 'recording'}-{fingerprint[:8]}"


class SourceIndex:
    """Which file is which recording: the table source_files, kept by the watched-folder sensor."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> dict[str, SourceFile]:
        """All known files by path."""
        names = ["source_path", "size_bytes", "mtime_ns", "recording_id", "fingerprint", "state", "reason"]
        rows = self._store.read(SOURCE_FILES, columns=names)
        return {row["source_path"]: SourceFile(**row) for row in rows.to_pylist()}

    def save(self, files: Iterable[SourceFile]) -> None:
        """Replace the table."""
        rows = [{**vars(file), "camera": file.camera} for file in sorted(files, key=lambda file: file.source_path)]
        self._store.replace(SOURCE_FILES, [], pa.Table.from_pylist(rows, schema=SOURCE_FILES.arrow_schema))

    def source_of(self, recording_id: str, folder: Path) -> SourceFile | None:
        """A file that holds the recording and is there; failing that, the one that did; None if never seen."""
        holders = [file for file in self.load().values() if file.recording_id == recording_id]
        for file in holders:
            try:
                stat = (folder / file.source_path).stat()
            except OSError:
                continue
            if FileState(stat.st_size, stat.st_mtime_ns) == file.file_state:
                return file
        return holders[0] if holders else None


def identify(folder: Path, settled: Mapping[str, FileState], known: Mapping[str, SourceFile]) -> dict[str, SourceFile]:
    """Give settled files their recordings.

    Args:
        folder: The watched folder.
        settled: Files that are new or have changed, by relative path.
        known: All files known before, by relative path.

    Returns:
        The files of `settled` that are still as listed, by relative path. A content known under another path gets the
        same recording.
    """
    by_fingerprint = {file.fingerprint: file for file in known.values() if file.fingerprint and file.state == "known"}
    found: dict[str, SourceFile] = {}
    for source_path, listed in settled.items():
        path = folder / source_path
        if listed.size_bytes == 0:
            found[source_path] = _unreadable(source_path, listed, "It is empty (0 bytes).")
            continue
        try:
            fingerprint = content_fingerprint(path)
            stat = path.stat()
        except FileNotFoundError:
            if "\\" in source_path:
                found[source_path] = _unreadable(source_path, listed, "Its name is not valid UTF-8: rename the file.")
            continue
        except OSError as error:
            found[source_path] = _unreadable(source_path, listed, f"It cannot be read: {error.strerror or error}.")
            continue
        if FileState(stat.st_size, stat.st_mtime_ns) != listed:
            continue  # it changed while it was read: it has not settled after all
        twin = by_fingerprint.get(fingerprint)
        if twin is not None and twin.source_path != source_path:
            reason = f"It has the same content as {twin.source_path}."
            file = SourceFile(
                source_path, listed.size_bytes, listed.mtime_ns, twin.recording_id, fingerprint, "duplicate", reason
            )
        else:
            recording_id = recording_id_of(PurePosixPath(source_path).name, fingerprint)
            file = SourceFile(source_path, listed.size_bytes, listed.mtime_ns, recording_id, fingerprint, "known", None)
            by_fingerprint[fingerprint] = file
        found[source_path] = file
    return found


def _unreadable(source_path: str, listed: FileState, reason: str) -> SourceFile:
    return SourceFile(source_path, listed.size_bytes, listed.mtime_ns, None, None, "unreadable", reason)
