"""Changes of settings in words."""

from typing import Any

import pytest

from resources.config.setting_changes import describe_changes
from resources.config.settings import Settings
from resources.config.stage_version import LOGIC, StageVersion

DOOR, MOVED_DOOR = ({"name": "door", "points": [[x, 1], [x, 0]]} for x in (0.5, 0.6))
GATE = {"name": "gate", "points": [[0.1, 1], [0.1, 0]]}
MANY = {f"crops.key_{number}": number for number in range(6)}


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        ({"tracks.lost_s": 1.2}, {"tracks.lost_s": 3.0}, "tracks.lost_s was 1.2, is now 3.0"),
        ({"detections.class_names": None}, {"detections.class_names": ["car"]},
         'detections.class_names was null, is now ["car"]'),
        ({}, {"hysteresis": 0.2}, "hysteresis was not set, is now 0.2"),
        ({"rename_classes.car": "vehicle"}, {}, "rename_classes.car was vehicle, is not set any more"),
        ({"lines": [DOOR]}, {"lines": [MOVED_DOOR, GATE]}, "line 'door' was moved; line 'gate' was added"),
        ({"zones": [DOOR]}, {}, "zone 'door' was removed"),
        ({"lines": [DOOR, GATE]}, {"lines": [GATE, DOOR]}, "the order of the lines has changed"),
        ({"x": "a" * 100}, {"x": "b"}, f"x was {'a' * 59}…, is now b"),
        ({"x": "a" * 100}, {"x": "a" * 101}, "x has changed"),
        ({}, MANY, "; ".join([*(f"{name} was not set, is now {MANY[name]}" for name in list(MANY)[:4]), "and 2 more"])),
        ({LOGIC: "crops 2", "x": 1}, {LOGIC: "crops 3", "x": 1}, "the version of the stage has changed"),
        (None, {"x": 1}, "settings or version of the stage have changed"),
    ],
)  # fmt: skip
def test_a_change_is_named_with_the_old_and_the_new_value(
    before: dict[str, Any] | None, now: dict[str, Any], sentence: str
) -> None:
    assert describe_changes(before, now) == sentence


def test_a_version_has_its_settings_by_their_names_in_the_file() -> None:
    settings = Settings()
    version = StageVersion.build("crops 2", {"crops": settings.crops, "video.max_pixels": 5}, "x", explanation={"y": 1})
    assert version.settings["crops.per_track"] == settings.crops.per_track
    assert {name: version.settings[name] for name in ("video.max_pixels", "y", LOGIC)} == {
        "video.max_pixels": 5,
        "y": 1,
        LOGIC: "crops 2",
    }
    assert StageVersion.build("crops 2", {"crops": settings.crops}).code_version != version.code_version
