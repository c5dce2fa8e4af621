"""Counts at a line on the ground in front of a moving camera: `python -m benchmarks.moving_camera` takes some minutes.

Crowds at a line are drawn as a panning or shaking camera sees them. The camera's movement is measured in the drawn
pictures, the moved boxes are tracked, and the crossings of the line, which is fixed to the ground, are counted.
"""

import sys
import time
from collections.abc import Iterator
from typing import get_args

import click
import numpy as np
import pyarrow as pa

from benchmarks.report import Case, describe_machine, max_case, min_case, print_table
from cli.options import end_process
from cv_assets.tracks import track_detections
from cv_assets.zone_events import zone_rows
from demo.crowd import CrowdSettings, simulate_crossings
from demo.moving_camera import Movement, draw_pictures, move_crowd, simulate_movement
from resources.config.camera_config import CameraSettings
from resources.config.tracking_config import TrackSettings
from resources.media.camera_position import CameraPosition
from resources.schema.zone_tables import ZONE_EVENTS

_SCENES = 105  # of each movement


def measure_positions(seed: int, movement: Movement) -> tuple[np.ndarray, np.ndarray, float]:
    """Measure the camera's positions in the pictures of a scene.

    Returns:
        The true and the measured positions in pixels of the frame, shape (frames, 2), and ms per frame.
    """
    import cv2

    crowd = simulate_crossings(seed)[0]
    settings = crowd.settings
    frame_count = round(settings.duration_s * settings.rate_fps)
    camera_px = simulate_movement(np.random.default_rng((6, seed)), movement, frame_count, settings.rate_fps)
    position, measured, elapsed_s = CameraPosition(), [], 0.0
    for picture in draw_pictures(seed, crowd, camera_px):
        small = cv2.resize(picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA)
        started_s = time.process_time()
        measured.append(position.add(small))
        elapsed_s += time.process_time() - started_s
    scale = settings.height_px / small.shape[0]
    return camera_px, scale * np.array(measured), 1000 * elapsed_s / frame_count


def is_counted_exactly(seed: int, camera_px: np.ndarray, measured_px: np.ndarray, fixed_to: str = "ground") -> bool:
    """Whether the crossings of one scene are counted exactly, in both directions.

    Args:
        seed: Of the crowd.
        camera_px: The true positions of the camera, shape (frames, 2).
        measured_px: The measured ones.
        fixed_to: What the line stands still in.
    """
    crowd, in_count, out_count = simulate_crossings(seed)
    settings: CrowdSettings = crowd.settings
    index = np.arange(len(camera_px), dtype=np.int32)
    frames = pa.table(
        {"frame_index": index, "time_s": index / settings.rate_fps, "camera_x_px": measured_px[:, 0],
         "camera_y_px": measured_px[:, 1], "is_duplicated": np.zeros(len(index), bool)}
    )  # fmt: skip
    detections = move_crowd(crowd, camera_px).detections()
    boxes = track_detections(detections, frames, settings.rate_fps, TrackSettings())[1]
    line = {"name": "middle", "points": [[0.5, 1], [0.5, 0]]}
    camera = CameraSettings.model_validate({"lines": [line], "fixed_to": fixed_to})
    rows = zone_rows("crowd", boxes, frames, camera, settings.width_px, settings.height_px)
    events = rows[ZONE_EVENTS.name]["event"].to_pylist()
    return (events.count("in"), events.count("out")) == (in_count, out_count)


def moving_camera_cases(scene_count: int = _SCENES) -> Iterator[Case]:
    """Share of exact scenes by movement, and the cost of measuring."""
    times_ms = []
    for movement in get_args(Movement):
        wrong, errors_px = [], []
        for seed in range(2000, 2000 + scene_count):
            camera_px, measured_px, frame_ms = measure_positions(seed, movement)
            times_ms.append(frame_ms)
            errors_px.append(np.abs(measured_px - camera_px).max())
            if not is_counted_exactly(seed, camera_px, measured_px):
                wrong.append(seed)
        click.echo(
            f"{movement}: {scene_count - len(wrong)} of {scene_count} scenes exact; greatest error of the position: "
            f"median {np.median(errors_px):.1f} px, largest {max(errors_px):.1f} px; wrong seeds: {wrong}"
        )
        yield min_case(f"{movement}: scenes with exact counts", 1 - len(wrong) / scene_count, "share", 0.98)
    yield max_case("measuring the camera's position", float(np.mean(times_ms)), "ms/frame", 2.0)


if __name__ == "__main__":
    click.echo(f"Measuring on {describe_machine()}")
    print_table(list(moving_camera_cases(*map(int, sys.argv[1:]))))
    end_process(0)
