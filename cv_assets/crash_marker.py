"""Crash markers: files that name the stage and recording in progress, and remain when the process is killed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors


@contextmanager
def crash_marker(store: Store, run_id: str, stage_name: str) -> Iterator[Callable[[str], None]]:
    """Keep a marker for one stage of a run; it is deleted when the block ends, however it ends.

    Yields:
        A function that writes the recording in progress into the marker; an empty name means none.

    Raises:
        PipelineError: The data folder cannot be written.
    """
    marker = _marker_path(store, run_id)
    with disk_errors(store.data_folder):
        marker.parent.mkdir(parents=True, exist_ok=True)

    def write_recording(recording_id: str) -> None:
        with disk_errors(store.data_folder):
            marker.write_text(f"{stage_name}\n{recording_id}")

    try:
        yield write_recording
    finally:
        marker.unlink(missing_ok=True)


def read_crash_marker(store: Store, run_id: str) -> tuple[str, str] | None:
    """Stage and recording in progress when the process of a run was killed; None if no recording was in progress."""
    try:
        stage_name, _, recording_id = _marker_path(store, run_id).read_text().partition("\n")
    except FileNotFoundError:
        return None
    return (stage_name, recording_id) if recording_id else None


def marked_run_ids(store: Store) -> list[str]:
    """Ids of the runs that have a crash marker: those in progress, and those whose process was killed."""
    return sorted(file.name for file in _marker_path(store, "").glob("*"))


def delete_crash_marker(store: Store, run_id: str) -> None:
    """Delete the crash marker of a run, once the crash is recorded.

    Raises:
        PipelineError: The data folder cannot be written.
    """
    with disk_errors(store.data_folder):
        _marker_path(store, run_id).unlink(missing_ok=True)


def _marker_path(store: Store, run_id: str) -> Path:
    return store.data_folder / "unfinished" / "runs" / run_id
