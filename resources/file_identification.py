"""Identifies the recordings of files by their content.

A renamed or copied file is the same recording; a file with new content under an old name is a new recording. The
fingerprint of a large file covers only a part of it: the file is unverified until a run has compared all of it.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from resources.config.settings import Settings
from resources.file_hashes import FileHashes, content_fingerprint, is_sampled, read_file_hashes
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import CANNOT_BE_READ, SourceFile
from resources.storage.delta_store import Store
from resources.watched_files import FileState, camera_of

_MAX_SLUG_LENGTH = 60
_ID_DIGIT_COUNTS = (8, 16, 24, 32, 48)  # the first with which no other recording has the same id


def recording_id_of(file_name: str, digits: str, digit_count: int = _ID_DIGIT_COUNTS[0]) -> str:
    """A readable id: letters and digits of the file name, then the start of the fingerprint.

    Args:
        file_name: Name of the file.
        digits: Its fingerprint, and its content hash if that is known.
        digit_count: Number of these digits; more where another recording has the shorter id.

    >>> recording_id_of("front door (2).mp4", "0123456789abcdef")
    'front-door-2-01234567'
    """
    stem = unicodedata.normalize("NFC", PurePosixPath(file_name).stem)
    slug = re.sub(r"[^\w]+", "-", stem).strip("-")[:_MAX_SLUG_LENGTH].strip("-")
    return f"{slug or 'recording'}-{digits[:digit_count]}"


def new_recording_id(
    file_name: str, fingerprint: str, content_hash: str | None, fingerprints: Mapping[str, str]
) -> str:
    """Choose the id of a new recording: the shortest that no other recording has.

    Args:
        file_name: Name of its file.
        fingerprint: Its fingerprint.
        content_hash: Hash of its content, where a recording with the same fingerprint has other content; else None.
        fingerprints: Fingerprint by recording.
    """
    digits = f"{fingerprint}{content_hash or ''}"
    candidates = [recording_id_of(file_name, digits, count) for count in _ID_DIGIT_COUNTS if count <= len(digits)]

    def is_free(recording_id: str) -> bool:
        owner = fingerprints.get(recording_id)
        return owner is None or (content_hash is None and owner == fingerprint)

    return next(filter(is_free, candidates), candidates[-1])


@dataclass(frozen=True)
class KnownContents:
    """What runs have stored of the contents of recordings and files.

    Attributes:
        fingerprints: Fingerprint by recording that was probed.
        content_hashes: Content hash by recording; without those that an older version ingested.
        file_hashes: Hashes of files that were compared.
    """

    fingerprints: Mapping[str, str] = field(default_factory=dict)
    content_hashes: Mapping[str, str] = field(default_factory=dict)
    file_hashes: FileHashes = field(default_factory=FileHashes)

    @classmethod
    def load(cls, store: Store) -> "KnownContents":
        """Read the tables recordings and file_hashes."""
        rows = store.read(RECORDINGS, columns=["recording_id", "fingerprint", "content_hash"]).to_pylist()
        return cls(
            {row["recording_id"]: row["fingerprint"] for row in rows},
            {row["recording_id"]: row["content_hash"] for row in rows if row["content_hash"]},
            FileHashes(read_file_hashes(store)),
        )


def identify_files(
    settings: Settings,
    stable: Mapping[str, FileState],
    known: Mapping[str, SourceFile],
    contents: KnownContents | None = None,
) -> dict[str, SourceFile]:
    """Identify the recordings of stable files.

    Args:
        settings: Settings that name the watched folders.
        stable: State by path of the stable files that are new or have changed.
        known: All previously known files, by path.
        contents: What runs have stored of the contents; None means that there were no runs.

    Returns:
        The files of `stable` that have not changed since, by path. A file whose content equals that of a known file
        under another path gets the same recording, as a duplicate. A large file that has only the fingerprint of a
        recording is unverified until a run has compared it.
    """
    identification = _Identification(settings, known, contents or KnownContents(), stable.keys())
    identified: dict[str, SourceFile] = {}
    for source_path, file_state in stable.items():
        file = identification.identify(source_path, file_state)
        if file is not None:
            identified[source_path] = file
    return identified


def identify_compared_files(
    settings: Settings,
    listed: Mapping[str, FileState],
    known: Mapping[str, SourceFile],
    contents: KnownContents,
) -> dict[str, SourceFile]:
    """Identify the recordings of unverified files that a run has compared since.

    Args:
        settings: Settings that name the watched folders.
        listed: All listed files by path.
        known: All previously known files, by path.
        contents: What runs have stored of the contents.

    Returns:
        The unverified files of `known` that are still there unchanged, by path; those that no run has compared yet are
        unverified as before.
    """
    identification = _Identification(settings, known, contents)
    return {
        path: identification.compare(file)
        for path, file in known.items()
        if file.is_unverified and listed.get(path) == file.file_state
    }


class _Identification:
    """Identifies the recordings of files, one file after the other.

    Args:
        settings: Settings that name the watched folders.
        known: All previously known files, by path.
        contents: What runs have stored of the contents.
        changed: Paths of the known files that have changed since.
    """

    def __init__(
        self,
        settings: Settings,
        known: Mapping[str, SourceFile],
        contents: KnownContents,
        changed: Collection[str] = (),
    ) -> None:
        self._settings, self._contents, self._changed = settings, contents, changed
        self._fingerprints = dict(contents.fingerprints)
        self._content_hashes: dict[str, str | None] = dict.fromkeys(contents.fingerprints)
        self._content_hashes |= contents.content_hashes
        self._recordings: dict[str, dict[str, None]] = {}  # by fingerprint, in a set that keeps its order
        self._known_files: dict[str, list[SourceFile]] = {}  # by recording, changed ones included
        self._files: dict[str, list[SourceFile]] = {}  # by recording
        for file in known.values():
            if file.recording_id is not None and file.fingerprint is not None:
                self._known_files.setdefault(file.recording_id, []).append(file)
                self._add(file, file.recording_id, file.fingerprint, is_current=file.source_path not in changed)
                if (file_hash := contents.file_hashes.find(file.source_path, file.file_state)) and file.is_confirmed:
                    # Registered after a comparison, and not probed yet.
                    self._content_hashes.setdefault(file.recording_id, file_hash.content_hash)
        # Recordings without a file; one that an older version ingested is found by its id alone.
        for recording_id in contents.content_hashes:
            self._recordings.setdefault(contents.fingerprints[recording_id], {}).setdefault(recording_id)

    def _add(self, file: SourceFile, recording_id: str, fingerprint: str, *, is_current: bool = True) -> None:
        self._recordings.setdefault(fingerprint, {}).setdefault(recording_id)
        self._fingerprints[recording_id] = fingerprint
        if is_current:
            self._files.setdefault(recording_id, []).append(file)

    def identify(self, source_path: str, file_state: FileState) -> SourceFile | None:
        """Identify the recording of one file; None if the file was deleted or changed in the meantime."""
        camera = camera_of(source_path, self._settings.watched_folders)
        file = SourceFile(source_path, file_state.size_bytes, file_state.mtime_ns, None, None, "unreadable", "", camera)
        if file_state.size_bytes == 0:
            return replace(file, reason="The file is empty (0 bytes).")
        if not file_state.is_mtime_storable:
            reason = (
                "The mtime of the file is not in the years 1678 to 2261: set it, for example with the command touch."
            )
            return replace(file, reason=reason)
        path = self._path(source_path)
        try:
            fingerprint = content_fingerprint(path)
            changed_state = FileState.read(path)
        except FileNotFoundError:
            is_valid_name = "\\" not in source_path
            return None if is_valid_name else replace(file, reason="The file name is not valid UTF-8: rename the file.")
        except OSError as error:
            return replace(file, reason=f"{CANNOT_BE_READ}: {error.strerror or error}.")
        if changed_state != file_state:
            return None  # changed while it was read, so it is not stable after all
        return self.compare(replace(file, fingerprint=fingerprint))

    def compare(self, file: SourceFile) -> SourceFile:
        """Identify the recording of a file by its fingerprint, and by its content where a run has compared that."""
        recording_ids = list(self._recordings.get(file.fingerprint or "", ()))
        if not recording_ids:
            return self._new_recording(file, None)
        if not is_sampled(file.size_bytes):
            return self._file_of(file, recording_ids[0])
        if moved_id := self._find_moved(file, recording_ids):
            return self._file_of(file, moved_id)
        file_hash = self._contents.file_hashes.find(file.source_path, file.file_state)
        if file_hash is not None and file_hash.error is not None:
            return replace(file, recording_id=None, fingerprint=None, state="unreadable", reason=file_hash.error)
        recording_id = file.recording_id if file.recording_id in recording_ids else recording_ids[0]
        if file_hash is not None:
            for known_id in recording_ids:
                if self._content_hashes.get(known_id) == file_hash.content_hash:
                    return self._file_of(file, known_id)
            unprobed_ids = [known_id for known_id in recording_ids if known_id not in self._content_hashes]
            if not unprobed_ids:
                return self._new_recording(file, file_hash.content_hash)
            recording_id = unprobed_ids[0]
        reason = f"The file seems to have the content of {recording_id}: it is read whole and compared."
        return replace(file, recording_id=recording_id, state="unverified", reason=reason)

    def _find_moved(self, file: SourceFile, recording_ids: Sequence[str]) -> str | None:
        """Find the recording of which this is a moved file or a link: same size, mtime and fingerprint as its file.

        The old path must be gone or be the same file: a copy with the mtime of the original can have other content.
        """
        for recording_id in recording_ids:
            for other in self._known_files.get(recording_id, ()):
                if not other.is_confirmed or other.file_state != file.file_state:
                    continue
                if other.source_path in self._changed or self._is_gone_or_same(other.source_path, file.source_path):
                    return recording_id
        return None

    def _is_gone_or_same(self, source_path: str, other_path: str) -> bool:
        try:
            return self._path(source_path).samefile(self._path(other_path))
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _path(self, source_path: str) -> Path:
        return self._settings.watched_folder / source_path

    def _file_of(self, file: SourceFile, recording_id: str) -> SourceFile:
        """The file as one of a recording: its file, or a duplicate if another path is the recording's file."""
        for other in self._files.get(recording_id, ()):
            if other.state in ("known", "archived") and other.source_path != file.source_path:
                reason = f"The file has the same content as {other.source_path}."
                return replace(file, recording_id=recording_id, state="duplicate", reason=reason)
        return self._known(file, recording_id)

    def _new_recording(self, file: SourceFile, content_hash: str | None) -> SourceFile:
        """The file as that of a new recording, with an id that no other recording has."""
        name = PurePosixPath(file.source_path).name
        recording_id = new_recording_id(name, file.fingerprint or "", content_hash, self._fingerprints)
        return self._known(replace(file, seen_at_utc=datetime.now(UTC)), recording_id)

    def _known(self, file: SourceFile, recording_id: str) -> SourceFile:
        known = replace(file, recording_id=recording_id, state="known", reason=None)
        self._add(known, recording_id, known.fingerprint or "")
        return known


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
        if earlier_file is None or not earlier_file.is_confirmed or earlier_file.size_bytes >= file.size_bytes:
            continue
        try:
            fingerprint = content_fingerprint(settings.watched_folder / path, earlier_file.size_bytes)
        except OSError:
            continue  # deleted in the meantime, so whether the file had grown cannot be determined
        if file.recording_id and fingerprint == earlier_file.fingerprint:
            files[path] = replace(file, replaces=earlier_file.recording_id)
    return files
