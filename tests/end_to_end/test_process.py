"""The command line as a person or a cron job uses it."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.agreement import agreement
from demo.scenes import demo_scene, write_video
from resources.results import open_results
from resources.settings import PROJECT_ROOT
from tests.conftest import BUNDLED_WEIGHTS, HISTORIES
from tests.end_to_end.stack import CV_ASSETS, clean_environment, write_settings


def cv_assets(
    *arguments: object, seconds: float = 300, postgres_url: str | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CV_ASSETS), *(str(argument) for argument in arguments)],
        capture_output=True,
        input=typed,
        text=True,
        env=clean_environment(postgres_url),
        timeout=seconds,
        cwd="/",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file and, beside it, a folder with two good recordings, one of them under an awkward name."""
    made = tmp_path_factory.mktemp("process")
    write_settings(made)
    write_video(demo_scene(5, 5, {"car": 1}), made / "recordings" / "it's a 'name' (1).mp4")
    write_video(demo_scene(6, 4, {"bicycle": 1}), made / "recordings" / "yard.mkv")
    return made


def test_a_folder_is_processed_and_a_second_time_costs_nothing(folder: Path) -> None:
    arguments = ("process", folder / "recordings", "--settings", folder / "pipeline.yaml")
    first = cv_assets(*arguments)
    assert first.returncode == 0, first.stderr + first.stdout
    assert "2 of 2 recordings done" in first.stderr
    for column in ("recording", "status", "frames", "detections", "tracks", "seconds", "×realtime"):
        assert column in first.stdout
    started = time.monotonic()
    second = cv_assets(*arguments)
    assert second.returncode == 0
    assert "Nothing to do: all 2 recordings" in second.stdout
    assert time.monotonic() - started < 30  # no daemon was started: seconds, also on a busy machine

    (folder / "recordings" / "bad.mp4").write_bytes(b"x" * 100)
    third = cv_assets(*arguments)
    assert third.returncode == 1
    assert "rejected: It is not a video that can be opened (100 bytes)" in third.stdout
    (folder / "recordings" / "bad.mp4").unlink()

    for output, expected in (("csv", "n\n225\n"), ("json", '{"n":225}\n')):
        query = "SELECT sum(frame_count)::INT AS n FROM summaries"
        asked = cv_assets("sql", query, "--settings", folder / "pipeline.yaml", "--format", output)
        assert asked.stdout == expected
    typed = "SELECT\n  41 + 1 AS\n  n;\n\nSELECT 7 AS first_one; SELECT 8 AS second_one;\nexit\n"
    prompt = cv_assets("sql", "--settings", folder / "pipeline.yaml", typed=typed)
    assert prompt.returncode == 0
    assert all(shown in prompt.stdout for shown in ("camera_timeline", "42", "first_one", "second_one")), prompt.stdout
    wrong = cv_assets("sql", "SELECT nonsense FROM frames", "--settings", folder / "pipeline.yaml")
    assert wrong.returncode == 2
    assert "nonsense" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_what_a_person_must_mend_gets_one_sentence(tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    recordings = tmp_path / "recordings"
    (recordings / "a.mp4").write_bytes(b"x")
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text("detections: {wieghts: a.pt}")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not weights")
    occupied = tmp_path / "file"
    occupied.write_text("")
    cases = {
        "did you mean detections.weights?": (recordings, "--settings", misspelt),
        "none.pt do not exist": (recordings, "--settings", settings, "--weights", tmp_path / "none.pt"),
        "not a PyTorch file (11 bytes)": (recordings, "--settings", settings, "--weights", broken),
        "does not exist: create it": (tmp_path / "nowhere", "--settings", settings),
        "There are no recordings in": (tmp_path, "--settings", settings, "--data", tmp_path / "d"),
        "cannot be used: Not a directory": (recordings, "--settings", settings, "--data", occupied / "data"),
    }
    for sentence, arguments in cases.items():
        if "There are no" in sentence:
            arguments = (tmp_path / "empty", *arguments[1:])
            (tmp_path / "empty").mkdir()
        ended = cv_assets("process", *arguments)
        assert ended.returncode == 2, (sentence, ended.stdout, ended.stderr)
        assert sentence in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "d").exists()


def test_a_port_that_another_holds_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = cv_assets("dev", "--settings", write_settings(tmp_path), "--port", taken.getsockname()[1])
    assert ended.returncode == 2
    assert ended.stderr.startswith("cv-assets: The UI cannot have port")
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MB; only root can make one."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small disk can only be mounted by root")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_a_full_and_a_read_only_disk_are_told(tmp_path: Path, tiny_disk: Path) -> None:
    settings = write_settings(tmp_path)
    (tmp_path / "recordings" / "a.mp4").write_bytes(b"x")
    arguments = ("process", tmp_path / "recordings", "--settings", settings, "--data", tiny_disk / "data")
    full = cv_assets(*arguments)
    assert full.returncode == 2
    assert "MB free" in full.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    locked = cv_assets(*arguments)
    assert locked.returncode == 2
    assert "read-only file system" in locked.stderr


def test_weights_that_fail_only_when_loaded_stop_the_command_once(tmp_path: Path) -> None:
    """A zip archive that is no model passes the first look; the run says so, and the command ends with it."""
    import zipfile

    settings = write_settings(tmp_path)
    write_video(demo_scene(5, 3, {"car": 1}), tmp_path / "recordings" / "a.mp4")
    weights = tmp_path / "odd.pt"
    with zipfile.ZipFile(weights, "w") as archive:
        archive.writestr("odd/data.txt", "nothing")
    ended = cv_assets("process", tmp_path / "recordings", "--settings", settings, "--weights", weights)
    assert ended.returncode == 2, ended.stdout
    assert "cannot be loaded by Ultralytics" in ended.stderr
    assert "Traceback" not in ended.stderr
    mended = cv_assets("process", tmp_path / "recordings", "--settings", settings)
    assert mended.returncode == 0, mended.stdout + mended.stderr


@HISTORIES
def test_after_a_kill_the_same_command_goes_on(history_url: str | None, tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    for number in range(3):
        write_video(demo_scene(number, 4, {"car": 1}), tmp_path / "recordings" / f"{number}.mp4")
    command = [str(CV_ASSETS), "process", str(tmp_path / "recordings"), "--settings", str(settings)]
    running = subprocess.Popen(
        command, env=clean_environment(history_url), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "normalized_video" in line or "detections" in line:
            break
    running.send_signal(signal.SIGKILL)
    running.wait()
    ended = cv_assets(*command[1:], postgres_url=history_url)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with open_results(tmp_path / "data") as results:
        counts = "SELECT count(*), sum(frame_count)::INT, sum(track_count)::INT FROM summaries"
        assert results.execute(counts).fetchall() == [(3, 300, 3)]
        assert results.execute("SELECT count(*) FROM frames").fetchall() == [(300,)]


def test_detections_agree_with_ultralytics(folder: Path) -> None:
    arguments = ("process", folder / "recordings", "--settings", folder / "pipeline.yaml")
    assert cv_assets(*arguments).returncode == 0
    shares = agreement(folder / "data", BUNDLED_WEIGHTS, min_iou=0.7)
    assert len(shares) >= 2
    assert min(shares.values()) >= 0.98


def test_real_recordings_come_through(corpus: Path, tmp_path: Path) -> None:
    """The junction's four files: constant rate, raw stream, rotated, and without timestamps."""
    arguments = (corpus / "recordings" / "junction", "--data", tmp_path / "data", "--weights")
    ended = cv_assets("process", *arguments, corpus / "weights" / "yolo11n.pt")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shown = cv_assets("sql", "SELECT frame_count AS n FROM summaries", "--data", tmp_path / "data", "--format", "json")
    assert [json.loads(line)["n"] for line in shown.stdout.splitlines()] == [60, 60, 60, 60]


def test_every_query_of_the_readme_is_answered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cv_assets("process", folder / "recordings", "--settings", folder / "pipeline.yaml").returncode == 0
    queries = re.findall(r"```sql\n(.*?)```", (PROJECT_ROOT / "README.md").read_text(), re.DOTALL)
    assert len(queries) >= 12
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    with open_results(folder / "data") as results:
        for query in queries:
            results.execute(query)


def test_after_a_change_of_settings_only_what_it_touches_is_made_anew(tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    write_video(demo_scene(5, 5, {"car": 1}), tmp_path / "recordings" / "a.mp4")
    arguments = ("process", tmp_path / "recordings", "--settings", settings)
    assert cv_assets(*arguments).returncode == 0
    none = "0 of 1 recordings have something stale."
    assert none in cv_assets("stale", "--settings", settings).stdout

    with settings.open("a") as file:
        file.write("crops: {per_track: 1}\n")
    listed = cv_assets("stale", "--settings", settings).stdout.splitlines()
    assert listed == ["crops: its settings changed (1 recording)", "1 of 1 recordings have something stale."]
    listed = cv_assets("stale", "--each", "--settings", settings).stdout.splitlines()
    assert [line.split("  ")[1] for line in listed[:-1]] == ["crops: its settings changed"]
    assert "Nothing to do" in cv_assets(*arguments).stdout  # what is there stays until somebody asks

    again = cv_assets(*arguments, "--stale")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "detections" not in again.stderr  # no model ran
    assert none in cv_assets("stale", "--settings", settings).stdout
    with open_results(tmp_path / "data") as results:
        assert results.execute("SELECT count(*) FROM crops").fetchall() == [(1,)]
