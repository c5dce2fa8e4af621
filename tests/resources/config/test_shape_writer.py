"""Zones and lines written into the settings file, of which nothing else changes."""

from pathlib import Path

import pytest
import yaml

from resources.config.settings_file import load_settings
from resources.config.shape_writer import add_shapes, add_shapes_to_text
from resources.errors import PipelineError

LINE = {"name": "door: 1", "points": [[0.1, 0.2], [0.3, 0.4]]}
ZONE = {"name": "lawn", "points": [[0, 0], [1, 0], [1, 1]]}
SHAPES = {"zones": [ZONE], "lines": [LINE]}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty file"),
        pytest.param("detections:\n  weights: x.pt  # ours\n", id="no cameras"),
        pytest.param("cameras: {}\n# end\nbatches: {}\n", id="empty cameras"),
        pytest.param("cameras:\n  gate:\n", id="camera without settings"),
        pytest.param("cameras:\n  gate: {anchor: centre}\n  yard: {}\n", id="camera in flow style"),
        pytest.param("cameras: {gate: {anchor: centre}, yard: {}}\n", id="cameras in flow style"),
        pytest.param("cameras:\n    yard:\n        anchor: centre\n\nbatches: {}\n", id="wide indent"),
        pytest.param(
            "cameras:\n  gate:\n    lines:\n    - {name: a, points: [[0, 0], [1, 1]]}\n\n# tail\n", id="has lines"
        ),
        pytest.param("cameras:\n  gate:\n    anchor: centre  # why\n    zones: []\n  yard: {}", id="empty zones"),
        pytest.param(
            "cameras:\n  gate:\n    lines:\n      - name: 'door: 1'\n        points: [[0, 0], [1, 1]]\n", id="same name"
        ),
    ],
)
def test_shapes_are_added_and_all_other_values_stay(text: str) -> None:
    before = yaml.safe_load(text) or {}
    after = yaml.safe_load(add_shapes_to_text(text, "gate", SHAPES))
    camera_before = (before.get("cameras") or {}).get("gate") or {}
    camera_after = after["cameras"].pop("gate")
    assert camera_after.pop("zones")[-1] == ZONE and camera_after["lines"][-1] == LINE
    names = [line["name"] for line in camera_after.pop("lines")]
    assert names == [*(line["name"] for line in camera_before.get("lines", []) if line["name"] != "door: 1"), "door: 1"]
    assert camera_after == {key: value for key, value in camera_before.items() if key not in ("zones", "lines")}
    assert {**after, "cameras": after["cameras"] or None} == {
        **before, "cameras": {key: item for key, item in (before.get("cameras") or {}).items() if key != "gate"} or None
    }  # fmt: skip


def test_comments_stay() -> None:
    text = "# ours\ncameras:\n  gate:  # the gate\n    anchor: centre  # why\n# the end\n"
    added = add_shapes_to_text(text, "gate", SHAPES)
    assert all(comment in added for comment in ("# ours", "# the gate", "# why", "# the end"))


def test_the_old_file_is_kept_and_the_new_one_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("cameras:\n  gate: {}\n")
    copy_of_old = add_shapes(file, "gate", SHAPES)
    assert copy_of_old is not None and copy_of_old.read_text() == "cameras:\n  gate: {}\n"
    assert [line.name for line in load_settings(file).camera("gate").lines] == ["door: 1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["pipeline.yaml", copy_of_old.name])
    file.chmod(0o640)
    second_copy = add_shapes(file, "yard", SHAPES)
    assert second_copy is not None and {path.stat().st_mode & 0o777 for path in (file, second_copy)} == {0o640}


def test_a_missing_file_is_created(tmp_path: Path) -> None:
    assert add_shapes(tmp_path / "pipeline.yaml", "gate", SHAPES) is None
    assert load_settings(tmp_path / "pipeline.yaml").camera("gate").zones[0].name == "lawn"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real_file, link = tmp_path / "shared" / "gate.yaml", tmp_path / "pipeline.yaml"
    real_file.parent.mkdir()
    real_file.write_text("cameras: {}\n")
    link.symlink_to(real_file)
    add_shapes(link, "gate", SHAPES)
    assert link.is_symlink() and load_settings(real_file).camera("gate").zones[0].name == "lawn"


def test_invalid_settings_are_not_written(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    zone = "{name: 'door: 1', points: [[0, 0], [1, 0], [1, 1]]}"
    file.write_text(f"cameras:\n  gate:\n    zones:\n      - {zone}\n")
    before = file.read_text()
    with pytest.raises(PipelineError, match=r"pipeline.yaml: .*two zones or lines have the name door: 1"):
        add_shapes(file, "gate", SHAPES)
    assert file.read_text() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cameras: [", "the settings file is no valid YAML: correct it first."),
        ("{}", "is written in a way that cannot be changed here: copy the zones into it."),
        ("---\ndetections: {}\n...\n", "is written in a way that cannot be changed here: copy the zones into it."),
        ("cameras:\n  gate: [a]\n", "is written in a way that cannot be changed here: copy the zones into it."),
    ],
)
def test_a_file_that_cannot_be_changed_is_one_sentence_and_stays(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    with pytest.raises(PipelineError) as error:
        add_shapes(file, "gate", SHAPES)
    assert str(error.value).startswith(str(file)) and str(error.value).endswith(message)
    assert file.read_text() == text and list(tmp_path.iterdir()) == [file]
