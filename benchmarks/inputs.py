"""The recordings and weights that are measured: real ones where there are any, and drawn ones."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import numpy as np

from benchmarks.report import CORPUS
from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.rendering import draw_frame
from demo.drawn_scenes.video_files import write_video
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.file_identification import identify_files
from resources.source_index import SourceIndex
from resources.storage.delta_store import Store
from resources.storage.recording_rows import read_recording_rows
from resources.watched_files import list_watched_files

BUNDLED_WEIGHTS = PROJECT_ROOT / "demo" / "model" / "street.pt"
_QUIET_LOGS = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run configuration with which Dagster prints nothing between the figures; a failed step still raises its error."""


@dataclass(frozen=True)
class BenchmarkInputs:
    """Recordings and weights that the cases measure.

    Attributes:
        recording: One recording, for speeds.
        weights: Weights of the detector.
        folder: A folder of recordings, for the agreement.
    """

    recording: Path
    weights: Path
    folder: Path


def find_inputs(scratch: Path) -> BenchmarkInputs:
    """The corpus where there is one, a drawn recording and the bundled model elsewhere."""
    if (CORPUS / "MANIFEST.tsv").exists():
        recordings = CORPUS / "recordings"
        return BenchmarkInputs(recordings / "traffic_camera.mp4", CORPUS / "weights" / "yolo11n.pt", recordings)
    click.echo(f"No corpus at {CORPUS}: measuring a drawn recording with the bundled model instead.")
    path = scratch / "drawn" / "street.mp4"
    path.parent.mkdir()
    _draw_street(path, 24, {"person": 5, "car": 4})
    return BenchmarkInputs(path, BUNDLED_WEIGHTS, path.parent)


def offline_environment() -> dict[str, str]:
    """Environment variables that keep Ultralytics off the network, for the peer as for this project."""
    return {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}


def export_to_openvino(weights: Path, scratch: Path, height_px: int, width_px: int) -> Path:
    """Export weights with Ultralytics' own OpenVINO exporter, at an input size."""
    copy = scratch / weights.name
    shutil.copyfile(weights, copy)
    code = "import sys; from ultralytics import YOLO; print(YOLO(sys.argv[1]).export(format='openvino', imgsz=%r))"
    command = [sys.executable, "-c", code % ((height_px, width_px),), str(copy)]
    process = subprocess.run(command, check=True, capture_output=True, text=True, env=offline_environment())
    return Path(process.stdout.splitlines()[-1])


def process_folder(folder: Path, data_folder: Path, weights: Path) -> float:
    """Run `cv-assets process` on a folder; returns the elapsed seconds.

    Raises:
        RuntimeError: The command failed.
    """
    started_s = time.monotonic()
    cv_assets = Path(sys.executable).with_name("cv-assets")
    command = [cv_assets, "process", folder, "--data", data_folder, "--weights", weights]
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(
            f"cv-assets process ended with {process.returncode}:\n{process.stdout[-1500:]}{process.stderr[-1500:]}"
        )
    return time.monotonic() - started_s


def normalize_recording(recording: Path, folder: Path) -> tuple[Store, dict[str, Any]]:
    """Probe and normalize one recording with the first two stages of the asset graph.

    Args:
        recording: The recording.
        folder: Gets recordings/ and data/.

    Returns:
        The store with its tables, and its row of header and content.
    """
    from dagster import DagsterInstance, materialize

    from cv_assets.asset_graph import AssetGraph
    from cv_assets.partitions import recordings_partitions
    from resources.inference.detector import Models

    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data")
    settings.watched_folder.mkdir(parents=True)
    shutil.copyfile(recording, settings.watched_folder / recording.name)
    store = Store(settings.data_folder)
    source_files = identify_files(settings, list_watched_files(settings).files, {})
    SourceIndex(store).save(source_files.values())
    recording_id = str(source_files[recording.name].recording_id)
    resources: dict[str, Any] = {"store": store, "settings": settings, "models": Models()}
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [recording_id])
        materialize(
            AssetGraph.build(settings).assets[:2],
            instance=instance,
            resources=resources,
            partition_key=recording_id,
            run_config=_QUIET_LOGS,
        )
    return store, read_recording_rows(store, [recording_id])[recording_id]


def draw_five_minutes(scratch: Path) -> Path:
    """Draw a street of five minutes."""
    path = scratch / "five_minutes.mp4"
    _draw_street(path, 300, {"person": 20, "car": 20}, frame_rate=10)
    return path


def _draw_street(path: Path, duration_s: float, counts: dict[str, int], frame_rate: int = 25) -> None:
    write_video(demo_scene(1, duration_s, counts, frame_rate=frame_rate), path)


def draw_mostly_static_scene(scratch: Path) -> Path:
    """Draw ten minutes of a street in which objects move for half a minute."""
    moving_scene = demo_scene(4, 30, {"person": 3, "car": 3}, frame_rate=15)
    empty_scene = replace(moving_scene, objects=())
    # With the noise of a camera no two frames in a row are equal, though nothing moves.
    empty_images = [draw_frame(empty_scene, index / 15)[0] for index in range(24)]
    moving_images = (draw_frame(moving_scene, index / 15)[0] for index in range(30 * 15))

    def repeat_empty_images() -> Iterable[np.ndarray]:
        return itertools.islice(itertools.cycle(empty_images), 285 * 15)

    path = scratch / "mostly_static.mp4"
    _write_images(path, itertools.chain(repeat_empty_images(), moving_images, repeat_empty_images()), Fraction(15))
    return path


def draw_two_hours(scratch: Path) -> Path:
    """Draw a minute of 720p and repeat it for two hours."""
    scene = demo_scene(6, 60, {"person": 8, "car": 8}, frame_rate=15, width_px=1280, height_px=720)
    minute, path = scratch / "minute.mp4", scratch / "two_hours.mp4"
    _write_images(minute, (draw_frame(scene, index / 15)[0] for index in range(60 * 15)), Fraction(15))
    _repeat_video(minute, path, 120)
    return path


def cut_clips(recording: Path, folder: Path, count: int, duration_s: float) -> None:
    """Cut clips of equal length from all parts of a recording, each encoded on its own."""
    folder.mkdir(parents=True)
    with av.open(str(recording)) as container:
        stream = container.streams.video[0]
        rate_fps = Fraction(stream.average_rate or 25)
        images = [frame.to_ndarray(format="bgr24") for frame in container.decode(stream)]
    frame_count = round(duration_s * rate_fps)
    for number in range(count):
        first = number * max(0, len(images) - frame_count) // max(1, count - 1)
        _write_images(folder / f"clip_{number:02d}.mp4", images[first : first + frame_count], rate_fps)


def _write_images(path: Path, images: Iterable[np.ndarray], rate_fps: Fraction) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate_fps, options={"preset": "superfast", "crf": "24"})
        stream.pix_fmt = "yuv420p"
        for index, image in enumerate(images):
            if index == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            frame.pts, frame.time_base = index, 1 / rate_fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _repeat_video(source: Path, path: Path, times: int) -> None:
    """Write a video several times in a row into another, without encoding it again."""
    with av.open(str(path), "w") as output:
        output_stream: Any = None
        offset = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                output_stream = output_stream or output.add_stream_from_template(stream)
                duration = int(stream.duration or 0)
                for packet in container.demux(stream):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = (packet.pts or 0) + offset, packet.dts + offset
                    packet.stream = output_stream
                    output.mux(packet)
            offset += duration
