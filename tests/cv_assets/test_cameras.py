"""What is set for one camera makes stale its own recordings, in the stages that heed it, and nothing else."""

import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from dagster import AssetKey, DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

import cv_assets.cameras
from cv_assets.cameras import ASPECTS, NOTHING, note
from cv_assets.definitions import defs
from cv_assets.outstanding import STALE_VARIABLE, observe, plan_runs
from cv_assets.staleness import stale_assets
from cv_assets.walk import WALK
from resources.schema import CLASS_MINUTES, FRAMES, LINE_TRIPS, RECORDINGS, TRACK_BOXES, ZONE_EVENTS
from resources.settings import BatchSettings, Settings
from tests.cv_assets.test_walk import MIDDLE, Pipeline

CAMERAS = {"a": "gate", "bad": "yard", "c": "yard"}
SPECS = {spec.key.to_user_string(): spec for assets in WALK for spec in assets.specs}
COUNTED = {"zone_events", "zone_seconds", "line_trips", "ground_tracks"}
OF_COUNTED = COUNTED | {"zone_minutes", "line_minutes", "origin_destinations"}
EVERY_ANALYSIS = {name for name, spec in SPECS.items() if spec.group_name == "analysis"}
MOVED = {"lines": [{"name": "middle", "points": [[0.6, 1], [0.6, 0]]}]}
CHANGES: Mapping[str, tuple[Mapping[str, Any], set[str], set[str]]] = {
    # What is set for the gate, what is stale in the UI, which looks one step far, and all that follows from it.
    "line": (MOVED, COUNTED, OF_COUNTED),
    "clock": ({"clock_offset_s": 5.0}, {"wall_clock"}, {"wall_clock", "recording_hours", "track_links"} | OF_COUNTED),
    "joining": ({"joined_within_s": 2.0}, {"track_links"}, {"track_links"} | OF_COUNTED),
    "video": (
        {"video": {"crf": 30}},
        {"normalized_video", "frames"},
        {"normalized_video", "frames", "scenes", "stretches"} | EVERY_ANALYSIS,
    ),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Everything made of two cameras' recordings, each in a batch with the other's."""
    patch = pytest.MonkeyPatch()
    with DagsterInstance.ephemeral() as instance:
        places = {name: f"{camera}/2026-01-31_12-00-00_{name}" for name, camera in CAMERAS.items()}
        made = Pipeline(tmp_path_factory.mktemp("cameras"), instance, places)
        use(patch, made, {})
        made.run(WALK[:2], "a", "c")
        assert made.run(WALK[2:], "a", "a").success
        assert made.run(WALK[2:], "c", "c").success
        yield made
    patch.undo()


def use(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline, gate: Mapping[str, Any], **further: Any) -> None:
    """Start anew with other settings."""
    cameras = {"yard": MIDDLE, "gate": MIDDLE.model_validate({**MIDDLE.model_dump(exclude_unset=True), **gate})}
    detections = {**pipeline.settings.detections.model_dump(), "regions": {}, **further}
    pipeline.settings = Settings.model_validate(
        {**pipeline.settings.model_dump(exclude={"cameras", "detections"}), "cameras": {}, "detections": detections}
    ).model_copy(update={"cameras": cameras})
    for place in ("cv_assets.cameras", "cv_assets.staleness", "cv_assets.outstanding"):
        monkeypatch.setattr(f"{place}.current_settings", lambda: pipeline.settings)
    monkeypatch.setattr(cv_assets.cameras, "_STARTED_AT", time.time())


def note_all(pipeline: Pipeline) -> None:
    """What the pipeline does first when it starts."""
    note(pipeline.instance, ASPECTS, {pipeline.ids[name]: camera for name, camera in CAMERAS.items()})


def stale(pipeline: Pipeline) -> set[tuple[str, str]]:
    """What our command calls stale, by recording."""
    cameras: dict[str, str | None] = {pipeline.ids[name]: camera for name, camera in CAMERAS.items()}
    name_of = {recording_id: name for name, recording_id in pipeline.ids.items()}
    return {(name_of[one.recording_id], one.asset_name) for one in stale_assets(pipeline.instance, cameras)}


def stale_in_the_ui(pipeline: Pipeline) -> set[tuple[str, str]]:
    """What the UI calls stale, by recording."""
    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(pipeline.instance, graph, LoadingContextForTest(pipeline.instance))
    return {
        (name, asset)
        for name, recording_id in pipeline.ids.items()
        for asset in SPECS
        if resolver.get_status(AssetKey(asset), recording_id) == StaleStatus.STALE
    }


def test_what_was_just_made_is_not_stale(pipeline: Pipeline) -> None:
    note_all(pipeline)
    assert stale(pipeline) == stale_in_the_ui(pipeline) == set()


@pytest.mark.parametrize("name", CHANGES)
def test_what_one_camera_sets_makes_its_own_recordings_stale_until_it_is_taken_back(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    gate, in_the_ui, everything = CHANGES[name]
    use(monkeypatch, pipeline, gate)
    assert stale(pipeline) == {("a", asset) for asset in everything}
    assert stale_in_the_ui(pipeline) == set()  # nobody has noted it yet
    note_all(pipeline)
    assert stale(pipeline) == {("a", asset) for asset in everything}
    assert stale_in_the_ui(pipeline) == {("a", asset) for asset in in_the_ui}
    use(monkeypatch, pipeline, {})
    note_all(pipeline)
    assert stale(pipeline) == stale_in_the_ui(pipeline) == set()


def test_a_region_is_its_camera_s_own_and_that_of_all_others_is_not(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    triangle = [[0, 0], [1, 0], [1, 1]]
    use(monkeypatch, pipeline, {}, regions={"gate": [triangle]})
    note_all(pipeline)
    assert stale_in_the_ui(pipeline) == {("a", "detections")}
    assert stale(pipeline) == {("a", asset) for asset in EVERY_ANALYSIS}
    use(monkeypatch, pipeline, {}, regions={"*": [triangle], "gate": []})
    note_all(pipeline)
    assert stale_in_the_ui(pipeline) == {("c", "detections")}
    use(monkeypatch, pipeline, {})
    note_all(pipeline)
    assert stale_in_the_ui(pipeline) == set()


def test_a_clock_put_right_moves_every_time_on_the_wall_and_reruns_no_model(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STALE_VARIABLE, "1")
    tables = {FRAMES: "captured_at_utc", TRACK_BOXES: "captured_at_utc", CLASS_MINUTES: "minute_start_utc"}
    tables |= {ZONE_EVENTS: "captured_at_utc", LINE_TRIPS: "captured_at_utc", RECORDINGS: "started_at_utc"}

    def clocks() -> dict[str, dict[str, list[Any]]]:
        return {
            t.name: {name: pipeline.store.read(t, [pipeline.ids[name]])[column].to_pylist() for name in ("a", "c")}
            for t, column in tables.items()
        }

    before, looked = clocks(), pipeline.versions("detections", "a")
    minutes = [{"name": "second", "points": [[0.4, 1], [0.4, 0]]}, *MIDDLE.model_dump()["lines"]]
    assert before["zone_events"]["a"]
    use(monkeypatch, pipeline, {"clock_offset_s": 7200.0, "lines": minutes})
    steps = []
    for _ in range(4):
        states = observe(pipeline.instance, pipeline.store)
        for run in plan_runs(states, BatchSettings()):
            (recording_id,) = run.recording_ids
            assert recording_id == pipeline.ids["a"]
            chosen = [assets for assets in WALK if {key.to_user_string() for key in assets.keys} & set(run.asset_names)]
            assert pipeline.run(chosen, "a", "a").success
            steps += [assets.op.name for assets in chosen]
    assert steps == ["recordings", "track_links", "zone_events", "summaries", "zone_summaries"]
    assert pipeline.versions("detections", "a") == looked
    note_all(pipeline)
    assert stale(pipeline) == stale_in_the_ui(pipeline) == set()
    after, moved = clocks(), timedelta(hours=2)
    for table in ("frames", "track_boxes", "class_minutes", "recordings"):
        assert after[table]["a"] == [moment + moved for moment in before[table]["a"]], table
        assert after[table]["c"] == before[table]["c"]
    started = after["recordings"]["a"][0]
    for event in pipeline.store.read(ZONE_EVENTS, [pipeline.ids["a"]]).to_pylist():
        since_start = event["captured_at_utc"] - started
        assert abs(since_start.total_seconds() - event["time_s"]) < 1e-5


def test_a_run_with_older_settings_does_not_undo_a_newer_note_and_what_it_makes_is_stale(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, pipeline, {})
    note_all(pipeline)
    assert pipeline.run(WALK[5:6], "a", "a").success  # as all tests before have left it
    started = time.time()
    use(monkeypatch, pipeline, {"joined_within_s": 3.0})
    note_all(pipeline)
    use(monkeypatch, pipeline, {})
    monkeypatch.setattr(cv_assets.cameras, "_STARTED_AT", started)
    assert WALK[5].op.name == "track_links"
    assert pipeline.run(WALK[5:6], "a", "a").success
    assert ("a", "track_links") in stale_in_the_ui(pipeline)
    (told,) = note(pipeline.instance, [AssetKey("camera_joining")], {pipeline.ids["a"]: "gate"}).values()
    assert told[pipeline.ids["a"]].version == NOTHING
    assert not told[pipeline.ids["a"]].is_newest
