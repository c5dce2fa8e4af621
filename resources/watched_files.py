"""Lists the files of the watched folders; nothing in this package writes into those folders."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from resources.config.media_config import IngestSettings
from resources.config.settings import Settings
from resources.errors import PipelineError, RecordingError

_NOT_A_FILE = "The entry is a pipe, a socket or a device, not a file."
_MAX_NAME_LENGTH = 300  # of a folder in a sentence
_MIN_MTIME_NS, _MAX_MTIME_NS = -(2**63), 2**63 - 1  # what tables can store: from 1677 to 2262
_PARTIAL_EXTENSIONS = ("part", "partial", "crdownload", "download", "tmp", "temp", "filepart", "!qb", "aria2")


@dataclass(frozen=True)
class FileState:
    """Size and mtime of a file; two equal states some seconds apart mean that the file is stable."""

    size_bytes: int
    mtime_ns: int

    @classmethod
    def read(cls, path: Path) -> "FileState":
        """Read the present state of a file.

        Raises:
            OSError: The file is missing, or its folder is not readable.
        """
        return cls.of(path.stat())

    @classmethod
    def of(cls, stat: os.stat_result) -> "FileState":
        """The state of a file; an mtime that tables cannot store becomes the nearest one that they can."""
        return cls(stat.st_size, min(max(stat.st_mtime_ns, _MIN_MTIME_NS), _MAX_MTIME_NS))

    @property
    def is_mtime_storable(self) -> bool:
        """Whether the mtime is in the years that tables can store, 1678 to 2261."""
        return _MIN_MTIME_NS < self.mtime_ns < _MAX_MTIME_NS


@dataclass(frozen=True)
class Listing:
    """Contents of the watched folders.

    Attributes:
        files: State of every file that could be a recording, by path.
        skipped: Reason by path, for files that are not recordings and for folders that cannot be read. Hidden files and
            folders are omitted.
        problems: One sentence per watched folder, or folder in it, that cannot be read.
    """

    files: dict[str, FileState] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def camera_of(source_path: str, folders: Sequence[Path] = ()) -> str | None:
    """Name of the camera: the first folder under the watched folder; None for a file directly in it.

    Args:
        source_path: Relative to the watched folder, or absolute under one of `folders`.
        folders: The watched folders.
    """
    path = PurePosixPath(source_path)
    for folder in folders:
        if path.is_absolute() and path.is_relative_to(folder):
            path = path.relative_to(folder)
    return path.parts[0] if len(path.parts) > 1 and not path.is_absolute() else None


def list_watched_files(settings: Settings) -> Listing:
    """List the files of all watched folders; a missing folder is a problem and does not hide the files of the others.

    Raises:
        PipelineError: No watched folder can be read.
    """
    listing, unreadable_folders = Listing(), list[str]()
    for folder in settings.watched_folders:
        try:
            _list_folder(folder, "" if folder == settings.watched_folder else f"{folder}/", settings.ingest, listing)
        except PipelineError as error:
            unreadable_folders.append(str(error))
    if len(unreadable_folders) == len(settings.watched_folders):
        raise PipelineError(" ".join(unreadable_folders))
    listing.problems[:0] = unreadable_folders
    return listing


def _list_folder(folder: Path, prefix: str, ingest: IngestSettings, listing: Listing) -> None:
    try:
        is_file, is_folder = folder.is_file(), folder.is_dir()
    except OSError as error:
        raise PipelineError(f"The watched folder {folder} cannot be read: {error.strerror or error}.") from error
    if is_file:
        raise PipelineError(f"The watched folder {folder} is a file: name the folder that contains it.")
    if not is_folder:
        raise PipelineError(f"The watched folder {folder} does not exist: create it, mount it or name another.")
    root = folder.resolve()
    extensions = frozenset(ingest.extensions)
    links: dict[str, FileState] = {}
    for path, entry in _scan_files(folder, prefix, listing):
        result = _examine_entry(entry, root, extensions)
        if isinstance(result, str):
            listing.skipped[_storable_path(path)] = result
        elif result is not None:
            (links if entry.is_symlink() else listing.files)[_storable_path(path)] = result
    listing.files.update(links)  # last, so that the recording is the file and links to it are duplicates


def _storable_path(path: str) -> str:
    """A path as tables can store it: bytes of names that are not valid UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _examine_entry(entry: "os.DirEntry[str]", root: Path, extensions: Collection[str]) -> FileState | str | None:
    """The state of a file that could be a recording, or the reason why an entry is none; None if it was deleted."""
    extension = entry.name.rpartition(".")[2].lower() if "." in entry.name else ""
    try:
        if entry.is_symlink() and (reason := _non_file_reason(entry, root)):
            return reason
        if extension in _PARTIAL_EXTENSIONS:
            return (
                f"The extension .{extension} marks an unfinished copy or download: rename the file when it is complete."
            )
        if extension not in extensions:
            extension = _storable_path(extension)
            return (
                f"The extension .{extension} is not in ingest.extensions: add it if the file is a recording."
                if extension
                else "The file name has no extension: add that of the file's format."
            )
        return _non_file_reason(entry, root) or FileState.of(entry.stat())
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"The file cannot be examined: {error.strerror or error}."


def _non_file_reason(entry: "os.DirEntry[str]", root: Path) -> str | None:
    """Reason why a directory entry cannot be read as a file of the folder; None if it can."""
    try:
        if not entry.is_symlink():
            return None if entry.is_file() else _NOT_A_FILE
        target = Path(entry.path).resolve(strict=True)
    except FileNotFoundError:
        return "The target of the link does not exist." if entry.is_symlink() else None
    except (OSError, RuntimeError):  # RuntimeError is how Python 3.11 reports a loop of links
        return "The link cannot be resolved."
    if target.is_dir():
        return "The link points to a folder and is not followed: add that folder to further_watched_folders."
    if not target.is_relative_to(root):
        return "The link points out of the watched folder: put the file itself there."
    return None if target.is_file() else _NOT_A_FILE


def resolve_source_path(settings: Settings, source_path: str) -> Path:
    """Path of the file that a path of `source_files` refers to, checked before every use.

    Args:
        settings: Settings that name the watched folders.
        source_path: Relative to the watched folder, or absolute in a further one.

    Raises:
        RecordingError: The file is outside the watched folders, for example because it has been replaced by a link
            since it was listed.
    """
    file = settings.watched_folder / source_path
    if not any(file.resolve().is_relative_to(folder.resolve()) for folder in settings.watched_folders):
        raise RecordingError(
            f"The file {source_path} is outside the watched folders: put the file itself there, not a link."
        )
    return file


def _scan_files(folder: Path, prefix: str, listing: Listing) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Scan a folder recursively; yields path and directory entry of all but folders, ordered by name.

    Links are not followed. Folders that cannot be read are added to `listing.skipped` and `listing.problems`.

    Raises:
        PipelineError: The folder itself cannot be read.
    """
    pending = [(str(folder), prefix)]
    while pending:
        path, path_prefix = pending.pop()
        try:
            with os.scandir(path) as unsorted_entries:
                entries = sorted(unsorted_entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue  # deleted during the scan
        except OSError as error:
            name = _storable_path(path)
            name = name if len(name) <= _MAX_NAME_LENGTH else f"{name[:80]}…{name[-80:]}"
            reason = f"The folder {name} cannot be read: {error.strerror}."
            if path == str(folder):
                raise PipelineError(reason) from error
            listing.skipped[_storable_path(path_prefix.rstrip("/"))] = reason
            listing.problems.append(reason)
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append((entry.path, f"{path_prefix}{entry.name}/"))
            else:
                yield path_prefix + entry.name, entry
        pending += reversed(folders)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether a directory entry is a folder; False if that cannot be determined, which _examine_entry reports."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def is_incomplete_container(file: Path) -> bool:
    """Whether a file is an incomplete container: an MP4 without index (`moov`), or an AVI shorter than its header says.

    MP4 is a sequence of boxes that start with their lengths (ISO/IEC 14496-12, 4.2); AVI is one chunk of that form
    (RIFF).
    """
    size_bytes = file.stat().st_size
    with file.open("rb") as content:
        head = content.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return size_bytes < 8 + int.from_bytes(head[4:8], "little")
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return False
        position_bytes, has_index = 0, False
        while position_bytes + 8 <= size_bytes:
            content.seek(position_bytes)
            head = content.read(16)
            length_bytes = int.from_bytes(head[:4], "big")
            if length_bytes == 1:
                length_bytes = int.from_bytes(head[8:16], "big")
            if length_bytes == 0:
                length_bytes = size_bytes - position_bytes
            if length_bytes < 8:
                return True  # not a box: the space is reserved, but the copy has not written it yet
            has_index = has_index or head[4:8] == b"moov"
            position_bytes += length_bytes
        return not has_index or position_bytes > size_bytes
