"""The API of a data folder under test, without a server process."""

from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from fastapi.testclient import TestClient

from resources.config.serve_config import ServeSettings
from resources.config.settings import Settings
from resources.schema.recording_tables import SOURCE_FILES
from resources.schema.track_tables import CROPS, TRACKS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from serve.access_control import Access
from serve.app import build_app
from serve.app_state import AppState
from tests.builders.table_rows import sparse_rows, store_recordings

ADDRESS = "http://127.0.0.1:3100"


class ApiClient(TestClient):
    """A client of the API of `folder`/data, whose watched folder is `folder`/recordings.

    Args:
        folder: The folder of the test.
        access: Who may use the server; None means this machine.
        instance: Dagster's instance; None creates one in memory.
        serve: Settings of the section serve.
    """

    def __init__(
        self, folder: Path, access: Access | None = None, instance: DagsterInstance | None = None, **serve: Any
    ) -> None:
        self.watched_folder, self.data_folder = folder / "recordings", folder / "data"
        self.watched_folder.mkdir(exist_ok=True)
        self.settings = Settings(
            watched_folder=self.watched_folder, data_folder=self.data_folder, serve=ServeSettings(**serve)
        )
        app = build_app(self.settings, access, instance=instance or DagsterInstance.ephemeral())
        self.state: AppState = app.state.cv_assets
        super().__init__(app, base_url=ADDRESS, raise_server_exceptions=True)


def publish_two_recordings(data_folder: Path) -> Store:
    """Publish two recordings of the camera gate: `a` with three tracks and a crop, `b` with none."""
    store = Store(data_folder)
    store_recordings(store, {"recording_id": "a"}, {"recording_id": "b"})
    store_tracks(store, (1, "car"), (2, "person"), (3, "car"))
    crop = dict.fromkeys(CROPS.arrow_schema.names, 1) | {"recording_id": "a", "class_name": "car", "jpeg": b"12345"}
    store.replace(CROPS, ["a"], sparse_rows(CROPS, crop))
    store.replace(SOURCE_FILES, [], sparse_rows(SOURCE_FILES))
    publish(store, Settings())
    return store


def store_tracks(store: Store, *tracks: tuple[int, str]) -> None:
    """Store tracks of the recording `a` with these numbers and classes; track 3 begins at frame 30."""
    rows = [
        dict.fromkeys(TRACKS.arrow_schema.names, 1)
        | {"recording_id": "a", "track_id": number, "class_name": name, "first_frame_index": 10 * number}
        | {"mean_confidence": number / 10, "is_doubtful": False}
        for number, name in tracks
    ]
    store.replace(TRACKS, ["a"], sparse_rows(TRACKS, *rows))
