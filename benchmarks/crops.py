"""Crops beside a plain loop, and their quality: `python -m benchmarks.crops [DATA_FOLDER]` measures these cases alone.

The plain loop is what a script does: for each crop it seeks to the frame, decodes it, cuts the box and saves a JPEG.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.inputs import find_inputs, process_folder
from benchmarks.report import Case, describe_machine, figure_case, min_case, min_ratio_case, print_table
from cli.options import end_process
from cv_assets.crop_selection import crop_image, measure_sharpness, select_candidates
from cv_assets.crops import cut_crops
from resources.config.tracking_config import CropSettings
from resources.media.frame_reader import read_distant_images
from resources.schema.recording_tables import RECORDING_CONTENTS
from resources.schema.track_tables import TRACK_BOXES
from resources.storage.delta_store import Store

_SAMPLED_BOXES = 30  # of a track, with which its best crop is compared
_EDGES = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
Rows = Sequence[Mapping[str, Any]]


def corners(row: Mapping[str, Any]) -> np.ndarray:
    """Corners of a row's box, shape (4,)."""
    return np.array([row[edge] for edge in _EDGES])


def cut_in_plain_loop(video: Path, rows: Rows, settings: CropSettings, folder: Path) -> None:
    """Seek, decode, cut and save, crop by crop, with OpenCV."""
    import cv2

    capture = cv2.VideoCapture(str(video))
    for number, row in enumerate(rows):
        capture.set(cv2.CAP_PROP_POS_FRAMES, row["frame_index"])
        image = capture.read()[1]
        crop = crop_image(np.asarray(image), corners(row), settings.padding)
        cv2.imwrite(str(folder / f"{number}.jpg"), crop, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
    capture.release()


def count_better_crops(video: Path, rate_fps: Fraction, boxes: Rows, best: Rows) -> tuple[int, int]:
    """Count the tracks whose best crop is better (sharpness times size) than the mean of their boxes, and all."""
    boxes_of_track, rows_of_frame = defaultdict(list), defaultdict(list)
    for row in boxes:
        if not row["is_interpolated"]:
            boxes_of_track[row["track_id"]].append(row)
    for rows in boxes_of_track.values():
        for index in np.unique(np.linspace(0, len(rows) - 1, _SAMPLED_BOXES).astype(int)):
            rows_of_frame[rows[index]["frame_index"]].append(rows[index])
    qualities = defaultdict(list)
    frame_indices = sorted(rows_of_frame)
    for frame_index, image in zip(frame_indices, read_distant_images(video, frame_indices, rate_fps), strict=True):
        for row in rows_of_frame[frame_index]:
            sharpness = measure_sharpness(crop_image(image, corners(row), 0))
            qualities[row["track_id"]].append(_quality(row, sharpness))
    is_better = [bool(_quality(row, row["sharpness"]) >= np.mean(qualities[row["track_id"]])) for row in best]
    return sum(is_better), len(is_better)


def _quality(row: Mapping[str, Any], sharpness: float) -> float:
    left, top, right, bottom = corners(row)
    return float(sharpness * np.sqrt((right - left) * (bottom - top)))


def crop_cases(data_folder: Path) -> Iterator[Case]:
    """Speed, quality and size of the crops of all recordings of a data folder."""
    store, settings = Store(data_folder), CropSettings()
    ours_s = plain_s = 0.0
    crop_count = byte_count = better_count = track_count = 0
    for content in store.read(RECORDING_CONTENTS).to_pylist():
        boxes = store.read(TRACK_BOXES, [content["recording_id"]])
        video = data_folder / content["video_path"]
        rate_fps = Fraction(content["rate_fps_num"], content["rate_fps_den"])
        started_s = time.perf_counter()
        candidates = select_candidates(boxes, content["width_px"], content["height_px"], settings).to_pylist()
        crops = [crop.row for crop in cut_crops(video, rate_fps, candidates, settings, lambda *_: None)]
        ours_s += time.perf_counter() - started_s
        rows = sorted(crops, key=lambda row: (row["track_id"], -row["score"]))
        with tempfile.TemporaryDirectory() as folder:
            started_s = time.perf_counter()
            cut_in_plain_loop(video, rows, settings, Path(folder))
            plain_s += time.perf_counter() - started_s
        best = list({row["track_id"]: row for row in reversed(rows)}.values())
        box_rows = boxes.sort_by([("track_id", "ascending"), ("frame_index", "ascending")]).to_pylist()
        better, tracks = count_better_crops(video, rate_fps, box_rows, best)
        better_count, track_count = better_count + better, track_count + tracks
        crop_count += len(crops)
        byte_count += sum(len(row["jpeg"]) for row in crops)
    if not crop_count:
        click.echo("The recordings have no tracks: crops are not measured.")
        return
    yield min_ratio_case("crops vs seek, decode, cut, save", crop_count / ours_s, crop_count / plain_s, "crops/s", 3.0)
    yield min_case(f"best crop better than the mean of {track_count} tracks", better_count / track_count, "share", 0.95)
    yield figure_case(f"bytes per crop, of {crop_count} crops", byte_count / crop_count)


def processed_crop_cases(scratch: Path) -> Iterator[Case]:
    """Process all recordings of the benchmarks and measure their crops."""
    inputs = find_inputs(scratch)
    process_folder(inputs.folder, scratch / "crops-data", inputs.weights)
    yield from crop_cases(scratch / "crops-data")


if __name__ == "__main__":
    click.echo(f"Measuring on {describe_machine()}")
    with tempfile.TemporaryDirectory() as name:
        print_table(list(crop_cases(Path(sys.argv[1])) if sys.argv[1:] else processed_crop_cases(Path(name))))
    end_process(0)
