from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_assets.asset_graph import AssetGraph
from cv_assets.privacy_copies import copy_recording
from resources.clips.stored_boxes import read_privacy_plan
from resources.config.detection_config import DetectionSettings
from resources.config.privacy_config import PrivacyCopySettings
from resources.config.settings import Settings
from resources.errors import PipelineError, RecordingError
from resources.inference.detection_arrays import Detections
from resources.inference.detector import Models
from resources.privacy_copy_file import privacy_copy_path
from resources.schema.model_tables import DETECTIONS
from resources.schema.privacy_tables import PRIVACY_COPIES
from resources.schema.recording_tables import RECORDING_CONTENTS
from resources.schema.track_tables import TRACK_BOXES
from resources.storage.delta_store import Store
from tests.builders.locations import BUNDLED_WEIGHTS
from tests.builders.numbered_videos import MakeVideo
from tests.builders.table_rows import STARTED_JUST_BEFORE_NINE
from tests.builders.walk_recording import FRAME_COUNT, store_stage_runs, store_walk


def settings_that_cover(*cover: str) -> Settings:
    detections = DetectionSettings(weights=str(BUNDLED_WEIGHTS))
    return Settings(detections=detections, privacy_copy=PrivacyCopySettings(cover=cover))


class StubbornModels(Models):
    """Finds a face at the same place of every picture, also where it is covered."""

    def detector(self, *_: Any, **__: Any) -> Any:
        return self

    def detect(self, images: Iterable[np.ndarray]) -> Iterator[Detections]:
        for _ in images:
            yield Detections(np.array([[60.0, 60, 90, 100]]), np.array([0.8]), np.array([0]))


def test_a_recording_gets_a_copy_and_a_row_with_its_audit(store: Store, make_video: MakeVideo) -> None:
    store_walk(store, make_video)
    copy_recording("walk", store, settings_that_cover("car", "person"), Models(), lambda *_: None)
    (row,) = store.read(PRIVACY_COPIES).to_pylist()
    assert (row["covered"], row["copy_path"]) == ("car, person", "privacy_copies/walk.mp4")
    # The two tracks have 27 and 16 boxes, an interpolated one among them, and one detection is in no track.
    assert (row["box_count"], row["visible_box_count"], row["still_seen"]) == (44, 0, [])
    assert [path.name for path in (store.data_folder / "privacy_copies").iterdir()] == ["walk.mp4"]


def test_a_copy_that_shows_what_it_must_cover_is_not_kept(store: Store, make_video: MakeVideo) -> None:
    store_walk(store, make_video)
    target = privacy_copy_path(store.data_folder, "walk")
    target.parent.mkdir()
    target.write_bytes(b"a copy of other settings")
    with pytest.raises(RecordingError, match="The privacy copy is not kept: 30 faces of the original are still seen"):
        copy_recording("walk", store, settings_that_cover("face"), StubbornModels(), lambda *_: None)
    assert list(target.parent.iterdir()) == []
    assert list((store.media_folder / "walk").iterdir()) == []
    assert store.read(PRIVACY_COPIES).num_rows == 0


def test_a_class_that_the_detector_does_not_have_is_an_error(store: Store, make_video: MakeVideo) -> None:
    store_walk(store, make_video)
    with pytest.raises(PipelineError, match=r"privacy_copy\.cover"):
        copy_recording("walk", store, settings_that_cover("persn"), Models(), lambda *_: None)


def test_the_stage_exists_only_where_the_settings_ask_for_it(tmp_path: Path) -> None:
    assert "privacy_copies" not in AssetGraph.build(Settings()).stages
    graph = AssetGraph.build(settings_that_cover("face"))
    assert graph.stages["privacy_copies"] == ("privacy_copies",)
    assert "privacy_copies" in graph.costly_assets
    other_graph = AssetGraph.build(settings_that_cover("person"))
    assert graph.versions["privacy_copies"] != other_graph.versions["privacy_copies"]


def test_a_copy_is_refused_where_the_boxes_are_not_those_of_the_video(store: Store, make_video: MakeVideo) -> None:
    store_walk(store, make_video)
    assert read_privacy_plan(store, "walk", ["car"], {}).cover == ("car",)
    with pytest.raises(RecordingError, match="has no normalized_video yet, so that what is covered is not known"):
        read_privacy_plan(store, "empty", ["car"], {})
    later = STARTED_JUST_BEFORE_NINE + timedelta(hours=1)
    store_stage_runs(store, "normalized_video", version="of another size", finished_at_utc=later)
    with pytest.raises(RecordingError, match="The detections are of an earlier normalized_video"):
        read_privacy_plan(store, "walk", ["car", "face"], {})
    # Faces are searched in the video itself.
    assert read_privacy_plan(store, "walk", ["face"], {}).cover == ("face",)


def test_a_video_that_ends_early_costs_one_recording(store: Store, make_video: MakeVideo) -> None:
    store_walk(store, make_video)
    copy_recording("walk", store, settings_that_cover("car"), Models(), lambda *_: None)
    store.update(RECORDING_CONTENTS, ["walk"], {"frame_count": FRAME_COUNT + 1})
    with pytest.raises(RecordingError, match=f"ends before frame {FRAME_COUNT}"):
        copy_recording("walk", store, settings_that_cover("car", "person"), Models(), lambda *_: None)
    assert (store.read(PRIVACY_COPIES).num_rows, list((store.data_folder / "privacy_copies").iterdir())) == (0, [])


def test_detections_in_tracks_of_another_class_are_covered(store: Store, make_video: MakeVideo) -> None:
    store_walk(store, make_video)
    store.update(TRACK_BOXES, ["walk"], {"class_name": "unsure"})
    plan = read_privacy_plan(store, "walk", ["car", "person"], {})
    of_detections, of_tracks, _ = plan.box_sets
    assert (len(of_detections), len(of_tracks)) == (store.row_count(DETECTIONS), 0)
    # With the numbers of their tracks, across whose gaps they are held.
    assert {box.track_id for box in of_detections} == {1, 2, None}
