"""Answers of people to audits: read from the file that the page saves, stored, and read back for the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resources.audit.audit_sample import STRATA, AuditItem
from resources.audit.interval_estimates import CountEstimate, Stratum, count_more, estimate_count
from resources.errors import PipelineError
from resources.schema.audit_tables import AUDIT_ANSWERS
from resources.storage.delta_store import Store
from resources.storage.locks import exclusive_lock

FILE_FORMAT = "cv-assets audit 1"
"""The first entry of a file of answers."""


_STRATUM_PHRASES = {
    "doubtful": "events of doubtful tracks",
    "certain": "events of other tracks",
    "with counted": "stretches with counted events",
    "with boxes": "stretches with boxes but no counted event",
    "empty": "stretches without boxes",
}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count_name: str
    kind: str
    stratum: str
    recording_id: str
    start_s: float = Field(ge=0)
    end_s: float = Field(ge=0)
    track_id: int | None
    class_name: str | None
    event: str | None
    stratum_size: int = Field(ge=1)
    answer: int | None = Field(ge=0)


class AnswersFile(BaseModel):
    """The file that the page saves."""

    model_config = ConfigDict(extra="forbid")
    format: str
    audit_id: str
    counts_id: str
    camera: str
    items: list[_Answer]


def read_answers_file(file: Path, camera: str) -> AnswersFile:
    """Read the answers that the page of a camera has saved.

    Raises:
        PipelineError: The file cannot be read, is none of a page, or is that of another camera.
    """
    try:
        answers = AnswersFile.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise PipelineError(f"The file {file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, ValidationError) as error:
        raise PipelineError(_no_answers_sentence(file)) from error
    is_known = all(item.kind in STRATA and item.stratum in STRATA[item.kind] for item in answers.items)
    is_possible = all(item.kind == "stretch" or item.answer in (None, 0, 1) for item in answers.items)
    if answers.format != FILE_FORMAT or not is_known or not is_possible or not answers.items:
        raise PipelineError(_no_answers_sentence(file))
    if answers.camera != camera:
        raise PipelineError(f"The file {file} has answers for the camera {answers.camera!r}, not for {camera!r}.")
    return answers


def _no_answers_sentence(file: Path) -> str:
    return f"The file {file} is no file of answers: save one with the page that cv-assets audit writes."


def store_answers(store: Store, answers: AnswersFile, answered_by: str) -> int:
    """Add the answers that are new or changed, in one commit that is on the disk before the caller goes on.

    Returns:
        The number of rows that were added.

    Raises:
        PipelineError: The data folder is full, read-only or not accessible.
    """
    with exclusive_lock(store.data_folder, "audit"):
        stored = {
            row["item_index"]: row["answer"] for row in _newest_rows(store) if row["audit_id"] == answers.audit_id
        }
        now = datetime.now(UTC)
        rows = [
            item.model_dump(exclude={"event"})
            | {"audit_id": answers.audit_id, "counts_id": answers.counts_id, "item_index": index}
            | {"answered_at_utc": now, "answered_by": answered_by}
            for index, item in enumerate(answers.items)
            if index not in stored or stored[index] != item.answer
        ]
        if rows:
            store.append(AUDIT_ANSWERS, pa.Table.from_pylist(rows, AUDIT_ANSWERS.arrow_schema))
    store.sync()
    return len(rows)


def read_answers(store: Store, counts_id: str) -> list[dict[str, Any]]:
    """Read the newest row of each item of all audits of the same counts."""
    return [row for row in _newest_rows(store) if row["counts_id"] == counts_id]


def _newest_rows(store: Store) -> list[dict[str, Any]]:
    rows = sorted(store.read(AUDIT_ANSWERS).to_pylist(), key=lambda row: row["answered_at_utc"])
    return list({(row["audit_id"], row["item_index"]): row for row in rows}.values())


def identities(rows: Sequence[Mapping[str, Any]]) -> frozenset[tuple[str, str, str, float, int | None]]:
    """Identities of the items that have an answer."""
    names = ("count_name", "kind", "stratum", "recording_id", "start_s", "end_s", "track_id")
    return frozenset(
        AuditItem(**{name: row[name] for name in names}).identity for row in rows if row["answer"] is not None
    )


@dataclass(frozen=True)
class CountReport:
    """What the answers say of one count.

    Attributes:
        count_name: The count.
        events: Strata of the events that have answers.
        stretches: Strata of the stretches that have answers.
        open_strata: The strata without an answer.
    """

    count_name: str
    events: Sequence[Stratum]
    stretches: Sequence[Stratum]
    open_strata: Sequence[str]

    @property
    def estimate(self) -> CountEstimate | None:
        """How right the count is; None while a stratum has no answer."""
        return None if self.open_strata else estimate_count(self.events, self.stretches)

    def count_more(self) -> int:
        """How many more items to look at until the true number is known to 5 %."""
        return count_more(self.events, self.stretches)


def report_counts(rows: Sequence[Mapping[str, Any]]) -> list[CountReport]:
    """Estimate each count from answers.

    Args:
        rows: The newest row of each item, all from samples of the same counts.
    """
    reports = []
    for name in sorted({row["count_name"] for row in rows}):
        strata: dict[tuple[str, str], tuple[int, list[int]]] = {}
        for row in rows:
            if row["count_name"] == name:
                answers = strata.setdefault((row["kind"], row["stratum"]), (row["stratum_size"], []))[1]
                answers += [] if row["answer"] is None else [row["answer"]]
        open_strata = [_STRATUM_PHRASES[stratum] for (kind, stratum), (_, answers) in strata.items() if not answers]
        by_kind = {
            kind: [Stratum.of(size, answers) for (of, _), (size, answers) in strata.items() if of == kind and answers]
            for kind in STRATA
        }
        reports.append(CountReport(name, by_kind["event"], by_kind["stretch"], open_strata))
    return reports
