"""The table source_files: the files of the watched folders, and the recording of each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from resources.config.settings import Settings
from resources.file_hashes import FileHashes, read_file_hashes
from resources.schema.recording_tables import SOURCE_FILES
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors
from resources.storage.locks import exclusive_lock
from resources.watched_files import FileState, Listing, camera_of

CANNOT_BE_READ = "The file cannot be read"
"""Start of the reason of files that are read again later."""


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
        return self.state == "unreadable" and (self.reason or "").startswith(CANNOT_BE_READ)

    @property
    def is_confirmed(self) -> bool:
        """Whether the file, in this version, has the content of its recording."""
        return self.state in ("known", "duplicate", "archived")

    @property
    def is_unverified(self) -> bool:
        """Whether a run has to compare the file with the content of the recording."""
        return self.state == "unverified"

    @property
    def file_state(self) -> FileState:
        """Size and mtime when the file was read."""
        return FileState(self.size_bytes, self.mtime_ns)


class SourceIndex:
    """The table source_files: the recording of every file, maintained by the watched-folder sensor."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from changing the table and the partitions that follow from it.

        Whoever loads the files and saves them holds this lock: `save` replaces all rows.

        Raises:
            PipelineError: The data folder is full, read-only or not accessible.
        """
        with ExitStack() as held:
            with disk_errors(self._store.data_folder):
                held.enter_context(exclusive_lock(self._store.data_folder, "source_files"))
            yield

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
        rows = self._store.read(SOURCE_FILES, columns=["recording_id", "replaces", "state"])
        rows = rows.filter(pc.field("replaces").is_valid() & (pc.field("state") != "unverified"))
        return dict(zip(rows["replaces"].to_pylist(), rows["recording_id"].to_pylist(), strict=True))

    def save(self, files: Iterable[SourceFile]) -> None:
        """Replace all rows of the table."""
        rows = [vars(file) for file in sorted(files, key=lambda file: file.source_path)]
        self._store.replace(SOURCE_FILES, [], pa.Table.from_pylist(rows, schema=SOURCE_FILES.arrow_schema))

    def unhashed_recordings(self) -> set[str]:
        """Recordings with a file that a run still has to read, to compare it with the content of the recording."""
        names = ["source_path", "size_bytes", "mtime_ns", "recording_id", "state"]
        rows = self._store.read(SOURCE_FILES, columns=names)
        unverified = rows.filter(pc.field("state") == "unverified").to_pylist()
        if not unverified:
            return set()
        hashes = FileHashes(read_file_hashes(self._store))
        return {
            row["recording_id"]
            for row in unverified
            if hashes.find(row["source_path"], FileState(row["size_bytes"], row["mtime_ns"])) is None
        }

    def recordings_with_file(self, recording_ids: Sequence[str], folder: Path) -> set[str]:
        """Those of some recordings that have an unchanged file.

        Args:
            recording_ids: The recordings.
            folder: Watched folder that the paths are relative to.
        """
        with_file: set[str] = set()
        for file in self.load(recording_ids).values():
            if file.recording_id is None or file.recording_id in with_file or not file.is_confirmed:
                continue
            try:
                if FileState.read(folder / file.source_path) == file.file_state:
                    with_file.add(file.recording_id)
            except OSError:
                continue
        return with_file


def skipped_files(listing: Listing, folders: Sequence[Path]) -> dict[str, SourceFile]:
    """Rows of `source_files` for the skipped files and folders of a listing, by path."""
    return {
        path: SourceFile(path, 0, 0, None, None, "skipped", reason, camera_of(path, folders))
        for path, reason in listing.skipped.items()
    }


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
