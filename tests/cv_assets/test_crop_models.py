"""Crop models of all tasks: boxes, embeddings, colours, plain networks, and the error of a single crop."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_assets.asset_graph import AssetGraph
from cv_assets.crop_classes import box_vote_rows
from cv_assets.crop_models import answer_recording
from cv_assets.crop_reading import answer_crops, cut_box
from cv_assets.crop_selection import Crop
from resources.colour_names import measure_colours
from resources.config.crop_model_config import CropModelSettings
from resources.config.network_config import NetworkSettings
from resources.config.settings import Settings
from resources.errors import RecordingError
from resources.inference.crop_model_check import find_crop_model_problems
from resources.inference.detector import Models
from resources.inference.linear_probe import read_features
from resources.schema.table_registry import crop_model_tables
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store
from tests.builders.crop_pictures import BLUE, RED, crop_rows, draw_crop, encode, shares_of_red_and_blue
from tests.builders.table_rows import sparse_rows

PADDING = 0.25


def answer(store: Store, settings: CropModelSettings, folder: Path) -> list[list[dict[str, Any]]]:
    models = Models(folder / "cache")
    answer_recording("a", store, settings, PADDING, models, "cpu", lambda *_: None)
    return [store.read(table, ["a"]).to_pylist() for table in crop_model_tables(settings.name, settings.task)]


def textured_crop(seed: int, colour: tuple[int, int, int]) -> bytes:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 80, (5, 4, 3))
    image = np.clip(np.kron(coarse, np.ones((16, 16, 1))) + np.array(colour) * 0.7, 0, 255)
    return encode(image.astype(np.uint8))


def test_embeddings_are_unit_vectors_that_resemble_each_other_for_one_object(store: Store, tmp_path: Path) -> None:
    crops = [(track, "person", textured_crop(track, RED if track == 1 else BLUE)) for track in (1, 1, 2)]
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows(*crops, (3, "person", None))))
    (rows,) = answer(store, CropModelSettings(name="look", weights="mobilenet"), tmp_path)
    vectors = [np.array(row["embedding"]) for row in rows[:3]]
    assert [len(vector) for vector in vectors] == [256] * 3
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] == pytest.approx(1, abs=1e-4)
    assert vectors[0] @ vectors[2] < 0.8
    assert rows[3]["embedding"] is rows[3]["features"] is None and "retention" in rows[3]["error"]
    features = [read_features(row["features"]) for row in rows[:3]]
    assert [len(values) for values in features] == [576] * 3
    assert np.abs(features[0] - features[1]).max() < 0.05 < np.abs(features[0] - features[2]).max()
    assert rows[0]["model_id"].startswith("mobilenet-")


def test_boxes_are_in_pixels_of_the_frame_and_votes_count_crops_without_any(store: Store, tmp_path: Path) -> None:
    weights = tmp_path / "corner.xml"
    write_corner_detector(weights)
    network = NetworkSettings(head="ssd", classes=("lamp",), std=(1, 1, 1), resize="stretch", box_unit="shares")
    settings = CropModelSettings(name="lamps", weights=str(weights), task="detect", network=network)
    # A box of 20 x 40 px at (100, 50) has a crop of 30 x 60 px from (95, 40) on.
    box: dict[str, Any] = {"x_min_px": 100.0, "y_min_px": 50.0, "x_max_px": 120.0, "y_max_px": 90.0}
    bright, dark = draw_crop((255, 255, 255), 30, 60), draw_crop((0, 0, 0), 30, 60)
    crops = [(1, "car", bright)] * 3 + [(2, "car", dark)] * 3 + [(3, "car", b"no picture")]
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows(*crops, **box)))
    rows, votes = answer(store, settings, tmp_path)
    found = rows[0]
    edges = [found[f"{edge}_px"] for edge in ("x_min", "y_min", "x_max", "y_max")]
    assert edges == pytest.approx([95, 40, 110, 70], abs=0.1)  # the upper left quarter of the crop
    assert (found["class_name"], found["error"], found["frame_index"]) == ("lamp", None, 1)
    assert all(row["class_name"] is None and row["error"] is None for row in rows[3:6])
    assert rows[6]["error"] == "The picture is not a JPEG."
    assert {row["track_id"]: (row["class_name"], row["voter_count"]) for row in votes} == {
        1: ("lamp", 3),
        2: ("none", 3),
        3: ("unsure", 0),
    }


def write_corner_detector(path: Path) -> None:
    """Write a detector that finds the upper left quarter, with the brightness of the picture as confidence."""
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([1, 3, 32, 32], np.float32, name="image")
    mean = ops.reduce_mean(image, ops.constant(np.array([1, 2, 3])), False)
    confidence = ops.reshape(ops.divide(mean, ops.constant(np.float32(255))), ops.constant(np.array([1, 1])), False)
    corners = ops.constant(np.array([[0, 0, 0.5, 0.5]], np.float32))
    label = ops.constant(np.array([[0]], np.float32))
    rows = ops.concat([corners, confidence, label], 1)
    rows = ops.reshape(rows, ops.constant(np.array([1, 1, 6])), False)
    network = openvino.Model([rows], [image], "corner")
    openvino.save_model(network, path)


def test_a_detector_votes_with_boxes_of_enough_confidence_only() -> None:
    rows = [
        {"recording_id": "a", "track_id": 1, "box_index": 0, "class_name": "face", "confidence": 0.3, "error": None}
    ]
    (vote,) = box_vote_rows(rows * 3, 0.5)
    assert vote["class_name"] == "none"


def test_a_plain_classifier_is_used_as_described(store: Store, tmp_path: Path) -> None:
    import openvino

    openvino.save_model(shares_of_red_and_blue(), tmp_path / "plain.xml")
    network = NetworkSettings(head="classify", classes=("red", "blue"), has_logits=True, std=(25.5, 25.5, 25.5))
    settings = CropModelSettings(name="plain", weights=str(tmp_path / "plain.xml"), network=network)
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows(*[(1, "car", draw_crop(BLUE))] * 3)))
    rows, votes = answer(store, settings, tmp_path)
    assert rows[0]["class_name"] == "blue" and rows[0]["confidence"] == pytest.approx(1, abs=1e-3)
    assert votes[0]["class_name"] == "blue"


@pytest.mark.slow
def test_a_torch_script_network_is_used_as_described(store: Store, tmp_path: Path) -> None:
    import torch

    class Means(torch.nn.Module):  # type: ignore[misc]
        def forward(self, image: Any) -> Any:
            return image.mean((2, 3))

    weights = tmp_path / "means.pt"
    torch.jit.trace(Means(), torch.zeros(1, 3, 16, 16)).save(str(weights))
    settings = CropModelSettings(
        name="means", weights=str(weights), task="embed", network=NetworkSettings(head="embed", resize="stretch")
    )
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows((1, "car", draw_crop(RED)))))
    (rows,) = answer(store, settings, tmp_path)
    assert rows[0]["embedding"] == pytest.approx([1, 0, 0], abs=0.02)
    assert rows[0]["model_id"].startswith("means-")


def test_colours_of_persons_are_those_of_both_halves(store: Store, tmp_path: Path) -> None:
    image = np.zeros((100, 40, 3), np.uint8)
    image[:50], image[50:] = (30, 30, 200), (150, 60, 20)
    box: dict[str, Any] = {"x_min_px": 0.0, "y_min_px": 0.0, "x_max_px": 40.0, "y_max_px": 100.0}
    crops = [(1, "person", encode(image))] * 3 + [(2, "car", draw_crop((255, 255, 255), 40, 100))] * 3
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows(*crops, (1, "person", b"no picture"), **box)))
    rows, votes = answer(store, CropModelSettings(name="colour", weights="colours"), tmp_path)
    assert {(row["track_id"], row["part"]): (row["class_name"], row["crop_count"]) for row in votes} == {
        (1, "upper"): ("red", 4),
        (1, "lower"): ("blue", 4),
        (2, None): ("white", 3),
    }
    assert sum(row["error"] is not None for row in rows) == 1


@pytest.mark.parametrize(
    ("bgr", "name"),
    [
        ((0, 0, 0), "black"), ((128, 128, 128), "grey"), ((255, 255, 255), "white"), ((0, 0, 220), "red"),
        ((0, 128, 255), "orange"), ((0, 230, 250), "yellow"), ((40, 160, 40), "green"), ((200, 60, 20), "blue"),
        ((130, 20, 120), "purple"), ((180, 130, 255), "pink"), ((20, 60, 110), "brown"), ((90, 50, 30), "blue"),
    ],
)  # fmt: skip
def test_plain_colours_have_their_names(bgr: tuple[int, int, int], name: str) -> None:
    assert measure_colours(np.full((20, 20, 3), bgr, np.uint8))[0] == (name, 1.0)


def test_the_margin_of_a_crop_is_cut_off() -> None:
    # At the left border of the frame, a crop has no margin there.
    row = {"x_min_px": 2.0, "y_min_px": 40.0, "x_max_px": 42.0, "y_max_px": 80.0}
    crop = Crop(row, np.arange(60 * 52 * 3, dtype=np.uint32).reshape(60, 52, 3))
    assert cut_box(crop, PADDING).shape == (40, 40, 3)
    assert cut_box(crop, PADDING)[0, 0, 0] == crop.image[10, 2, 0]


def fail_with_wide_crops(crops: Iterable[Crop]) -> Iterator[int]:
    for crop in crops:
        if crop.image.shape[1] > 30:
            raise RuntimeError("too wide")
        yield crop.row["rank"]


def test_an_error_costs_the_crop_that_causes_it() -> None:
    crops = crop_rows((1, "car", draw_crop(RED)), (1, "car", draw_crop(RED, 31)), (1, "car", draw_crop(RED)))
    answers = [(answer, error) for _, answer, error in answer_crops(crops, fail_with_wide_crops, lambda *_: None)]
    assert answers == [(1, None), (None, "The crop model fails: too wide"), (3, None)]


def test_a_model_that_fails_with_every_crop_costs_the_attempt() -> None:
    crops = crop_rows(*[(1, "car", draw_crop(RED, 31))] * 3)
    with pytest.raises(RecordingError, match=r"fails with each of 3 crops: .*too wide"):
        list(answer_crops(crops, fail_with_wide_crops, lambda *_: None))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"weights": "mobilenet", "task": "classify"}, "mobilenet has the task embed: leave out the key task"),
        ({"weights": "x.onnx", "task": "embed"}, "the task embed needs the key network"),
        ({"weights": "x.onnx", "task": "text"}, "the task text has one model"),
        ({"weights": "x.json", "task": "probe"}, "the key embeddings is for the task probe, which needs it"),
        ({"weights": "x.onnx", "network": {"head": "embed"}}, "the head of network is embed, but the task classify"),
    ],
)
def test_contradictions_in_the_settings_are_named(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        CropModelSettings(name="x", **values)


def test_a_probe_without_its_file_is_reported_before_the_run(tmp_path: Path) -> None:
    probe = CropModelSettings(name="hat", weights=str(tmp_path / "hat.json"), task="probe", embeddings="look")
    look = CropModelSettings(name="look", weights="mobilenet")
    (problem,) = find_crop_model_problems(Settings(crop_models=(look, probe)))
    assert (
        problem.startswith("crop_models.hat: The probe") and "does not exist: write it with cv-assets teach" in problem
    )
    (tmp_path / "hat.json").write_text("{}")
    (problem,) = find_crop_model_problems(Settings(crop_models=(look, probe)))
    assert "is no probe (KeyError)" in problem


def test_a_probe_must_name_an_embedding_model() -> None:
    probe = CropModelSettings(name="hat", weights="hat.json", task="probe", embeddings="look")
    with pytest.raises(ValueError, match="hat reads the embeddings of look, which is no crop model"):
        Settings(crop_models=(probe,))
    graph = AssetGraph.build(Settings(crop_models=(probe, CropModelSettings(name="look", weights="mobilenet"))))
    assert "hat_crop_classes" in graph.direct_downstream("look_crop_embeddings")
    assert {"look_crop_embeddings"} <= graph.costly_assets and "hat_crop_classes" not in graph.costly_assets


def test_a_callable_classifies_crops_in_a_process_of_its_own(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "crop_lamps.py"
    module.write_text(
        "def classify(images):\n"
        "    return [[('red' if image[..., 2].mean() > 128 else 'blue', 0.9)] if image.shape[0] < 50 else 'too high'\n"
        "        for image in images]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    crops = [(1, "car", draw_crop(RED))] * 3 + [(2, "car", draw_crop(BLUE, 30, 60)), (2, "car", None)]
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows(*crops)))
    settings = CropModelSettings(name="lamps", callable="crop_lamps:classify")
    rows, votes = answer(store, settings, tmp_path)
    rows.sort(key=lambda row: (row["track_id"], row["rank"]))
    assert [row["class_name"] for row in rows] == ["red"] * 3 + [None] * 2
    assert [row["error"] for row in rows[3:]] == [
        "too high",
        "The picture was deleted by retention (retention.crops_after_days).",
    ]
    assert {row["track_id"]: row["class_name"] for row in votes} == {1: "red", 2: "unsure"}
    before = AssetGraph.build(Settings(crop_models=(settings,))).versions["lamps_crop_classes"]
    module.write_text("import os\ndef classify(images):\n    os._exit(7)\n")
    after = AssetGraph.build(Settings(crop_models=(settings,))).versions["lamps_crop_classes"]
    assert before.code_version != after.code_version
    with pytest.raises(RecordingError, match=r"lamps: its process crashed \(exit status 7\)"):
        answer(store, settings, tmp_path)
    with pytest.raises(ValueError, match="a crop model needs weights or a callable, and not both"):
        CropModelSettings(name="lamps")
