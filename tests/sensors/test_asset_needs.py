"""What crop models need: a missing one holds only what depends on it, and is named."""

from pathlib import Path

import pytest

from cv_assets.asset_graph import AssetGraph
from resources.config.crop_model_config import CropModelSettings
from resources.config.detection_config import DetectionSettings
from resources.config.privacy_config import PrivacyCopySettings
from resources.config.settings import Settings
from resources.inference import text_reader
from sensors.asset_needs import find_unmet_needs
from tests.builders.locations import BUNDLED_WEIGHTS


def test_copies_without_number_plates_need_the_package_that_reads_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_reader, "find_spec", lambda _: None)
    for cover, unmet in ((("face",), set[str]()), (("face", "plate"), {"privacy_copies"})):
        settings = Settings(
            data_folder=tmp_path / "data",
            detections=DetectionSettings(weights=str(BUNDLED_WEIGHTS)),
            privacy_copy=PrivacyCopySettings(cover=cover),
        )
        assert find_unmet_needs(AssetGraph.build(settings)).keys() == unmet


def test_each_asset_that_lacks_something_is_named_with_the_reason(tmp_path: Path) -> None:
    values = [
        {"name": "look", "weights": "mobilenet"},
        {"name": "red", "weights": str(tmp_path / "red.json"), "task": "probe", "embeddings": "look"},
        {"name": "mine", "callable": "no_such_module:classify"},
        {"name": "colour", "weights": "colours"},
    ]
    settings = Settings(
        watched_folder=tmp_path / "recordings",
        data_folder=tmp_path / "data",
        detections=DetectionSettings(weights=str(BUNDLED_WEIGHTS)),
        crop_models=tuple(CropModelSettings.model_validate(value) for value in values),
    )
    unmet = find_unmet_needs(AssetGraph.build(settings))
    assert unmet.keys() == {"red_crop_classes", "mine_crop_classes"}
    assert unmet["red_crop_classes"].startswith(f"The probe {tmp_path / 'red.json'} does not exist")
    assert unmet["mine_crop_classes"].startswith("The callable no_such_module:classify has no module")
