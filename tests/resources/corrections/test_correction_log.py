"""Corrections are never lost: two writers at once, a kill in the middle of an edit, and undo as one more row."""

import signal
import subprocess
import sys

from resources.config.settings_file import PROJECT_ROOT
from resources.corrections.correction_log import (
    Correction,
    append_corrections,
    corrections_versions,
    read_corrections,
    undone_ids,
)
from resources.storage.delta_store import Store

_EDITOR = """
import sys
from pathlib import Path
from resources.corrections.correction_log import Correction, append_corrections
from resources.storage.delta_store import Store

store, name, count = Store(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    append_corrections(store, [Correction("r", "relabel", name, track_id=number + 1, class_name="bus")])
    print(number, flush=True)
"""


def start_editor(store: Store, name: str, count: int) -> "subprocess.Popen[str]":
    """Start a process that stores corrections, one by one, as soon as it reads a line."""
    command = [sys.executable, "-c", _EDITOR, str(store.data_folder), name, str(count)]
    editor = subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=-1, stdout=-1, text=True)
    assert editor.stdout is not None
    assert editor.stdout.readline() == "ready\n"
    return editor


def test_two_editors_at_once_lose_nothing(store: Store) -> None:
    editors = [start_editor(store, name, 12) for name in ("ann", "ben")]
    for editor in editors:
        assert editor.stdin is not None
        editor.stdin.write("go\n")
        editor.stdin.flush()
    assert [editor.communicate()[0].split()[-1] for editor in editors] == ["11", "11"]
    rows = read_corrections(store, ["r"])
    assert len({row.correction_id for row in rows}) == 24
    for name in ("ann", "ben"):
        assert [row.track_id for row in rows if row.made_by == name] == list(range(1, 13))


def test_a_kill_during_an_edit_loses_at_most_that_edit(store: Store) -> None:
    editor = start_editor(store, "ann", 1000)
    assert editor.stdin is not None and editor.stdout is not None
    editor.stdin.write("go\n")
    editor.stdin.flush()
    for _ in range(7):
        editor.stdout.readline()
    editor.send_signal(signal.SIGKILL)
    confirmed_count = 7 + len(editor.communicate()[0].split())
    stored = [row.track_id for row in read_corrections(Store(store.data_folder), ["r"])]
    assert stored in (list(range(1, confirmed_count + 1)), list(range(1, confirmed_count + 2)))
    append_corrections(store, [Correction("r", "accept", "ben", track_id=1)])
    assert len(read_corrections(store, ["r"])) == len(stored) + 1


def test_an_undo_is_a_row_that_can_be_undone(store: Store) -> None:
    (first,) = append_corrections(store, [Correction("r", "accept", "ann", track_id=1)])
    versions = [corrections_versions(store, ["r", "other"])]
    (undo,) = append_corrections(store, [Correction("r", "undo", "ann", undone_id=first.correction_id)])
    versions.append(corrections_versions(store, ["r", "other"]))
    assert undone_ids(read_corrections(store)) == {first.correction_id}
    append_corrections(store, [Correction("r", "undo", "ann", undone_id=undo.correction_id)])
    assert undone_ids(read_corrections(store)) == {undo.correction_id}
    assert versions[0]["r"] != versions[1]["r"] and versions[0]["other"] == versions[1]["other"] == ""


def test_corrections_with_a_known_id_are_left_out(store: Store) -> None:
    correction = Correction("r", "accept", "ann", correction_id="row 1", track_id=1)
    assert len(append_corrections(store, [correction])) == 1
    assert append_corrections(store, [correction]) == []
