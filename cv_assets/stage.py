"""What every stage shares: the partitions, how a table becomes an asset, and the walk over a batch of recordings.

A run takes on one recording or a range of them. One bad recording costs one recording: the good ones are materialized,
and the step then fails naming the bad ones.
"""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetObservation,
    AssetSpec,
    BackfillPolicy,
    DataVersion,
    Failure,
    JsonMetadataValue,
    MaterializeResult,
    MetadataValue,
    RunsFilter,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
)
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import DagsterEvent
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from cv_assets.cameras import cameras_of
from cv_assets.partitions import recordings_partitions
from cv_assets.versions import Versions
from resources.errors import GivenUpError, PipelineError, RecordingError
from resources.media.normalizing import Progress
from resources.pictures import MAX_FRAME_BYTES, MAX_SHEET_BYTES, as_markdown, jpeg
from resources.results import publish
from resources.schema import RECORDINGS, Table, broken_rules
from resources.settings import current_settings
from resources.storage import Store, check_data_folder, disk_errors, disk_problem

INGEST, ANALYSIS = "ingest", "analysis"
PROGRESS_EVERY_S = 2.0
_LEAST_FREE_BYTES = 100_000_000  # runs stop before Dagster's own storage has nowhere to write
_NAMED_STRETCHES = 3
_NAMED_CLASSES = 12
CHECK_NAME = "keys_and_ranges"
ATTEMPT_TAG = "cv_assets/attempt"
STOPPED_TAG = "cv_assets/stopped"
_FAILED_KEY = "failed_recordings"
_CLOCK = ("started_at_utc", "started_at_source")

Metadata = Mapping[str, Any]
Work = Callable[[str, Progress], Mapping[str, Metadata]]
"""Does one recording: given its id, returns metadata by table name."""
Check = Callable[[Sequence[str]], AssetCheckResult]
"""Checks what is stored of some recordings."""


def backfill_policy() -> BackfillPolicy:
    """A backfill goes in runs of one batch each, so that the model is loaded once per batch."""
    return BackfillPolicy.multi_run(max_partitions_per_run=current_settings().batches.max_recordings)


def table_asset(
    table: Table, *, group: str, code_version: str, deps: Sequence[str] = (), kinds: Sequence[str] = ()
) -> AssetSpec:
    """The asset that is a table: its grain, columns and versions as Dagster's catalog shows them.

    Args:
        table: The declaration.
        group: The job it belongs to, `ingest` or `analysis`.
        code_version: Made from the stage's own settings; when it changes, the asset is stale.
        deps: Names of the assets it is made from.
        kinds: Technologies, shown as badges.
    """
    columns = [
        TableColumn(
            column.name,
            str(column.type),
            description=column.comment,
            constraints=TableColumnConstraints(nullable=column.nullable, unique=(column.name,) == table.key),
        )
        for column in table.columns
    ]
    return recording_asset(
        table.name,
        group=group,
        code_version=code_version,
        deps=deps,
        kinds=("deltalake", *kinds),
        description=table.comment,
        grain=table.grain,
        key=", ".join(table.key),
        metadata={"dagster/column_schema": TableSchema(columns=columns), "dagster/table_name": table.name},
    )


def recording_asset(
    name: str,
    *,
    group: str,
    code_version: str,
    deps: Sequence[str],
    kinds: Sequence[str],
    description: str,
    grain: str,
    key: str,
    metadata: Metadata = MappingProxyType({}),
) -> AssetSpec:
    """An asset with a partition per recording, as Dagster's catalog shows it.

    Args:
        name: Its name.
        group: The job it belongs to, `ingest` or `analysis`.
        code_version: Made from the stage's own settings; when it changes, the asset is stale.
        deps: Names of the assets it is made from.
        kinds: Technologies, shown as badges.
        description: What it is.
        grain: What there is one of.
        key: What identifies one.
        metadata: More that the catalog shows.
    """
    return AssetSpec(
        name,
        deps=list(deps),
        description=description,
        group_name=group,
        code_version=code_version,
        kinds=set(kinds),
        owners=["team:video-analytics"],
        metadata={**metadata, "grain": grain, "key": key},
        partitions_def=recordings_partitions,
    )


def table_checks(*tables: Table) -> list[AssetCheckSpec]:
    """One check per table: what is stored has unique keys and keeps the declared ranges."""
    return [
        AssetCheckSpec(
            CHECK_NAME,
            asset=table.name,
            description="Keys are unique, columns that must be are filled, values lie in their declared ranges.",
        )
        for table in tables
    ]


@dataclass(frozen=True)
class Stage:
    """One stage of the walk: the tables it writes, and assets of it that are files beside them."""

    name: str
    tables: tuple[Table, ...]
    files: tuple[str, ...] = ()
    of_the_file: bool = False
    """Whether it works on the source file itself, and so also on one that was rejected."""

    @property
    def asset_names(self) -> tuple[str, ...]:
        """All assets of the stage."""
        return (*self.files, *(table.name for table in self.tables))

    def each_recording(
        self, context: AssetExecutionContext, store: Store, work: Work, check: Check | None = None
    ) -> Iterator[MaterializeResult[Any] | AssetCheckResult]:
        """Do every recording of the run, then publish, check and report.

        Args:
            context: The step's context.
            store: The tables.
            work: Does one recording.
            check: A further check of what was done, given the recordings.

        Yields:
            What Dagster is to know of each table.

        Raises:
            Failure: Some recordings failed, or a person must act; says which and why.
            GivenUpError: Somebody ended the run meanwhile.
        """
        recording_ids = _recording_ids(context)
        if not self.of_the_file:
            work = _unless_rejected(work, store, recording_ids)
        with store.written_by(lambda: _still_running(context)), _named(store, context.run.run_id, self.name) as name:
            yield from self._walk(context, store, recording_ids, work, check, name)

    def _walk(
        self,
        context: AssetExecutionContext,
        store: Store,
        recording_ids: Sequence[str],
        work: Work,
        check: Check | None,
        name: Callable[[str], None],
    ) -> Iterator[MaterializeResult[Any] | AssetCheckResult]:
        columns = ["recording_id", "failed_stage", "duration_s_from_content", *_CLOCK]
        rows = store.read(RECORDINGS, recording_ids, columns).to_pylist()
        versions = Versions.of(context, self.asset_names, cameras_of(store, recording_ids))
        failed_before = {row["recording_id"] for row in rows if row["failed_stage"] in (self.name, *self.asset_names)}
        footage_s = {row["recording_id"]: row["duration_s_from_content"] for row in rows}
        done: dict[str, dict[str, Metadata]] = {}
        failed: dict[str, str] = {}
        stop: PipelineError | None = None
        for recording_id in recording_ids:
            try:
                check_data_folder(store.data_folder, _LEAST_FREE_BYTES)
                name(recording_id)
                done[recording_id] = self._one(context, store, recording_id, footage_s.get(recording_id), work)
                if recording_id in failed_before:
                    status, error = media_status(store.read(RECORDINGS, [recording_id]).to_pylist()[0])
                    store.update(RECORDINGS, recording_id, {"status": status, "error": error, "failed_stage": None})
            except RecordingError as error:
                failed[recording_id] = str(error)
            except PipelineError as error:
                stop = error
                break
            except DagsterExecutionInterruptedError:
                context.instance.add_run_tags(context.run.run_id, {STOPPED_TAG: "true"})
                raise
        try:
            self._set_clocks(store, rows)
            publish(store)
        except PipelineError as error:
            stop = stop or error
        if stop:
            # Not the recordings' fault: this run is not counted as an attempt at them.
            context.instance.add_run_tags(context.run.run_id, {STOPPED_TAG: "true"})
        _still_running(context)
        if failed or stop:
            for recording_id, metadata in done.items():
                versions.log(context, recording_id, metadata)
            # Checks that never ran would look like checks that did not pass.
            yield from self._checks(store, list(done), check)
            told = _failure_sentence(self.name, len(recording_ids), failed, stop)
            raise Failure(told, metadata={_FAILED_KEY: MetadataValue.json(list(failed))}, allow_retries=False)
        yield from self._report(context, store, done, versions)
        yield from self._checks(store, list(done), check)

    def _set_clocks(self, store: Store, before: Sequence[Mapping[str, Any]]) -> None:
        """Let times on the wall clock be right also where a clock was put right while the stage was at work."""
        if not self.tables:
            return
        begun = {row["recording_id"]: tuple(row[name] for name in _CLOCK) for row in before}
        for row in store.read(RECORDINGS, list(begun), ["recording_id", *_CLOCK]).to_pylist():
            clock = tuple(row[name] for name in _CLOCK)
            if clock != begun[row["recording_id"]]:
                store.set_clock(self.tables, row["recording_id"], *clock)

    def _one(
        self,
        context: AssetExecutionContext,
        store: Store,
        recording_id: str,
        footage_s: float | None,
        work: Work,
    ) -> dict[str, Metadata]:
        """Do one recording; returns its metadata by asset, the seconds it took included.

        Raises:
            RecordingError: It failed; told in the log and stored in its row.
            PipelineError: A person must act before any recording can be done.
        """
        started = time.monotonic()
        try:
            metadata = work(recording_id, _reporter(context, self.asset_names[0], recording_id))
        except (PipelineError, GivenUpError):
            raise
        except Exception as error:
            # The boundary that keeps one recording's failure to itself, whatever its kind.
            if sentence := disk_problem(error, store.data_folder):
                raise PipelineError(sentence) from error
            sentence = str(error)
            if not isinstance(error, RecordingError):
                sentence = f"Unexpected {type(error).__name__}: {error}"
                context.log.error(f"{recording_id}: {''.join(traceback.format_exception(error))}")
            context.log.error(f"{recording_id}: {sentence}")
            row = store.read(RECORDINGS, [recording_id], ["status"]).to_pylist()
            if row and row[0]["status"] != "rejected":
                values = {"status": "failed", "error": sentence, "failed_stage": self.name}
                store.update(RECORDINGS, recording_id, values)
            raise RecordingError(sentence) from error
        seconds = round(time.monotonic() - started, 3)
        took: dict[str, float] = {"seconds": seconds}
        footage_s = next((told["duration_s"] for told in metadata.values() if "duration_s" in told), footage_s)
        if footage_s:
            took["realtime_factor"] = round(footage_s / max(seconds, 1e-3), 2)
        return {name: {**values, **took} for name, values in metadata.items()}

    def _report(
        self,
        context: AssetExecutionContext,
        store: Store,
        done: Mapping[str, Mapping[str, Metadata]],
        versions: Versions,
    ) -> Iterator[MaterializeResult[Any]]:
        # What add_asset_metadata does, which would also ask each time for all recordings known, to see that this is one
        # of the run: with ten thousand known, a third of the time that a run of short ones takes.
        step = context.get_step_execution_context()
        versions.count_as_read(step)
        for name in self.asset_names:
            for recording_id, metadata in done.items():
                step._metadata_accumulator = step._metadata_accumulator.with_additional_asset_metadata(
                    AssetKey(name), recording_id, metadata[name]
                )
        for name in self.files:
            yield MaterializeResult(asset_key=name, data_version=DataVersion(versions.common[name]))
        for table in self.tables:
            yield MaterializeResult(
                asset_key=table.name,
                data_version=DataVersion(versions.common[table.name]),
                metadata={"dagster/row_count": store.row_count(table)},
            )
        for recording_id in versions.uncommon():
            # A batch has one data version in Dagster; recordings made from older inputs get their own event.
            versions.log(context, recording_id, done[recording_id])

    def _checks(self, store: Store, recording_ids: Sequence[str], check: Check | None) -> Iterator[AssetCheckResult]:
        for table in self.tables:
            slim = table.without_pictures
            stored = store.scan(slim, recording_ids)
            broken = broken_rules(slim, stored)
            yield AssetCheckResult(
                asset_key=table.name,
                check_name=CHECK_NAME,
                passed=not broken,
                severity=AssetCheckSeverity.ERROR,
                metadata={"checked_row_count": stored.count_rows(), "broken": broken},
            )
        if check is not None:
            yield check(recording_ids)


def _unless_rejected(work: Work, store: Store, recording_ids: Sequence[str]) -> Work:
    """The same work, but what is asked of a recording whose file was rejected fails with the reason of that."""
    rows = store.read(RECORDINGS, recording_ids, ["recording_id", "status", "error"]).to_pylist()
    rejected = {row["recording_id"]: row["error"] for row in rows if row["status"] == "rejected"}

    def checked(recording_id: str, progress: Progress) -> Mapping[str, Metadata]:
        if recording_id in rejected:
            raise RecordingError(f"There is nothing of it, because its file was rejected: {rejected[recording_id]}")
        return work(recording_id, progress)

    return checked


def video_of(row: Mapping[str, Any] | None, data_folder: Path) -> Path:
    """The normalized video of a recording.

    Args:
        row: Its row of `recordings`; None when it has none.
        data_folder: What paths are relative to.

    Raises:
        RecordingError: It was never made, or is gone.
    """
    if row is None or row["frame_count"] is None or row["status"] == "rejected":
        raise RecordingError("It has no normalized video: materialize normalized_video first.")
    if row["video_path"] is None or not (data_folder / row["video_path"]).exists():
        raise RecordingError(
            "Its normalized video was removed to make room (retention.media_after_days) or by hand: materialize "
            "normalized_video again, for which its file must be in the watched folder."
        )
    return data_folder / str(row["video_path"])


def media_status(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """Status and error of a recordings row as far as the file itself decides them.

    Args:
        row: A row of `recordings`, its ledger columns filled or None.
    """
    if row["frame_count_from_content"] is None:
        return "ok", None
    missing = [(stretch["start_s"], stretch["end_s"]) for stretch in row["missing_s"] or ()]
    told = []
    if row["corrupt_count"] or missing:
        corrupt = _counted(row["corrupt_count"], "packet does not decode", "packets do not decode")
        lost = corrupt if row["corrupt_count"] else "The file ends early"
        told.append(f"{lost}: missing is {_stretches(missing)}" if missing else lost)
    if row["damaged_count"]:
        told.append(_counted(row["damaged_count"], "frame is damaged", "frames are damaged"))
    if not told:
        return "ok", None
    decoded = _counted(row["frame_count_from_content"], "frame", "frames")
    return "partial", f"{'; '.join(told)}. What decodes is used: {decoded} ({row['duration_s_from_content']:.2f} s)."


def _counted(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _stretches(missing_s: Sequence[tuple[float, float]]) -> str:
    """The first of some stretches in words; those before the first frame count back from it."""
    named = [
        f"{end_s - start_s:.2f} s before the first frame" if end_s <= 0 else f"{start_s:.2f} to {end_s:.2f} s"
        for start_s, end_s in missing_s[:_NAMED_STRETCHES]
    ]
    more = len(missing_s) - len(named)
    return ", ".join(named) + (f" and {more} more stretches" if more > 0 else "")


def count_metadata(row_count: int, **values: Any) -> Metadata:
    """Metadata of one recording's part of a table."""
    return {"dagster/partition_row_count": row_count, **values}


def class_counts(unit: str, counts: Mapping[str, int]) -> Metadata:
    """Numbers by class, each a value of its own, so that the UI plots it over the recordings; the rarest share one.

    Args:
        unit: What is counted, such as `boxes`.
        counts: How many of each class.
    """
    ordered = Counter(counts).most_common()
    told = {f"{unit}/{name}": count for name, count in ordered[:_NAMED_CLASSES]}
    others = sum(count for _, count in ordered[_NAMED_CLASSES:])
    return told | ({f"{unit}/others": others} if others else {})


def sheet_metadata(sheet: np.ndarray, told: str) -> MetadataValue:
    """A contact sheet as Dagster's pages show it.

    Args:
        sheet: uint8 BGR array of shape (height_px, width_px, 3).
        told: What it shows, in words.
    """
    return MetadataValue.md(as_markdown(jpeg(sheet, MAX_SHEET_BYTES), told))


def work_at_death(store: Store, run_id: str) -> tuple[str, str] | None:
    """The stage and the recording at which a run died without a word; None if it ended otherwise."""
    try:
        stage, _, recording_id = _note_of(store, run_id).read_text().partition("\n")
    except FileNotFoundError:
        return None
    return (stage, recording_id) if recording_id else None


def failed_recordings(failure: DagsterEvent) -> frozenset[str] | None:
    """The recordings that failed in a step, by the event of its failure; None where it failed in a way of its own."""
    data = failure.step_failure_data
    error = data.error
    while error is not None:
        if error.cls_name == GivenUpError.__name__:
            return frozenset()  # it was overtaken, which says nothing about recordings
        error = error.cause
    told = data.user_failure_data.metadata.get(_FAILED_KEY) if data.user_failure_data else None
    return frozenset(told.value) if isinstance(told, JsonMetadataValue) and isinstance(told.value, list) else None


def stop_told(failure: DagsterEvent) -> str | None:
    """What a person must do, by the event of the failure of a step that stopped for it; None where it does not say."""
    data = failure.step_failure_data.user_failure_data
    return data.description if data else None


@contextmanager
def _named(store: Store, run_id: str, stage: str) -> Iterator[Callable[[str], None]]:
    """Note on disk which recording a stage is working on; the note outlives this process if it is killed."""
    note = _note_of(store, run_id)
    with disk_errors(store.data_folder):
        note.parent.mkdir(parents=True, exist_ok=True)

    def name(recording_id: str) -> None:
        with disk_errors(store.data_folder):
            note.write_text(f"{stage}\n{recording_id}")

    try:
        yield name
    finally:
        note.unlink(missing_ok=True)


def _note_of(store: Store, run_id: str) -> Path:
    return store.data_folder / "unfinished" / "runs" / run_id


def _still_running(context: AssetExecutionContext) -> None:
    """See that nobody has ended this run.

    Raises:
        GivenUpError: Somebody did: a person, the daemon that took the process for dead, or a new start after a crash.
            Another run may be at work on the same recordings by now.
    """
    mine = RunsFilter(run_ids=[context.run.run_id], statuses=NOT_FINISHED_STATUSES)
    if context.instance.get_run_ids(mine):  # asked before every write: a whole run takes ten times as long to read
        return
    run = context.instance.get_run_by_id(context.run.run_id)
    ended = "deleted" if run is None else f"ended as {run.status.value}"
    raise GivenUpError(f"The run was {ended} while this process still worked on it: nothing more is written.")


def _recording_ids(context: AssetExecutionContext) -> list[str]:
    if not context.has_partition_key and not context.has_partition_key_range:
        raise Failure("No recording was chosen: materialize one or more partitions.", allow_retries=False)
    return list(context.partition_keys)


def _failure_sentence(stage: str, total: int, failed: Mapping[str, str], stop: PipelineError | None) -> str:
    named = " ".join(f"{recording_id}: {sentence}" for recording_id, sentence in failed.items())
    told = f"{stage}: {len(failed)} of {total} recordings failed. {named}" if failed else f"{stage}:"
    return f"{told} {stop}" if stop else told


def _reporter(context: AssetExecutionContext, asset_name: str, recording_id: str) -> Progress:
    """Tells the UI and the command line how far a recording is, every two seconds or when there is a picture."""
    last, last_done = time.monotonic(), 0
    # Speed is counted from the first frame that is told of: what comes before is loading, or was done by another run.
    first: tuple[float, int] | None = None

    def report(done: int, total: int, picture: np.ndarray | None = None, /) -> None:
        nonlocal last, last_done, first
        now = time.monotonic()
        first = first or (now, done)
        is_due = now - last >= PROGRESS_EVERY_S or (done == total and done != last_done)
        if picture is None and not is_due:
            return
        last, last_done = now, done
        metadata: dict[str, Any] = {"frames_done": done, "frames_total": total}
        if done > first[1]:
            rate_fps = (done - first[1]) / max(now - first[0], 1e-3)
            metadata |= {"frames_per_s": round(rate_fps, 1), "eta_s": round((total - done) / rate_fps, 1)}
        if picture is not None:
            shown = as_markdown(jpeg(picture, MAX_FRAME_BYTES), f"frame {done} of {total}")
            metadata["picture"] = MetadataValue.md(shown)
        context.log_event(AssetObservation(asset_name, partition=recording_id, metadata=metadata))

    return report
