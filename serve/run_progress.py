"""The runs that are queued or executing, and what their stages report: frames, rate, waits and pictures."""

import base64
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cv_assets.attempt_log import requester_of
from cv_assets.partitions import recordings_partitions
from cv_assets.waits import NOTHING, WAITING_FOR
from resources.dagster_instance.dagster_names import (
    ASSET_PARTITION_RANGE_START_TAG,
    PRIORITY_TAG,
    QUEUED_STATUSES,
    UNFINISHED_STATUSES,
)
from resources.dagster_instance.run_launcher import GPU_TAG
from sensors.retries import recordings_of_run

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

_MAX_PICTURES = 500
_PICTURE = re.compile(r"^!\[(.*?)\]\(data:image/jpeg;base64,([A-Za-z0-9+/=]+)\)$", re.DOTALL)


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is queued or executing.

    Attributes:
        run_id: The run.
        job_name: Its job.
        is_queued: Whether it waits for a slot or a worker.
        queue: gpu or cpu.
        queue_position: Its place among the queued runs of its queue, from 1; None if it executes.
        recording_ids: Its recordings.
        asset_names: The assets that it materializes; empty means all of its job.
        requested_by: A sensor, `backfill`, or `person`.
        created_at_s: When it was requested, in seconds since 1970.
        started_at_s: When it started, in seconds since 1970; None if it is queued.
    """

    run_id: str
    job_name: str
    is_queued: bool
    queue: str
    queue_position: int | None
    recording_ids: Sequence[str]
    asset_names: Sequence[str]
    requested_by: str
    created_at_s: float
    started_at_s: float | None


@dataclass(frozen=True)
class StageReport:
    """The newest report of a stage of a recording.

    Attributes:
        asset_name: The asset that reported.
        run_id: The run that reports.
        reported_at_s: When, in seconds since 1970.
        frames_done: Frames processed.
        frames_total: Frames in all; 0 if unknown.
        frames_per_s: Rate; None while it is unknown.
        waiting_for: What the stage waits for; None if it does not wait.
    """

    asset_name: str
    run_id: str
    reported_at_s: float
    frames_done: int = 0
    frames_total: int = 0
    frames_per_s: float | None = None
    waiting_for: str | None = None

    @property
    def remaining_s(self) -> float | None:
        """Estimated time until the stage has processed the recording; None while it is unknown."""
        if not self.frames_per_s or not self.frames_total:
            return None
        return max(0, self.frames_total - self.frames_done) / self.frames_per_s


@dataclass(frozen=True)
class Picture:
    """A picture that a stage has shown of its work.

    Attributes:
        number: Increases with every picture of the server.
        asset_name: The asset that showed it.
        caption: What it shows, such as `frame 120 of 400`.
        jpeg: The image.
    """

    number: int
    asset_name: str
    caption: str
    jpeg: bytes


class RunProgress:
    """Follows the runs of a pipeline through Dagster's run records and event log.

    Args:
        open_instance: Opens Dagster's instance.
        refresh_interval_s: Time for which what was read is used.
    """

    def __init__(self, open_instance: "Callable[[], DagsterInstance]", refresh_interval_s: float = 1.0) -> None:
        self._open_instance, self._refresh_interval_s = open_instance, refresh_interval_s
        self._lock = threading.Lock()
        self._refreshed_s = float("-inf")
        self._runs: Sequence[UnfinishedRun] = ()
        self._cursors: dict[str, str] = {}
        self._reports: dict[str, StageReport] = {}  # the newest by recording
        self._pictures: dict[str, Picture] = {}
        self._picture_count = 0

    def runs(self) -> Sequence[UnfinishedRun]:
        """The unfinished runs: those that execute first, then the queue in its order.

        Raises:
            PipelineError: The data folder has no Dagster home.
        """
        with self._lock:
            if time.monotonic() - self._refreshed_s >= self._refresh_interval_s:
                self._refresh()
                self._refreshed_s = time.monotonic()
            return self._runs

    def report_of(self, recording_id: str) -> StageReport | None:
        """The newest report of a recording's run that executes; None if there is none."""
        run_ids = {run.run_id for run in self.runs() if not run.is_queued}
        report = self._reports.get(recording_id)
        return report if report and report.run_id in run_ids else None

    def picture_of(self, recording_id: str) -> Picture | None:
        """The newest picture of a recording; None if the server has seen none."""
        self.runs()
        return self._pictures.get(recording_id)

    def all_reports(self) -> Mapping[str, StageReport]:
        """The newest report by recording, of the runs that execute."""
        run_ids = {run.run_id for run in self.runs() if not run.is_queued}
        return {key: report for key, report in list(self._reports.items()) if report.run_id in run_ids}

    def _refresh(self) -> None:
        from dagster import RunsFilter

        instance = self._open_instance()
        records = instance.get_run_records(RunsFilter(statuses=UNFINISHED_STATUSES))
        is_range_used = any(ASSET_PARTITION_RANGE_START_TAG in record.dagster_run.tags for record in records)
        all_ids = instance.get_dynamic_partitions(recordings_partitions.name or "") if is_range_used else []
        ordered = sorted(
            records, key=lambda record: (-_priority(record.dagster_run), record.create_timestamp.timestamp())
        )
        runs, queue_counts = [], {"gpu": 0, "cpu": 0}
        for record in ordered:
            run, is_queued = record.dagster_run, record.dagster_run.status in QUEUED_STATUSES
            queue = "gpu" if GPU_TAG.items() <= run.tags.items() else "cpu"
            queue_counts[queue] += is_queued
            assets = sorted(key.to_user_string() for key in run.asset_selection or ())
            runs.append(
                UnfinishedRun(
                    run_id=run.run_id,
                    job_name=run.job_name,
                    is_queued=is_queued,
                    queue=queue,
                    queue_position=queue_counts[queue] if is_queued else None,
                    recording_ids=recordings_of_run(run, all_ids),
                    asset_names=assets,
                    requested_by=requester_of(run.tags),
                    created_at_s=record.create_timestamp.timestamp(),
                    started_at_s=record.start_time,
                )
            )
        self._runs = sorted(runs, key=lambda run: run.is_queued)
        executing = [run.run_id for run in self._runs if not run.is_queued]
        for run_id in executing:
            self._read_events(instance, run_id)
        self._cursors = {run_id: cursor for run_id, cursor in self._cursors.items() if run_id in executing}
        self._reports = {key: report for key, report in self._reports.items() if report.run_id in executing}
        while len(self._pictures) > _MAX_PICTURES:
            del self._pictures[next(iter(self._pictures))]

    def _read_events(self, instance: "DagsterInstance", run_id: str) -> None:
        """Read the observations that a run has logged since the last call."""
        from dagster import DagsterEventType

        has_more = True
        while has_more:
            page = instance.get_records_for_run(
                run_id, cursor=self._cursors.get(run_id), of_type=DagsterEventType.ASSET_OBSERVATION
            )
            self._cursors[run_id], has_more = page.cursor, page.has_more
            for record in page.records:
                observation = record.event_log_entry.asset_observation
                if observation is None or observation.partition is None:
                    continue
                values = {name: value.value for name, value in observation.metadata.items()}
                asset_name = observation.asset_key.to_user_string()
                self._read_observation(observation.partition, asset_name, run_id, record.timestamp, values)

    def _read_observation(
        self, recording_id: str, asset_name: str, run_id: str, timestamp: float, values: Mapping[str, Any]
    ) -> None:
        if WAITING_FOR in values:
            waiting_for = None if values[WAITING_FOR] == NOTHING else str(values[WAITING_FOR])
            self._reports[recording_id] = StageReport(asset_name, run_id, timestamp, waiting_for=waiting_for)
        elif values.keys() >= {"frames_done", "frames_total"}:
            rate = values.get("frames_per_s")
            self._reports[recording_id] = StageReport(
                asset_name,
                run_id,
                timestamp,
                int(values["frames_done"]),
                int(values["frames_total"]),
                None if rate is None else float(rate),
            )
        if match := _PICTURE.match(str(values.get("preview", ""))):
            self._picture_count += 1
            self._pictures.pop(recording_id, None)  # so that the oldest pictures come first
            self._pictures[recording_id] = Picture(
                self._picture_count, asset_name, match[1], base64.b64decode(match[2])
            )


def _priority(run: "DagsterRun") -> int:
    try:
        return int(run.tags.get(PRIORITY_TAG, "0"))
    except ValueError:
        return 0
