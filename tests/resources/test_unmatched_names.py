"""Names of cameras and classes in the settings that match nothing."""

from pathlib import Path
from typing import Any

import pytest

from resources.config.settings import Settings
from resources.schema.recording_tables import SOURCE_FILES
from resources.storage.delta_store import Store
from resources.unmatched_names import find_unmatched_names
from tests.builders.locations import BUNDLED_WEIGHTS
from tests.builders.table_rows import sparse_rows


def settings_of(folder: Path, **sections: Any) -> Settings:
    """Settings with the bundled weights, for a watched folder with a recording of each of the cameras gate and yard."""
    for camera in ("gate", "yard"):
        (folder / "recordings" / camera).mkdir(parents=True, exist_ok=True)
        (folder / "recordings" / camera / "a.mp4").write_bytes(b"x")
    detections = {"weights": str(BUNDLED_WEIGHTS)} | sections.pop("detections", {})
    folders = {"watched_folder": folder / "recordings", "data_folder": folder / "data"}
    return Settings.model_validate({**folders, "detections": detections, **sections})


@pytest.mark.parametrize(
    ("sections", "sentences"),
    [
        pytest.param({"cameras": {"gate": {}, "yard": {}}}, [], id="known"),
        pytest.param(
            {"cameras": {"gaet": {}}}, ["cameras: the camera 'gaet' has no recording; did you mean 'gate'?"], id="near"
        ),
        pytest.param(
            {"cameras": {"": {}}}, ["cameras: the camera '' has no recording; known: 'gate', 'yard'."], id="no folder"
        ),
        pytest.param(
            {"detections": {"regions": {"*": [], "Yard": []}}},
            ["detections.regions: the camera 'Yard' has no recording; did you mean 'yard'?"],
            id="region",
        ),
        pytest.param(
            {"notifications": {"no_data_after_h": {"*": 2, "qqq": 1}}},
            ["notifications.no_data_after_h: the camera 'qqq' has no recording; known: 'gate', 'yard'."],
            id="no data",
        ),
        pytest.param(
            {"detections": {"class_names": ["car", "persn"]}},
            ["detections.class_names: street.pt has no class 'persn'; did you mean 'person'?"],
            id="class",
        ),
        pytest.param(
            {"models": [{"name": "more", "weights": "none.pt", "class_names": ["x"], "regions": {"yrd": []}}]},
            ["models.more.regions: the camera 'yrd' has no recording; did you mean 'yard'?"],
            id="further model without weights",
        ),
    ],
)
def test_names_that_match_nothing_are_reported_with_the_nearest_name(
    sections: dict[str, Any], sentences: list[str], tmp_path: Path
) -> None:
    assert find_unmatched_names(settings_of(tmp_path, **sections)) == sentences


def test_a_camera_is_known_by_its_recordings_when_its_files_are_gone(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, cameras={"shop": {}}).model_copy(update={"watched_folder": tmp_path / "unmounted"})
    assert find_unmatched_names(settings) == []  # no camera is known
    file = {"recording_id": "r", "source_path": "shop/a.mp4", "camera": "shop", "state": "known"}
    Store(settings.data_folder).append(
        SOURCE_FILES,
        sparse_rows(SOURCE_FILES, file, size_bytes=1, mtime_ns=1, seen_at_utc=0, fingerprint="f"),
    )
    assert find_unmatched_names(settings) == []
