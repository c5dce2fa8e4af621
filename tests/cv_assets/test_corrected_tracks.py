"""Corrections bring damaged tracks back to the truth, and stay applied after a rerun of model and tracker."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cv_assets.corrected_tracks import correct_tracks
from cv_assets.tracks import track_detections
from cv_assets.zone_events import zone_rows
from demo.crowd import Crowd, CrowdSettings, simulate_crossings
from resources.config.camera_config import CameraSettings
from resources.config.tracking_config import TrackSettings
from resources.corrections.corrected_rows import read_track_boxes, read_tracks
from resources.corrections.correction_log import Correction, append_corrections
from resources.corrections.recording_edits import RecordingEdits
from resources.schema.correction_tables import CORRECTION_RESULTS
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store
from tests.builders.damaged_tracks import DamagedTracks, track_rows
from tests.builders.table_rows import store_recordings

CAMERA = CameraSettings.model_validate(
    {
        "lines": [{"name": "middle", "points": [[0.5, 1], [0.5, 0]]}],
        "zones": [{"name": "left half", "points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}],
    }
)


def counts(boxes: pa.Table, crowd: Crowd) -> dict[str, Counter[Any]]:
    """Events at the line and the zone, seconds in the zone, and tracks by class."""
    settings = crowd.settings
    frame_index = np.arange(round(settings.duration_s * settings.rate_fps), dtype=np.int32)
    is_duplicated = np.zeros(len(frame_index), bool)
    frames = pa.table(
        {"frame_index": frame_index, "time_s": frame_index / settings.rate_fps, "is_duplicated": is_duplicated}
    )
    boxes = boxes.sort_by([("track_id", "ascending"), ("time_s", "ascending")])
    rows = zone_rows("r", boxes, frames, CAMERA, settings.width_px, settings.height_px)
    events = rows["zone_events"].select(["event", "line_name", "zone_name", "class_name"]).to_pylist()
    times = rows["zone_events"]["time_s"].to_pylist()
    tracks = set(zip(boxes["track_id"].to_pylist(), boxes["class_name"].to_pylist(), strict=True))
    return {
        "events": Counter((*event.values(), round(time_s, 6)) for event, time_s in zip(events, times, strict=True)),
        "occupancy": Counter(tuple(row.values()) for row in rows["zone_seconds"].to_pylist()),
        "tracks": Counter(class_name for _, class_name in tracks),
    }


def test_200_random_edits_bring_the_counts_to_the_truth(store: Store) -> None:
    edit_count = 0
    for seed in range(10):
        recording_id = f"r{seed}"
        store_recordings(store, {"recording_id": recording_id, "rate_fps": 25.0})
        crowd = simulate_crossings(seed, CrowdSettings(person_count=8, duration_s=24.0))[0]
        damaged = DamagedTracks(recording_id, crowd, np.random.default_rng(seed))
        damaged.damage(20)
        boxes = damaged.boxes()
        store.replace(TRACK_BOXES, [recording_id], boxes)
        store.replace(TRACKS, [recording_id], track_rows(boxes, 25.0))
        edits = RecordingEdits.read(recording_id, store)
        corrections = []
        for undo in damaged.undos:
            corrections.append(undo(edits))
            edits.editor.edit(corrections[-1])
        edit_count += len(append_corrections(store, corrections))
        correct_tracks(recording_id, store)
        truth = counts(damaged.true_boxes, crowd)
        assert counts(boxes, crowd) != truth
        assert counts(read_track_boxes(store, [recording_id]), crowd) == truth
        assert Counter(read_tracks(store, [recording_id])["class_name"].to_pylist()) == truth["tracks"]
    assert edit_count == 200
    assert set(store.read(CORRECTION_RESULTS)["state"].to_pylist()) == {"applied"}


def random_correction(edits: RecordingEdits, rng: np.random.Generator) -> Correction | None:
    """A correction of a track of at least 2 s, drawn at random; None where the drawn kind does not fit."""
    editor, recording_id = edits.editor, edits.recording_id
    long_tracks = [number for number, track in editor.tracks.items() if len(track.rows) >= 50]
    number, other = (int(choice) for choice in rng.choice(long_tracks, 2, replace=len(long_tracks) < 2))
    times_s, other_times_s = (editor.time_s[editor.tracks[n].rows] for n in (number, other))
    action = str(rng.choice(["accept", "reject", "relabel", "merge", "split", "swap", "move", "attribute"]))
    time_s = float(times_s[rng.integers(len(times_s) // 5, 4 * len(times_s) // 5)])
    values: dict[str, Any] = {"class_name": "bus"} if action == "relabel" else {}
    is_both = other_times_s[0] + 1 < time_s < other_times_s[-1] - 1
    if action in ("merge", "swap"):
        if number == other or (is_both if action == "merge" else not is_both):
            return None
        cut_s = time_s if action == "swap" else None
        values |= {"other_track_id": other, "other_track_places": editor.places(other, cut_s)}
    if action in ("split", "swap", "move"):
        values["time_s"] = time_s
    if action == "move":
        values |= {"x_min_px": 1.0, "y_min_px": 2.0, "x_max_px": 30.0, "y_max_px": 50.0}
    places = editor.places(number, time_s if action in ("split", "swap") else None)
    return Correction(recording_id, action, "test", track_id=number, track_places=places, **values)


@pytest.mark.parametrize(
    "scene_count",
    [pytest.param(2, id="20 corrections"), pytest.param(20, id="200 corrections", marks=pytest.mark.long)],
)
def test_corrections_stay_applied_after_a_rerun_with_another_model_and_tracker(scene_count: int) -> None:
    states, reasons = Counter[str](), list[str]()
    for seed in range(2, 2 + scene_count):
        rng = np.random.default_rng(seed)
        first, rerun = (
            tracked_edits(seed, crowd_settings, track_settings)
            for crowd_settings, track_settings in (
                (CrowdSettings(person_count=8, duration_s=24.0), TrackSettings()),
                (
                    CrowdSettings(person_count=8, duration_s=24.0, jitter=0.03, miss_rate=0.15, false_positive_count=4),
                    TrackSettings(method="bytetrack", link_s=1.0),
                ),
            )
        )
        corrections: list[Correction] = []
        while len(corrections) < 10:
            correction = random_correction(first, rng)
            if correction is not None:
                first.editor.edit(correction)
                corrections.append(replace(correction, correction_id=str(len(corrections))))
        for result in rerun.editor.apply(corrections):
            states[result.state] += 1
            reasons += [f"{result.correction.action}: {result.reason}"] if result.reason else []
    print(states, reasons)
    assert sum(states.values()) == 10 * scene_count
    assert states["applied"] >= 9.5 * scene_count
    assert len(reasons) == 10 * scene_count - states["applied"]


def tracked_edits(seed: int, crowd_settings: CrowdSettings, track_settings: TrackSettings) -> RecordingEdits:
    """The tracks that a tracker finds in the detections of a crowd by one detector; the crowd depends on the seed."""
    detections = simulate_crossings(seed, crowd_settings)[0].detections()
    frame_index = np.arange(round(crowd_settings.duration_s * crowd_settings.rate_fps), dtype=np.int32)
    frames = pa.table({"frame_index": frame_index, "time_s": frame_index / crowd_settings.rate_fps})
    return RecordingEdits("r", *track_detections(detections, frames, crowd_settings.rate_fps, track_settings))
