"""camera_clocks: one row per recording, the clock that the camera burns into its picture, to check the wall clock."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from cv_assets.media_status import find_normalized_video, read_normalized_row
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, count_metadata
from resources.camera_clock import ClockReading, find_start, parse_clock
from resources.config.stage_version import StageVersion
from resources.inference.text_reader import TextLine, check_text_reader, read_text, text_reader_id
from resources.media.frame_reader import read_distant_images
from resources.media.progress import ReportProgress
from resources.schema.camera_clock_tables import CAMERA_CLOCKS
from resources.schema.recording_tables import FRAMES
from resources.storage.delta_store import Store

_STRIPS = ((0.0, 0.2), (0.8, 1.0))  # of the height: cameras write at the top or at the bottom
Strip = tuple[int, int]


def read_clocks(images: Iterator[tuple[float, np.ndarray]]) -> tuple[list[ClockReading], str | None]:
    """Read the clock of some frames.

    Args:
        images: Media time and uint8 BGR picture of each frame.

    Returns:
        The readings, and the text of the first one.
    """
    readings: list[ClockReading] = []
    first_text, strip = None, None
    for time_s, image in images:
        strips = [strip] if strip is not None else _strips_of(image.shape[0])
        for top, bottom in strips:
            text = _read_line(image[top:bottom])
            if (shown := parse_clock(text)) is not None:
                readings.append(ClockReading(time_s, shown))
                first_text, strip = first_text or text, (top, bottom)
                break
    return readings, first_text


def _strips_of(height_px: int) -> Sequence[Strip]:
    return [(round(top * height_px), round(bottom * height_px)) for top, bottom in _STRIPS]


def _read_line(strip: np.ndarray) -> str:
    """Read all text of a strip."""
    return join_lines(read_text(strip))


def join_lines(lines: Sequence[TextLine]) -> str:
    """Join lines of text from top to bottom, those side by side from left to right, as a date and a time may be."""
    rows: list[list[TextLine]] = []
    for line in sorted(lines, key=lambda line: line.xyxy[1]):
        if rows and line.xyxy[1] < rows[-1][0].xyxy[[1, 3]].mean():  # it begins above the middle of the row
            rows[-1].append(line)
        else:
            rows.append([line])
    return " ".join(line.text for row in rows for line in sorted(row, key=lambda line: line.xyxy[0]))


def read_recording_clock(
    recording_id: str, store: Store, frame_count: int, progress: ReportProgress
) -> dict[str, Metadata]:
    """Read the camera's clock in one recording, and store what it says about the start.

    Raises:
        RecordingError: The recording has no normalized video.
        PipelineError: The package that reads text is not installed.
    """
    check_text_reader()
    row = read_normalized_row(recording_id, store)
    frames = store.read(FRAMES, [recording_id], ["frame_index", "time_s"]).sort_by("frame_index")
    times_s = frames["time_s"].to_numpy()
    indices = np.unique(np.linspace(0, frames.num_rows - 1, frame_count).astype(int)).tolist()
    rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])

    def read_images(path: Any) -> Iterator[tuple[float, np.ndarray]]:
        for number, image in enumerate(read_distant_images(path, indices, rate_fps)):
            yield float(times_s[indices[number]]), image
            progress(number + 1, len(indices))

    with find_normalized_video(row, store.data_folder).reading() as path:
        readings, first_text = read_clocks(read_images(path))
    start = find_start(readings)
    result = {
        "recording_id": recording_id,
        "started_at_local": start and start.started_at,
        "clock_text": first_text,
        "agreeing_count": start.agreeing_count if start else 0,
        "reading_count": len(readings),
        "frame_count": len(indices),
        "model_id": text_reader_id(),
        "engine_name": "openvino-f32",
    }
    store.replace(CAMERA_CLOCKS, [recording_id], pa.Table.from_pylist([result], schema=CAMERA_CLOCKS.arrow_schema))
    shown = {"started_at_local": str(start.started_at)} if start else {}
    return {CAMERA_CLOCKS.name: count_metadata(1, reading_count=len(readings), **shown)}


@stage_asset(
    group=ANALYSIS,
    tables=(CAMERA_CLOCKS,),
    deps=("normalized_video", FRAMES.name),
    version=lambda settings: StageVersion.build(
        "camera clocks 2", {"camera_clock": settings.camera_clock}, text_reader_id()
    ),
    kinds=("openvino",),
)
def camera_clocks(recording_id: str, run: StageRun, progress: ReportProgress) -> Mapping[str, Metadata]:
    """Read the clock that the camera burns into the picture."""
    return read_recording_clock(recording_id, run.store, run.settings.camera_clock.frames, progress)
