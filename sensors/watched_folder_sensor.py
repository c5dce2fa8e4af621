"""Sensor that adds a partition for each new stable file; the reconciliation sensor requests its runs."""

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    ResourceParam,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from cv_assets.partitions import recordings_partitions
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.schema.recording_tables import RECORDINGS
from resources.source_index import (
    SourceFile,
    SourceIndex,
    find_emptied_folders,
    find_grown_recordings,
    identify_files,
    skipped_files,
)
from resources.storage.delta_store import Store
from resources.watched_files import FileState, Listing, list_watched_files
from sensors.file_stability import UnstableFiles, split_stable_files, stability_rule
from sensors.sensor_wakeup import (
    BUSY_CHECK_INTERVAL_S,
    IDLE_CHECK_INTERVAL_S,
    MAX_TICK_S,
    FolderWatcher,
    count_added_partitions,
    wait_for_change,
)

_REREAD_AFTER_S = 60.0  # files that could not be read
_MAX_NAMED_FILES = 3
_LIST_INTERVAL_S = 5.0  # also without any file-system event

# Listing a large folder must not keep a core or a network share busy. The interval is at least these multiples of the
# last listing's CPU time (with and without file-system events) and of its duration.
_INTERVAL_PER_CPU_S, _INTERVAL_PER_CPU_S_WITHOUT_EVENTS, _INTERVAL_PER_LISTING_S = 400, 30, 5


def _load_cursor(cursor: str | None) -> dict[str, tuple[int, int, float]]:
    """Decode the unstable files from a sensor cursor."""
    values_by_path: dict[str, Any] = json.loads(cursor) if cursor else {}
    return {path: (values[0], values[1], values[2]) for path, values in values_by_path.items()}


class _FolderLister:
    """Lists the watched folders of this process when they may have changed.

    Args:
        folders: The watched folders.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._watcher = FolderWatcher(folders)
        self._listed_at_s, self._listing_s, self._listing_cpu_s = float("-inf"), 0.0, 0.0
        self.done_listing: Listing | None = None
        """The listing that needs no more work."""
        self._has_unreadable_files = False
        self._reread_at_s = time.monotonic()

    def is_done(self, listing: Listing) -> bool:
        """Whether a listing needs no work: it equals the last such listing, and no file is due for rereading."""
        is_reread_due = self._has_unreadable_files and time.monotonic() >= self._reread_at_s + _REREAD_AFTER_S
        return listing == self.done_listing and not is_reread_due

    def set_done(self, listing: Listing | None, known: Mapping[str, SourceFile] = MappingProxyType({})) -> None:
        """Remember the listing that needs no more work.

        Args:
            listing: The listing; None if it needs work.
            known: All known files by path.
        """
        self.done_listing = listing
        self._has_unreadable_files = any(file.may_become_readable for file in known.values())

    def take_files_to_reread(self, listing: Listing, known: Mapping[str, SourceFile]) -> dict[str, FileState]:
        """Files that could not be read and may be readable now, at most once per `_REREAD_AFTER_S`."""
        if time.monotonic() < self._reread_at_s + _REREAD_AFTER_S:
            return {}
        self._reread_at_s = time.monotonic()
        return {
            path: file.file_state
            for path, file in known.items()
            if file.may_become_readable and listing.files.get(path) == file.file_state
        }

    def is_due(self, unstable: UnstableFiles, settle_s: float) -> bool:
        """Whether to list the folders: an event came, a file may be stable by now, or the interval is over."""
        elapsed_s = time.monotonic() - self._listed_at_s
        if elapsed_s < self._listing_s:
            return False  # while a file is being written, events come all the time
        per_cpu_s = _INTERVAL_PER_CPU_S if self._watcher.has_events else _INTERVAL_PER_CPU_S_WITHOUT_EVENTS
        interval_s = max(_LIST_INTERVAL_S, _INTERVAL_PER_LISTING_S * self._listing_s, per_cpu_s * self._listing_cpu_s)
        if unstable:
            interval_s = min(interval_s, settle_s / 4)
        return elapsed_s >= interval_s or self._watcher.take_change()

    def check_interval_s(self, unstable: UnstableFiles) -> float:
        """Seconds until `is_due` is checked again without an event."""
        is_quiet = not unstable and self._watcher.has_events and not self._watcher.has_change
        return IDLE_CHECK_INTERVAL_S if is_quiet else BUSY_CHECK_INTERVAL_S

    def list_files(self, settings: Settings) -> Listing:
        """List the folders; see `list_watched_files`."""
        started_s, cpu_started_s = time.monotonic(), time.thread_time()
        if self._watcher.is_outdated:
            self._watcher.stop()
            self._watcher = FolderWatcher(self._watcher.folders)
        try:
            return list_watched_files(settings)
        finally:
            self._listed_at_s = time.monotonic()
            self._listing_s = self._listed_at_s - started_s
            self._listing_cpu_s = time.thread_time() - cpu_started_s


@cache
def _folder_lister(folders: tuple[Path, ...]) -> _FolderLister:
    return _FolderLister(folders)


@sensor(
    name="watched_folder",
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Adds a partition for each new stable file of the watched folders.",
)
def watched_folder_sensor(
    context: SensorEvaluationContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> SkipReason:
    """List the watched folders once they may have changed, and add a partition for each new stable file."""
    lister, index = _folder_lister(settings.watched_folders), SourceIndex(store)
    unstable = _load_cursor(context.cursor)
    deadline_s = time.monotonic() + MAX_TICK_S
    sentence = "The watched folders have not changed."
    # A file that is first listed in this tick may become stable in this tick.
    while wait_for_change(
        partial(lister.is_due, unstable, settings.ingest.settle_s),
        deadline_s - time.monotonic(),
        partial(lister.check_interval_s, unstable),
    ):
        try:
            listing = lister.list_files(settings)
        except PipelineError as error:
            return SkipReason(str(error))
        if lister.is_done(listing) and not unstable:
            continue
        lister.set_done(None)
        known, now = index.load(), time.time()
        stable, unstable = split_stable_files(listing.files, known, unstable, now, stability_rule(settings, now))
        stable |= lister.take_files_to_reread(listing, known)
        skipped = skipped_files(listing, settings.watched_folders)
        known_skipped = {path: file for path, file in known.items() if file.state == "skipped"}
        if stable or skipped != known_skipped or _without_partition(context.instance, known):
            break
        lister.set_done(None if unstable else listing, known)
        sentence = _skip_sentence(settings, listing, unstable, known)
    else:
        context.update_cursor(json.dumps(unstable))
        return SkipReason(sentence)
    identified = identify_files(settings, stable, known)
    changed = {path: file for path, file in identified.items() if file != known.get(path)}
    for recording_id, complete_id in find_grown_recordings(settings, changed, known).items():
        error_text = f"The recording was ingested while its file was still growing; {complete_id} is the complete file."
        store.update(RECORDINGS, recording_id, {"status": "rejected", "error": error_text, "failed_stage": None})
    if changed or skipped != known_skipped:
        known = {path: file for path, file in known.items() if file.state != "skipped"} | skipped | changed
        index.save(known.values())
    added = _without_partition(context.instance, known)
    context.update_cursor(json.dumps(unstable))
    if not added:
        lister.set_done(None if unstable else listing, known)
        return SkipReason(_skip_sentence(settings, listing, unstable, known))
    context.instance.add_dynamic_partitions(recordings_partitions.name or "", added)
    count_added_partitions(len(added))
    return SkipReason(f"{len(added)} new recordings: the reconciliation sensor requests their runs.")


def _without_partition(instance: DagsterInstance, known: Mapping[str, SourceFile]) -> list[str]:
    """Recordings that have no partition yet."""
    partitions = set(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    recording_ids = dict.fromkeys(file.recording_id for file in known.values() if file.state == "known")
    return [recording_id for recording_id in recording_ids if recording_id and recording_id not in partitions]


def _skip_sentence(
    settings: Settings, listing: Listing, unstable: UnstableFiles, known: Mapping[str, SourceFile]
) -> str:
    """Why no partition was added."""
    sentences = [f"No new recordings among {len(listing.files)} files."]
    if unstable:
        others = " and others" if len(unstable) > _MAX_NAMED_FILES else ""
        names = f"{', '.join(list(unstable)[:_MAX_NAMED_FILES])}{others}"
        sentences.append(f"{len(unstable)} files are not stable yet: {names}.")
    if listing.skipped:
        sentences.append(f"{len(listing.skipped)} files are skipped: the table source_files contains the reasons.")
    sentences += [
        f"{folder} is empty, and had {count} files: is it mounted?"
        for folder, count in find_emptied_folders(settings, listing, known).items()
    ]
    return " ".join([*sentences, *listing.problems])
