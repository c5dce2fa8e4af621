"""Dagster's storage in a real PostgreSQL database: outages of the server, and moves there and back."""

import time
from pathlib import Path

import psycopg2
import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.storage.results_database import open_results
from tests.builders.command_line import run_cv_assets, write_settings
from tests.builders.postgres_server import ENCODED_PASSWORD, PASSWORD, PostgresServer
from tests.builders.running_pipeline import RunningPipeline

OUTAGE_S = 15.0  # longer than dagster-postgres itself waits


def test_dropped_files_become_rows_while_the_server_is_down_for_a_while(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    pipeline = RunningPipeline(tmp_path, postgres_url)
    pipeline.start()
    try:
        for number in range(2):
            write_video(demo_scene(number, 4, {"car": 1}), pipeline.watched_folder / f"{number}.mp4")
        pipeline.wait_until(
            lambda: pipeline.sql("SELECT count(*) > 0 FROM recordings") == [(True,)], 900, "the first recording"
        )
        postgres_server.stop()
        time.sleep(OUTAGE_S)
        write_video(demo_scene(2, 4, {"car": 1}), pipeline.watched_folder / "2.mp4")
        postgres_server.start()
        complete = "SELECT count(*) FROM recordings JOIN summaries USING (recording_id) WHERE status = 'ok'"
        pipeline.wait_until(lambda: pipeline.sql(complete) == [(3,)], 900, "three summaries")
        counts = "SELECT count(*), count(DISTINCT (recording_id, frame_index)) FROM frames"
        assert pipeline.sql(counts) == [(300, 300)]

        # After the outage the UI still serves backfills over partitions.
        rows = pipeline.sql("SELECT recording_id FROM recordings ORDER BY source_path")
        version_query = "SELECT max(delta_version) FROM published_tables WHERE table_name = 'crops'"
        version_before = pipeline.sql(version_query)
        backfill_id = pipeline.backfill(["crops"], [str(row[0]) for row in rows])
        pipeline.wait_until(
            lambda: pipeline.backfill_status(backfill_id).startswith("COMPLETED"), 900, "the backfill to end"
        )
        assert pipeline.backfill_status(backfill_id) == "COMPLETED_SUCCESS"
        pipeline.wait_until(lambda: pipeline.sql(version_query) != version_before, 5, "the publication")
    finally:
        pipeline.stop()
    # No file and no log contains the password.
    for file in tmp_path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            assert ENCODED_PASSWORD.encode() not in content and PASSWORD.encode() not in content, file


def test_every_command_reports_an_unreachable_database_in_one_sentence(tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    (tmp_path / "recordings" / "a.mp4").write_bytes(b"x")
    for folder in (tmp_path / "data", tmp_path / "data" / "dagster"):
        folder.mkdir(mode=0o700)
    url = f"postgresql://owner:{ENCODED_PASSWORD}@127.0.0.1:1/history"
    for command in (("process", tmp_path / "recordings"), ("dev",), ("stale",)):
        process = run_cv_assets(*command, "--settings", settings, postgres_url=url)
        assert process.returncode == 2, process.stderr
        sentence = "The PostgreSQL database history on 127.0.0.1:1 cannot be used: Connection refused."
        assert sentence in process.stderr
        assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    doctor = run_cv_assets("doctor", "--settings", settings, postgres_url=url)
    assert doctor.returncode == 1
    assert "history on 127.0.0.1:1 cannot be used" in doctor.stdout


@pytest.mark.long
def test_a_data_folder_moves_to_postgres_and_back_without_computing_anything_again(
    tmp_path: Path, postgres_url: str
) -> None:
    settings = write_settings(tmp_path)
    write_video(demo_scene(5, 3, {"car": 1}), tmp_path / "recordings" / "a.mp4")
    arguments = ("process", tmp_path / "recordings", "--settings", settings)
    assert run_cv_assets(*arguments).returncode == 0
    attempts = stage_attempts(tmp_path / "data")
    assert len(attempts) == 12

    # The new database lacks the recording, which the sensor of the watched folder adds; its stages do not run.
    in_postgres = run_cv_assets(*arguments, postgres_url=postgres_url)
    assert in_postgres.returncode == 0, in_postgres.stderr
    assert "nothing is recomputed; cv-assets adopt registers them" in in_postgres.stderr
    stale = run_cv_assets("stale", "--settings", settings, postgres_url=postgres_url)
    assert "0 of 1 recordings have stale assets." in stale.stdout
    doctor = run_cv_assets("doctor", "--settings", settings, postgres_url=postgres_url).stdout
    assert "PostgreSQL: test_" in doctor and ENCODED_PASSWORD not in doctor

    adopt = run_cv_assets("adopt", "--settings", settings, postgres_url=postgres_url)
    assert adopt.returncode == 0, adopt.stderr
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT partition FROM dynamic_partitions")
        assert len(cursor.fetchall()) == 1
        cursor.execute("SELECT DISTINCT asset_key FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'")
        asset_keys = {key for (key,) in cursor.fetchall()}
        assert {'["normalized_video"]', '["summaries"]'} <= asset_keys
    again = run_cv_assets(*arguments, postgres_url=postgres_url)
    assert "Nothing to do: all 1 recordings" in again.stdout
    assert "adopt" not in again.stderr

    in_sqlite = run_cv_assets(*arguments)
    assert "Nothing to do: all 1 recordings" in in_sqlite.stdout, in_sqlite.stderr
    assert stage_attempts(tmp_path / "data") == attempts


def stage_attempts(data_folder: Path) -> list[tuple[object, ...]]:
    """Every attempt of every stage, as the results show it."""
    with open_results(data_folder) as results:
        return results.execute("SELECT * FROM stage_runs ORDER BY ALL").fetchall()
