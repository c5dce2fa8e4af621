"""What a pipeline recomputes of the answers to crops whose images retention has deleted."""

from typing import Any

import pyarrow as pa
import pytest

from cv_assets.asset_graph import AssetGraph
from resources.config.crop_model_config import CropModelSettings
from resources.config.settings import Settings
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store
from sensors.recomputation import select_recomputed
from sensors.staleness import StaleAsset

STALE = [StaleAsset("r", name, "", "", False, False) for name in ("colour_crop_classes", "colour_track_classes")]


@pytest.fixture
def graph(store: Store) -> AssetGraph:
    colours = CropModelSettings.model_validate({"name": "colour", "weights": "colours"})
    look = CropModelSettings.model_validate({"name": "look", "weights": "mobilenet"})
    probe = CropModelSettings.model_validate(
        {"name": "red", "weights": "red.json", "task": "probe", "embeddings": "look"}
    )
    return AssetGraph.build(Settings(data_folder=store.data_folder, crop_models=(colours, look, probe)))


def store_crop(store: Store, jpeg: bytes | None) -> None:
    row: dict[str, Any] = {name: 1 for name in CROPS.arrow_schema.names} | {
        "recording_id": "r",
        "class_name": "car",
        "jpeg": jpeg,
    }
    row |= {"confidence": 0.5, "x_max_px": 20.0, "y_max_px": 20.0}
    store.replace(CROPS, ["r"], pa.Table.from_pylist([row], CROPS.arrow_schema))


def test_answers_stay_where_the_images_are_deleted(store: Store, graph: AssetGraph) -> None:
    store_crop(store, b"jpeg")
    names = {asset.asset_name for asset in STALE}
    assert select_recomputed(store, graph, STALE, "cheap") == {"r": names}
    store_crop(store, None)
    assert select_recomputed(store, graph, STALE, "cheap") == {}
    # All is to be recomputed, but there is no video from which crops could be cut.
    assert select_recomputed(store, graph, STALE, "all") == {}


def test_probes_need_no_images(store: Store, graph: AssetGraph) -> None:
    store_crop(store, None)
    assert "look_crop_embeddings" in graph.assets_that_read_crops
    stale = [StaleAsset("r", "red_crop_classes", "", "", False, False)]
    assert select_recomputed(store, graph, stale, "cheap") == {"r": {"red_crop_classes"}}
