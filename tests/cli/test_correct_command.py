"""The command correct: what it stores, and one sentence for each wrong input."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.main import commands
from cv_assets.corrected_tracks import correct_tracks
from demo.crowd import CrowdSettings, simulate_crossings
from resources.config.settings import Settings
from resources.corrections.correction_log import read_corrections
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from tests.builders.damaged_tracks import DamagedTracks, track_rows
from tests.builders.table_rows import header_row, store_recordings


@pytest.fixture
def data_folder(store: Store) -> Path:
    """A data folder with the recording `r`, which has the tracks 1 to 3 of 6 s."""
    crowd = simulate_crossings(0, CrowdSettings(person_count=3, duration_s=6.0))[0]
    tracks = DamagedTracks("r", crowd, np.random.default_rng(0))
    store_recordings(store, header_row() | {"rate_fps": 25.0})
    store.replace(TRACK_BOXES, ["r"], tracks.true_boxes)
    store.replace(TRACKS, ["r"], track_rows(tracks.true_boxes, 25.0))
    return store.data_folder


def correct(data_folder: Path, *arguments: str) -> Result:
    command = ["correct", *arguments, "--data", str(data_folder), "--by", "ann"]
    return CliRunner().invoke(commands, command)


def states(store: Store) -> list[tuple[Any, ...]]:
    publish(store, Settings(data_folder=store.data_folder))
    with open_results(store.data_folder) as results:
        query = "SELECT action, state, track_ids, made_by FROM v_corrections ORDER BY made_at_utc"
        return results.execute(query).fetchall()


def test_an_edit_from_the_command_line_is_applied_and_undone(data_folder: Path) -> None:
    store = Store(data_folder)
    result = correct(data_folder, "split", "r", "--track", "2", "--time", "3")
    assert result.exit_code == 0, result.output
    assert "Stored 1 correction." in result.output
    assert states(store) == [("split", "pending", None, "ann")]
    assert correct(data_folder, "relabel", "r", "--track", "4", "--class", "wheelchair").exit_code == 0
    correct_tracks("r", store)
    assert states(store) == [("split", "applied", [2, 4], "ann"), ("relabel", "applied", [4], "ann")]
    with open_results(data_folder) as results:
        query = "SELECT track_id, class_name, is_corrected, end_s FROM tracks WHERE is_corrected ORDER BY track_id"
        (head, tail) = results.execute(query).fetchall()
        boxes = results.execute("SELECT count(*), count(DISTINCT track_id) FROM track_boxes").fetchone()
    assert (head[0], head[3]) == (2, pytest.approx(3)) and tail[:2] == (4, "wheelchair")
    assert boxes == (store.row_count(TRACK_BOXES), 4)
    first_id = read_corrections(store)[0].correction_id
    assert correct(data_folder, "undo", first_id).exit_code == 0
    correct_tracks("r", store)
    assert [state for _, state, *_ in states(store)] == ["undone", "no_match", "applied"]


def test_a_file_can_be_read_again_with_more_rows(data_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "edits.csv"
    header = "recording_id,action,track_id,other_track_id,time_s,attribute,value\n"
    file.write_text(f"{header}r,split,1,,2,,\nr,attribute,4,,,colour,red\n")
    assert "Stored 2 corrections." in correct(data_folder, "--file", str(file)).output
    file.write_text(f"{file.read_text()}r,reject,3,,,,\n")
    assert "Stored 1 correction; 2 were stored before." in correct(data_folder, "--file", str(file)).output
    rows = [{"recording_id": "r", "action": "check", "start_s": 0, "end_s": 5, "made_by": "ben"}]
    (tmp_path / "edits.json").write_text(json.dumps(rows))
    assert correct(data_folder, "--file", str(tmp_path / "edits.json")).exit_code == 0
    assert [(row.action, row.made_by) for row in read_corrections(Store(data_folder))] == [
        ("split", "ann"),
        ("attribute", "ann"),
        ("reject", "ann"),
        ("check", "ben"),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "correct: name an action and a recording, or a file with --file."),
        (("rejct", "r"), "correct rejct: the action 'rejct' does not exist; there are: accept, reject,"),
        (("reject", "r"), "correct reject: reject needs --track."),
        (("reject", "--track", "1"), "correct reject: reject needs a recording."),
        (("reject", "r", "--track", "9"), "the recording r has no track 9; its tracks have the numbers from 1 to 3."),
        (("reject", "q", "--track", "1"), "no recording has the id 'q'; the table recordings has all ids."),
        (("accept", "r", "--track", "1", "--time", "2"), "correct accept: accept takes no --time: leave it out."),
        (
            ("split", "r", "--track", "1", "--time", "99"),
            "split: The track has boxes only on one side of 99 s.",
        ),
        (("merge", "r", "--track", "1", "--other", "1"), "track_id and other_track_id are both 1."),
        (("check", "r", "--start", "2", "--end", "1"), "correct check: start_s must be less than end_s."),
        (("undo", "x"), "correct undo: no correction has the id 'x': v_corrections has all ids."),
    ],
)
def test_a_wrong_edit_is_one_sentence_and_stores_nothing(
    data_folder: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    result = correct(data_folder, *arguments)
    assert (result.exit_code, sentence in result.output) == (2, True), result.output
    assert read_corrections(Store(data_folder)) == []


def test_a_user_without_a_name_is_asked_for_one(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as of a container that was started with a number
    command = ["correct", "accept", "r", "--track", "1", "--data", str(data_folder)]
    result = CliRunner().invoke(commands, command)
    assert "cv-assets: --by: the user of this process has no name on this machine: give one.\n" in result.output
    assert CliRunner().invoke(commands, [*command, "--by", "ann"]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("recording_id,action,track\nr,reject,1\n", "has the column 'track', which does not exist; did you mean"),
        ("recording_id,action,track_id\nr,accept,1\nr,reject,x\n", "row 2: track_id is 'x', which is no whole number."),
        ("recording_id,action,track_id\n", "has no rows."),
    ],
)
def test_a_wrong_file_names_its_row_and_stores_nothing(
    data_folder: Path, tmp_path: Path, text: str, sentence: str
) -> None:
    file = tmp_path / "edits.csv"
    file.write_text(text)
    result = correct(data_folder, "--file", str(file))
    assert (result.exit_code, sentence in result.output) == (2, True), result.output
    assert read_corrections(Store(data_folder)) == []
