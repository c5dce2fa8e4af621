"""What is measured on: real recordings and weights where there are any, and drawn ones."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.report import CORPUS
from resources.schema import RECORDINGS
from resources.settings import PROJECT_ROOT, Settings
from resources.storage import Store
from resources.watched_folder import SourceIndex, identify, list_recordings

BUNDLED_WEIGHTS = PROJECT_ROOT / "demo" / "model" / "street.pt"


@dataclass(frozen=True)
class Material:
    """What is measured on: a recording, the weights, and a folder of recordings for the agreement."""

    recording: Path
    weights: Path
    folder: Path


def material(scratch: Path) -> Material:
    """The corpus where there is one, and drawn recordings elsewhere."""
    if (CORPUS / "MANIFEST.tsv").exists():
        recordings = CORPUS / "recordings"
        return Material(recordings / "traffic_camera.mp4", CORPUS / "weights" / "yolo11n.pt", recordings)
    click.echo(f"No corpus at {CORPUS}: measuring a drawn recording with the bundled model instead.")
    drawn = scratch / "drawn" / "street.mp4"
    drawn.parent.mkdir()
    _draw(drawn, 24, {"person": 5, "car": 4})
    return Material(drawn, BUNDLED_WEIGHTS, drawn.parent)


def environment() -> dict[str, str]:
    """No network, no reports to anybody, for the peer as for us."""
    return {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}


def exported(weights: Path, scratch: Path, height_px: int, width_px: int) -> Path:
    """The peer's own OpenVINO export of the weights, at the same input size."""
    copy = scratch / weights.name
    shutil.copyfile(weights, copy)
    code = "import sys; from ultralytics import YOLO; print(YOLO(sys.argv[1]).export(format='openvino', imgsz=%r))"
    command = [sys.executable, "-c", code % ((height_px, width_px),), str(copy)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    return Path(shown.stdout.splitlines()[-1])


def process(folder: Path, data: Path, weights: Path) -> float:
    """Run the command on a folder; returns its seconds."""
    started = time.monotonic()
    ours = Path(sys.executable).with_name("cv-assets")
    command = [ours, "process", folder, "--data", data, "--weights", weights]
    shown = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if shown.returncode:
        raise RuntimeError(
            f"cv-assets process ended with {shown.returncode}:\n{shown.stdout[-1500:]}{shown.stderr[-1500:]}"
        )
    return time.monotonic() - started


def normalized(recording: Path, folder: Path) -> tuple[Store, dict[str, Any]]:
    """A data folder with one recording, probed and normalized by the walk's own assets; and its row."""
    from dagster import DagsterInstance, materialize

    from cv_assets.partitions import recordings_partitions
    from cv_assets.walk import WALK
    from resources.inference.detector import Models

    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data")
    settings.watched_folder.mkdir(parents=True)
    shutil.copyfile(recording, settings.watched_folder / recording.name)
    store = Store(settings.data_folder)
    found = identify(settings, list_recordings(settings).files, {})
    SourceIndex(store).save(found.values())
    recording_id = str(found[recording.name].recording_id)
    resources: dict[str, Any] = {"store": store, "settings": settings, "models": Models()}
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(recordings_partitions.name or "", [recording_id])
        materialize(WALK[:2], instance=instance, resources=resources, partition_key=recording_id)
    return store, store.read(RECORDINGS, [recording_id]).to_pylist()[0]


def five_minutes(scratch: Path) -> Path:
    """A drawn street of five minutes."""
    path = scratch / "five_minutes.mp4"
    _draw(path, 300, {"person": 20, "car": 20}, frame_rate=10)
    return path


def _draw(path: Path, duration_s: float, counts: dict[str, int], frame_rate: int = 25) -> None:
    from demo.scenes import demo_scene, write_video

    write_video(demo_scene(1, duration_s, counts, frame_rate=frame_rate), path)


def static_scene(scratch: Path) -> Path:
    """Ten minutes of a street in which something moves for half a minute."""
    from demo.scenes import demo_scene, draw_frame

    moving = demo_scene(4, 30, {"person": 3, "car": 3}, frame_rate=15)
    still = replace(moving, objects=())
    # The noise of a camera: no two pictures in a row are equal, though nothing moves.
    quiet = [draw_frame(still, moment / 15)[0] for moment in range(24)]
    busy = (draw_frame(moving, moment / 15)[0] for moment in range(30 * 15))
    calm = itertools.islice(itertools.cycle(quiet), 285 * 15)
    path = scratch / "mostly_static.mp4"
    _write(path, itertools.chain(calm, busy, itertools.islice(itertools.cycle(quiet), 285 * 15)), Fraction(15))
    return path


def two_hours(scratch: Path) -> Path:
    """Two hours of 720p in which four drawn minutes come again and again."""
    from demo.scenes import demo_scene, draw_frame

    scene = demo_scene(6, 60, {"person": 8, "car": 8}, frame_rate=15, width_px=1280, height_px=720)
    minute, path = scratch / "minute.mp4", scratch / "two_hours.mp4"
    _write(minute, (draw_frame(scene, moment / 15)[0] for moment in range(60 * 15)), Fraction(15))
    _repeat(minute, path, 120)
    return path


def short_clips(recording: Path, folder: Path, count: int, duration_s: float) -> None:
    """Clips of one length from all over a recording, each encoded on its own."""
    import av

    folder.mkdir(parents=True)
    with av.open(str(recording)) as container:
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate or 25)
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(stream)]
    length = round(duration_s * rate)
    for number in range(count):
        first = number * max(0, len(pictures) - length) // max(1, count - 1)
        _write(folder / f"clip_{number:02d}.mp4", pictures[first : first + length], rate)


def _write(path: Path, pictures: Any, rate: Fraction) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"preset": "superfast", "crf": "24"})
        stream.pix_fmt = "yuv420p"
        for index, picture in enumerate(pictures):
            if index == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _repeat(source: Path, path: Path, times: int) -> None:
    """Write a video several times in a row into another, without encoding it again."""
    import av

    with av.open(str(path), "w") as output:
        stream: Any = None
        offset = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                given = container.streams.video[0]
                stream = stream or output.add_stream_from_template(given)
                length = int(given.duration or 0)
                for packet in container.demux(given):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = (packet.pts or 0) + offset, packet.dts + offset
                    packet.stream = stream
                    output.mux(packet)
            offset += length
