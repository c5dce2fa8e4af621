"""The demo's comparison of results with the ground truth."""

from pathlib import Path

import duckdb
import pytest

from demo import __main__ as demo
from resources.storage.results_database import results_path

GROUND_TRUTH = {sample.path: sample.counts for sample in demo.SAMPLES}


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A data folder whose results agree with the ground truth of the samples."""
    with duckdb.connect(results_path(tmp_path)) as results:
        results.execute("CREATE TABLE recordings (recording_id TEXT, source_path TEXT)")
        results.execute("CREATE TABLE tracks (recording_id TEXT, class_name TEXT)")
        results.execute("CREATE TABLE frames (recording_id TEXT, frame_index INT)")
        results.execute("CREATE TABLE summaries (camera TEXT, track_count INT, max_at_once INT, duration_s DOUBLE)")
        for sample in demo.SAMPLES:
            results.execute("INSERT INTO recordings VALUES ($1, $1)", [sample.path])
            for class_name, count in sample.counts.items():
                results.execute("INSERT INTO tracks SELECT ?, ? FROM range(?)", [sample.path, class_name, count])
            frame_count = round(sample.duration_s * sample.frame_rate)
            results.execute("INSERT INTO frames SELECT ?, range FROM range(?)", [sample.path, frame_count])
    return tmp_path


def test_results_that_agree_with_the_ground_truth_pass(data_folder: Path) -> None:
    assert demo._compare(data_folder, GROUND_TRUTH)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("DELETE FROM tracks WHERE class_name = 'car'", id="missing tracks"),
        pytest.param("INSERT INTO tracks SELECT recording_id, 'truck' FROM recordings", id="false tracks"),
        pytest.param("DELETE FROM frames WHERE frame_index = 0", id="missing frames"),
        pytest.param("DELETE FROM recordings", id="no recordings"),
    ],
)
def test_results_that_differ_from_the_ground_truth_fail(
    data_folder: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with duckdb.connect(results_path(data_folder)) as results:
        results.execute(change)
    assert not demo._compare(data_folder, GROUND_TRUTH)
    assert "<- differs" in capsys.readouterr().out


def test_a_wrong_ground_truth_fails(data_folder: Path) -> None:
    path = demo.SAMPLES[0].path
    assert not demo._compare(data_folder, {**GROUND_TRUTH, path: {**GROUND_TRUTH[path], "car": 7}})
