"""States of recordings whose files were replaced or deleted: what can be recomputed, and what keeps its results."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance

from resources.config.media_config import VideoSettings
from resources.schema.recording_tables import FRAMES, RECORDING_CONTENTS
from resources.storage.stage_runs import newest_stage_runs
from sensors.recomputation import STALE_VARIABLE
from sensors.recording_states import read_recording_states
from tests.builders.pipeline import INGEST_STAGES, Pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline that recomputes stale assets and has ingested the recording a."""
    monkeypatch.setenv(STALE_VARIABLE, "all")
    with DagsterInstance.ephemeral() as instance:
        pipeline = Pipeline(tmp_path, instance)
        assert pipeline.run([*INGEST_STAGES, "scenes"], "a", "a").success
        yield pipeline


def missing_of_ingest(pipeline: Pipeline) -> set[str]:
    """Assets of ingest that are missing or stale, and can be computed, of the recording a."""
    states = read_recording_states(pipeline.instance, pipeline.store, pipeline.graph).states
    missing = next(state.missing for state in states if state.recording_id == pipeline.ids["a"])
    return set(missing) & set(pipeline.graph.assets_of("ingest"))


def replace_file(pipeline: Pipeline) -> None:
    """Replace the file of the recording a by that of the recording c."""
    folder = pipeline.settings.watched_folder
    (folder / "a.mp4").write_bytes((folder / "c.mp4").read_bytes())


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_recording_whose_file_was_replaced_stays_stale_and_keeps_its_results(
    pipeline: Pipeline, is_replaced: bool
) -> None:
    recording_id = pipeline.ids["a"]
    assert missing_of_ingest(pipeline) == set()
    pipeline.use_settings(pipeline.settings.model_copy(update={"video": VideoSettings(crf=30)}))
    stale_assets = {"normalized_video", "frames", "recording_contents", "scenes", "stretches"}
    assert missing_of_ingest(pipeline) == stale_assets
    video = pipeline.store.media_folder / recording_id / "normalized.mp4"
    content, frames = video.read_bytes(), pipeline.store.read(FRAMES, [recording_id])
    if is_replaced:
        replace_file(pipeline)
    else:
        (pipeline.settings.watched_folder / "a.mp4").unlink()
    assert missing_of_ingest(pipeline) == set()

    # A person who materializes it gets the reason, and the results stay.
    assert not pipeline.run(["normalized_video"], "a", "a").success
    rows = newest_stage_runs(pipeline.store, [recording_id]).to_pylist()
    error = next(row["error"] for row in rows if row["stage"] == "normalized_video")
    assert error.startswith(f"a.mp4: the file {'does not have the content' if is_replaced else 'of the recording'}")
    assert video.read_bytes() == content
    assert pipeline.store.read(FRAMES, [recording_id]) == frames


def test_a_source_that_is_read_where_it_is_must_have_the_content_of_the_recording(pipeline: Pipeline) -> None:
    recording_id = pipeline.ids["a"]
    reference = pipeline.settings.model_copy(update={"video": VideoSettings(when_conforming="reference")})
    pipeline.use_settings(reference)
    assert pipeline.run([*INGEST_STAGES, "scenes", "detections"], "a", "a").success
    (row,) = pipeline.store.read(RECORDING_CONTENTS, [recording_id]).to_pylist()
    assert row["normalized_by"] == "reference"
    replace_file(pipeline)
    assert not pipeline.run(["detections"], "a", "a").success
    rows = newest_stage_runs(pipeline.store, [recording_id]).to_pylist()
    error = next(row["error"] for row in rows if row["stage"] == "detections")
    assert error.startswith(f"a.mp4: the file does not have the content of the recording {recording_id} any more")
    # What needs the video is not requested, and all that depends on it.
    pipeline.use_settings(reference.model_copy(update={"crops": reference.crops.model_copy(update={"per_track": 9})}))
    assert missing_of_ingest(pipeline) == set()
