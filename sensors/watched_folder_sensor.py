"""Sensor that adds a partition for each new stable file, and requests the ingest runs of these recordings."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    ResourceParam,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from cv_assets.asset_graph import AssetGraph
from cv_assets.partitions import recordings_partitions
from cv_assets.stage_asset import INGEST
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.file_identification import (
    KnownContents,
    find_grown_recordings,
    identify_compared_files,
    identify_files,
)
from resources.forgotten_files import exclude_forgotten
from resources.source_index import SourceFile, SourceIndex, find_emptied_folders, skipped_files
from resources.storage.delta_store import Store
from resources.watched_files import FileState, Listing, list_watched_files
from sensors.file_stability import UnstableFiles, split_stable_files, stability_rule
from sensors.recording_states import read_recording_states
from sensors.retries import process_start_s
from sensors.run_planner import TICK_INTERVAL_S, plan_runs, request_runs, select_recordings

_REREAD_AFTER_S = 60.0  # files that could not be read
_MAX_NAMED_FILES = 3

# Listing a large folder must not keep a core or a network share busy: the interval between two listings is at least
# these multiples of the last one's CPU time and of its duration.
_INTERVAL_PER_CPU_S, _INTERVAL_PER_LISTING_S = 30, 5


@dataclass(frozen=True)
class _Cursor:
    """What the sensor remembers from one tick to the next; all times in seconds since 1970.

    Attributes:
        unstable: Files that may still be written, by path.
        done_listing: Hash of the last listing that needed no work; empty if the last one needed work.
        sentence: Why that listing needed no work.
        has_unreadable: Whether a file could not be read for a reason that may be temporary.
        reread_at_s: When such files were last read.
        listed_at_s: When the folders were last listed.
        listing_s: Duration of that listing.
        listing_cpu_s: CPU time of that listing.
        process_started_s: When the process started that listed them.
    """

    unstable: Mapping[str, tuple[int, int, float]] = field(default_factory=dict)
    done_listing: str = ""
    sentence: str = ""
    has_unreadable: bool = False
    reread_at_s: float = 0.0
    listed_at_s: float = 0.0
    listing_s: float = 0.0
    listing_cpu_s: float = 0.0
    process_started_s: float = 0.0

    @classmethod
    def load(cls, text: str | None) -> "_Cursor":
        """Decode a sensor cursor; a new process lists at once, by its own settings."""
        cursor, started_s = cls(**json.loads(text)) if text else cls(), process_start_s()
        unstable = {path: (values[0], values[1], values[2]) for path, values in cursor.unstable.items()}
        if cursor.process_started_s == started_s:
            return replace(cursor, unstable=unstable)
        return cls(unstable, reread_at_s=time.time(), process_started_s=started_s)

    def dump(self) -> str:
        """Encode the cursor."""
        return json.dumps(asdict(self))

    def is_listing_due(self, now: float) -> bool:
        """Whether to list the folders: always, unless the last listing took long."""
        elapsed_s = now - self.listed_at_s
        if elapsed_s < 0:
            return True  # the clock was set back
        if self.unstable:
            return elapsed_s >= self.listing_s
        return elapsed_s >= max(_INTERVAL_PER_LISTING_S * self.listing_s, _INTERVAL_PER_CPU_S * self.listing_cpu_s)

    def is_reread_due(self, now: float) -> bool:
        """Whether to read the files again that could not be read."""
        return self.has_unreadable and not 0 <= now - self.reread_at_s < _REREAD_AFTER_S


def build_watched_folder_sensor(graph: AssetGraph) -> SensorDefinition:
    """Build the sensor that turns new files into recordings."""

    @sensor(
        name="watched_folder",
        jobs=[graph.ingest_job],
        minimum_interval_seconds=TICK_INTERVAL_S,
        default_status=DefaultSensorStatus.RUNNING,
        description="Adds a partition for each new stable file of the watched folders, and requests its ingest.",
    )
    def watched_folder_sensor(
        context: SensorEvaluationContext, store: ResourceParam[Store]
    ) -> SensorResult | SkipReason:
        """List the watched folders, add a partition for each new stable file, and request the ingest runs."""
        cursor = _Cursor.load(context.cursor)
        if not cursor.is_listing_due(time.time()):
            return SkipReason(
                cursor.sentence or "The last listing of the watched folders took long: the next is later."
            )
        try:
            with SourceIndex(store).lock():
                cursor, added = _add_recordings(context, store, graph.settings, cursor)
            requests = _request_ingest(context.instance, store, graph, added) if added else []
        except PipelineError as error:
            return SkipReason(str(error))
        context.update_cursor(cursor.dump())
        if requests:
            return SensorResult(run_requests=requests)
        if added:
            return SkipReason(f"{len(added)} new recordings: the reconciliation sensor requests their runs.")
        return SkipReason(cursor.sentence)

    return watched_folder_sensor


def _add_recordings(
    context: SensorEvaluationContext, store: Store, settings: Settings, cursor: _Cursor
) -> tuple[_Cursor, list[str]]:
    """Add a partition for each new stable file.

    Dagster's instance is opened only if the listing has changed: that takes longer than the rest of an idle tick.

    Returns:
        The cursor after the listing, and the recordings that were added.

    Raises:
        PipelineError: No watched folder can be read, or the data folder cannot be written.
    """
    started_s, cpu_started_s, now = time.monotonic(), time.thread_time(), time.time()
    listing = list_watched_files(settings)
    cursor = replace(
        cursor,
        listed_at_s=time.time(),
        listing_s=time.monotonic() - started_s,
        listing_cpu_s=time.thread_time() - cpu_started_s,
    )
    listing_hash = _hash_listing(listing)
    if listing_hash == cursor.done_listing and not cursor.unstable and not cursor.is_reread_due(now):
        return cursor, []
    index = SourceIndex(store)
    known = index.load()
    stable, unstable = split_stable_files(listing.files, known, cursor.unstable, now, stability_rule(settings, now))
    if cursor.is_reread_due(now):
        stable |= _unreadable_files(listing, known)
        cursor = replace(cursor, reread_at_s=now)
    skipped = skipped_files(listing, settings.watched_folders)
    # An unverified file that is gone is no file of any recording, and no run can compare it.
    kept = {
        path: file
        for path, file in known.items()
        if file.state != "skipped" and (not file.is_unverified or path in listing.files)
    }
    changed = _identify_changed(settings, store, listing, stable, kept)
    if changed or kept | skipped != known:
        known = kept | skipped | changed
        index.save(known.values())
    added = _without_partition(context.instance, known)
    if added:
        context.instance.add_dynamic_partitions(recordings_partitions.name or "", added)
    needs_work = bool(unstable or added) or any(file.is_unverified for file in known.values())
    return replace(
        cursor,
        unstable=unstable,
        done_listing="" if needs_work else listing_hash,
        sentence=_skip_sentence(settings, listing, unstable, known),
        has_unreadable=any(file.may_become_readable for file in known.values()),
    ), added


def _identify_changed(
    settings: Settings,
    store: Store,
    listing: Listing,
    stable: Mapping[str, FileState],
    known: Mapping[str, SourceFile],
) -> dict[str, SourceFile]:
    """Identify the stable files, and the unverified ones that a run has compared; those that changed, by path."""
    if not stable and not any(file.is_unverified for file in known.values()):
        return {}
    contents = KnownContents.load(store)
    compared = identify_compared_files(settings, listing.files, known, contents)
    identified = exclude_forgotten(identify_files(settings, stable, {**known, **compared}, contents), known)
    files = find_grown_recordings(settings, identified, known) | compared
    return {path: file for path, file in files.items() if file != known.get(path)}


def _request_ingest(
    instance: DagsterInstance, store: Store, graph: AssetGraph, added: Sequence[str]
) -> list[RunRequest]:
    """Request the ingest of added recordings, for which the queue has room; reconciliation requests the rest."""
    states = select_recordings(read_recording_states(instance, store, graph), set(added))
    planned = [run for run in plan_runs(states, graph) if run.job_name == INGEST]
    return request_runs(instance, store, graph, planned)


def _hash_listing(listing: Listing) -> str:
    parts = [f"{path}\0{state.size_bytes}\0{state.mtime_ns}" for path, state in listing.files.items()]
    parts += [*(f"{path}\0{reason}" for path, reason in listing.skipped.items()), *listing.problems]
    return hashlib.blake2b("\n".join(parts).encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _unreadable_files(listing: Listing, known: Mapping[str, SourceFile]) -> dict[str, FileState]:
    """Files that could not be read, and may be readable now."""
    return {
        path: file.file_state
        for path, file in known.items()
        if file.may_become_readable and listing.files.get(path) == file.file_state
    }


def _without_partition(instance: DagsterInstance, known: Mapping[str, SourceFile]) -> list[str]:
    """Recordings that have no partition yet; one with which a file is to be compared needs its partition."""
    partitions = set(instance.get_dynamic_partitions(recordings_partitions.name or ""))
    recording_ids = dict.fromkeys(
        file.recording_id for file in known.values() if file.state == "known" or file.is_unverified
    )
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
    if unverified_count := sum(file.is_unverified for file in known.values()):
        sentences.append(f"{unverified_count} files are compared with recordings that seem to have the same content.")
    if listing.skipped:
        sentences.append(f"{len(listing.skipped)} files are skipped: the table source_files contains the reasons.")
    sentences += [
        f"{folder} is empty, and had {count} files: is it mounted?"
        for folder, count in find_emptied_folders(settings, listing, known).items()
    ]
    return " ".join([*sentences, *listing.problems])
