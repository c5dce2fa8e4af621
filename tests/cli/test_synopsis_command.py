"""Synopses of a stored recording, through the command, and the page that shows them."""

import json
from collections.abc import Sequence
from pathlib import Path

import av
import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient

from cli.main import commands
from resources.clips.synopsis_file import delete_synopsis
from resources.config.settings import Settings
from resources.schema.recording_tables import FRAMES
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from serve.access_control import Access
from serve.app import build_app
from tests.builders.numbered_videos import MakeVideo
from tests.builders.walk_recording import FRAME_COUNT, TIMES_S, store_walk, stored_rows, true_boxes

ADDRESS = "http://127.0.0.1:3100"


@pytest.fixture
def arguments(store: Store, make_video: MakeVideo) -> list[str]:
    """Options of commands for a data folder with the recordings `walk` and `empty`."""
    return store_walk(store, make_video)


def run(arguments: Sequence[str], *command: str) -> Result:
    return CliRunner().invoke(commands, [*command, *arguments])


def test_a_synopsis_says_where_each_object_is_and_has_a_page(
    arguments: list[str], store: Store, tmp_path: Path
) -> None:
    settings = Settings(watched_folder=tmp_path / "recordings", data_folder=store.data_folder)
    page = "/recordings/walk/synopsis"
    assert run(arguments, "synopsis", "walk", "--length", "3").exit_code == 0
    with TestClient(build_app(settings, Access.to_address("127.0.0.1", 3100, None)), base_url=ADDRESS) as client:
        html = {"Accept": "text/html"}
        shown = client.get(page, headers=html)
        assert shown.status_code == 200 and "/recordings/walk?t=" in shown.text
        video = client.get(f"{page}.mp4", headers={"Range": "bytes=0-99"})
        assert (video.status_code, len(video.content)) == (206, 100)
        assert "/recordings/walk/synopsis" in client.get("/recordings/walk", headers=html).text
        assert "has no synopsis" in client.get("/recordings/empty/synopsis", headers=html).text
        assert client.get("/recordings/..%2Fwalk/synopsis", headers=html).status_code == 404
        delete_synopsis(store.data_folder, "walk")
        assert client.get(page, headers=html).status_code == 404


def test_the_file_beside_a_synopsis_has_the_boxes_of_its_frames(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "s.mp4"
    result = run(arguments, "synopsis", "--camera", "gate", "--day", "2026-03-01", "--length", "4", "--out", str(out))
    # The person hardly moves, and is there for half of the time.
    assert "s.mp4: 4.0 s with 1 object of 6.0 s, and 1 in the background that stand still; " in result.output
    assert sorted(path.name for path in tmp_path.glob("s.*")) == ["s.json", "s.mp4"]
    content = json.loads((tmp_path / "s.json").read_text())
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == content["frame_count"] == 100
    truth = true_boxes()
    assert [item["track_id"] for item in content["objects"]] == [1]
    for item in content["objects"]:
        boxes = truth[item["track_id"]]
        assert item["recording_id"] == "walk" and len(item["boxes"]) == len(item["times_s"])
        assert item["start_frame"] + len(item["boxes"]) <= 100
        for time_s, box in zip(item["times_s"], item["boxes"], strict=True):
            frame = min(range(FRAME_COUNT), key=lambda number: abs(TIMES_S[number] - time_s))
            if frame in boxes:
                assert box == pytest.approx(boxes[frame][1], abs=0.06)


def test_what_cannot_be_a_synopsis_is_refused(arguments: list[str], store: Store, tmp_path: Path) -> None:
    out = tmp_path / "s.mp4"
    moved = [
        {"frame_index": frame, "time_s": float(time_s), "camera_x_px": float(frame), "camera_y_px": 0.0}
        for frame, time_s in enumerate(TIMES_S)
    ]
    for command, sentence in (
        (("walk", "empty"), "name a file with --out."),
        ((), "name recordings, or a camera with --camera."),
        (("empty", "--out", str(out)), "there is nothing to show"),
        (("walk", "--length", "0.5", "--out", str(out)), "must be between 1 and 3600."),
        (("walk", "--length", "nan", "--out", str(out)), "must be between 1 and 3600."),
    ):
        result = run(arguments, "synopsis", *command)
        assert sentence in str(result.exception) + result.output
    store.replace(FRAMES, ["walk"], stored_rows(FRAMES, moved, "walk"))
    publish(store, Settings(data_folder=store.data_folder))
    result = run(arguments, "synopsis", "walk", "--out", str(out))
    assert "walk: the camera moves (by 29 px), and a synopsis needs one that stands still" in result.output
    assert not list(tmp_path.glob("s.*"))
