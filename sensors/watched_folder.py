"""Notices recordings: a file that has come to rest becomes a partition, for which reconciliation requests runs."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
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
from resources.errors import PipelineError
from resources.schema import RECORDINGS
from resources.settings import Settings
from resources.storage import Store
from resources.watched_folder import (
    FileState,
    Listing,
    SourceFile,
    SourceIndex,
    emptied,
    grown,
    identify,
    list_recordings,
    looks_unfinished,
    skipped_files,
)
from sensors.waiting import LONGEST_WAIT_S, WHILE_IDLE_S, WHILE_WORKING_S, FolderWatch, tell_added, wait_for

MAX_FILES_A_TICK = 500
_TRY_AGAIN_AFTER_S = 60.0  # what could not be read
_NAMED_FILES = 3
_OLD_S = 600.0  # written longer ago than this by its own clock, a file is not being written now
_LIST_EVERY_S = 5.0  # also without any event
# A large folder must not keep a core busy, nor a network share: times as much as a listing took of the CPU, and in all.
_REST_AFTER_CPU_S, _REST_AFTER_CPU_S_WITHOUT_EVENTS, _REST_AFTER_S = 400, 30, 5

Waiting = Mapping[str, tuple[int, int, float]]
"""Files that may still be written: by path their size in bytes, mtime in ns, and when that was first seen."""


def settle(
    listed: Mapping[str, FileState],
    known: Mapping[str, SourceFile],
    waiting: Waiting,
    now: float,
    settle_s: Callable[[str, FileState], float],
) -> tuple[dict[str, FileState], dict[str, tuple[int, int, float]]]:
    """Part the new files into those that have come to rest and those that may still be written.

    Rest means the same size and mtime at two looks of ours at least `settle_s` apart, by our own clock: the file's
    clock may be wrong.

    Args:
        listed: All files there are.
        known: Files that already are recordings.
        waiting: What the last look left waiting.
        now: Seconds since 1970.
        settle_s: How long a file must rest, given its path and state; asked once it has rested at all.

    Returns:
        Settled files, and those that wait for the next look.
    """
    settled: dict[str, FileState] = {}
    still: dict[str, tuple[int, int, float]] = {}
    for path, state in listed.items():
        if path in known and known[path].file_state == state:
            continue
        size_bytes, mtime_ns, since = waiting.get(path, (-1, -1, now))
        if FileState(size_bytes, mtime_ns) != state or since > now:  # a clock that was set back
            since = now
        is_full = len(settled) >= MAX_FILES_A_TICK
        if path in waiting and not is_full and now - since >= settle_s(path, state):
            settled[path] = state
        else:
            still[path] = (state.size_bytes, state.mtime_ns, since)
    return settled, still


def _load_cursor(cursor: str | None) -> dict[str, tuple[int, int, float]]:
    held: dict[str, Any] = json.loads(cursor) if cursor else {}
    return {path: (values[0], values[1], values[2]) for path, values in held.items()}


def rest_of(settings: Settings, now: float) -> Callable[[str, FileState], float]:
    """How long a file must rest: longer if it was written just now and its structure says that more is to come."""
    intake = settings.intake

    def settle_s(path: str, state: FileState) -> float:
        if intake.unfinished_settle_s <= intake.settle_s or abs(now - state.mtime_ns / 1e9) > _OLD_S:
            return intake.settle_s
        try:
            is_unfinished = looks_unfinished(settings.watched_folder / path)
        except OSError:
            is_unfinished = False  # gone, or not readable: identify says so
        return intake.unfinished_settle_s if is_unfinished else intake.settle_s

    return settle_s


class _Look:
    """What this process knows of the folders: when they were listed, and whether anything has changed since."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._watch = FolderWatch(folders)
        self._listed_at, self._listing_s, self._listing_cpu_s = float("-inf"), 0.0, 0.0
        self.done: Listing | None = None
        """What was listed when there was nothing left to do about it."""
        self._may_become_readable = False
        self._tried_again_at = time.monotonic()

    def is_done_with(self, listing: Listing) -> bool:
        """Whether nothing is to be done about what was listed: it is as it was, and it is not time to try again."""
        is_time = self._may_become_readable and time.monotonic() >= self._tried_again_at + _TRY_AGAIN_AFTER_S
        return listing == self.done and not is_time

    def set_done(self, listing: Listing | None, known: Mapping[str, SourceFile] = MappingProxyType({})) -> None:
        """Remember what was listed when nothing was left to do about it, and what was known then.

        Args:
            listing: None if something is left to do.
            known: All known files by path.
        """
        self.done = listing
        self._may_become_readable = any(file.may_become_readable for file in known.values())

    def to_try_again(self, listing: Listing, known: Mapping[str, SourceFile]) -> dict[str, FileState]:
        """Files that could not be read when they were looked at and may be readable now, once in a while."""
        if time.monotonic() < self._tried_again_at + _TRY_AGAIN_AFTER_S:
            return {}
        self._tried_again_at = time.monotonic()
        return {
            path: file.file_state
            for path, file in known.items()
            if file.may_become_readable and listing.files.get(path) == file.file_state
        }

    def is_due(self, waiting: Waiting, settle_s: float) -> bool:
        """Whether to list the folders again: something has changed, a file may have settled, or it was long ago."""
        ago_s = time.monotonic() - self._listed_at
        if ago_s < self._listing_s:
            return False  # while something is being written, events come all the time
        rest = _REST_AFTER_CPU_S if self._watch.has_events else _REST_AFTER_CPU_S_WITHOUT_EVENTS
        every_s = max(_LIST_EVERY_S, _REST_AFTER_S * self._listing_s, rest * self._listing_cpu_s)
        if waiting:
            every_s = min(every_s, settle_s / 4)
        return ago_s >= every_s or self._watch.take_change()

    def ask_every_s(self, waiting: Waiting) -> float:
        """After how many seconds to ask again whether it is due, where no event comes before."""
        is_quiet = not waiting and self._watch.has_events and not self._watch.has_change
        return WHILE_IDLE_S if is_quiet else WHILE_WORKING_S

    def list(self, settings: Settings) -> Listing:
        """List the folders; see `list_recordings`."""
        started, cpu_started_s = time.monotonic(), time.thread_time()
        if self._watch.is_outdated:
            self._watch.stop()
            self._watch = FolderWatch(self._watch.folders)
        try:
            return list_recordings(settings)
        finally:
            self._listed_at = time.monotonic()
            self._listing_s = self._listed_at - started
            self._listing_cpu_s = time.thread_time() - cpu_started_s


@cache
def _look_at(folders: tuple[Path, ...]) -> _Look:
    return _Look(folders)


@sensor(
    name="watched_folder",
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Makes each recording that has come to rest in the watched folders a partition.",
)
def watched_folder_sensor(
    context: SensorEvaluationContext, store: ResourceParam[Store], settings: ResourceParam[Settings]
) -> SkipReason:
    """Look at the watched folders, once anything in them may have changed."""
    look, index = _look_at(settings.watched_folders), SourceIndex(store)
    waiting = _load_cursor(context.cursor)
    until = time.monotonic() + LONGEST_WAIT_S
    told = "Nothing has changed in the watched folders."
    # A file that is seen first in this look may settle in this look.
    while wait_for(
        partial(look.is_due, waiting, settings.intake.settle_s),
        until - time.monotonic(),
        partial(look.ask_every_s, waiting),
    ):
        try:
            listing = look.list(settings)
        except PipelineError as error:
            return SkipReason(str(error))
        if look.is_done_with(listing) and not waiting:
            continue
        look.set_done(None)
        known, now = index.load(), time.time()
        settled, waiting = settle(listing.files, known, waiting, now, rest_of(settings, now))
        settled |= look.to_try_again(listing, known)
        skipped = skipped_files(listing, settings.watched_folders)
        was_skipped = {path: file for path, file in known.items() if file.state == "skipped"}
        if settled or skipped != was_skipped or _without_partition(context.instance, known):
            break
        look.set_done(None if waiting else listing, known)
        told = _told(settings, listing, waiting, known)
    else:
        context.update_cursor(json.dumps(waiting))
        return SkipReason(told)
    found = {path: file for path, file in identify(settings, settled, known).items() if file != known.get(path)}
    for recording_id, whole in grown(settings, found, known).items():
        told = f"It was taken up while its file was still growing: the whole file is {whole}."
        store.update(RECORDINGS, recording_id, {"status": "rejected", "error": told, "failed_stage": None})
    if found or skipped != was_skipped:
        known = {path: file for path, file in known.items() if file.state != "skipped"} | skipped | found
        index.save(known.values())
    added = _without_partition(context.instance, known)
    context.update_cursor(json.dumps(waiting))
    if not added:
        look.set_done(None if waiting else listing, known)
        return SkipReason(_told(settings, listing, waiting, known))
    context.instance.add_dynamic_partitions(recordings_partitions.name or "", added)
    tell_added(len(added))
    return SkipReason(f"{len(added)} new recordings, for which reconciliation requests what they lack.")


def _without_partition(instance: DagsterInstance, known: Mapping[str, SourceFile]) -> list[str]:
    """Recordings that are no partition yet."""
    have = set(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    wanted = dict.fromkeys(file.recording_id for file in known.values() if file.state == "known")
    return [recording_id for recording_id in wanted if recording_id and recording_id not in have]


def _told(settings: Settings, listing: Listing, waiting: Waiting, known: Mapping[str, SourceFile]) -> str:
    """Why there was nothing to do."""
    told = [f"No new recordings among {len(listing.files)} files."]
    if waiting:
        named = ", ".join(list(waiting)[:_NAMED_FILES]) + (" and others" if len(waiting) > _NAMED_FILES else "")
        told.append(f"{len(waiting)} are still being written: {named}.")
    if listing.skipped:
        told.append(f"{len(listing.skipped)} are left out: source_files says why.")
    told += [
        f"{folder} is empty, and had {count} files: is it mounted?"
        for folder, count in emptied(settings, listing, known).items()
    ]
    return " ".join([*told, *listing.problems])
