"""The status of whole recordings, which the asset `recordings` shows as observations.

A materialization of `recordings` knows only what the probe has found. What later stages find, such as a part that does
not decode, is therefore observed: the UI shows the newest observation above the metadata of the materialization.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import AssetObservation, DagsterInstance

from resources.schema.recording_tables import RECORDINGS
from resources.schema.views import STATUS_SEVERITY
from resources.storage.delta_store import Store
from resources.storage.stage_runs import newest_stage_runs

_DONE_STATUSES = ("ok", "partial")
_FAILED_STATUSES = ("failed", "interrupted", "quarantined")


@dataclass(frozen=True)
class RecordingStatus:
    """The status of a recording.

    Attributes:
        status: The most severe status among the newest attempts of its stages; `ok` before the first attempt.
        error: Reason of the status; None if it is ok.
        failed_stage: The stage that failed, was interrupted or quarantined; None with another status.
        done_stage_count: Number of stages that have succeeded.
    """

    status: str = "ok"
    error: str | None = None
    failed_stage: str | None = None
    done_stage_count: int = 0

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "RecordingStatus":
        """Determine the status of a recording as the view `recording_status` does.

        Args:
            rows: The newest row of `stage_runs` of each of its stages: stage, status, error and finished_at_utc.
        """
        newest_first = sorted(rows, key=lambda row: row["finished_at_utc"], reverse=True)
        worst = min(newest_first, key=lambda row: STATUS_SEVERITY.index(row["status"]), default=None)
        if worst is None:
            return cls()
        return cls(
            worst["status"],
            worst["error"],
            worst["stage"] if worst["status"] in _FAILED_STATUSES else None,
            sum(row["status"] in _DONE_STATUSES for row in newest_first),
        )

    def observation(self, recording_id: str, stage_names: Sequence[str]) -> AssetObservation:
        """Build the observation of `recordings` that shows the status.

        Args:
            recording_id: The recording.
            stage_names: All stages.
        """
        # The UI shows the newest value of each key, so every observation has every key.
        metadata = {
            "status": self.status,
            "error": self.error or "none",
            "failed stage": self.failed_stage or "none",
            "stages done": f"{self.done_stage_count} of {len(stage_names)}",
        }
        return AssetObservation(RECORDINGS.name, partition=recording_id, metadata=metadata)


def is_news(before: RecordingStatus, after: RecordingStatus, stage_names: Sequence[str]) -> bool:
    """Whether a status is worth an observation: a recording without problems has one, when all stages are done."""
    is_complete = after.done_stage_count == len(stage_names)
    return after != before and (is_complete or not before.status == after.status == "ok")


def report_statuses(
    instance: DagsterInstance, store: Store, stage_names: Sequence[str], recording_ids: Sequence[str]
) -> None:
    """Report the status of some recordings outside a run, unless they are processed without problems so far.

    Args:
        instance: Dagster's instance.
        store: The tables.
        stage_names: All stages of the asset graph; without the stage of `recordings` nothing is reported.
        recording_ids: The recordings.
    """
    if RECORDINGS.name not in stage_names or not recording_ids:
        return
    rows: dict[str, list[dict[str, Any]]] = {}
    columns = ["recording_id", "stage", "status", "error", "finished_at_utc"]
    for row in newest_stage_runs(store, recording_ids, columns=columns).to_pylist():
        rows.setdefault(row["recording_id"], []).append(row)
    for recording_id, newest in rows.items():
        status = RecordingStatus.of(newest)
        if is_news(RecordingStatus(), status, stage_names):
            instance.report_runless_asset_event(status.observation(recording_id, stage_names))
