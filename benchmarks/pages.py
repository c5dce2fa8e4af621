"""`python -m benchmarks.pages`: how fast the pages are with an hour of many boxes, and with 10,000 recordings.

In a scratch folder, drawn tracks are stored as the pipeline does it, and served. The part in a browser needs playwright
and the Chromium of the system; without them, it is left out.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import click
import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.corrections import store_recording
from benchmarks.page_server import find_chromium, serving
from benchmarks.report import Case, figure_case, max_case, print_table
from cli.options import end_process
from resources.config.settings import Settings
from resources.schema.operations_tables import STAGE_RUNS
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS, RECORDINGS
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish

_SHORT_COUNT, _SHORT_FRAMES = 100, 1500
_HTML = {"Accept": "text/html"}
_QUESTION = {"lines": [{"name": "middle", "points": [[0.5, 0], [0.5, 1]]}]}
_FIRST_BOXES = """async () => {
    const isReady = () => window.cvAssets?.player.frame >= 0 && !cvAssets.overlay.isLoading;
    while (!isReady()) await new Promise((resolve) => setTimeout(resolve, 5));
    return performance.now() / 1000;
}"""
_PLAY = """async (seconds) => {
    const { player, overlay } = cvAssets;
    let waits = 0;
    player.drawCount = 0;
    player.addEventListener("frame", () => { if (overlay.isLoading) waits++; });
    await player.video.play();
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    player.video.pause();
    const ms = [...player.drawMs.slice(0, player.drawCount)].sort((a, b) => a - b);
    return { waits, drawn: player.drawCount, p95: ms[Math.floor(ms.length * 0.95)] };
}"""
_SCRUB = """async (count) => {
    const { player, clock } = cvAssets;
    for (let i = 0; i < count; i++) {
        player.seek(Math.floor(i * clock.count / count));
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return performance.memory.usedJSHeapSize / 1e6;
}"""


def write_hour(path: Path) -> None:
    """Write a video of an hour at 25 frames/s: 40 s, encoded once and repeated."""
    segment = path.with_suffix(".segment.mp4")
    with av.open(str(segment), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "32", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(1000):
            image = np.full((720, 1280, 3), 90, np.uint8)
            image[300:360, index : index + 60] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as output:
        target: Any = None
        for repeat in range(90):
            with av.open(str(segment)) as source:
                video = source.streams.video[0]
                target = target or output.add_stream_from_template(video)
                offset = repeat * int(40 / (video.time_base or 1))
                for packet in source.demux(video):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, target
                        output.mux(packet)
    segment.unlink()


def store_library(store: Store, recording_count: int) -> None:
    """Store an hour with its boxes, short recordings of another camera with a part of them, and many without."""
    rng = np.random.default_rng(0)
    store_recording(store, 720_000, rng)
    write_hour(store.data_folder / "hour.mp4")
    hour = {
        table: store.read(table, ["hour"]) for table in (RECORDINGS, RECORDING_CONTENTS, TRACKS, TRACK_BOXES, FRAMES)
    }
    short_ids = [f"short-{number:03}" for number in range(_SHORT_COUNT)]
    ids = [*short_ids, *(f"quiet-{number:05}" for number in range(recording_count - _SHORT_COUNT - 1))]
    start = datetime(2026, 3, 2, tzinfo=UTC)
    headers, contents, runs = [], [], []
    for number, recording_id in enumerate(ids):
        started_at = start + timedelta(minutes=number)
        camera = "short" if recording_id in short_ids else f"camera {number % 20}"
        own = {"recording_id": recording_id, "camera": camera, "source_path": f"{camera}/{recording_id}.mp4"}
        headers.append(hour[RECORDINGS].to_pylist()[0] | own | {"created_at_utc": started_at, "mtime_utc": started_at})
        length = {"frame_count": _SHORT_FRAMES, "duration_s_from_content": _SHORT_FRAMES / 25}
        contents.append(hour[RECORDING_CONTENTS].to_pylist()[0] | {"recording_id": recording_id} | length)
        runs += [
            dict.fromkeys(STAGE_RUNS.arrow_schema.names)
            | {"recording_id": recording_id, "stage": stage, "attempt": 1, "status": "ok", "run_id": "drawn"}
            | {"finished_at_utc": started_at, "requested_by": "sensor"}
            for stage in ("recordings", "normalized_video", "detections", "tracks", "zone_events", "summaries")
        ]
    store.replace(RECORDINGS, ids, pa.Table.from_pylist(headers, RECORDINGS.arrow_schema))
    store.replace(RECORDING_CONTENTS, ids, pa.Table.from_pylist(contents, RECORDING_CONTENTS.arrow_schema))
    store.append(STAGE_RUNS, pa.Table.from_pylist(runs, STAGE_RUNS.arrow_schema))
    for table, frame in ((TRACKS, "first_frame_index"), (TRACK_BOXES, "frame_index"), (FRAMES, "frame_index")):
        part = hour[table].filter(pc.less(hour[table][frame], _SHORT_FRAMES))
        position = part.column_names.index("recording_id")
        copies = [part.set_column(position, "recording_id", pa.repeat(name, part.num_rows)) for name in short_ids]
        store.replace(table, short_ids, pa.concat_tables([copy.cast(table.arrow_schema) for copy in copies]))


def server_cases(address: str, recording_count: int) -> Iterator[Case]:
    """Seconds until the server has answered."""
    with httpx2.Client(base_url=address, timeout=60) as client:

        def seconds(request: Callable[[], Any]) -> float:
            started_s = time.perf_counter()
            assert request().status_code == 200
            return time.perf_counter() - started_s

        library = seconds(lambda: client.get("/", headers=_HTML))
        yield max_case(f"library page of {recording_count} recordings, first request", library, "s", 1.0)
        filtered = seconds(lambda: client.get("/?part=1&camera=camera+3&text=quiet", headers=_HTML))
        yield max_case("the same, filtered by camera and text", filtered, "s", 0.3)
        hour = seconds(lambda: client.post("/recordings/hour/question", json=_QUESTION))
        yield max_case("line drawn on 1 h with 720,000 boxes", hour, "s", 1.0)
        assert client.post("/cameras/short/question", json=_QUESTION).json()["counts"]
        short = seconds(lambda: client.post("/cameras/short/question", json=_QUESTION))
        yield max_case(f"line drawn on {_SHORT_COUNT} recordings of 1 min", short, "s", 3.0)


def browser_cases(address: str) -> Iterator[Case]:
    """The page of the hour in Chromium: time to the first boxes, script time per frame, memory."""
    program = find_chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        print("Chromium or playwright is not installed: the browser is not measured.")
        return
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--enable-precise-memory-info"]
        with driver.chromium.launch(executable_path=program, args=arguments) as browser:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{address}/recordings/hour", wait_until="commit")
            yield max_case("1 h with 720,000 boxes: first boxes", page.evaluate(_FIRST_BOXES), "s", 1.5)
            played = page.evaluate(_PLAY, 10)
            yield max_case("script time per drawn frame, p95", played["p95"], "ms", 8.0)
            yield max_case("drawn frames that waited for their boxes", played["waits"], "frames", 0)
            yield figure_case("frames drawn in 10 s", played["drawn"])
            yield max_case("JS heap after scrubbing the hour", page.evaluate(_SCRUB, 100), "MB", 150)


@click.command()
@click.option("--recordings", "recording_count", default=10_000, show_default=True, help="Recordings in the library.")
def main(recording_count: int) -> None:
    """Print the table; exit 1 where a figure misses its goal."""
    with tempfile.TemporaryDirectory(prefix="cv-assets-pages-") as folder:
        settings = Settings(watched_folder=Path(folder, "recordings"), data_folder=Path(folder, "data"))
        settings.data_folder.mkdir()
        store = Store(settings.data_folder)
        store_library(store, recording_count)
        publish(store, settings)
        with serving(settings) as address:
            cases = [*server_cases(address, recording_count), *browser_cases(address)]
    print_table(cases)
    end_process(0 if all(case.met for case in cases) else 1)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
