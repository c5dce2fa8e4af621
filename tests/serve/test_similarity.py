"""The search page with an example: the objects that `cv-assets search` finds, with the filters of the page."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from cli.main import commands
from cv_assets.crop_models import answer_recording
from resources.config.settings import Settings
from resources.inference.detector import Models
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from serve.app import build_app
from tests.builders.api_client import ADDRESS
from tests.builders.crop_pictures import BLUE, RED, crop_rows, draw_crop
from tests.builders.embedded_crops import TRACK_COUNT, class_of, store_crops

HTML = {"Accept": "text/html"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings.model_validate(
        {
            "watched_folder": tmp_path / "recordings",
            "data_folder": tmp_path / "data",
            "crop_models": [{"name": "look", "weights": "mobilenet"}],
        }
    )
    store = Store(settings.data_folder)
    store_crops(store)
    publish(store, settings)
    return settings


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    app = build_app(settings)
    with TestClient(app, base_url=ADDRESS) as client:
        yield client
    if hasattr(app.state, "pages"):
        app.state.pages.pictures.stop()


def found(client: TestClient, **query: str) -> list[tuple[str, int, float]]:
    """Recording, track and score of the objects of the first page, in order."""
    response = client.get("/search", params={**query, "part": "1"}, headers=HTML)
    assert response.status_code == 200, response.text
    keys = re.findall(r'data-like="([ab])/(\d+)"', response.text)
    scores = re.findall(r">(-?\d\.\d{3})</span></span>", response.text)
    return [(name, int(track), float(score)) for (name, track), score in zip(keys, scores, strict=True)]


def test_a_search_by_a_crop_finds_what_the_command_finds(client: TestClient, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("crop_models: [{name: look, weights: mobilenet}]\n")
    arguments = ["search", "--crop", "a:1", "--limit", "100", "--format", "json", "--settings", str(file)]
    rows = [json.loads(line) for line in CliRunner().invoke(commands, arguments).stdout.splitlines()]
    expected = [(row["recording_id"], row["track_id"], row["score"]) for row in rows]
    assert len(expected) == 2 * TRACK_COUNT - 1 and found(client, like="a/1") == expected


def test_class_attribute_time_zone_and_likeness_hold_at_once(client: TestClient) -> None:
    assert {class_of(track) for _, track, _ in found(client, like="a/1", class_name="person")} == {"person"}
    assert {track for _, track, _ in found(client, like="a/1", attribute="colour=red")} == {1, 2, 3}
    assert [track for _, track, _ in found(client, like="a/1", place="yard")] == [3, 3]
    # The recordings start at 08:59:58, and every track lasts from second 1 to second 1.
    time = {"start": "2026-03-01T08:59", "end": "2026-03-01T09:01"}
    every = {"class_name": "person", "attribute": "colour=red", "place": "yard", "camera": "gate", **time}
    assert [(name, track) for name, track, _ in found(client, like="a/1", **every)] == [("a", 3), ("b", 3)]
    assert found(client, like="a/1", **{**every, "start": "2026-03-02T00:00", "end": ""}) == []
    page = client.get("/search", headers=HTML).text
    assert '<option value="colour=red">colour: red</option>' in page and 'id="picture"' in page


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ("like=a", 422, "The example &#39;a&#39; is neither RECORDING/TRACK nor an uploaded picture."),
        ("like=a/99", 404, "The crop a:99 has no row in look_crop_embeddings"),
        ("like=a/99999999999999", 422, "is neither RECORDING/TRACK"),
        (f"like=a/{'9' * 5000}", 422, "is neither RECORDING/TRACK"),
        ("like=picture:0", 404, "The picture is no longer in the memory of the server: choose its file again."),
        ("attribute=hat%3Dred", 422, "The attribute hat has no table hat_track_classes"),
        ("min_s=nan", 422, "The shortest time &#39;nan&#39; is no number of seconds."),
    ],
)
def test_a_wrong_example_is_one_sentence(client: TestClient, query: str, status: int, sentence: str) -> None:
    response = client.get(f"/search?{query}", headers=HTML)
    assert (response.status_code, sentence in response.text) == (status, True), response.text


def test_a_body_that_is_no_picture_is_refused_by_its_type_and_size(client: TestClient) -> None:
    response = client.post("/search/picture", content=b"{}", headers={"Content-Type": "application/json"})
    assert response.status_code == 415 and "is refused: send a picture" in response.json()["detail"]
    response = client.post("/search/picture", content=bytes(20_000_001), headers={"Content-Type": "image/png"})
    assert response.status_code == 413 and "larger than 20 MB" in response.json()["detail"]


@pytest.mark.long
def test_an_uploaded_picture_finds_the_objects_that_look_like_it(settings: Settings, client: TestClient) -> None:
    store = Store(settings.data_folder)
    colours = [RED if track % 2 else BLUE for track in range(1, TRACK_COUNT + 1)]
    crops = [(track, class_of(track), draw_crop(colour)) for track, colour in enumerate(colours, 1)]
    for recording_id in ("a", "b"):
        table = store.read(CROPS, [recording_id])
        rows = crop_rows(*[crop for crop in crops for _ in range(3)], recording_id=recording_id)
        pictures = {(row["track_id"], row["rank"]): row["jpeg"] for row in rows}
        values = [row | {"jpeg": pictures[row["track_id"], row["rank"]]} for row in table.to_pylist()]
        store.replace(CROPS, [recording_id], type(table).from_pylist(values, table.schema))
        answer_recording(recording_id, store, settings.crop_models[0], 0.25, Models(), "cpu", lambda *_: None)
    publish(store, settings)
    jpeg = next(iter(crop_rows((1, "car", draw_crop(BLUE)))))["jpeg"]
    headers = {"Content-Type": "image/jpeg"}
    like = client.post("/search/picture", content=jpeg, headers=headers).json()["like"]
    similar = found(client, like=like)
    assert {track % 2 for _, track, _ in similar[:TRACK_COUNT]} == {0} and similar[0][2] == pytest.approx(1, abs=0.01)
    assert client.post("/search/picture", content=jpeg, headers=headers).json()["like"] == like
    broken = client.post("/search/picture", content=b"no picture", headers=headers)
    assert broken.status_code == 422
    assert broken.json()["detail"] == "The picture cannot be read: it is no picture such as a JPEG or PNG."
