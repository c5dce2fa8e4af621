"""Recaps and synopses of a drawn day of 30 minutes and of vtest.avi: `python -m benchmarks.recaps [FOLDER]`.

The drawn day has six recordings of five minutes, whose objects are known. Clocks are read back with RapidOCR. What is
drawn and processed stays in FOLDER, so that the next run with it only writes and reads the recaps.
"""

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import av
import click
import cv2
import numpy as np

from benchmarks.inputs import process_folder
from benchmarks.report import CORPUS, Case, describe_machine, exact_case, figure_case, max_case, min_case, print_table
from cli.options import end_process
from cv_assets.recap_writing import RecapOptions, plan_stored_recap, sort_by_time, write_recap
from cv_assets.synopsis_writing import write_synopsis
from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.scenes import Scene
from demo.drawn_scenes.video_files import write_video
from resources.clips.overlay import wall_clock_text
from resources.clips.recap import RecapPart
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.exports.annotations import select_recordings
from resources.inference.text_reader import read_text
from resources.storage.results_database import open_results

_HOURS = (6, 8, 11, 14, 18, 21)
_SCENE_S, _RATE_FPS = 300.0, 10
_COUNTS = {"person": 5, "car": 6, "bicycle": 3}
_DAY_LENGTH_S, _VTEST_LENGTH_S = 120.0, 20.0
_STREET_MODEL = PROJECT_ROOT / "demo" / "model" / "street.pt"
_EVERY = 10  # frames, of which one is read
_CLOCK_SCALE, _BORDER_PX = 3, 20


@dataclass(frozen=True)
class ShownEvent:
    """Something that must be in a recap: the first and last frame of it."""

    recording: str
    first_frame: int
    last_frame: int


def day_scene(number: int) -> Scene:
    """The scene of one recording of the drawn day."""
    return demo_scene(40 + number, _SCENE_S, _COUNTS, frame_rate=Fraction(_RATE_FPS))


def prepare_day(folder: Path) -> None:
    """Draw the day and process it, unless the folder has its results."""
    if (folder / "data" / "results.duckdb").exists():
        return
    (folder / "recordings" / "gate").mkdir(parents=True, exist_ok=True)
    for number, hour in enumerate(_HOURS):
        file = folder / "recordings" / "gate" / f"gate_2026-03-01_{hour:02d}-00-00.mp4"
        if not file.exists():
            draft = file.with_suffix(".part.mp4")
            write_video(day_scene(number), draft)
            draft.rename(file)
    process_folder(folder / "recordings", folder / "data", _STREET_MODEL)


def prepare_vtest(folder: Path) -> None:
    """Process vtest.avi, unless the folder has its results."""
    if not (folder / "data" / "results.duckdb").exists():
        (folder / "recordings").mkdir(parents=True, exist_ok=True)
        file = folder / "recordings" / "vtest_2026-03-01_12-00-00.avi"
        shutil.copyfile(CORPUS / "recordings" / "vtest.avi", file)
        process_folder(folder / "recordings", folder / "data", CORPUS / "weights" / "yolo11n.pt")


def true_events() -> list[ShownEvent]:
    """The objects of the drawn day: from when their centre is inside the frame until it has left."""
    events = []
    for number, hour in enumerate(_HOURS):
        scene = day_scene(number)
        for item in scene.objects:
            edges_s = sorted((edge - item.start_x_px) / item.velocity_x_px_s for edge in (0, scene.width_px))
            first, last = (round((item.appear_time_s + edge_s) * _RATE_FPS) for edge_s in edges_s)
            events.append(ShownEvent(f"gate_2026-03-01_{hour:02d}-00-00", first, min(last, scene.frame_count - 1)))
    return events


def recap_cases(
    name: str, data_folder: Path, length_s: float, events: Sequence[ShownEvent] | None, scratch: Path
) -> Iterator[Case]:
    """Whether a recap shows all events, has the requested length, and the right clock on its frames.

    Args:
        name: Name of the cases.
        data_folder: The results.
        length_s: The requested length.
        events: What must be shown; None takes the stored tracks.
        scratch: Folder for the recap.
    """
    settings = Settings(data_folder=data_folder)
    with open_results(data_folder) as results:
        rows = sort_by_time(results, select_recordings(results, (), None))
        options = RecapOptions(length_s)
        parts = plan_stored_recap(results, rows, options)
        started_s = time.perf_counter()
        outcome = write_recap(results, rows, settings, scratch / f"{name}.mp4", options)
        elapsed_s = time.perf_counter() - started_s
        if events is None:
            query = "SELECT recording_id, first_frame_index, last_frame_index FROM tracks"
            events = [ShownEvent(*row) for row in results.execute(query).fetchall()]
    footage_s = sum(row["frame_count"] * row["rate_fps_den"] / row["rate_fps_num"] for row in rows)
    yield figure_case(f"{name}: minutes of recordings", footage_s / 60)
    yield figure_case(f"{name}: stretches", outcome.stretch_count)
    yield figure_case(f"{name}: minutes in the stretches", outcome.stretches_s / 60)
    yield exact_case(f"{name}: events in the recap", count_shown(events, parts), len(events))
    deviation = 100 * abs(outcome.length_s - length_s) / length_s
    yield max_case(f"{name}: deviation from the requested length", deviation, "%", 5)
    yield figure_case(f"{name}: recordings / time to write, x", footage_s / elapsed_s)
    errors = clock_errors(scratch / f"{name}.mp4", expected_clocks(parts, rows, data_folder))
    yield figure_case(f"{name}: clocks read", len(errors))
    yield min_case(f"{name}: clocks right", 100 * float(np.mean(np.array(errors) == 0)), "%", 98)
    yield max_case(f"{name}: wrong characters in the worst clock", max(errors), "", 1)


def count_shown(events: Sequence[ShownEvent], parts: Sequence[RecapPart]) -> int:
    """Number of events of which at least one frame is in the recap."""
    return sum(
        any(
            part.recording.recording_id.startswith(event.recording)
            and ((part.frame_indices >= event.first_frame) & (part.frame_indices <= event.last_frame)).any()
            for part in parts
        )
        for event in events
    )


def expected_clocks(parts: Sequence[RecapPart], rows: Sequence[dict[str, Any]], data_folder: Path) -> list[str]:
    """The clock of each frame of a recap."""
    starts = {row["recording_id"]: row["started_at_utc"] for row in rows}
    clocks = []
    with open_results(data_folder) as results:
        for part in parts:
            recording_id = part.recording.recording_id
            query = "SELECT time_s FROM frames WHERE recording_id = ? ORDER BY frame_index"
            times_s = results.execute(query, [recording_id]).fetchnumpy()["time_s"]
            for frame in part.frame_indices:
                clocks.append(wall_clock_text(starts[recording_id], float(times_s[frame]), ZoneInfo("UTC")))
    return clocks


def clock_errors(video: Path, clocks: Sequence[str]) -> list[int]:
    """Read the clock of some frames of a recap; returns the number of wrong characters of each."""
    errors = []
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % _EVERY:
                continue
            image = frame.to_ndarray(format="bgr24")
            height = max(14, round(min(image.shape[:2]) / 36))
            width = round(height * 0.62 * len(clocks[number]))
            field = cv2.resize(
                image[:height, :width], None, fx=_CLOCK_SCALE, fy=_CLOCK_SCALE, interpolation=cv2.INTER_CUBIC
            )
            framed = np.pad(np.asarray(field), ((_BORDER_PX, _BORDER_PX), (_BORDER_PX, _BORDER_PX), (0, 0)))
            lines = sorted(read_text(framed), key=lambda line: line.xyxy[0])
            text = "".join(line.text for line in lines)
            errors.append(count_wrong(_digits(text), _digits(clocks[number])))
    return errors


def _digits(text: str) -> str:
    """The digits alone: separators and spaces are no part of the time."""
    return re.sub(r"\D", "", text)


def count_wrong(text: str, truth: str) -> int:
    """Number of characters to change, add or remove."""
    row = list(range(len(truth) + 1))
    for number, character in enumerate(text, 1):
        before, row[0] = row[0], number
        for position, expected in enumerate(truth, 1):
            before, row[position] = (
                row[position],
                min(row[position] + 1, row[position - 1] + 1, before + (character != expected)),
            )
    return row[-1]


def synopsis_cases(name: str, data_folder: Path, length_s: float | None, scratch: Path) -> Iterator[Case]:
    """Length and overlaps of a synopsis."""
    with open_results(data_folder) as results:
        rows = sort_by_time(results, select_recordings(results, (), None))
        started_s = time.perf_counter()
        settings = Settings(data_folder=data_folder)
        outcome = write_synopsis(results, rows, settings, scratch / f"{name}-synopsis.mp4", length_s)
    elapsed_s = time.perf_counter() - started_s
    yield figure_case(f"{name}: objects in the synopsis", outcome.object_count)
    yield figure_case(f"{name}: recordings / synopsis, x", outcome.recorded_s / outcome.length_s)
    yield figure_case(f"{name}: area of objects that others cover, %", 100 * outcome.overlap_share)
    yield figure_case(f"{name}: recordings / time to write the synopsis, x", outcome.recorded_s / elapsed_s)


def day_cases(folder: Path) -> Iterator[Case]:
    """The cases of the drawn day."""
    prepare_day(folder / "day")
    yield from recap_cases("day", folder / "day" / "data", _DAY_LENGTH_S, true_events(), folder)
    yield from synopsis_cases("day", folder / "day" / "data", None, folder)


def vtest_cases(folder: Path) -> Iterator[Case]:
    """The cases of vtest.avi; none without the corpus."""
    if (CORPUS / "recordings" / "vtest.avi").exists():
        prepare_vtest(folder / "vtest")
        yield from recap_cases("vtest", folder / "vtest" / "data", _VTEST_LENGTH_S, None, folder)
        yield from synopsis_cases("vtest", folder / "vtest" / "data", None, folder)


if __name__ == "__main__":
    click.echo(f"Measuring on {describe_machine()}")
    with tempfile.TemporaryDirectory() as temporary:
        for cases in (day_cases, vtest_cases):
            print_table(list(cases(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))))
    end_process(0)
