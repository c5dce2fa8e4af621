"""The command crops: pictures as files, selected with SQL."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from cli.crop_files import CropSelection, write_crop_files
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.schema.columns import Table
from resources.schema.track_tables import CROPS, TRACKS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from tests.builders.command_line import run_cv_assets
from tests.builders.table_rows import store_recordings

NAMES = ["gate_2026-03-01T08-59-59-000Z_car_1.jpg", "gate_2026-03-01T09-00-00-500Z_traffic-light_2.jpg"]


def jpeg(width_px: int = 20, height_px: int = 10) -> bytes:
    is_encoded, encoded = cv2.imencode(".jpg", np.full((height_px, width_px, 3), 90, np.uint8))
    assert is_encoded
    return encoded.tobytes()


def crop_row(track_id: int, rank: int, time_s: float, class_name: str, **values: Any) -> dict[str, Any]:
    shared = {"recording_id": "r", "frame_index": 1, "class_id": 2, "confidence": 0.5, "jpeg": jpeg()}
    return {**shared, "track_id": track_id, "rank": rank, "time_s": time_s, "class_name": class_name, **values}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a pipeline with results: a car with two crops and a traffic light with one."""
    settings = Settings(data_folder=tmp_path / "data", watched_folder=tmp_path / "recordings")
    store = Store(settings.data_folder)
    store_recordings(store, {"recording_id": "r"})
    crops = [crop_row(1, 1, 1, "car"), crop_row(1, 2, 1.5, "car"), crop_row(2, 1, 2.5, "traffic light")]
    tracks = [
        {"recording_id": "r", "track_id": track_id, "class_name": name, "start_s": 1, "end_s": 4, "duration_s": 3}
        for track_id, name in ((1, "car"), (2, "traffic light"))
    ]
    store_rows(store, crops, tracks)
    publish(store, settings)
    return settings


def filled_rows(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of a table with 1, true or "" in every column without a value."""
    schema = table.arrow_schema
    values = {pa.string(): "", pa.bool_(): True}
    ones = {name: values.get(schema.field(name).type, 1) for name in schema.names if name != "jpeg"}
    return pa.Table.from_pylist([ones | row for row in rows], schema)


def store_rows(store: Store, crops: list[dict[str, Any]], tracks: list[dict[str, Any]]) -> None:
    ids = sorted({row["recording_id"] for row in crops})
    store.replace(CROPS, ids, filled_rows(CROPS, crops))
    store.replace(TRACKS, ids, filled_rows(TRACKS, tracks))


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_best_crop_of_each_object_becomes_a_file_with_an_index_and_a_sheet(
    settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "pictures"
    process = run_cv_assets("crops", "--out", out, "--data", settings.data_folder)
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"{out}: 2 pictures of 2 objects, index.csv, and contact_sheet.jpg with 2 of them.\n"
    assert names_in(out) == ["contact_sheet.jpg", *NAMES, "index.csv"]
    assert (out / NAMES[0]).read_bytes() == jpeg()
    with (out / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == NAMES
    assert rows[1]["captured_at_utc"] == "2026-03-01 09:00:00.500000"
    assert (rows[1]["camera"], rows[1]["class_name"], rows[1]["duration_s"]) == ("gate", "traffic light", "3.0")
    sheet = cv2.imread(str(out / "contact_sheet.jpg"))
    assert sheet is not None and sheet.shape[1] == 2 * 124 + 4


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        pytest.param(CropSelection("duration_s > 1 -- all", class_name="car"), NAMES[:1], id="class and comment"),
        pytest.param(CropSelection("rank = 2"), ["gate_2026-03-01T08-59-59-500Z_car_1_2.jpg"], id="rank"),
        pytest.param(CropSelection("captured_at_utc >= '2026-03-01 09:00'", camera="gate"), NAMES[1:], id="time"),
        pytest.param(CropSelection(limit=1), NAMES[:1], id="limit"),
        pytest.param(CropSelection("track_id = 3"), [], id="none"),
    ],
)
def test_crops_are_selected_with_sql(
    settings: Settings, tmp_path: Path, selection: CropSelection, names: list[str]
) -> None:
    files = write_crop_files(settings, selection, tmp_path / "out")
    assert files.picture_count == len(names)
    written = names_in(tmp_path / "out") if names else []
    assert written == sorted([*names, *(["index.csv", "contact_sheet.jpg"] if names else [])])
    assert (tmp_path / "out").exists() == bool(names)


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        pytest.param(
            CropSelection("clas_name = 'car'"), r"FILTER .* is not a valid condition: .*clas_name", id="column"
        ),
        pytest.param(CropSelection("class_name = 'car"), "FILTER .* is not a valid condition: ", id="syntax"),
        pytest.param(CropSelection("true) ; SELECT (1"), "is not one condition: leave out the semicolon", id="two"),
        pytest.param(
            CropSelection(camera="gaet"), "The camera 'gaet' has no recording; did you mean 'gate'?", id="camera"
        ),
        pytest.param(CropSelection(class_name="x"), "The class 'x' has no object; known: 'car', 'traffic", id="class"),
    ],
)
def test_an_invalid_selection_is_refused_in_one_sentence_and_writes_nothing(
    settings: Settings, tmp_path: Path, selection: CropSelection, sentence: str
) -> None:
    with pytest.raises(PipelineError, match=sentence) as error:
        write_crop_files(settings, selection, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_file_is_overwritten_and_nothing_is_written_into_a_watched_folder(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "index.csv").write_text("mine")
    with pytest.raises(PipelineError, match="notes is not empty, and no file is overwritten: choose another"):
        write_crop_files(settings, CropSelection(), tmp_path / "notes")
    assert (tmp_path / "notes" / "index.csv").read_text() == "mine"
    with pytest.raises(PipelineError, match="is inside a watched folder"):
        write_crop_files(settings, CropSelection(), settings.watched_folder / "out")
    with pytest.raises(PipelineError, match="is inside the data folder"):
        write_crop_files(settings, CropSelection(), settings.data_folder / "tables" / "out")
    with pytest.raises(PipelineError, match=r"index\.csv is a file: choose a folder"):
        write_crop_files(settings, CropSelection(), tmp_path / "notes" / "index.csv")


def test_pictures_that_cannot_be_read_or_were_deleted_leave_no_half_written_folder(
    settings: Settings, tmp_path: Path
) -> None:
    store, out = Store(settings.data_folder), tmp_path / "out"
    tracks = store.read(TRACKS).to_pylist()
    store_rows(store, [crop_row(1, 1, 1, "car", jpeg=None), crop_row(2, 1, 1, "car")], tracks)
    publish(store, settings)
    assert write_crop_files(settings, CropSelection(), out).deleted_count == 1
    store_rows(store, [crop_row(1, 1, 1, "car", jpeg=None)], tracks)
    publish(store, settings)
    files = write_crop_files(settings, CropSelection(), tmp_path / "empty")
    assert (files.picture_count, files.deleted_count, (tmp_path / "empty").exists()) == (0, 1, False)
    store_rows(store, [crop_row(1, 1, 1, "car", jpeg=b"no picture")], tracks)
    publish(store, settings)
    with pytest.raises(PipelineError, match="The crop of track 1 of r is not a JPEG"):
        write_crop_files(settings, CropSelection(), tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


def test_names_are_safe_and_different_for_every_picture(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings.data_folder)
    camera = "../Tor 3: Süd " + "ü" * 60
    store_recordings(store, *({"recording_id": name, "camera": camera} for name in ("r", "s")))
    rows = [crop_row(1, 1, 1, "a/b", recording_id=name) for name in ("r", "s")]
    names = TRACKS.arrow_schema.names
    store_rows(store, rows, [{name: value for name, value in row.items() if name in names} for row in rows])
    publish(store, settings)
    assert write_crop_files(settings, CropSelection(), tmp_path / "out").picture_count == 2
    names = [name for name in names_in(tmp_path / "out") if name.startswith("Tor-3-Süd-ü")]
    assert [name.rpartition("_")[2] for name in names] == ["r.jpg", "s.jpg"]
    assert all(len(name.encode()) < 200 and "a-b" in name for name in names)
