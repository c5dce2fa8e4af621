"""Cuts crops out of the file of a recording, at full resolution, in place of those of the normalized video."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cv_assets.crop_reading import box_of
from cv_assets.crop_selection import crop_edges
from resources.config.settings import Settings
from resources.errors import RecordingError, RejectedRecordingError
from resources.media.isolation import cut_source_in_subprocess
from resources.media.normalized_file import WHOLE_FRAME
from resources.media.progress import ReportProgress
from resources.media.source_cuts import CutSource, FrameCuts
from resources.recording_files import find_recording_file
from resources.schema.recording_tables import FRAMES
from resources.storage.delta_store import Store

_SAME_PIXELS = ("remux", "reference")  # of the normalized video: its pictures are those of the file


def cut_from_source(
    rows: Sequence[dict[str, Any]],
    recording: Mapping[str, Any],
    store: Store,
    settings: Settings,
    progress: ReportProgress,
) -> list[dict[str, Any]]:
    """Replace the pictures of crops by those of the recording's file.

    Args:
        rows: Rows of `crops` of one recording.
        recording: Its row of header and content.
        store: The tables.
        settings: Watched folder, and how crops and videos are made.
        progress: Takes the number of frames.

    Returns:
        The rows with other pictures, sizes and scales; as they were if the normalized video has the file's pixels.

    Raises:
        RecordingError: No file has the content of the recording, or a frame cannot be read.
    """
    if not rows or recording["normalized_by"] in _SAME_PIXELS:
        return list(rows)
    recording_id = recording["recording_id"]
    size_px = recording["width_px"], recording["height_px"]
    video = settings.video_of(recording["camera"])
    has_pts = recording["time_source"] == "pts"
    left, top, right, bottom = recording["region"] or video.region or WHOLE_FRAME
    start_time_s = recording["start_time_s_from_content"] if has_pts else None
    source = CutSource(start_time_s, (left, top, right, bottom), *size_px)
    rows_of_frame = _group_by_source_frame(rows, store, recording_id)
    padding = settings.crops.padding
    cuts = [
        FrameCuts(
            index,
            time_s,
            np.array([crop_edges(box_of(row), padding, *size_px) for row in rows_of_frame[index, time_s]]),
        )
        for index, time_s in sorted(rows_of_frame)
    ]
    file = find_recording_file(recording_id, store, settings)
    try:
        with file.reading() as path:
            parts = cut_source_in_subprocess(path, source, cuts, video, settings.crops.jpeg_quality, progress)
    except RejectedRecordingError as error:  # the recording was normalized: this stage alone fails
        raise RecordingError(f"{file.source.source_path}: {error}") from error
    return [
        {
            **row,
            "jpeg": part.jpeg,
            "crop_width_px": part.width_px,
            "crop_height_px": part.height_px,
            "crop_scale": part.scale,
        }
        for key, parts_of_frame in zip(sorted(rows_of_frame), parts, strict=True)
        for row, part in zip(rows_of_frame[key], parts_of_frame, strict=True)
    ]


def _group_by_source_frame(
    rows: Sequence[dict[str, Any]], store: Store, recording_id: str
) -> dict[tuple[int, float], list[dict[str, Any]]]:
    """Group crops by index and time of the source frame; a frame that repeats another has the time of that one."""
    frames = store.read(FRAMES, [recording_id], ["frame_index", "source_frame_index", "time_s", "is_duplicated"])
    columns = {name: frames[name].to_numpy() for name in frames.schema.names}
    source_index = dict(zip(columns["frame_index"].tolist(), columns["source_frame_index"].tolist(), strict=True))
    is_original = ~columns["is_duplicated"].astype(bool)
    times_s = dict(
        zip(columns["source_frame_index"][is_original].tolist(), columns["time_s"][is_original].tolist(), strict=True)
    )
    groups: dict[tuple[int, float], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        index = source_index[row["frame_index"]]
        groups[index, times_s[index]].append(row)
    return groups
