"""Identifies recordings by the content of their files, and maintains the table source_files.

A renamed or copied file is the same recording; a file with new content under an old name is a new recording.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from resources.config.settings import Settings
from resources.schema.recording_tables import SOURCE_FILES
from resources.storage.delta_store import Store
from resources.watched_files import FileState, Listing, camera_of

_BLOCK_COUNT = 16
_BLOCK_BYTES = 65_536
_MAX_SLUG_LENGTH = 60
_CANNOT_BE_READ = "The file cannot be read"


@dataclass(frozen=True)
class SourceFile:
    """A file of a watched folder, and its recording or the reason why it has no recording of its own.

    Every field is a column of `source_files`. `source_path` is relative to the watched folder, and absolute in a
    further one. `replaces` is the recording of the beginning of this file, ingested while the file was still growing.
    """

    source_path: str
    size_bytes: int
    mtime_ns: int
    recording_id: str | None
    fingerprint: str | None
    state: str
    reason: str | None
    camera: str | None = None
    seen_at_utc: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)
    replaces: str | None = field(default=None, compare=False)

    @property
    def may_become_readable(self) -> bool:
        """Whether the file could not be read for a reason that may be temporary: permissions, a network share."""
        return self.state == "unreadable" and (self.reason or "").startswith(_CANNOT_BE_READ)

    @property
    def file_state(self) -> FileState:
        """Size and mtime when the file was read."""
        return FileState(self.size_bytes, self.mtime_ns)


def content_fingerprint(path: Path, size_bytes: int | None = None) -> str:
    """Compute a file's fingerprint, 16 hexadecimal digits: a hash of its size and of blocks sampled evenly over it.

    Args:
        path: The file.
        size_bytes: Size of the beginning of the file to compute the fingerprint of; None means the whole file.
    """
    size_bytes = path.stat().st_size if size_bytes is None else size_bytes
    digest = hashlib.blake2b(str(size_bytes).encode(), digest_size=8)
    with path.open("rb") as file:
        if size_bytes <= _BLOCK_COUNT * _BLOCK_BYTES:
            digest.update(file.read(size_bytes))
        else:
            last_position = size_bytes - _BLOCK_BYTES
            for number in range(_BLOCK_COUNT):
                file.seek(last_position * number // (_BLOCK_COUNT - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def recording_id_of(file_name: str, fingerprint: str) -> str:
    """A readable and unique id: letters and digits of the file name, then the start of the fingerprint.

    >>> recording_id_of("front door (2).mp4", "0123456789abcdef")
    'front-door-2-01234567'
    """
    stem = unicodedata.normalize("NFC", PurePosixPath(file_name).stem)
    slug = re.sub(r"[^\w]+", "-", stem).strip("-")[:_MAX_SLUG_LENGTH].strip("-")
    return f"{slug or 'recording'}-{fingerprint[:8]}"


class SourceIndex:
    """The table source_files: the recording of every file, maintained by the watched-folder sensor."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, recording_ids: Sequence[str] | None = None) -> dict[str, SourceFile]:
        """Read the known files by path: all of them, or those of some recordings."""
        rows = self._store.read(SOURCE_FILES, recording_ids, [column.name for column in fields(SourceFile)])
        return {row["source_path"]: SourceFile(**row) for row in rows.to_pylist()}

    def recordings_seen_since(self, since: datetime) -> dict[str, datetime]:
        """Recordings whose file was first found stable after a time, with the time of each."""
        rows = self._store.read(SOURCE_FILES, columns=["recording_id", "seen_at_utc"])
        rows = rows.filter((pc.field("seen_at_utc") > since) & pc.field("recording_id").is_valid())
        return dict(zip(rows["recording_id"].to_pylist(), rows["seen_at_utc"].to_pylist(), strict=True))

    def replaced_recordings(self) -> dict[str, str]:
        """Id of the complete file's recording, by id of the recording of its beginning."""
        rows = self._store.read(SOURCE_FILES, columns=["recording_id", "replaces"])
        rows = rows.filter(pc.field("replaces").is_valid())
        return dict(zip(rows["replaces"].to_pylist(), rows["recording_id"].to_pylist(), strict=True))

    def save(self, files: Iterable[SourceFile]) -> None:
        """Replace all rows of the table."""
        rows = [vars(file) for file in sorted(files, key=lambda file: file.source_path)]
        self._store.replace(SOURCE_FILES, [], pa.Table.from_pylist(rows, schema=SOURCE_FILES.arrow_schema))

    def find_source_file(self, recording_id: str, folder: Path) -> SourceFile | None:
        """Find a file of the recording, preferably one that still exists unchanged; None if no file is known.

        Args:
            recording_id: The recording.
            folder: Watched folder that the paths are relative to.
        """
        files = list(self.load([recording_id]).values())
        for file in files:
            try:
                stat = (folder / file.source_path).stat()
            except OSError:
                continue
            if FileState(stat.st_size, stat.st_mtime_ns) == file.file_state:
                return file
        return files[0] if files else None


def identify_files(
    settings: Settings, stable: Mapping[str, FileState], known: Mapping[str, SourceFile]
) -> dict[str, SourceFile]:
    """Identify the recordings of stable files.

    Args:
        settings: Settings that name the watched folders.
        stable: State by path of the stable files that are new or have changed.
        known: All previously known files, by path.

    Returns:
        The files of `stable` that have not changed since, by path. A file whose content equals that of a known file
        under another path gets the same recording, as a duplicate.
    """
    by_fingerprint: dict[str | None, SourceFile] = {
        file.fingerprint: file for file in known.values() if file.fingerprint and file.state in ("known", "archived")
    }
    identified: dict[str, SourceFile] = {}
    for source_path, file_state in stable.items():
        file = _identify_file(settings, source_path, file_state, by_fingerprint)
        if file is None:
            continue
        if file.state == "known":
            by_fingerprint[file.fingerprint] = file
        identified[source_path] = file
    return identified


def _identify_file(
    settings: Settings, source_path: str, file_state: FileState, by_fingerprint: Mapping[str | None, SourceFile]
) -> SourceFile | None:
    """Identify the recording of one file; None if the file was deleted or changed in the meantime."""

    def source_file(state: str, reason: str | None, recording_id: str | None, fingerprint: str | None) -> SourceFile:
        camera = camera_of(source_path, settings.watched_folders)
        size_bytes, mtime_ns = file_state.size_bytes, file_state.mtime_ns
        return SourceFile(source_path, size_bytes, mtime_ns, recording_id, fingerprint, state, reason, camera)

    def unreadable(reason: str) -> SourceFile:
        return source_file("unreadable", reason, None, None)

    if file_state.size_bytes == 0:
        return unreadable("The file is empty (0 bytes).")
    path = settings.watched_folder / source_path
    try:
        fingerprint = content_fingerprint(path)
        stat = path.stat()
    except FileNotFoundError:
        return unreadable("The file name is not valid UTF-8: rename the file.") if "\\" in source_path else None
    except OSError as error:
        return unreadable(f"{_CANNOT_BE_READ}: {error.strerror or error}.")
    if FileState(stat.st_size, stat.st_mtime_ns) != file_state:
        return None  # changed while it was read, so it is not stable after all
    original = by_fingerprint.get(fingerprint)
    if original is not None and original.source_path != source_path:
        reason = f"The file has the same content as {original.source_path}."
        return source_file("duplicate", reason, original.recording_id, fingerprint)
    return source_file("known", None, recording_id_of(PurePosixPath(source_path).name, fingerprint), fingerprint)


def skipped_files(listing: Listing, folders: Sequence[Path]) -> dict[str, SourceFile]:
    """Rows of `source_files` for the skipped files and folders of a listing, by path."""
    return {
        path: SourceFile(path, 0, 0, None, None, "skipped", reason, camera_of(path, folders))
        for path, reason in listing.skipped.items()
    }


def find_grown_recordings(
    settings: Settings, identified: Mapping[str, SourceFile], known: Mapping[str, SourceFile]
) -> dict[str, SourceFile]:
    """Find files whose beginning was ingested before they were complete, because the copy had paused.

    Args:
        settings: Settings that name the watched folders.
        identified: Newly identified files, by path.
        known: All previously known files, by path.

    Returns:
        The files of `identified`; `replaces` is filled in those whose beginning is a recording.
    """
    files = dict(identified)
    for path, file in identified.items():
        earlier_file = known.get(path)
        if earlier_file is None or earlier_file.recording_id is None or earlier_file.size_bytes >= file.size_bytes:
            continue
        try:
            fingerprint = content_fingerprint(settings.watched_folder / path, earlier_file.size_bytes)
        except OSError:
            continue  # deleted in the meantime, so whether the file had grown cannot be determined
        if file.recording_id and fingerprint == earlier_file.fingerprint:
            files[path] = replace(file, replaces=earlier_file.recording_id)
    return files


def find_emptied_folders(settings: Settings, listing: Listing, known: Mapping[str, SourceFile]) -> dict[Path, int]:
    """Find watched folders that are empty although recordings in them are known, as after an unmount.

    Returns:
        Number of known files with a recording, by folder.
    """
    file_counts: dict[Path, int] = {}
    for folder in settings.watched_folders:
        prefix = "" if folder == settings.watched_folder else f"{folder}/"

        def is_inside(path: str, prefix: str = prefix) -> bool:
            return path.startswith(prefix) if prefix else not path.startswith("/")

        known_count = sum(1 for path, file in known.items() if file.recording_id and is_inside(path))
        has_files = any(is_inside(path) for path in (*listing.files, *listing.skipped))
        if known_count and not has_files and folder.is_dir():
            file_counts[folder] = known_count
    return file_counts
