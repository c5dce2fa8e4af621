"""`python -m benchmarks.audit`: how often the 95 % intervals of audits contain the truth, on drawn scenes with errors.

People cross a line in drawn recordings. In each draw a share of the crossings is missed and false ones are added, a
sample is drawn, answered from the truth, and estimated. The errors are planted again for each draw.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import pyarrow as pa

from benchmarks.report import Case, figure_case, min_case, print_table
from cv_assets.zone_events import zone_rows
from demo.crowd import CrowdSettings, simulate_crossings
from resources.audit.audit_answers import report_counts
from resources.audit.audit_population import read_population
from resources.audit.audit_sample import AuditItem, draw_sample
from resources.audit.interval_estimates import Interval
from resources.config.settings import Settings
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.schema.zone_tables import ZONE_EVENTS
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows
from tests.builders.damaged_tracks import box_rows, track_rows
from tests.builders.table_rows import store_recordings
from tests.builders.track_rows import frame_rows

_CAMERA = "gate"
_LINE = {"name": "middle", "points": [[0.5, 1], [0.5, 0]]}


@dataclass(frozen=True)
class PlantedErrors:
    """Errors of a pipeline.

    Attributes:
        missed: Share of the true crossings that are missed.
        false: Number of false crossings, as a share of the counted ones.
        per_burst: Crossings that are missed together, as when the picture is dark.
    """

    missed: float
    false: float
    per_burst: int = 1


CASES = (
    PlantedErrors(0.02, 0.02),
    PlantedErrors(0.1, 0.05),
    PlantedErrors(0.1, 0.05, per_burst=4),
    PlantedErrors(0.3, 0.2),
    PlantedErrors(0.0, 0.0),
)


def drawn_settings(data_folder: Path) -> Settings:
    """Settings with a line through the middle of the frame."""
    return Settings.model_validate({"data_folder": data_folder, "cameras": {_CAMERA: {"lines": [_LINE]}}})


def draw_true_items(data_folder: Path, recording_count: int, person_count: int = 4) -> list[AuditItem]:
    """Draw recordings of 16 s with people at a line, and read what there is to count and all stretches.

    Args:
        data_folder: An empty folder for the tables.
        recording_count: Number of recordings.
        person_count: Number of people in each; a quarter of the recordings are empty.
    """
    store, settings = Store(data_folder), drawn_settings(data_folder)
    crowd_settings = CrowdSettings(person_count=person_count, duration_s=16.0)
    ids = [f"r{number}" for number in range(recording_count)]
    size = {"width_px": 1280, "height_px": 720, "rate_fps": 25.0, "duration_s_from_content": 16.0}
    store_recordings(store, *({"recording_id": recording_id, "camera": _CAMERA, **size} for recording_id in ids))
    boxes, tracks, events = [], [], []
    for number, recording_id in enumerate(ids[: recording_count * 3 // 4]):
        truth = simulate_crossings(number, crowd_settings)[0].truth
        frames, people = truth[:, 0].astype(np.int32), truth[:, 1].astype(np.int32)
        rows = box_rows(recording_id, people, frames, truth[:, 2:], people * 0, 25.0)
        boxes.append(rows)
        tracks.append(track_rows(rows, 25.0))
        frame_table = frame_rows(400)
        frame_table = frame_table.set_column(1, "time_s", [frame_table["frame_index"].to_numpy() / 25])
        events.append(zone_rows(recording_id, rows, frame_table, settings.camera(_CAMERA), 1280, 720)["zone_events"])
    for table, parts in ((TRACK_BOXES, boxes), (TRACKS, tracks), (ZONE_EVENTS, events)):
        store.replace(table, ids, pa.concat_tables(parts))
    return read_population(store, list(read_recording_rows(store).values()), settings)


@dataclass(frozen=True)
class FlawedCounts:
    """Counted events and stretches of a pipeline with errors, and the truth about them.

    Attributes:
        population: What the pipeline has.
        false: Identities of the false events.
        missed: By recording and start of a stretch, the number of missed objects.
        true_count: Number of true events.
    """

    population: Sequence[AuditItem]
    false: frozenset[object]
    missed: Counter[tuple[str, float]]
    true_count: int

    def answer(self, item: AuditItem) -> int:
        """What a person answers who sees everything."""
        if item.kind == "event":
            return int(item.identity not in self.false)
        return self.missed[item.recording_id, item.start_s]


def plant_errors(items: Sequence[AuditItem], errors: PlantedErrors, rng: np.random.Generator) -> FlawedCounts:
    """Leave out some true events, and add false ones; most false ones and a few true ones are doubtful."""
    true_events = [item for item in items if item.kind == "event"]
    stretches = [item for item in items if item.kind == "stretch"]
    is_missed = np.zeros(len(true_events), bool)
    for first in rng.permutation(len(true_events))[: round(errors.missed * len(true_events) / errors.per_burst)]:
        is_missed[first : first + errors.per_burst] = True
    events = [
        replace(event, stratum="doubtful" if rng.random() < 0.05 else "certain")
        for event, missed in zip(true_events, is_missed, strict=True)
        if not missed
    ]
    false = []
    for number in range(rng.binomial(len(events), errors.false)):
        place = stretches[rng.integers(len(stretches))]
        time_s = place.start_s + float(rng.random()) * (place.end_s - place.start_s)
        stratum = "doubtful" if rng.random() < 0.4 else "certain"
        false.append(replace(place, kind="event", stratum=stratum, start_s=time_s, end_s=time_s,
                             order=place.order - place.start_s + time_s, track_id=1000 + number,
                             class_name="person", event="in"))  # fmt: skip
    starts = {(stretch.recording_id, stretch.start_s // 4): stretch.start_s for stretch in stretches}
    missed = Counter(
        (event.recording_id, starts[event.recording_id, event.start_s // 4])
        for event, is_left_out in zip(true_events, is_missed, strict=True)
        if is_left_out
    )
    counted = {(event.recording_id, event.start_s // 4) for event in (*events, *false)}
    regrouped = []
    for stretch in stretches:
        is_counted = (stretch.recording_id, stretch.start_s // 4) in counted
        other = "empty" if stretch.stratum == "empty" else "with boxes"
        regrouped.append(replace(stretch, stratum="with counted" if is_counted else other))
    identities = frozenset(event.identity for event in false)
    return FlawedCounts([*events, *false, *regrouped], identities, missed, len(true_events))


@dataclass(frozen=True)
class Coverage:
    """Shares of the draws whose interval contains the truth, and mean half widths of the number of true objects."""

    precision: float
    recall: float
    corrected: float
    half_width: float


def measure_coverage(items: Sequence[AuditItem], errors: PlantedErrors, count: int, seeds: Sequence[int]) -> Coverage:
    """Plant errors, audit and compare with the truth, once for each seed."""
    hits, widths = Counter[str](), []
    for seed in seeds:
        flawed = plant_errors(items, errors, np.random.default_rng((7, seed)))
        sample = draw_sample(_CAMERA, flawed.population, count, seed)
        rows = [
            {"count_name": item.count_name, "kind": item.kind, "stratum": item.stratum}
            | {"stratum_size": item.stratum_size, "answer": flawed.answer(item)}
            for item in sample.items
        ]
        estimate = report_counts(rows)[0].estimate
        assert estimate is not None and estimate.precision is not None and estimate.recall is not None
        right = estimate.counted - len(flawed.false)
        truths: dict[str, tuple[Interval, float]] = {
            "precision": (estimate.precision, right / estimate.counted),
            "recall": (estimate.recall, right / flawed.true_count),
            "corrected": (estimate.corrected, flawed.true_count),
        }
        for name, (interval, truth) in truths.items():
            hits[name] += interval.low - 1e-9 <= truth <= interval.high + 1e-9
        widths.append((estimate.corrected.high - estimate.corrected.low) / 2 / flawed.true_count)
    draws = len(seeds)
    precision, recall, corrected = (hits[name] / draws for name in ("precision", "recall", "corrected"))
    return Coverage(precision, recall, corrected, float(np.mean(widths)))


def audit_cases(draw_count: int) -> Iterator[Case]:
    """Coverage for each kind of planted errors, for samples of 50 and 200."""
    with tempfile.TemporaryDirectory() as folder:
        items = draw_true_items(Path(folder), 200)
    for errors in CASES:
        for count in (50, 200):
            coverage = measure_coverage(items, errors, count, range(draw_count))
            name = f"missed {errors.missed:.0%} (by {errors.per_burst}), false {errors.false:.0%}, sample {count}"
            for figure in ("precision", "recall", "corrected"):
                yield min_case(f"{name}: {figure}", getattr(coverage, figure) * draw_count, "draws", 0.93 * draw_count)
            yield figure_case(f"{name}: mean half width", coverage.half_width)


if __name__ == "__main__":
    draws = 1000
    click.echo(f"Draws whose 95 % interval contains the truth, of {draws}.")
    print_table(list(audit_cases(draws)))
