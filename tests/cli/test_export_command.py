"""Exports are read back by the readers of their formats; boxes, numbers and times must be equal."""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from cli.main import commands
from resources.config.settings import Settings
from resources.schema.recording_tables import RECORDINGS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from tests.builders.numbered_videos import MakeVideo, read_number
from tests.builders.table_rows import header_row, sparse_rows
from tests.builders.walk_recording import FRAME_COUNT, HEIGHT_PX, TIMES_S, WIDTH_PX, store_walk, true_boxes


@pytest.fixture
def arguments(store: Store, make_video: MakeVideo) -> list[str]:
    """Options of commands for a data folder with the recordings `walk` and `empty`."""
    return store_walk(store, make_video)


def run(arguments: Sequence[str], *command: str) -> Result:
    return CliRunner().invoke(commands, [*command, *arguments])


def export(arguments: Sequence[str], output_format: str, out: Path, *options: str) -> Path:
    result = run(arguments, "export", output_format, "--out", str(out), *options)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("output_format", ["coco", "fiftyone"])
def test_coco_has_every_box_mask_and_keypoint(arguments: list[str], output_format: str, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    out = export(arguments, output_format, tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out / ("annotations.json" if output_format == "coco" else "labels.json")))
    assert len(coco.imgs) == 2 * FRAME_COUNT
    found: dict[int, dict[int, Any]] = {1: {}, 2: {}}
    untracked = []
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        assert (image["recording_id"], image["time_s"]) == ("walk", TIMES_S[image["frame_index"]])
        left, top, width, height = annotation["bbox"]
        name = coco.cats[annotation["category_id"]]["name"]
        if "track_id" in annotation:
            found[annotation["track_id"]][image["frame_index"]] = (name, (left, top, left + width, top + height))
        else:
            untracked.append((image["frame_index"], annotation["bbox"]))
        if name == "car" and "track_id" in annotation:
            assert annotation["area"] == 900
            assert coco.annToMask(annotation).sum() > 0
        if name == "person":
            points = np.array(annotation["keypoints"]).reshape(-1, 3)
            assert points[:, 0].tolist() == [201.5 + number for number in range(17)]
            assert points[:, 2].tolist() == [2] * 9 + [1] * 8
    expected = true_boxes()
    del expected[2][7]  # interpolated: no detection
    assert found == expected
    assert untracked == [(2, [1.0, 2.0, 10.0, 12.0])]
    person = next(category for category in coco.cats.values() if category["name"] == "person")
    assert len(person["keypoints"]) == 17


def test_images_of_a_dataset_are_the_frames_of_their_names(arguments: list[str], tmp_path: Path) -> None:
    import cv2

    out = export(arguments, "coco", tmp_path / "out", "walk", "--images", "--every", "7")
    content = json.loads((out / "annotations.json").read_text())
    assert [image["frame_index"] for image in content["images"]] == [0, 7, 14, 21, 28]
    for image in content["images"]:
        picture = cv2.imread(str(out / "images" / image["file_name"]))
        assert picture is not None
        assert read_number(np.asarray(picture)) == image["frame_index"]


@pytest.mark.slow
def test_yolo_is_read_by_the_loader_of_ultralytics(arguments: list[str], tmp_path: Path) -> None:
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    out = export(arguments, "yolo", tmp_path / "out", "--class", "person")
    data = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    assert data["names"] == {0: "person"}
    dataset = YOLODataset(img_path=data["train"], data=data, task="detect", augment=False, batch_size=1)
    assert len(dataset) == 2 * FRAME_COUNT
    found = {}
    for label in dataset.labels:
        if len(label["bboxes"]):
            ((x, y, width, height),) = label["bboxes"] * [WIDTH_PX, HEIGHT_PX, WIDTH_PX, HEIGHT_PX]
            frame = int(Path(label["im_file"]).stem.rsplit("-", 1)[1])
            found[frame] = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    expected = {frame: corners for frame, (_, corners) in true_boxes()[2].items() if frame != 7}
    assert found.keys() == expected.keys()
    for frame, corners in expected.items():
        assert found[frame] == pytest.approx(corners, abs=0.01)


def test_yolo_has_the_outlines_of_masks(arguments: list[str], tmp_path: Path) -> None:
    out = export(arguments, "yolo", tmp_path / "out", "walk", "--class", "car")
    number, *values = (out / "labels" / "train" / "walk-000005.txt").read_text().split()
    corners = true_boxes()[1][5][1]
    assert (number, len(values)) == ("0", 8)
    assert float(values[0]) * WIDTH_PX == pytest.approx(corners[0], abs=0.001)


def test_mot_is_read_by_motmetrics(arguments: list[str], tmp_path: Path) -> None:
    import motmetrics

    out = export(arguments, "mot", tmp_path / "out")
    assert (out / "empty" / "gt" / "gt.txt").read_text() == ""
    table = motmetrics.io.loadtxt(str(out / "walk" / "gt" / "gt.txt"), fmt="mot15-2D")
    labels = (out / "walk" / "gt" / "labels.txt").read_text().split()
    found: dict[int, dict[int, Any]] = {1: {}, 2: {}}
    for (frame, number), row in table.iterrows():
        corners = (row["X"], row["Y"], row["X"] + row["Width"], row["Y"] + row["Height"])
        found[number][frame - 1] = (labels[int(row["ClassId"]) - 1], corners)
    assert found == true_boxes()
    assert "seqLength=30" in (out / "walk" / "seqinfo.ini").read_text()


def test_cvat_has_a_keyframe_per_box_and_ends_each_stretch_outside(arguments: list[str], tmp_path: Path) -> None:
    out = export(arguments, "cvat", tmp_path / "out")
    root = ElementTree.parse(out / "walk.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [root.findtext(f"meta/task/{name}") for name in ("size", "start_frame", "stop_frame")] == ["30", "0", "29"]
    assert [label.text for label in root.iterfind("meta/task/labels/label/name")] == ["car", "person"]
    found: dict[int, dict[int, Any]] = {}
    outside: dict[int, list[int]] = {}
    for track in root.iter("track"):
        number = int(track.attrib["id"])
        frames = []
        for box in track.iter("box"):
            assert box.attrib["keyframe"] == "1"
            frame = int(box.attrib["frame"])
            frames.append(frame)
            if box.attrib["outside"] == "1":
                outside.setdefault(number, []).append(frame)
                continue
            corners = tuple(float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
            found.setdefault(number, {})[frame] = (track.attrib["label"], corners)
        assert frames == sorted(set(frames))
    assert found == true_boxes()
    assert outside == {1: [10], 2: [20]}
    assert ElementTree.parse(out / "empty.xml").getroot().find("track") is None


def test_label_studio_has_percentages_and_frames_from_one(arguments: list[str], tmp_path: Path) -> None:
    out = export(arguments, "label-studio", tmp_path / "out")
    tasks = json.loads((out / "tasks.json").read_text())
    assert [task["data"]["recording_id"] for task in tasks] == ["empty", "walk"]
    assert tasks[0]["predictions"][0]["result"] == []
    found: dict[int, dict[int, Any]] = {1: {}, 2: {}}
    for region in tasks[1]["predictions"][0]["result"]:
        assert region["type"] == "videorectangle"
        number = int(region["meta"]["text"][0].split()[1])
        for item in region["value"]["sequence"]:
            frame = item["frame"] - 1
            assert item["time"] == TIMES_S[frame]
            left, top = item["x"] / 100 * WIDTH_PX, item["y"] / 100 * HEIGHT_PX
            right, bottom = left + item["width"] / 100 * WIDTH_PX, top + item["height"] / 100 * HEIGHT_PX
            found[number][frame] = (region["value"]["labels"][0], (left, top, right, bottom))
        shown = [item["enabled"] for item in region["value"]["sequence"]]
        assert shown.count(False) == (2 if number == 1 else 1)  # one per stretch: nothing is drawn in the gap
    for number, boxes in true_boxes().items():
        assert found[number].keys() == boxes.keys()
        for frame, (name, corners) in boxes.items():
            assert found[number][frame][0] == name
            assert found[number][frame][1] == pytest.approx(corners)


def test_tables_are_read_by_pandas_openpyxl_and_arrow(arguments: list[str], tmp_path: Path) -> None:
    expected = sum(len(boxes) for boxes in true_boxes().values())
    for output_format in ("csv", "xlsx", "parquet", "arrow"):
        export(arguments, output_format, tmp_path / output_format, "--table", "track_boxes", "--table", "tracks")
    book = openpyxl.load_workbook(tmp_path / "xlsx" / "results.xlsx", read_only=True)
    assert book.sheetnames == ["track_boxes", "tracks"]
    assert len(list(book["track_boxes"].iter_rows())) == expected + 1
    frames = {
        "csv": pd.read_csv(tmp_path / "csv" / "track_boxes.csv"),
        "parquet": pq.read_table(tmp_path / "parquet" / "track_boxes.parquet").to_pandas(),
        "arrow": pa.ipc.open_file(tmp_path / "arrow" / "track_boxes.arrow").read_all().to_pandas(),
    }
    for name, table in frames.items():
        assert len(table) == expected, name
        row = table[(table["track_id"] == 2) & (table["frame_index"] == 9)].iloc[0]
        assert (row["time_s"], row["y_max_px"]) == (TIMES_S[9], 129.75), name


def test_tables_have_recordings_without_a_video_and_formats_with_boxes_refuse_them(
    arguments: list[str], store: Store, tmp_path: Path
) -> None:
    store.replace(RECORDINGS, ["rejected"], sparse_rows(RECORDINGS, header_row("rejected")))
    file = export(arguments, "csv", tmp_path / "out", "--table", "recordings") / "recordings.csv"
    assert sorted(pd.read_csv(file)["recording_id"]) == ["empty", "rejected", "walk"]
    refused = run(arguments, "export", "mot", "rejected", "--out", str(tmp_path / "mot"))
    assert "The recording rejected has no normalized video: process it first." in refused.output


def test_paths_lie_on_the_map_of_the_camera(arguments: list[str], tmp_path: Path) -> None:
    settings = tmp_path / "pipeline.yaml"
    ground = {"points": [[0, 0], [320, 0], [320, 200], [0, 200]], "metres": [[0, 20], [32, 20], [32, 0], [0, 0]]}
    settings.write_text(yaml.safe_dump({"cameras": {"gate": {"units": "px", "ground": ground}}}))
    where = ("--settings", str(settings))
    metres = json.loads((export(arguments, "geojson", tmp_path / "m", *where) / "paths.geojson").read_text())
    path = next(item for item in metres["features"] if item["properties"]["track_id"] == 2)
    assert path["geometry"]["coordinates"][0] == pytest.approx([21.05, 20 - 12.475])
    assert path["properties"]["times_s"] == TIMES_S[4:20].tolist()
    place = ("--origin", "60", "10", "--bearing", "90")
    out = export(arguments, "geojson", tmp_path / "degrees", *where, *place)
    on_map = json.loads((out / "paths.geojson").read_text())
    path = next(item for item in on_map["features"] if item["properties"]["track_id"] == 2)
    longitude, latitude = path["geometry"]["coordinates"][0]
    # The y axis points east: 7.525 m east and 21.05 m south of the origin.
    assert (longitude - 10) * 111_320 * 0.5 == pytest.approx(7.525, abs=0.01)
    assert (latitude - 60) * 111_320 == pytest.approx(-21.05, abs=0.01)


def test_flows_have_the_columns_of_open_traffic_cam(arguments: list[str], tmp_path: Path) -> None:
    table = pd.read_csv(export(arguments, "flows", tmp_path / "out", "--interval", "15") / "counts.csv")
    assert table.iloc[0].to_dict() == {
        "start time": "2026-03-01 08:45:00",
        "start occurrence date": "2026-03-01",
        "start occurrence time": "08:45:00",
        "end time": "2026-03-01 09:00:00",
        "end occurrence date": "2026-03-01",
        "end occurrence time": "09:00:00",
        "classification": "car",
        "flow": "gate --> exit",
        "from section": "gate",
        "to section": "exit",
        "count": 1,
    }


def test_captions_have_the_time_of_the_normalized_video(arguments: list[str], tmp_path: Path) -> None:
    out = export(arguments, "vtt", tmp_path / "out")
    assert (out / "walk.vtt").read_text().splitlines() == [
        *("WEBVTT", "", "00:00:01.500 --> 00:00:03.000", "car 1 crosses in: gate"),
    ]
    assert (out / "empty.vtt").read_text().splitlines() == ["WEBVTT"]


def test_edited_tracks_come_back_as_corrections(arguments: list[str], tmp_path: Path, store: Store) -> None:
    from cv_assets.corrected_tracks import correct_tracks

    file = export(arguments, "cvat", tmp_path / "out") / "walk.xml"
    tree = ElementTree.parse(file)
    car, person = tree.getroot().iter("track")
    car.set("id", "0")  # as CVAT numbers tracks
    car.set("label", "bus")
    box = car.findall("box")[3]
    box.set("xtl", "1.5")
    tree.getroot().remove(person)
    tree.write(file)
    result = run(arguments, "correct", "--file", str(file), "--by", "ann")
    assert result.exit_code == 0, result.output
    assert "Stored 3 corrections." in result.output
    assert "0 corrections; 3 were stored before" in run(arguments, "correct", "--file", str(file), "--by", "ann").output
    correct_tracks("walk", store)
    publish(store, Settings(data_folder=store.data_folder))
    out = export(arguments, "cvat", tmp_path / "again", "walk", "--corrected")
    (track,) = ElementTree.parse(out / "walk.xml").getroot().iter("track")
    boxes = {box.attrib["frame"]: box.attrib for box in track.iter("box") if box.attrib["outside"] == "0"}
    assert track.attrib["label"] == "bus"
    assert len(boxes) == len(true_boxes()[1])
    assert (float(boxes["3"]["xtl"]), float(boxes["4"]["xtl"])) == (1.5, 5.25 + 12)


@pytest.mark.parametrize("output_format", ["mot", "coco"])
def test_a_deleted_track_of_mot_and_coco_is_rejected(arguments: list[str], output_format: str, tmp_path: Path) -> None:
    out = export(arguments, output_format, tmp_path / "out", "--corrected")
    if output_format == "mot":
        file = out / "walk" / "gt" / "gt.txt"
        file.write_text("".join(line for line in file.read_text().splitlines(True) if line.split(",")[1] == "1"))
    else:
        file = out / "annotations.json"
        content = json.loads(file.read_text())
        content["annotations"] = [item for item in content["annotations"] if item.get("track_id") == 1]
        file.write_text(json.dumps(content))
    result = run(arguments, "correct", "--file", str(file), "--by", "ann")
    assert "Stored 1 correction." in result.output, result.output
    actions = run(arguments, "sql", "SELECT action, recording_id FROM v_corrections", "--format", "csv")
    assert "reject,walk" in actions.output


def test_what_no_correction_expresses_is_listed(arguments: list[str], tmp_path: Path) -> None:
    file = export(arguments, "mot", tmp_path / "out") / "walk" / "gt" / "gt.txt"
    lines = file.read_text().splitlines(True)
    file.write_text("".join(lines[1:]) + "4,99,250,10,20,30,1,1,1\n")
    result = run(arguments, "correct", "--file", str(file))
    assert "walk: track 1 has 1 boxes fewer, such as that of frame 0; no correction expresses this." in result.output
    assert "walk: a new object (car) from frame 3; no correction expresses this." in result.output


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["coco", "nowhere"], "No recording has the id 'nowhere'"),
        (["coco", "--camera", "yard"], "There is no processed recording of the camera 'yard'."),
        (["coco", "--class", "tree"], "No object has the class 'tree'; there are: car, person."),
        (["mot", "--every", "5"], "export mot takes no --every: leave it out."),
        (["csv", "--interval", "15"], "export csv takes no --interval: leave it out."),
        (["flows", "--bearing", "0"], "export flows takes no --bearing: leave it out."),
        (["csv", "--table", "secrets"], "There is no table 'secrets'"),
        (["geojson"], "The camera 'gate' has no ground"),
        (["flows", "empty"], "No object went from one line to another"),
    ],
)
def test_an_export_that_cannot_be_written_leaves_nothing(
    arguments: list[str], command: list[str], sentence: str, tmp_path: Path
) -> None:
    result = run(arguments, "export", *command, "--out", str(tmp_path / "out"))
    assert result.exit_code != 0
    assert sentence in str(result.exception or "") + result.output
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_folder_with_files_is_left_as_it_is(arguments: list[str], tmp_path: Path, store: Store) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    result = run(arguments, "export", "mot", "--out", str(tmp_path / "out"))
    assert "is not empty" in str(result.exception) + result.output
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    result = run(arguments, "export", "mot", "--out", str(store.data_folder / "out"))
    assert "is inside the data folder" in str(result.exception) + result.output


def test_an_edited_file_names_its_recording_by_a_beginning_and_has_one_sentence_for_what_is_no_number(
    arguments: list[str], tmp_path: Path
) -> None:
    out = export(arguments, "cvat", tmp_path / "out", "walk")
    result = run(arguments, "correct", "--file", str(out / "walk.xml"), "--recording", "wal", "--by", "ann")
    assert "Stored 0 corrections." in result.output
    (tmp_path / "gt.txt").write_text("inf,1,1,1,1,1,1,1,1")
    image = {"id": 1, "recording_id": "walk", "frame_index": 0}
    content: dict[str, Any] = {"images": [image], "categories": [{"id": 1, "name": "car"}]}
    (tmp_path / "no_images.json").write_text(json.dumps({**content, "images": [], "annotations": []}))
    for name, left in (("text", "one"), ("nan", float("nan"))):
        annotation = {"image_id": 1, "category_id": 1, "track_id": 1, "bbox": [5.25, 20.5, left, 30]}
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "annotations": [annotation]}))
    for name, sentence in (
        ("gt.txt", "is damaged, or is no file of CVAT, COCO or MOT"),
        ("no_images.json", "Stored 0 corrections."),
        ("text.json", "is damaged, or is no file of CVAT, COCO or MOT"),
        ("nan.json", "x_max_px is nan, which is no number."),
    ):
        assert sentence in run(arguments, "correct", "--file", str(tmp_path / name), "--by", "ann").output
