"""The clip of a recording's page is the finished file, made as the command makes it; nothing of it stays."""

import tempfile
from pathlib import Path

import av
import pytest

from resources.config.settings import Settings
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from tests.builders.api_client import ApiClient
from tests.builders.numbered_videos import MakeVideo, read_number
from tests.builders.walk_recording import store_walk


@pytest.fixture
def client(tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> ApiClient:
    store = Store(tmp_path / "data")
    store_walk(store, make_video)
    publish(store, Settings())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return ApiClient(tmp_path)


def test_a_clip_of_a_range_is_downloaded_whole_and_not_made_for_other_sites(client: ApiClient, tmp_path: Path) -> None:
    response = client.post("/recordings/walk/clip", params={"from_s": 1, "to_s": 1.5})
    assert response.status_code == 200, response.text
    assert response.headers["Content-Disposition"] == 'attachment; filename="walk-1s.mp4"'
    (tmp_path / "clip.mp4").write_bytes(response.content)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        numbers = [read_number(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert 4 <= len(numbers) <= 8
    assert list((tmp_path / "temporary").iterdir()) == []
    foreign = client.post("/recordings/walk/clip", headers={"Origin": "http://elsewhere.example"})
    assert foreign.status_code == 403
    both = client.post("/recordings/walk/clip", params={"track": 1, "from_s": 2})
    assert (both.status_code, both.json()["detail"]) == (
        422,
        "query track: a clip is of a track or of a range: leave out the other.",
    )
    assert client.post("/recordings/walk/clip", params={"from_s": "nan"}).status_code == 422


@pytest.mark.long
def test_a_track_that_does_not_exist_is_refused_in_a_sentence(client: ApiClient, tmp_path: Path) -> None:
    response = client.post("/recordings/walk/clip", params={"track": 9, "draw": ["boxes", "clock"]})
    assert (response.status_code, response.json()["detail"]) == (422, "The recording walk has no track 9.")
    assert list((tmp_path / "temporary").iterdir()) == []
