"""Crop models: answers for each crop, a reason for a crop without one, and the vote of each track."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cv_assets.asset_graph import AssetGraph
from cv_assets.crop_classes import vote_rows
from cv_assets.crop_models import answer_recording
from resources.config.crop_model_config import CropModelSettings
from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.inference.detector import Models
from resources.schema.table_registry import find_table
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store
from tests.builders.crop_pictures import BLUE, RED, crop_rows, draw_crop, write_colour_classifier
from tests.builders.table_rows import sparse_rows


@pytest.fixture
def settings(tmp_path: Path) -> CropModelSettings:
    weights = write_colour_classifier(tmp_path / "colours")
    return CropModelSettings(name="colour", weights=str(weights), classes=("car",), top_k=2)


def classify(store: Store, settings: CropModelSettings, folder: Path) -> tuple[list[dict[str, Any]], ...]:
    models = Models(folder / "cache")
    answer_recording("a", store, settings, 0.25, models, "cpu", lambda *_: None)
    tables = (find_table("colour_crop_classes"), find_table("colour_track_classes"))
    return tuple(store.read(table, ["a"]).to_pylist() for table in tables if table is not None)


def test_crops_are_classified_and_vote_on_their_track(
    store: Store, settings: CropModelSettings, tmp_path: Path
) -> None:
    red, blue = draw_crop(RED), draw_crop(BLUE)
    crops = [*[(1, "car", red)] * 3, *[(2, "car", blue)] * 2, (3, "car", red), *[(3, "car", blue)] * 2, (4, "dog", red)]
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows(*crops)))
    answers, votes = classify(store, settings, tmp_path)
    assert len(answers) == 2 * 8  # the dog is not classified
    best = {(row["track_id"], row["rank"]): row["class_name"] for row in answers if row["class_rank"] == 1}
    assert best == {
        **{(1, rank): "red" for rank in (1, 2, 3)},
        **{(2, rank): "blue" for rank in (1, 2)},
        **{(3, 1): "red", (3, 2): "blue", (3, 3): "blue"},
    }
    assert all(row["model_id"].startswith("colours-") and row["error"] is None for row in answers)
    assert {row["track_id"]: (row["class_name"], row["vote_count"], row["voter_count"]) for row in votes} == {
        1: ("red", 3, 3),
        2: ("unsure", 2, 2),  # fewer than 3 crops
        3: ("blue", 2, 3),  # 67 %
    }


def test_a_crop_without_a_picture_has_a_reason_and_no_vote(
    store: Store, settings: CropModelSettings, tmp_path: Path
) -> None:
    red = draw_crop(RED)
    crops = [(1, "car", red), (1, "car", b"no picture"), (1, "car", None), (1, "car", red), (1, "car", red)]
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows(*crops)))
    answers, votes = classify(store, settings, tmp_path)
    errors = {row["rank"]: row["error"] for row in answers if row["error"] is not None}
    assert errors == {
        2: "The picture is not a JPEG.",
        3: "The picture was deleted by retention (retention.crops_after_days).",
    }
    assert {row["class_name"] for row in answers if row["class_rank"] == 1} == {"red", None}
    (vote,) = votes
    assert (vote["class_name"], vote["vote_count"], vote["voter_count"], vote["crop_count"]) == ("red", 3, 3, 5)


def test_a_recording_without_crops_of_the_classes_has_no_rows(
    store: Store, settings: CropModelSettings, tmp_path: Path
) -> None:
    store.replace(CROPS, ["a"], sparse_rows(CROPS, *crop_rows((1, "dog", draw_crop(RED)))))
    assert classify(store, settings, tmp_path) == ([], [])


def answer(rank: int, class_name: str | None, confidence: float | None) -> dict[str, Any]:
    return {
        **{"recording_id": "a", "track_id": 1, "rank": rank, "class_rank": 1},
        **{"class_name": class_name, "confidence": confidence},
    }


def test_uncertain_answers_do_not_vote() -> None:
    rows = [answer(1, "red", 0.9), answer(2, "red", 0.8), answer(3, "red", 0.7), answer(4, "blue", 0.4)]
    (vote,) = vote_rows(rows, 0.5)
    assert (vote["class_name"], vote["vote_count"], vote["voter_count"], vote["crop_count"]) == ("red", 3, 3, 4)
    assert vote_rows(rows, 0.75)[0]["class_name"] == "unsure"
    (no_vote,) = vote_rows([answer(1, None, None)], 0.5)
    assert (no_vote["class_name"], no_vote["vote_count"], no_vote["voter_count"]) == ("unsure", 0, 0)
    assert vote_rows([answer(rank, "red", 0.0) for rank in (1, 2, 3)], 0.0)[0]["class_name"] == "red"


def test_another_crop_model_makes_only_its_own_assets_stale(settings: CropModelSettings) -> None:
    other = settings.model_copy(update={"name": "other"})
    before = AssetGraph.build(Settings(crop_models=(settings, other)))
    changed = other.model_copy(update={"top_k": 1})
    after = AssetGraph.build(Settings(crop_models=(settings, changed)))
    different = {name for name, version in after.versions.items() if version != before.versions[name]}
    assert different == {"other_crop_classes"}
    assert after.versions["other_crop_classes"].settings["crop_models.other.top_k"] == 1
    assert "other_track_classes" in after.stage_of_asset
    assert before.versions["colour_crop_classes"].settings["crop_models.colour.weights"].startswith("content ")


def test_two_crop_models_of_one_name_are_refused(settings: CropModelSettings) -> None:
    with pytest.raises(ValueError, match="two models have the name colour"):
        Settings(crop_models=(settings, settings))


def test_weights_of_another_task_are_refused(store: Store, settings: CropModelSettings, tmp_path: Path) -> None:
    metadata = tmp_path / "colours" / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("classify", "detect"))
    with pytest.raises(PipelineError, match="are of the task 'detect', but the settings say 'classify'"):
        classify(store, settings, tmp_path)


def test_the_rows_have_the_declared_columns() -> None:
    for name in ("x_crop_classes", "x_track_classes"):
        table = find_table(name)
        assert table is not None
        assert isinstance(table.arrow_schema, pa.Schema)
        assert table.key[:2] == ("recording_id", "track_id")
