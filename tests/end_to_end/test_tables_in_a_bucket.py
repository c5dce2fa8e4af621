"""A folder processed with its tables on S3-compatible storage, which is away for a while, and then for good."""

import subprocess
import time
from pathlib import Path

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.schema.recording_tables import RECORDINGS
from resources.storage.results_database import open_results
from tests.builders.command_line import CV_ASSETS, clean_environment, run_cv_assets, write_settings
from tests.builders.s3_server import S3Server

pytestmark = pytest.mark.long
_OUTAGE_S = 5.0
_COUNTS = "SELECT count(*), count(*) FILTER (status = 'ok') FROM recordings"

_FRAMES = "SELECT count(*), count(DISTINCT (recording_id, frame_index)) FROM frames"


def test_a_folder_is_processed_whole_although_the_storage_is_away_for_a_while(
    s3_server: S3Server, tables_url: str, tmp_path: Path
) -> None:
    settings_file = write_settings(tmp_path, tables_url=tables_url)
    for number in range(3):
        write_video(demo_scene(number, 4, {"car": 1}), tmp_path / "recordings" / f"{number}.mp4")
    command = ["process", str(tmp_path / "recordings"), "--settings", str(settings_file)]
    with (tmp_path / "process.log").open("wb") as log:
        process = subprocess.Popen([str(CV_ASSETS), *command], env=clean_environment(), stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 240
        while not (tmp_path / "data" / "tables" / RECORDINGS.name / "_newest_commit").exists():
            assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "process.log").read_text()
            time.sleep(0.1)
        s3_server.stop()
        time.sleep(_OUTAGE_S)
        s3_server.start()
        assert process.wait(600) == 0, (tmp_path / "process.log").read_text()
    with open_results(tmp_path / "data") as connection:
        assert connection.execute(_COUNTS).fetchall() == [(3, 3)]
        assert connection.execute(_FRAMES).fetchall() == [(300, 300)]
    second = run_cv_assets(*command)
    assert (second.returncode, second.stdout.startswith("Nothing to do")) == (0, True), second.stderr
    assert not [*(tmp_path / "data" / "tables").glob("*/_delta_log")]
    doctor = run_cv_assets("doctor", "--full", "--settings", settings_file)
    assert tables_url in doctor.stdout, doctor.stderr

    s3_server.stop()
    try:
        away = run_cv_assets(*command)
        assert away.returncode == 2
        assert f"tables_url: {tables_url} cannot be reached at {s3_server.endpoint} (" in away.stderr
        assert "Traceback" not in away.stderr
        query = run_cv_assets("sql", _COUNTS, "--settings", settings_file, "--format", "csv")
        assert (query.returncode, query.stdout.splitlines()[-1]) == (0, "3,3"), query.stderr
    finally:
        s3_server.start()
