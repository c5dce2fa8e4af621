"""The command audit: a page with strips of a real video, its answers, and the report."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result

from cli.audit_page import render_audit_page
from cli.audit_strips import Strip
from cli.main import commands
from cv_assets.zone_events import zone_rows
from resources.audit.audit_sample import AuditItem, AuditSample
from resources.config.settings import Settings
from resources.config.settings_file import load_settings
from resources.schema.audit_tables import AUDIT_ANSWERS
from resources.schema.recording_tables import FRAMES
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.schema.zone_tables import ZONE_EVENTS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results
from tests.builders.damaged_tracks import track_rows
from tests.builders.numbered_videos import MakeVideo
from tests.builders.own_stage_files import complete_rows
from tests.builders.table_rows import store_recordings
from tests.builders.track_rows import moving_track_boxes

PATH_PX = [*np.linspace(40, 280, 40), *np.linspace(280, 40, 40)]
"""Of the track 1: over the line at x = 160 px and back."""


@pytest.fixture
def arguments(store: Store, make_video: MakeVideo, tmp_path: Path) -> list[str]:
    """Options for a data folder with a recording of 40 s, 20 crossings of a line, and a zone without events."""
    duration_s, rate = 40.0, 10
    video = make_video("r.mp4", 400, rate=rate, size=(320, 200))
    content = {"frame_count": 400, "duration_s_from_content": duration_s, "video_path": str(video)}
    store_recordings(store, {"recording_id": "r", **content})
    boxes = pa.concat_tables(
        moving_track_boxes(PATH_PX, track_id=number, frame_index=0).set_column(
            2, TRACK_BOXES.arrow_schema.field(2), pa.array(np.arange(80, dtype=np.int32) + 30 * number)
        )
        for number in range(1, 11)
    )
    time_s = pa.array(boxes["frame_index"].to_numpy() / rate)
    boxes = boxes.set_column(boxes.schema.get_field_index("time_s"), TRACK_BOXES.arrow_schema.field("time_s"), time_s)
    tracks = track_rows(boxes, rate).to_pylist()
    tracks[3]["is_doubtful"] = True
    frame_index = np.arange(400, dtype=np.int32)
    frames = [{"recording_id": "r", "frame_index": index, "time_s": index / rate} for index in frame_index.tolist()]
    store.replace(FRAMES, ["r"], complete_rows(FRAMES, *frames))
    store.replace(TRACK_BOXES, ["r"], boxes)
    store.replace(TRACKS, ["r"], pa.Table.from_pylist(tracks, TRACKS.arrow_schema))
    settings = tmp_path / "pipeline.yaml"
    zone = {"name": "roof", "points": [[0, 0], [1, 0], [1, 0.1]]}
    line = {"name": "gate", "points": [[0.5, 1], [0.5, 0]]}
    settings.write_text(yaml.safe_dump({"cameras": {"gate": {"lines": [line], "zones": [zone]}}}))
    camera = load_settings(settings, {}).camera("gate")
    is_duplicated = np.zeros(400, bool)
    frame_table = pa.table({"frame_index": frame_index, "time_s": frame_index / rate, "is_duplicated": is_duplicated})
    store.replace(ZONE_EVENTS, ["r"], zone_rows("r", boxes, frame_table, camera, 320, 200)["zone_events"])
    return ["--data", str(store.data_folder), "--settings", str(settings)]


def run(*command: str) -> Result:
    return CliRunner().invoke(commands, ["audit", *command])


def page_data(page: Path) -> dict[str, Any]:
    match = re.search(r'type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    data: dict[str, Any] = json.loads(match[1] if match else "")
    return data


def test_a_page_is_written_and_its_answers_are_stored_and_reported(
    arguments: list[str], store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder"
    command = ["gate", *arguments, "--sample", "24", "--out", str(out), "--seed", "4"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "6 events and 16 stretches, seed 4." in result.output
    page = out / "audit-gate.html"
    data = page_data(page)
    items, views = data["answers"]["items"], data["views"]
    assert items[0]["stratum"] == "doubtful" and items[0]["track_id"] == 4
    sides = {"in": "to the right (in)", "out": "to the left (out)"}  # the line goes upwards
    assert f"person crosses line gate {sides[items[0]['event']]}" in views[0]["question"]
    assert "· also counted: person " in views[0]["caption"]
    assert all(1 <= len(view["frames"]) <= 6 for view in views)
    frames = [frame for view in views for frame in view["frames"]]
    assert all(frame.startswith("data:image/jpeg;base64,/9j/") and len(frame) < 40_000 for frame in frames)
    assert not re.search(r"https?://|(src|href)\s*=\s*[\"'](?!data:)", page.read_text().partition("page-data")[0])
    assert run(*command).exit_code == 0  # an older page is replaced

    answers = tmp_path / "answers.json"
    for item in items:
        item["answer"] = 1 if item["kind"] == "event" else 0
    items[0]["answer"] = 0
    answers.write_text(json.dumps(data["answers"]))
    result = run("gate", *arguments, "--answers", str(answers), "--by", "ann")
    assert result.exit_code == 0, result.output
    assert "Stored 22 answers." in result.output
    # Of 20 events, 6 were looked at and one is wrong: at most 19 are right. All stretches that can have a miss at the
    # zone were looked at.
    gate = r"^line gate +20  (\d+)% \(\d+% to 95%\) +100% \(\d+% to 100%\) +\d+ \(\d+ to \d+\) +\d+$"
    (precision,) = re.findall(gate, result.output, re.MULTILINE)
    assert 70 <= int(precision) < 95
    assert re.search(r"^zone roof +0  - +- +0 \(0 to 0\) +0$", result.output, re.MULTILINE)
    assert "For ±5 % of each count: cv-assets audit gate --sample" in result.output
    assert "r  track 4" in result.output
    result = run("gate", *arguments, "--answers", str(answers))
    assert "Stored 0 answers; 22 were stored before." in result.output

    for item in items:
        if item["kind"] == "event":
            item["answer"] = None
    answers.write_text(json.dumps(data["answers"] | {"audit_id": "other", "counts_id": "other"}))
    report = run("gate", *arguments, "--answers", str(answers)).output
    assert "line gate: no answers yet for events of doubtful tracks; events of other tracks" in report
    items[1]["answer"] = 0
    answers.write_text(json.dumps(data["answers"]))
    assert "Stored 6 answers; 16 were stored before." in run("gate", *arguments, "--answers", str(answers)).output
    assert store.row_count(AUDIT_ANSWERS) == 22 + 22 + 6  # rows are only added
    with open_results(store.data_folder) as results:
        query = "SELECT DISTINCT camera, answered_by FROM audit_answers ORDER BY ALL"
        assert ("gate", "ann") in results.execute(query).fetchall()

    store.replace(ZONE_EVENTS, ["r"], ZONE_EVENTS.empty)
    assert "The counts have changed since" in run("gate", *arguments, "--answers", str(answers)).output


def test_each_kind_of_item_has_its_question() -> None:
    points = [[0, 0], [1, 0.2], [1, 1]]
    camera = {"lines": [{"name": "gate", "points": points[:2]}], "zones": [{"name": "hall", "points": points}]}
    settings = Settings.model_validate({"cameras": {"gate": camera}})
    event = AuditItem("line gate", "event", "certain", "r", 1.0, 1.0, track_id=1, class_name="car", event="in")
    stretch = AuditItem("line gate", "stretch", "empty", "r", 0.0, 4.0)
    items = [
        event,
        replace(event, event="out"),
        replace(event, count_name="zone hall", event="enter"),
        replace(event, count_name="objects", event="object"),
        *(replace(stretch, count_name=name) for name in ("line gate", "zone hall", "objects")),
    ]
    sample = AuditSample("a", "c", "gate", items)
    page = render_audit_page(sample, [Strip("</script>", [])] * len(items), settings)
    assert page.count("</script>") == 2  # no name ends a script
    match = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)
    questions = [view["question"] for view in json.loads(match[1] if match else "")["views"]]
    assert questions == [
        "Is it right that this car crosses line gate downwards (in) and is counted once?",
        "Is it right that this car crosses line gate upwards (out) and is counted once?",
        "Is it right that this car enters zone hall, or appears in it, and is counted once?",
        "Is it right that this car is there and is counted once?",
        "Do all objects that cross line gate have a thick box?",
        "Do all objects that enter zone hall, or appear in it, have a thick box?",
        "Do all objects that come into view have a thick box?",
    ]


def test_a_second_sample_leaves_out_what_has_an_answer(arguments: list[str], tmp_path: Path) -> None:
    run("gate", *arguments, "--sample", "20", "--out", str(tmp_path), "--seed", "1")
    first = page_data(tmp_path / "audit-gate.html")["answers"]
    for item in first["items"]:
        item["answer"] = 0
    (tmp_path / "answers.json").write_text(json.dumps(first))
    run("gate", *arguments, "--answers", str(tmp_path / "answers.json"))
    run("gate", *arguments, "--sample", "20", "--out", str(tmp_path), "--seed", "1")
    second = page_data(tmp_path / "audit-gate.html")["answers"]

    def keys(content: dict[str, Any]) -> set[tuple[Any, ...]]:
        return {(i["count_name"], i["kind"], i["start_s"], i["track_id"]) for i in content["items"]}

    assert second["items"] and not keys(first) & keys(second)
    for item in second["items"]:
        item["answer"] = None
    (tmp_path / "answers.json").write_text(json.dumps(second))
    report = run("gate", *arguments, "--answers", str(tmp_path / "answers.json")).output
    assert re.search(r"^line gate +20 .*%", report, re.MULTILINE)


def test_each_wrong_input_has_one_sentence(arguments: list[str], tmp_path: Path) -> None:
    def error_of(*command: str) -> str:
        result = run(*command, *arguments)
        assert result.exit_code == 2, result.output
        assert len(result.output.splitlines()) == 1
        return result.output

    assert "The camera 'gaet' has no normalized recording; cameras with recordings: 'gate'." in error_of("gaet")
    assert "--sample 10 is too small" in error_of("gate", "--sample", "10")
    assert "--seed must not be negative" in error_of("gate", "--seed", "-1")
    missing, other = tmp_path / "missing.json", tmp_path / "other.json"
    assert f"The file {missing} cannot be read" in error_of("gate", "--answers", str(missing))
    for text in ("[", "{}", '{"format": "x"}'):
        other.write_text(text)
        assert f"The file {other} is no file of answers" in error_of("gate", "--answers", str(other))
    (tmp_path / "audit-gate.html").write_text("mine")
    assert "exists and is no page of an audit" in error_of("gate", "--out", str(tmp_path))
    run("gate", *arguments, "--out", str(tmp_path / "out"))
    answers = page_data(tmp_path / "out" / "audit-gate.html")["answers"]
    for item in answers["items"]:
        item["answer"] = 0
    other.write_text(json.dumps(answers | {"camera": "yard"}))
    assert "has answers for the camera 'yard', not for 'gate'" in error_of("gate", "--answers", str(other))
    answers["items"][0]["recording_id"] = "elsewhere"
    other.write_text(json.dumps(answers))
    assert "has answers for elsewhere, which is no recording" in error_of("gate", "--answers", str(other))
