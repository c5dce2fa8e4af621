"""A stage that crashes, hangs, exits, leaks memory or returns something else fails a batch; the next one succeeds."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from resources.config.stage_config import IsolatedCodeSettings
from resources.errors import RecordingError
from resources.own_stages.stage_api import Batch, Frame, Recording
from resources.own_stages.stage_code import CallableCode, StageCode
from resources.own_stages.stage_process import StageProcess
from resources.own_stages.stage_rows import WrongRowsError, rows_to_table

SCHEMA = pa.schema([("frame_index", pa.int32()), ("name", pa.string()), ("share", pa.float64())])
SOURCE = """
import os, sys, time
kept = []
def levels(batch):
    action = batch.tables["action"]["action"][0].as_py()
    batch.state["count"] = batch.state.get("count", 0) + 1
    {
        "exit": lambda: sys.exit(3),
        "end": lambda: os._exit(4),
        "crash": lambda: os.abort(),
        "hang": lambda: time.sleep(60),
        "raise": lambda: [][1],
        "leak": lambda: [kept.append(bytearray(20_000_000)) for _ in range(200)],
        "none": lambda: None,
    }[action]()
    return [{"frame_index": batch.frames[0].frame_index, "name": str(os.getpid()), "share": batch.state["count"]}]
"""


def build_batch(action: str = "none", *, is_first: bool = True, image_px: int = 4) -> Batch:
    recording = Recording("r", None, 4, 4, 10.0, 1.0, 10)
    frame = Frame(7, 0.7, np.zeros((image_px, image_px, 3), np.uint8))
    tables = {"action": pa.table({"action": [action]})}
    return Batch(recording, frames=[frame], tables=tables, state={"is_first": is_first})


@pytest.fixture(scope="module")
def stage() -> Any:
    limits = IsolatedCodeSettings(max_memory_mb=1000, batch_timeout_s=2)
    process = StageProcess("levels", StageCode("/nowhere/levels.py", SOURCE, "levels", SCHEMA), limits)
    yield process
    process.stop()


def test_the_process_is_kept_warm_and_the_state_lasts_for_a_recording(stage: StageProcess) -> None:
    rows = [stage.call(build_batch(is_first=is_first)).to_pylist()[0] for is_first in (True, False, True)]
    assert [row["share"] for row in rows] == [1, 2, 1]
    assert len({row["name"] for row in rows}) == 1
    assert rows[0]["name"] != str(os.getpid())


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("exit", r"^levels: its function called exit\(3\) \(levels.py, line 8\)\.$"),
        ("end", r"^levels: its process crashed \(exit status 4\)\.$"),
        ("crash", r"^levels: its process crashed \(SIGABRT\)\.$"),
        ("hang", r"^levels: its process did not return a batch within 2 s: make the batch smaller, or raise"),
        ("raise", r"^levels: its function raised IndexError: list index out of range \(levels.py, line 12\)\.$"),
        ("leak", r"^levels: its process needs more than 1000 MB \(max_memory_mb\): make the batch smaller"),
    ],
)
def test_a_fault_is_one_sentence_and_the_next_batch_succeeds(stage: StageProcess, action: str, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        stage.call(build_batch(action))
    assert stage.call(build_batch()).num_rows == 1


def test_a_process_that_reads_nothing_is_replaced(stage: StageProcess) -> None:
    stage.call(build_batch())
    pid = int(stage.call(build_batch()).to_pylist()[0]["name"])
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RecordingError, match="did not return a batch within 2 s"):
        stage.call(build_batch(image_px=2000))
    assert stage.call(build_batch()).to_pylist()[0]["name"] != str(pid)


def test_a_file_that_cannot_be_loaded_fails_each_recording_with_its_line() -> None:
    code = StageCode("/nowhere/levels.py", "\nimport no_such_module", "levels", SCHEMA)
    process = StageProcess("levels", code, IsolatedCodeSettings())
    for _ in range(2):
        with pytest.raises(
            RecordingError, match=r"levels: when loaded, its function raised ModuleNotFoundError: .*line 2"
        ):
            process.call(build_batch())
    process.stop()


def test_a_callable_classifies_pictures_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    (tmp_path / "my_colours.py").write_text(
        "def classify(images):\n"
        "    if len(images) == 3: return [[('red', 2)]] * 3\n"
        "    if len(images) == 4: return []\n"
        "    return [[('blue', 0.2), ('red', image[..., 2].mean() / 255)] if image.shape == (8, 6, 3) else 'small'\n"
        "        for image in images]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    process = StageProcess("colours", CallableCode("my_colours:classify", ""), IsolatedCodeSettings())
    large, small = (cv2.imencode(".jpg", np.full((h, w, 3), 255, np.uint8))[1].tobytes() for h, w in ((8, 6), (2, 2)))
    assert process.call([large, small]) == [[("red", 1.0), ("blue", 0.2)], "small"]
    with pytest.raises(RecordingError, match="colours: its function returned a confidence outside 0 to 1 in answer 1"):
        process.call([large] * 3)
    with pytest.raises(RecordingError, match="returned 0 instead of a list of 4 answers"):
        process.call([large] * 4)
    process.stop()


def _row(**values: Any) -> dict[str, Any]:
    return {"frame_index": 1, "name": "a", "share": 0.5} | values


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "returned None instead of a list of rows"),
        (np.zeros((2, 3)), r"returned an array of shape \(3,\) as row 1, not a dictionary of columns"),
        ({"frame_index": 1}, "returned the dict .* instead of a list of rows"),
        ([{"frame_index": 1}], "returned row 1 without the column name"),
        ([_row(), _row(extra=1)], "returned row 2 with the str 'extra', which is not a declared column"),
        ([_row(), _row(share="far")], "returned the str 'far' as share of row 2, whose type is double"),
        ([_row(share=np.zeros(3))], r"returned an array of shape \(3,\) as share of row 1, whose type is double"),
        ([_row(frame_index=2**40)], "returned the int 1099511627776 as frame_index of row 1"),
        ([_row(frame_index=1.5)], "returned the float 1.5 as frame_index of row 1, whose type is int32"),
        (pa.table({"frame_index": [1]}), "returned a table without the column name"),
    ],
)
def test_wrong_rows_are_described(rows: Any, message: str) -> None:
    with pytest.raises(WrongRowsError, match=message):
        rows_to_table(rows, SCHEMA)


@pytest.mark.parametrize("convert", [list, iter, lambda rows: pa.Table.from_pylist(rows)])
def test_rows_may_be_a_list_an_iterator_or_a_table(convert: Callable[[Any], Any]) -> None:
    rows = [_row(), _row(frame_index=np.int64(2), share=np.float32(0.25), name=None)]
    expected = [_row(), _row(frame_index=2, share=0.25, name=None)]
    assert rows_to_table(convert(expected if convert is not list else rows), SCHEMA).to_pylist() == expected
