"""The stages in docs/examples do what docs/stages.md says, on drawn pictures, known tracks and a real server."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cv_assets.asset_graph import AssetGraph
from cv_assets.own_stage_assets import compute_rows
from cv_assets.stage_inputs import StageInputs
from demo.convert_nanodet import TEST_FOLDER
from resources.config.detection_config import DetectionSettings
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.config.stage_config import OwnStageSettings
from resources.own_stages import stage_process
from resources.schema.model_tables import KEYPOINTS
from resources.schema.track_tables import CROPS, TRACK_BOXES
from resources.storage.delta_store import Store
from tests.builders.own_stage_files import complete_rows, read_stage, store_normalized_recording
from tests.builders.video_files import write_images_as_video

EXAMPLES = PROJECT_ROOT / "docs" / "examples"
Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(autouse=True)
def _end_processes() -> Iterator[None]:
    yield
    for process in stage_process._processes.values():
        process.stop()


def run_example(name: str, store: Store) -> Rows:
    stage = read_stage(EXAMPLES / f"{name}.py")
    rows: Rows = compute_rows(StageInputs.read(stage, "r", store), lambda *_: None).to_pylist()
    return rows


def store_video(store: Store, folder: Path, images: Sequence[np.ndarray]) -> None:
    video = folder / "drawn.mkv"
    write_images_as_video(video, [image[..., ::-1] for image in images], 10)
    size = {"width_px": images[0].shape[1], "height_px": images[0].shape[0]}
    store_normalized_recording(store, frame_count=len(images), video=video, **size)


def test_all_examples_are_valid_stages() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    settings = Settings(
        detections=DetectionSettings(task="pose"), stages=tuple(OwnStageSettings(file=file) for file in files)
    )
    graph = AssetGraph.build(settings)
    assert graph.own_stages.problems == {}
    assert {file.stem for file in files} <= set(graph.stage_of_asset)


def test_the_documentation_shows_the_first_example_and_names_all() -> None:
    text = (PROJECT_ROOT / "docs" / "stages.md").read_text()
    assert (EXAMPLES / "frame_operators.py").read_text() in text
    assert all(f"examples/{file.name}" in text for file in EXAMPLES.glob("*.py"))


@pytest.mark.slow
def test_a_frame_model_scores_real_pictures(store: Store, tmp_path: Path) -> None:
    images = [cv2.imread(str(TEST_FOLDER / name)) for name in ("person_250.png", "traffic_100.png")]
    store_video(store, tmp_path, [cv2.resize(image, (416, 256)) for image in images for _ in range(4)])
    rows = run_example("person_scores", store)
    assert [row["frame_index"] for row in rows] == [0, 2, 4, 6]
    person, traffic = rows[0], rows[-1]
    assert person["person_score"] > 0.5 > person["car_score"]
    assert traffic["car_score"] > 0.4 > traffic["person_score"]


def test_classical_operators_find_edges_lines_and_motion(store: Store, tmp_path: Path) -> None:
    images = []
    for number in range(20):  # more than one batch, so that motion is measured across batches
        image = np.full((240, 320, 3), 60, np.uint8)
        cv2.line(image, (0, 200), (319, 200), (220, 220, 220), 3)
        texture = np.random.default_rng(1).integers(80, 255, (60, 60), np.uint8)
        image[60:120, 20 + 4 * number : 80 + 4 * number] = cv2.GaussianBlur(texture, (0, 0), 3)[..., None]
        images.append(image)
    store_video(store, tmp_path, images)
    rows = run_example("frame_operators", store)
    assert [row["flow_x"] is None for row in rows] == [True] + [False] * 19
    assert all(row["flow_x"] > 0.005 > abs(row["flow_y"]) for row in rows[1:])
    assert all(row["line_count"] >= 1 and 0 < row["edge_share"] < 0.2 for row in rows)


def test_the_sharpness_map_tells_fine_from_blurred_cells(store: Store, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (128, 192, 1), np.uint8).repeat(3, 2)
    noise[:, 64:] = cv2.GaussianBlur(noise, (0, 0), 4)[:, 64:]
    store_video(store, tmp_path, [noise] * 10)
    rows = run_example("sharpness_cells", store)
    assert len(rows) == 1 * 2 * 3
    assert all((row["fine_share"] > 0.3) == (row["cell_column"] == 0) for row in rows)


def store_crops(store: Store, images: Sequence[np.ndarray | None]) -> None:
    rows = [
        {
            **{"recording_id": "r", "track_id": number, "rank": 1, "class_name": "car"},
            "jpeg": None if image is None else cv2.imencode(".jpg", image)[1].tobytes(),
            **dict.fromkeys(("x_max_px", "y_max_px", "crop_width_px", "crop_height_px"), 10),
        }
        for number, image in enumerate(images, 1)
    ]
    store_normalized_recording(store)
    store.replace(CROPS, ["r"], complete_rows(CROPS, *rows))


@pytest.mark.slow
def test_a_crop_model_answers_for_each_crop_that_has_a_picture(store: Store) -> None:
    person, traffic = (cv2.imread(str(TEST_FOLDER / name)) for name in ("person_250.png", "traffic_100.png"))
    assert traffic is not None
    store_crops(store, [person, None, traffic[140:200, 10:80]])  # a blue car
    rows = run_example("second_opinions", store)
    assert [row["second_class_name"] for row in rows] == ["person", None, "car"]
    assert [row["error"] is None for row in rows] == [True, False, True]


def box_row(
    track_id: int, class_name: str, frame_index: int, left: float, top: float, size: tuple[float, float]
) -> Any:
    corners = {"x_min_px": left, "y_min_px": top, "x_max_px": left + size[0], "y_max_px": top + size[1]}
    identity = {"recording_id": "r", "track_id": track_id, "frame_index": frame_index, "time_s": frame_index / 10}
    return {**identity, "class_name": class_name, "confidence": 0.9, "detection_index": track_id, **corners}


def store_boxes(store: Store, rows: Rows) -> None:
    store_normalized_recording(store)
    store.replace(TRACK_BOXES, ["r"], complete_rows(TRACK_BOXES, *rows))


def test_a_near_miss_is_a_person_and_a_car_that_come_near(store: Store) -> None:
    person, car = (20.0, 50.0), (100.0, 60.0)
    rows = [box_row(1, "person", index, 300, 100, person) for index in range(10)]
    rows += [box_row(2, "car", index, 20 * index, 95, car) for index in range(10)]  # ends 20 px from the person
    rows += [box_row(3, "car", index, 20 * index, 300, car) for index in range(10)]
    store_boxes(store, rows)
    (row,) = run_example("near_misses", store)
    assert (row["track_id"], row["other_track_id"], row["time_s"]) == (1, 2, 0.9)
    assert row["gap_heights"] == pytest.approx(math.hypot(20, 5) / 50)


def test_an_abandoned_object_stands_alone_for_half_a_minute(store: Store) -> None:
    rows = []
    for index in range(500):
        left = max(0.0, 200 - 2 * max(0, index - 50))  # the person walks away from second 5 on
        rows.append(box_row(1, "person", index, left, 60, (30, 90)))
        rows.append(box_row(2, "suitcase", index, 230, 120, (20, 30)))
        rows.append(box_row(3, "backpack", index, left + 10, 80, (15, 25)))  # is carried
        rows.append(box_row(4, "handbag", index, 10 + index, 400, (15, 25)))  # alone, but moves
    store_boxes(store, rows)
    (row,) = run_example("abandoned_objects", store)
    assert row["track_id"] == 2
    assert 6 < row["start_s"] < 10 and row["end_s"] == pytest.approx(49.9)
    assert row["nearest_person_heights"] > 3


def test_a_fall_is_a_torso_that_was_upright_and_lies(store: Store) -> None:
    boxes, keypoints = [], []
    for track_id, falls in ((1, True), (2, False)):
        for index in range(40):
            angle = math.radians(80 if falls and index >= 20 else 5)
            hip = (100.0 + 100 * track_id, 200.0)
            shoulder = (hip[0] + 50 * math.sin(angle), hip[1] - 50 * math.cos(angle))
            boxes.append(box_row(track_id, "person", index, hip[0] - 20, 100, (40, 110)))
            keypoints += [
                {
                    **{"recording_id": "r", "frame_index": index, "detection_index": track_id, "time_s": index / 10},
                    **{"keypoint_index": joint, "x_px": point[0], "y_px": point[1], "confidence": 0.9},
                }
                for joint, point in ((5, shoulder), (6, shoulder), (11, hip), (12, hip))
            ]
    store_boxes(store, boxes)
    store.replace(KEYPOINTS, ["r"], complete_rows(KEYPOINTS, *keypoints))
    (row,) = run_example("falls", store)
    assert (row["track_id"], row["time_s"]) == (1, 2.0)
    assert row["lying_s"] == pytest.approx(1.9)
    assert row["torso_deg"] == pytest.approx(80, abs=0.1)


@contextmanager
def endpoint(respond: Callable[[int, int], tuple[int, Any]]) -> Iterator[tuple[str, list[float]]]:
    """Run an endpoint; yields its address and the times of its requests.

    Args:
        respond: Takes the number of the request, from 1, and of its images; returns status and body.
    """
    times: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            times.append(time.monotonic())
            images = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["images"]
            status, body = respond(len(times), len(images))
            with suppress(ConnectionError):  # after the time-out the client has gone
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/read", times
    finally:
        server.shutdown()
        server.server_close()


def test_an_endpoint_is_called_in_batches_with_retries_and_its_failures_are_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_crops(store, [*[np.full((20, 30, 3), 90, np.uint8)] * 39, None])  # five batches of eight

    def respond(number: int, image_count: int) -> tuple[int, Any]:
        answers = [{"text": f"plate {number}", "confidence": 0.5}] * image_count
        if number == 1:
            return 503, {}  # is repeated
        if number == 3:
            return 400, {}  # is not repeated
        if number == 4:
            time.sleep(0.8)  # later than the time-out: is repeated
        return 200, {"answers": answers[:-1] if number == 6 else answers}

    with endpoint(respond) as (url, times):
        monkeypatch.setenv("ENDPOINT_URL", url)
        monkeypatch.setenv("ENDPOINT_TIMEOUT_S", "0.5")
        monkeypatch.setenv("ENDPOINT_MAX_REQUESTS", "6")
        rows = run_example("endpoint_answers", store)
    batches = [rows[start : start + 8] for start in range(0, 40, 8)]
    assert all(
        len({(row["answer"], row["error"], row["request_count"]) for row in batch}) == 1 for batch in batches[:4]
    )
    summary = [(batch[0]["answer"], batch[0]["error"], batch[0]["request_count"]) for batch in batches]
    assert summary[0] == ("plate 2", None, 2)
    assert summary[1] == (None, "HTTP Error 400: Bad Request", 1)
    assert summary[2] == ("plate 5", None, 2)
    assert summary[3] == (None, "the endpoint returned 7 answers for 8 crops", 1)
    assert summary[4] == (None, "the budget of 6 requests is used up", 0)
    assert batches[4][7]["error"] == "the picture was deleted by retention"
    assert len(times) == 6
    assert times[-1] - times[0] >= 0.2  # six requests at 20 per second
