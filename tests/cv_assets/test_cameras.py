"""What is set for one camera makes stale its own recordings, in the stages that heed it, and nothing else."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
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
from resources.media.isolation import normalize_isolated
from resources.schema import CLASS_MINUTES, RECORDING_HOURS, RECORDINGS, ZONE_EVENTS, Table
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
        {"normalized_video", "frames", "scenes", "stretches", "wall_clock"} | EVERY_ANALYSIS,
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
    monkeypatch.setattr(cv_assets.cameras, "_READ_AT", time.time())


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


def make_what_is_stale(pipeline: Pipeline) -> list[str]:
    """Run what `process --stale` would until nothing is left; returns the stages."""
    steps = []
    for _ in range(4):
        for run in plan_runs(observe(pipeline.instance, pipeline.store), BatchSettings()):
            assert run.recording_ids == (pipeline.ids["a"],)
            chosen = [assets for assets in WALK if {key.to_user_string() for key in assets.keys} & set(run.asset_names)]
            assert pipeline.run(chosen, "a", "a").success
            steps += [assets.op.name for assets in chosen]
    note_all(pipeline)
    assert stale(pipeline) == stale_in_the_ui(pipeline) == set()
    return steps


def assert_times_count_from_the_start(pipeline: Pipeline) -> None:
    """Every time on the wall clock of every table is where the recording's start says."""
    for row in pipeline.store.read(RECORDINGS).to_pylist():
        for table in pipeline.store.tables():
            for column in (column for column in table.columns if column.since_start):
                since, unit_s = column.since_start or ("", 0.0)
                for one in pipeline.store.read(table, [row["recording_id"]], [column.name, since]).to_pylist():
                    apart = one[column.name] - row["started_at_utc"] - timedelta(seconds=one[since] * unit_s)
                    assert abs(apart) < timedelta(microseconds=3), (row["recording_id"], table.name, column.name)


def start_of(pipeline: Pipeline, name: str) -> datetime:
    (row,) = pipeline.store.read(RECORDINGS, [pipeline.ids[name]]).to_pylist()
    started: datetime = row["started_at_utc"]
    return started


TO_NOON = ["wall_clock", "track_links", "zone_events", "summaries", "zone_summaries"]
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def stale_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STALE_VARIABLE, "1")


@pytest.mark.usefixtures("stale_is_wanted")
def test_a_clock_put_right_moves_every_time_on_the_wall_and_reruns_no_model(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, hour = pipeline.versions("detections", "a"), timedelta(hours=1)
    assert_times_count_from_the_start(pipeline)
    assert pipeline.store.row_count(ZONE_EVENTS) and pipeline.store.row_count(CLASS_MINUTES)
    use(monkeypatch, pipeline, {"clock_offset_s": 3600.0})
    assert make_what_is_stale(pipeline) == TO_NOON
    assert pipeline.versions("detections", "a") == looked
    assert (start_of(pipeline, "a"), start_of(pipeline, "c")) == (NOON + hour, NOON)
    assert_times_count_from_the_start(pipeline)
    hours = pipeline.store.read(RECORDING_HOURS, [pipeline.ids["a"]])["hour_utc"].to_pylist()
    assert set(hours) == {NOON + hour}


@pytest.mark.usefixtures("stale_is_wanted")
def test_a_clock_is_right_in_every_table_whatever_is_made_first(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, pipeline, {"clock_offset_s": 60.0})
    for stage in (WALK[1:2], WALK[0:1], WALK[7:8]):  # by hand, with the new settings and the old clock
        assert pipeline.run(stage, "a", "a").success
        assert_times_count_from_the_start(pipeline)
    assert "wall_clock" in make_what_is_stale(pipeline)
    assert start_of(pipeline, "a") == NOON + timedelta(minutes=1)
    assert_times_count_from_the_start(pipeline)


@pytest.mark.usefixtures("stale_is_wanted")
def test_a_clock_that_was_half_set_when_its_run_died_is_set_whole_even_if_it_was_taken_back(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, pipeline, {"clock_offset_s": 120.0})
    whole = pipeline.store.set_clock

    def dies(tables: Sequence[Table], *clock: Any, **more: Any) -> None:
        whole(tables[: len(tables) // 2], *clock, **more)
        raise OSError("died")

    monkeypatch.setattr(pipeline.store, "set_clock", dies)
    assert not pipeline.run(WALK[3:4], "a", "a").success
    monkeypatch.setattr(pipeline.store, "set_clock", whole)
    with pytest.raises(AssertionError, match=r"captured_at_utc|minute_start_utc"):
        assert_times_count_from_the_start(pipeline)
    use(monkeypatch, pipeline, {"clock_offset_s": 60.0})
    make_what_is_stale(pipeline)
    assert start_of(pipeline, "a") == NOON + timedelta(minutes=1)
    assert_times_count_from_the_start(pipeline)


@pytest.mark.usefixtures("stale_is_wanted")
def test_a_clock_put_right_while_a_stage_is_at_work_is_right_in_what_it_makes(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, pipeline, {"clock_offset_s": 240.0})

    def beside(*asked: Any) -> Any:
        video = normalize_isolated(*asked)
        assert pipeline.run(WALK[3:4], "a", "a").success
        return video

    monkeypatch.setattr("cv_assets.normalized_video.normalize_isolated", beside)
    assert pipeline.run(WALK[1:2], "a", "a").success
    monkeypatch.setattr("cv_assets.normalized_video.normalize_isolated", normalize_isolated)
    assert start_of(pipeline, "a") == NOON + timedelta(minutes=4)
    assert_times_count_from_the_start(pipeline)
    make_what_is_stale(pipeline)


@pytest.mark.usefixtures("stale_is_wanted")
def test_a_clock_can_be_put_right_when_the_file_is_gone(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = pipeline.settings.watched_folder.rglob("*_a.mp4")
    kept = file.rename(file.with_suffix(".away"))
    use(monkeypatch, pipeline, {"clock_offset_s": 300.0})
    assert make_what_is_stale(pipeline) == TO_NOON
    assert start_of(pipeline, "a") == NOON + timedelta(minutes=5)
    kept.rename(file)


def test_a_note_made_by_a_clock_that_was_wrong_does_not_last(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, pipeline, MOVED)
    monkeypatch.setattr(cv_assets.cameras, "_READ_AT", time.time() + 3600)
    note_all(pipeline)
    use(monkeypatch, pipeline, {"clock_offset_s": 300.0})
    note_all(pipeline)
    assert stale_in_the_ui(pipeline) == set()


def test_a_run_with_older_settings_does_not_undo_a_newer_note_and_what_it_makes_is_stale(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, pipeline, {})
    note_all(pipeline)
    (track_links,) = [assets for assets in WALK if assets.op.name == "track_links"]
    assert pipeline.run([track_links], "a", "a").success  # as all tests before have left it
    started = time.time()
    use(monkeypatch, pipeline, {"joined_within_s": 3.0})
    note_all(pipeline)
    use(monkeypatch, pipeline, {})
    monkeypatch.setattr(cv_assets.cameras, "_READ_AT", started)
    assert pipeline.run([track_links], "a", "a").success
    assert ("a", "track_links") in stale_in_the_ui(pipeline)
    (told,) = note(pipeline.instance, [AssetKey("camera_joining")], {pipeline.ids["a"]: "gate"}).values()
    assert told[pipeline.ids["a"]].version == NOTHING
    assert not told[pipeline.ids["a"]].is_newest
