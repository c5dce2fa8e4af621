import csv
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import commands
from resources.config.settings import Settings
from resources.schema.model_tables import DETECTIONS, MODEL_RUNS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from tests.builders.numbered_videos import MakeVideo
from tests.builders.walk_recording import store_walk, stored_rows


@pytest.fixture
def folders(store: Store, make_video: MakeVideo, tmp_path: Path) -> tuple[Path, Path]:
    """Two data folders with the recording `walk`; the second one lacks the person."""
    store_walk(store, make_video)
    run = {"asset_name": "detections", "model_id": "m", "engine_name": "e", "device_name": "CPU",
           "analysed_frame_count": 30, "elapsed_s": 2.0}  # fmt: skip
    store.replace(MODEL_RUNS, ["walk"], stored_rows(MODEL_RUNS, [run], "walk"))
    other = Store(Path(shutil.copytree(store.data_folder, tmp_path / "other")))
    rows = other.read(DETECTIONS, ["walk"])
    cars = [name == "car" for name in rows["class_name"].to_pylist()]
    other.replace(DETECTIONS, ["walk"], rows.filter(cars))
    for folder in (store, other):
        publish(folder, Settings(data_folder=folder.data_folder))
    return store.data_folder, other.data_folder


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["compare", *map(str, arguments)])


def test_what_only_one_side_finds_is_counted_and_shown(folders: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = folders
    result = compare(a, b, "--out", tmp_path / "out", "--data", a)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["person", "medium", "0", "15", "0", "0%"] in lines
    assert ["car", "medium", "27", "0", "0", "100%"] in lines
    assert ["all", "27", "15", "0", "64%"] in lines
    assert "A: 15.0 frames/s (e on CPU)" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["disagreements.csv", "only-a.jpg"]
    with (tmp_path / "out" / "disagreements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["side"], row["class_name"]) for row in rows} == {("a", "person")}
    again = compare(b, a, "--data", a)
    assert ["all", "27", "0", "15", "64%"] in [line.split() for line in again.output.splitlines()]


def test_a_video_that_is_shorter_than_its_detections_is_one_sentence(
    folders: tuple[Path, Path], make_video: MakeVideo, tmp_path: Path
) -> None:
    a, b = folders
    make_video("walk.mp4", 5, rate=10, size=(320, 200))
    result = compare(a, b, "--out", tmp_path / "out", "--data", a)
    assert (result.exit_code, result.output.splitlines()[-1]) == (
        2, "cv-assets: The normalized video of walk is damaged: materialize normalized_video again."
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sides", "sentence"),
    [
        (("nowhere", "detections"), "'nowhere' is neither a data folder with results nor a model that has any"),
        (("detections", "detections"), "are the same detections"),
        (("detections", "other", "empty"), "No recording was processed by both"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(
    folders: tuple[Path, Path], sides: tuple[str, ...], sentence: str
) -> None:
    a, b = folders
    result = compare(*(b if side == "other" else side for side in sides), "--data", a)
    assert result.exit_code != 0
    assert sentence in str(result.exception) + result.output
