"""Dagster's history in a real PostgreSQL database: the pipeline works, its server may go away, the history may move."""

import time
from pathlib import Path

from demo.scenes import demo_scene, write_video
from resources.results import open_results
from tests.end_to_end.stack import Stack, write_settings
from tests.end_to_end.test_process import cv_assets
from tests.postgres import ENCODED_PASSWORD, PASSWORD, PostgresServer

OUTAGE_S = 15.0  # more than dagster-postgres waits by itself


def test_dropped_files_become_rows_while_the_server_goes_away_and_comes_back(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    stack = Stack(tmp_path, postgres_url)
    stack.start()
    try:
        for number in range(3):
            write_video(demo_scene(number, 6, {"car": 1}), stack.watched / f"{number}.mp4")
        stack.until(lambda: stack.sql("SELECT count(*) > 0 FROM recordings") == [(True,)], 120, "the first recording")
        postgres_server.stop()
        time.sleep(OUTAGE_S)
        write_video(demo_scene(3, 4, {"car": 1}), stack.watched / "3.mp4")
        postgres_server.start()
        done = "SELECT count(*) FROM recordings JOIN summaries USING (recording_id) WHERE status = 'ok'"
        stack.until(lambda: stack.sql(done) == [(4,)], 240, "four summaries")
        rows = "SELECT count(*), count(DISTINCT (recording_id, frame_index)) FROM frames"
        assert stack.sql(rows) == [(550, 550)]

        # The UI works on, and so do backfills over partitions.
        recording_ids = [str(row[0]) for row in stack.sql("SELECT recording_id FROM recordings ORDER BY source_path")]
        shown = "SELECT max(delta_version) FROM published_tables WHERE table_name = 'crops'"
        before = stack.sql(shown)
        backfill_id = stack.backfill(["crops"], recording_ids)
        stack.until(lambda: stack.backfill_status(backfill_id).startswith("COMPLETED"), 180, "the backfill to end")
        assert stack.backfill_status(backfill_id) == "COMPLETED_SUCCESS"
        stack.until(lambda: stack.sql(shown) != before, 5, "the results to show it")
    finally:
        stack.stop()
    # The password stands in no file and in no log.
    for file in tmp_path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            assert ENCODED_PASSWORD.encode() not in content and PASSWORD.encode() not in content, file


def test_every_command_says_in_one_sentence_that_the_database_is_out_of_reach(tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    (tmp_path / "recordings" / "a.mp4").write_bytes(b"x")
    (tmp_path / "data" / "dagster").mkdir(parents=True)
    url = f"postgresql://owner:{ENCODED_PASSWORD}@127.0.0.1:1/history"
    for command in (("process", tmp_path / "recordings"), ("dev",), ("stale",), ("leave-postgres",)):
        ended = cv_assets(*command, "--settings", settings, postgres_url=url)
        assert ended.returncode == 2, ended.stderr
        told = "The PostgreSQL database history on 127.0.0.1:1 cannot be used: Connection refused."
        assert told in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    doctor = cv_assets("doctor", "--settings", settings, postgres_url=url)
    assert doctor.returncode == 1
    assert "history on 127.0.0.1:1 cannot be used" in doctor.stdout


def test_a_data_folder_moves_to_postgres_and_back_and_nothing_is_made_again(tmp_path: Path, postgres_url: str) -> None:
    settings = write_settings(tmp_path)
    write_video(demo_scene(5, 3, {"car": 1}), tmp_path / "recordings" / "a.mp4")
    arguments = ("process", tmp_path / "recordings", "--settings", settings)
    assert cv_assets(*arguments).returncode == 0
    with open_results(tmp_path / "data") as results:
        versions = results.execute("SELECT * FROM published_tables ORDER BY ALL").fetchall()

    moved = cv_assets(*arguments, postgres_url=postgres_url)
    assert moved.returncode == 0, moved.stderr
    assert "Took the history of 1 recordings along from SQLite to PostgreSQL." in moved.stderr
    assert "Nothing to do: all 1 recordings" in moved.stdout
    listed = cv_assets("stale", "--settings", settings, postgres_url=postgres_url)
    assert "0 of 1 recordings have something stale." in listed.stdout
    told = cv_assets("doctor", "--settings", settings, postgres_url=postgres_url).stdout
    assert "PostgreSQL: test_" in told and ENCODED_PASSWORD not in told

    forgotten = cv_assets(*arguments)
    assert forgotten.returncode == 2
    assert "lies in PostgreSQL" in forgotten.stderr

    left = cv_assets("leave-postgres", "--settings", settings, postgres_url=postgres_url)
    assert left.returncode == 0, left.stderr
    back = cv_assets(*arguments)
    assert "Nothing to do: all 1 recordings" in back.stdout, back.stderr
    with open_results(tmp_path / "data") as results:
        assert results.execute("SELECT * FROM published_tables ORDER BY ALL").fetchall() == versions
