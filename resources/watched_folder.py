"""What is in the watched folders, and which recording each file is.

The folders are only ever read. A recording is recognised by its content, so a renamed or copied file is the same
recording, and a changed file under an old name is a new one.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pyarrow as pa

from resources.errors import PipelineError, RecordingError
from resources.schema import SOURCE_FILES
from resources.settings import IntakeSettings, Settings
from resources.storage import Store

_SAMPLES = 16
_SAMPLE_BYTES = 65_536
_SLUG_LENGTH = 60
_PARTIAL_ENDINGS = ("part", "partial", "crdownload", "download", "tmp", "temp", "filepart", "!qb", "aria2")
_CANNOT_BE_READ = "It cannot be read"


@dataclass(frozen=True)
class FileState:
    """A file as the directory lists it; two equal states some seconds apart mean that it rests."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class SourceFile:
    """A file of a watched folder that has settled, and the recording it holds; or why it holds none.

    `source_path` is relative to the watched folder, and absolute in a further one.
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

    @property
    def may_become_readable(self) -> bool:
        """Whether it could not be read for a reason that may pass, as rights do and a share's failures."""
        return self.state == "unreadable" and (self.reason or "").startswith(_CANNOT_BE_READ)

    @property
    def file_state(self) -> FileState:
        """Size and mtime when it was read."""
        return FileState(self.size_bytes, self.mtime_ns)


@dataclass(frozen=True)
class Listing:
    """What the watched folders hold.

    Attributes:
        files: Every file that could be a recording, by path.
        skipped: Why other files and folders are left out, by path. Hidden ones are not mentioned.
        problems: Folders that cannot be read, in sentences.
    """

    files: dict[str, FileState] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def camera_of(source_path: str, folders: Sequence[Path] = ()) -> str | None:
    """The first folder under the watched folder; None for a file directly in it.

    Args:
        source_path: Relative to the watched folder, or absolute under one of `folders`.
        folders: The watched folders.
    """
    path = PurePosixPath(source_path)
    for folder in folders:
        if path.is_absolute() and path.is_relative_to(folder):
            path = path.relative_to(folder)
    return path.parts[0] if len(path.parts) > 1 and not path.is_absolute() else None


def list_recordings(settings: Settings) -> Listing:
    """List all watched folders; one that is not there is a problem, not empty, and does not hide the others.

    Raises:
        PipelineError: None of them can be read.
    """
    listing = Listing()
    for folder in settings.watched_folders:
        try:
            _list(folder, "" if folder == settings.watched_folder else f"{folder}/", settings.intake, listing)
        except PipelineError as error:
            listing.problems.append(str(error))
    if len(listing.problems) == len(settings.watched_folders):
        raise PipelineError(" ".join(listing.problems))
    return listing


def _list(folder: Path, prefix: str, intake: IntakeSettings, listing: Listing) -> None:
    if folder.is_file():
        raise PipelineError(f"{folder} is a file: name the folder that it lies in.")
    if not folder.is_dir():
        raise PipelineError(f"The watched folder {folder} does not exist: create it, mount it or name another.")
    root = folder.resolve()
    extensions = frozenset(intake.extensions)
    links: dict[str, FileState] = {}
    for relative, entry in _walk(folder, prefix, listing):
        try:
            # A name that is not valid UTF-8 cannot be stored; it is listed with its odd bytes spelt out.
            relative.encode()
        except UnicodeEncodeError:
            relative = os.fsencode(relative).decode("utf-8", "backslashreplace")
        ending = entry.name.rpartition(".")[2].lower() if "." in entry.name else ""
        if entry.is_symlink() and (told := _not_a_file(entry, root)):
            listing.skipped[relative] = told
        elif ending in _PARTIAL_ENDINGS:
            listing.skipped[relative] = (
                "It is still being copied or downloaded, by its ending: rename it when it is whole."
            )
        elif ending not in extensions:
            listing.skipped[relative] = (
                f"Its ending .{ending} is not one of a recording: add it to intake.extensions if it is."
                if ending
                else "Its name has no ending: give it that of its format."
            )
        elif told := _not_a_file(entry, root):
            listing.skipped[relative] = told
        else:
            try:
                stat = entry.stat()
            except OSError:
                continue  # gone since it was listed
            (links if entry.is_symlink() else listing.files)[relative] = FileState(stat.st_size, stat.st_mtime_ns)
    listing.files.update(links)  # last, so that of a file and links to it the file is the recording


def _not_a_file(entry: "os.DirEntry[str]", root: Path) -> str | None:
    """Why something in the folder cannot be read as a file of it; None where it can."""
    try:
        if not entry.is_symlink():
            return None if entry.is_file() else "It is no file but a pipe, a socket or a device."
        target = Path(entry.path).resolve(strict=True)
    except FileNotFoundError:
        return "It is a link to nothing." if entry.is_symlink() else None
    except (OSError, RuntimeError):  # Python 3.11 has an error of its own for links that lead to each other
        return "It is a link that leads nowhere."
    if target.is_dir():
        return "It is a link to a folder, which is not entered: name that folder at further_watched_folders."
    if not target.is_relative_to(root):
        return "It is a link that leads out of the watched folder: put the file itself there."
    return None if target.is_file() else "It is no file but a pipe, a socket or a device."


def file_of(settings: Settings, source_path: str) -> Path:
    """The file of a path of `source_files`, looked up anew.

    Raises:
        RecordingError: It leads out of the watched folders, as a link may that was put there since the file was found.
    """
    file = settings.watched_folder / source_path
    if not any(file.resolve().is_relative_to(folder.resolve()) for folder in settings.watched_folders):
        raise RecordingError(f"{source_path} leads out of the watched folder: put the file itself there.")
    return file


def _walk(folder: Path, prefix: str, listing: Listing) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """What lies below a folder and is no folder, with its path, in the order of the names; links are not followed."""
    waiting = [(str(folder), prefix)]
    while waiting:
        path, before = waiting.pop()
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue  # removed while we looked
        except OSError as error:
            told = f"The folder {path} cannot be read: {error.strerror}."
            if path == str(folder):
                raise PipelineError(told) from error
            listing.skipped[before.rstrip("/")] = told
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, f"{before}{entry.name}/"))
            else:
                yield before + entry.name, entry
        waiting += reversed(folders)


def looks_unfinished(file: Path) -> bool:
    """Whether a file's own structure says that more of it is to come: an MP4 without index, an AVI shorter than told.

    MP4 is a row of boxes, each of which begins with its length (ISO/IEC 14496-12, 4.2), AVI one chunk that does (RIFF).
    """
    size_bytes = file.stat().st_size
    with file.open("rb") as content:
        head = content.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return size_bytes < 8 + int.from_bytes(head[4:8], "little")
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return False
        place, has_index = 0, False
        while place + 8 <= size_bytes:
            content.seek(place)
            head = content.read(16)
            length_bytes = int.from_bytes(head[:4], "big")
            if length_bytes == 1:
                length_bytes = int.from_bytes(head[8:16], "big")
            if length_bytes == 0:
                length_bytes = size_bytes - place
            if length_bytes < 8:
                return True  # not a box: a copy that reserved its space first
            has_index = has_index or head[4:8] == b"moov"
            place += length_bytes
        return not has_index or place > size_bytes


def content_fingerprint(path: Path, size_bytes: int | None = None) -> str:
    """Hash of a file's size and of blocks sampled evenly over its content, 16 hexadecimal digits.

    Args:
        path: The file.
        size_bytes: Only so much of its beginning, as if that were all; None means all.
    """
    size_bytes = path.stat().st_size if size_bytes is None else size_bytes
    digest = hashlib.blake2b(str(size_bytes).encode(), digest_size=8)
    with path.open("rb") as file:
        if size_bytes <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(file.read(size_bytes))
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

    def load(self, recording_ids: Sequence[str] | None = None) -> dict[str, SourceFile]:
        """Known files by path: all, or only those that hold some recordings."""
        rows = self._store.read(SOURCE_FILES, recording_ids, [one.name for one in fields(SourceFile)])
        return {row["source_path"]: SourceFile(**row) for row in rows.to_pylist()}

    def save(self, files: Iterable[SourceFile]) -> None:
        """Replace the table."""
        rows = [vars(file) for file in sorted(files, key=lambda file: file.source_path)]
        self._store.replace(SOURCE_FILES, [], pa.Table.from_pylist(rows, schema=SOURCE_FILES.arrow_schema))

    def source_of(self, recording_id: str, folder: Path) -> SourceFile | None:
        """A file that holds the recording and is there; failing that, the one that did; None if never seen.

        Args:
            recording_id: The recording.
            folder: The watched folder, to which the paths are relative.
        """
        holders = list(self.load([recording_id]).values())
        for file in holders:
            try:
                stat = (folder / file.source_path).stat()
            except OSError:
                continue
            if FileState(stat.st_size, stat.st_mtime_ns) == file.file_state:
                return file
        return holders[0] if holders else None


def identify(
    settings: Settings, settled: Mapping[str, FileState], known: Mapping[str, SourceFile]
) -> dict[str, SourceFile]:
    """Give settled files their recordings.

    Args:
        settings: Name the watched folders.
        settled: Files that are new or have changed, by path.
        known: All files known before, by path.

    Returns:
        The files of `settled` that are still as listed, by path. A content known under another path gets the same
        recording.
    """
    folders = settings.watched_folders
    by_fingerprint = {
        file.fingerprint: file for file in known.values() if file.fingerprint and file.state in ("known", "closed")
    }
    found: dict[str, SourceFile] = {}
    for source_path, listed in settled.items():
        path = settings.watched_folder / source_path

        def unreadable(reason: str, path: str = source_path, listed: FileState = listed) -> SourceFile:
            return SourceFile(
                path, listed.size_bytes, listed.mtime_ns, None, None, "unreadable", reason, camera_of(path, folders)
            )

        if listed.size_bytes == 0:
            found[source_path] = unreadable("It is empty (0 bytes).")
            continue
        try:
            fingerprint = content_fingerprint(path)
            stat = path.stat()
        except FileNotFoundError:
            if "\\" in source_path:
                found[source_path] = unreadable("Its name is not valid UTF-8: rename the file.")
            continue
        except OSError as error:
            found[source_path] = unreadable(f"{_CANNOT_BE_READ}: {error.strerror or error}.")
            continue
        if FileState(stat.st_size, stat.st_mtime_ns) != listed:
            continue  # it changed while it was read: it has not settled after all
        twin = by_fingerprint.get(fingerprint)
        if twin is not None and twin.source_path != source_path:
            recording_id, state = twin.recording_id, "duplicate"
            reason: str | None = f"It has the same content as {twin.source_path}."
        else:
            recording_id, state = recording_id_of(PurePosixPath(source_path).name, fingerprint), "known"
            reason = None
        camera = camera_of(source_path, folders)
        file = SourceFile(
            source_path, listed.size_bytes, listed.mtime_ns, recording_id, fingerprint, state, reason, camera
        )
        if state == "known":
            by_fingerprint[fingerprint] = file
        found[source_path] = file
    return found


def emptied(settings: Settings, listing: Listing, known: Mapping[str, SourceFile]) -> dict[Path, int]:
    """Watched folders that hold nothing now, though files are known of them, and how many: as where a mount is gone."""
    found = {}
    for folder in settings.watched_folders:
        prefix = "" if folder == settings.watched_folder else f"{folder}/"

        def is_in(path: str, prefix: str = prefix) -> bool:
            return path.startswith(prefix) if prefix else not path.startswith("/")

        count = sum(1 for path, file in known.items() if file.recording_id and is_in(path))
        is_listed = any(is_in(path) for path in (*listing.files, *listing.skipped))
        if count and not is_listed and folder.is_dir():
            found[folder] = count
    return found


def skipped_files(listing: Listing, folders: Sequence[Path]) -> dict[str, SourceFile]:
    """The files and folders that are left out, with their reasons, as `source_files` tells of them."""
    return {
        path: SourceFile(path, 0, 0, None, None, "skipped", reason, camera_of(path, folders))
        for path, reason in listing.skipped.items()
    }


def grown(settings: Settings, found: Mapping[str, SourceFile], known: Mapping[str, SourceFile]) -> dict[str, str]:
    """Recordings that were taken up before their file was whole, because its copying had paused.

    Args:
        settings: Name the watched folders.
        found: Files that were identified now, by path.
        known: All files known before, by path.

    Returns:
        By such a recording the one that its whole file holds.
    """
    whole = {}
    for path, file in found.items():
        before = known.get(path)
        if before is None or before.recording_id is None or before.size_bytes >= file.size_bytes:
            continue
        try:
            beginning = content_fingerprint(settings.watched_folder / path, before.size_bytes)
        except OSError:
            continue  # gone again: whatever it was, it is a file of its own
        if file.recording_id and beginning == before.fingerprint:
            whole[before.recording_id] = file.recording_id
    return whole
