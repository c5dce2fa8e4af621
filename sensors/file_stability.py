"""Stability of files: a file of a watched folder becomes a recording once its size and mtime stop changing."""

from collections.abc import Callable, Mapping

from resources.config.settings import Settings
from resources.source_index import SourceFile
from resources.watched_files import FileState, is_incomplete_container

MAX_FILES_PER_TICK = 500
_OLD_FILE_S = 600.0  # a file whose mtime is older than this is not being written now

UnstableFiles = Mapping[str, tuple[int, int, float]]
"""Files that may still be written, by path: size in bytes, mtime in ns, and when this state was first seen, in s."""


def split_stable_files(
    listed: Mapping[str, FileState],
    known: Mapping[str, SourceFile],
    unstable: UnstableFiles,
    now: float,
    required_stable_s: Callable[[str, FileState], float],
) -> tuple[dict[str, FileState], dict[str, tuple[int, int, float]]]:
    """Split the new files into stable ones and those that may still be written.

    A file is stable if two listings at least `required_stable_s` apart show the same size and mtime. The time between
    listings is measured by this machine's clock, because the clock that set the mtime may be wrong.

    Args:
        listed: All listed files by path.
        known: Files that already are recordings, by path.
        unstable: Unstable files after the previous listing.
        now: Seconds since 1970.
        required_stable_s: Returns how long a file must be unchanged, from its path and state; only called for files
            that were also in the previous listing.

    Returns:
        The stable files by path, and the unstable files for the next listing.
    """
    stable: dict[str, FileState] = {}
    still_unstable: dict[str, tuple[int, int, float]] = {}
    for path, state in listed.items():
        if path in known and known[path].file_state == state:
            continue
        size_bytes, mtime_ns, unchanged_since = unstable.get(path, (-1, -1, now))
        if FileState(size_bytes, mtime_ns) != state or unchanged_since > now:  # the clock was set back
            unchanged_since = now
        is_full = len(stable) >= MAX_FILES_PER_TICK
        if path in unstable and not is_full and now - unchanged_since >= required_stable_s(path, state):
            stable[path] = state
        else:
            still_unstable[path] = (state.size_bytes, state.mtime_ns, unchanged_since)
    return stable, still_unstable


def stability_rule(settings: Settings, now: float) -> Callable[[str, FileState], float]:
    """The rule for how long a file must be unchanged; longer for a recently written incomplete container.

    Args:
        settings: The section `ingest` contains both durations.
        now: Seconds since 1970.
    """
    ingest = settings.ingest

    def required_stable_s(path: str, state: FileState) -> float:
        if ingest.incomplete_settle_s <= ingest.settle_s or abs(now - state.mtime_ns / 1e9) > _OLD_FILE_S:
            return ingest.settle_s
        try:
            is_incomplete = is_incomplete_container(settings.watched_folder / path)
        except OSError:
            is_incomplete = False  # deleted or unreadable: identify_files reports it
        return ingest.incomplete_settle_s if is_incomplete else ingest.settle_s

    return required_stable_s
