"""Files of forgotten recordings: their rows in source_files keep them, and copies of them, from being ingested again.

Such a row has the state `forgotten`. Its recording_id is NULL once everything else of the recording is deleted: until
then it says which recordings are only partly deleted, because `cv-assets forget` was interrupted.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from resources.file_identification import recording_id_of
from resources.source_index import SourceFile

FORGOTTEN = "forgotten"


def exclude_forgotten(identified: Mapping[str, SourceFile], known: Mapping[str, SourceFile]) -> dict[str, SourceFile]:
    """Mark the identified files that have the content of a forgotten recording.

    Args:
        identified: Newly identified files, by path.
        known: All previously known files, by path.

    Returns:
        The files of `identified`, by path.
    """
    forgotten = {file.fingerprint: file for file in known.values() if file.state == FORGOTTEN}
    return {
        path: replace(file, state=FORGOTTEN, recording_id=original.recording_id, reason=original.reason)
        if file.fingerprint and (original := forgotten.get(file.fingerprint))
        else file
        for path, file in identified.items()
    }


def mark_forgotten(
    files: Mapping[str, SourceFile], recordings: Collection[SourceFile], reason: str
) -> dict[str, SourceFile]:
    """Mark the files of recordings as forgotten.

    Args:
        files: All known files, by path.
        recordings: The file of each recording as it was ingested. One that has no row in `files` any more, because a
            file with other content has its name, gets a row of its own.
        reason: Why the files are not ingested, with the remedy.
    """
    ids = {file.recording_id for file in recordings}
    marked = {
        path: replace(file, state=FORGOTTEN, reason=reason) for path, file in files.items() if file.recording_id in ids
    }
    with_row = {file.recording_id for file in marked.values()}
    for file in recordings:
        if file.recording_id not in with_row and file.fingerprint:
            path = f"{file.source_path} ({file.fingerprint})" if file.source_path in files else file.source_path
            marked[path] = replace(file, source_path=path, state=FORGOTTEN, reason=reason)
    others = {
        path: replace(file, replaces=None) if file.replaces in ids else file
        for path, file in files.items()
        if path not in marked
    }
    return {**others, **marked}


def partly_forgotten(files: Mapping[str, SourceFile]) -> set[str]:
    """Recordings of which something may not be deleted yet, because the command was interrupted."""
    return {file.recording_id for file in files.values() if file.state == FORGOTTEN and file.recording_id}


def drop_recording_ids(files: Mapping[str, SourceFile], recording_ids: Collection[str]) -> dict[str, SourceFile]:
    """Remove the ids of recordings of which nothing is left from their files."""
    return {
        path: replace(file, recording_id=None)
        if file.state == FORGOTTEN and file.recording_id in recording_ids
        else file
        for path, file in files.items()
    }


def find_forgotten(files: Mapping[str, SourceFile], name: str) -> dict[str, SourceFile]:
    """Find the files of a forgotten recording, by path.

    Args:
        files: All known files, by path.
        name: The recording's id, or the path of one of its files.
    """
    forgotten = {path: file for path, file in files.items() if file.state == FORGOTTEN and file.fingerprint}
    fingerprints = {
        file.fingerprint
        for path, file in forgotten.items()
        if name in (path, file.recording_id, recording_id_of(PurePosixPath(path).name, file.fingerprint or ""))
    }
    return {path: file for path, file in forgotten.items() if file.fingerprint in fingerprints}
