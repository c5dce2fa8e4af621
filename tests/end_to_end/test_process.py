"""The command line as a person or a cron job uses it."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks.agreement import agreement_by_recording
from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.config.settings_file import PROJECT_ROOT
from resources.storage.results_database import open_results
from tests.builders.command_line import CV_ASSETS, clean_environment, run_cv_assets, write_settings
from tests.builders.locations import BUNDLED_WEIGHTS
from tests.builders.network_namespace import WITHOUT_NETWORK, can_unshare
from tests.builders.numbered_videos import write_numbered_video
from tests.builders.odd_folders import make_deep_folder, set_mtime_year
from tests.builders.video_files import set_avi_rate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file and recordings/ with two good recordings; the name of one needs quoting in SQL."""
    folder = tmp_path_factory.mktemp("process")
    write_settings(folder)
    write_video(demo_scene(5, 5, {"car": 1}), folder / "recordings" / "it's a 'name' (1).mp4")
    write_video(demo_scene(6, 4, {"bicycle": 1}), folder / "recordings" / "yard.mkv")
    return folder


_HOLD_CPU = """
import sys, time
from pathlib import Path
from resources.inference.device_lease import device_lease
with device_lease(["cpu"], Path("/data of another pipeline")):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def hold_cpu(cache_home: Path) -> Iterator["subprocess.Popen[str]"]:
    """Hold the CPU's lease in another process, with device locks and compiled models of the test's own."""
    environment = clean_environment() | {"XDG_CACHE_HOME": str(cache_home)}
    command = [sys.executable, "-c", _HOLD_CPU]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=PROJECT_ROOT) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_a_folder_is_processed_once_and_a_second_call_has_nothing_to_do(folder: Path, tmp_path: Path) -> None:
    """The first call also compiles the model, and has no network where network namespaces are allowed."""
    arguments = ("process", folder / "recordings", "--settings", folder / "pipeline.yaml")
    prefix = WITHOUT_NETWORK if can_unshare() else ()
    command = [*prefix, str(CV_ASSETS), *(str(argument) for argument in arguments)]
    environment = clean_environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    lines = list[str]()
    with (
        hold_cpu(tmp_path) as holder,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
        ) as first,
    ):
        assert first.stdout is not None and first.stderr is not None
        for line in first.stderr:
            lines.append(line)
            if "detections waits" in line:
                holder.kill()
        output = first.stdout.read()
    errors = "".join(lines)
    assert first.returncode == 0, errors + output
    assert "2 of 2 recordings done" in errors
    assert re.search(r"The pipeline waits \d+ s for the daemon to start\.", errors), errors
    reason = (
        rf"cpu, which is held by process {holder.pid} \(.+\) for the data folder /data of another pipeline since 20"
    )
    assert re.search(rf"  \S+: detections waits \d+ s for {reason}", errors), errors
    assert re.search(r"  \S+: detections went on after \d+ s\.", errors), errors
    for column in ("recording", "camera", "duration", "people", "vehicles", "status", "seconds", "×realtime"):
        assert column in output
    with open_results(folder / "data") as results:
        assert results.execute("SELECT count(*) > 50 FROM detections").fetchall() == [(True,)]
    started_s = time.monotonic()
    second = run_cv_assets(*arguments)
    assert second.returncode == 0
    assert "Nothing to do: all 2 recordings" in second.stdout
    assert time.monotonic() - started_s < 30  # no daemon was started: seconds, also on a busy machine

    (folder / "recordings" / "bad.mp4").write_bytes(b"x" * 100)
    third = run_cv_assets(*arguments)
    assert third.returncode == 1
    assert "\nbad.mp4: rejected: The file is not a video that can be opened (100 bytes)" in third.stdout
    (folder / "recordings" / "bad.mp4").unlink()


def test_sql_prints_every_format_and_reads_a_prompt(folder: Path) -> None:
    assert run_cv_assets("process", folder / "recordings", "--settings", folder / "pipeline.yaml").returncode == 0
    for output, expected in (("csv", "n\n225\n"), ("json", '{"n":225}\n')):
        query = "SELECT sum(frame_count)::INT AS n FROM summaries"
        answer = run_cv_assets("sql", query, "--settings", folder / "pipeline.yaml", "--format", output)
        assert answer.stdout == expected
    lines = ".tables\nSELECT\n  41 + 1 AS\n  n;\n\nSELECT 7 AS first_one; SELECT 8 AS second_one;\nexit\n"
    prompt = run_cv_assets("sql", "--settings", folder / "pipeline.yaml", standard_input=lines)
    assert prompt.returncode == 0
    assert all(text in prompt.stdout for text in ("camera_timeline", "42", "first_one", "second_one")), prompt.stdout
    wrong = run_cv_assets("sql", "SELECT nonsense FROM frames", "--settings", folder / "pipeline.yaml")
    assert wrong.returncode == 1
    assert "nonsense" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_each_mistake_of_a_person_gives_exit_code_2_and_one_sentence(tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    recordings = tmp_path / "recordings"
    (recordings / "a.mp4").write_bytes(b"x")
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text("detections: {wieghts: a.pt}")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not weights")
    file = tmp_path / "file"
    file.write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        "did you mean detections.weights?": (recordings, "--settings", misspelt),
        "none.pt do not exist": (recordings, "--settings", settings, "--weights", tmp_path / "none.pt"),
        "not a PyTorch file (11 bytes)": (recordings, "--settings", settings, "--weights", broken),
        "does not exist: create it": (tmp_path / "nowhere", "--settings", settings),
        "has no recordings: nothing to do": (empty, "--settings", settings, "--data", tmp_path / "d"),
        "cannot be used: Not a directory": (recordings, "--settings", settings, "--data", file / "data"),
    }
    for sentence, arguments in cases.items():
        process = run_cv_assets("process", *arguments)
        assert process.returncode == 2, (sentence, process.stdout, process.stderr)
        assert sentence in process.stderr
        assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "d").exists()


def test_an_occupied_port_is_reported_before_any_process_starts(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        process = run_cv_assets("dev", "--settings", write_settings(tmp_path), "--port", listener.getsockname()[1])
    assert process.returncode == 2
    assert re.match(r"cv-assets: Port \d+ is not available for the UI", process.stderr)
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MB; only root can mount one."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount_point)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small disk can only be mounted by root")
    yield mount_point
    subprocess.run(["umount", "-l", str(mount_point)], check=True)


def test_a_full_and_a_read_only_disk_give_exit_code_2_and_the_reason(tmp_path: Path, tiny_disk: Path) -> None:
    settings = write_settings(tmp_path)
    (tmp_path / "recordings" / "a.mp4").write_bytes(b"x")
    arguments = ("process", tmp_path / "recordings", "--settings", settings, "--data", tiny_disk / "data")
    full = run_cv_assets(*arguments)
    assert full.returncode == 2
    assert "MB free" in full.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    read_only = run_cv_assets(*arguments)
    assert read_only.returncode == 2
    assert "read-only file system" in read_only.stderr


@pytest.mark.long
def test_weights_that_fail_only_when_loaded_stop_the_command_once(tmp_path: Path) -> None:
    """A zip archive without a model passes the check before the run; the run reports it, and the command ends."""
    settings = write_settings(tmp_path)
    write_video(demo_scene(5, 3, {"car": 1}), tmp_path / "recordings" / "a.mp4")
    weights = tmp_path / "odd.pt"
    with zipfile.ZipFile(weights, "w") as archive:
        archive.writestr("odd/data.txt", "nothing")
    process = run_cv_assets("process", tmp_path / "recordings", "--settings", settings, "--weights", weights)
    assert process.returncode == 2, process.stdout
    assert "cannot be loaded by Ultralytics" in process.stderr
    assert "Traceback" not in process.stderr
    with_good_weights = run_cv_assets("process", tmp_path / "recordings", "--settings", settings)
    assert with_good_weights.returncode == 0, with_good_weights.stdout + with_good_weights.stderr


def start_processing(
    settings: Path, history_url: str | None = None, *options: str
) -> tuple[list[str], "subprocess.Popen[str]"]:
    """Start `cv-assets process` on recordings/ and wait until a stage is running; returns its arguments, too."""
    arguments = ["process", str(settings.parent / "recordings"), "--settings", str(settings), *options]
    process = subprocess.Popen(
        [str(CV_ASSETS), *arguments],
        env=clean_environment(history_url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell without job control starts background jobs with SIGINT ignored, which child processes inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "normalized_video" in line or "detections" in line:
            break
    return arguments, process


def test_after_a_kill_the_command_resumes_with_any_spelling_of_the_data_folder(
    history_url: str | None, tmp_path: Path
) -> None:
    settings = write_settings(tmp_path)
    for number in range(3):
        write_video(demo_scene(number, 4, {"car": 1}), tmp_path / "recordings" / f"{number}.mp4")
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    arguments, killed = start_processing(settings, history_url, "--data", str(tmp_path / "link"))
    in_use = run_cv_assets(*arguments[:4], postgres_url=history_url)
    assert (in_use.returncode, f"in use by another pipeline (process {killed.pid})" in in_use.stderr) == (2, True)
    orphans = [child for child in psutil.Process(killed.pid).children(recursive=True) if child.is_running()]
    assert orphans
    killed.kill()
    killed.wait()
    partial = tmp_path / "data" / "media" / "any" / ".6f1c.partial.mp4"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x")
    process = run_cv_assets(*arguments[:4], postgres_url=history_url)
    assert process.returncode == 0, process.stdout + process.stderr
    assert all(not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE for orphan in orphans)
    assert not list((tmp_path / "data").rglob(".*.partial.mp4")) and not list(
        (tmp_path / "data").glob("unfinished/*/*")
    )
    with open_results(tmp_path / "data") as results:
        counts = "SELECT count(*), sum(frame_count)::INT, sum(track_count)::INT FROM summaries"
        assert results.execute(counts).fetchall() == [(3, 300, 3)]
        assert results.execute("SELECT count(*) FROM frames").fetchall() == [(300,)]


def test_an_interrupt_ends_the_command_with_exit_code_130(tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    write_video(demo_scene(5, 3, {"car": 1}), tmp_path / "recordings" / "a.mp4")
    _, process = start_processing(settings)
    process.send_signal(signal.SIGINT)
    _, error_output = process.communicate(timeout=60)
    assert process.returncode == 130, error_output
    assert "Traceback" not in error_output


def test_detections_agree_with_ultralytics(folder: Path) -> None:
    arguments = ("process", folder / "recordings", "--settings", folder / "pipeline.yaml")
    assert run_cv_assets(*arguments).returncode == 0
    shares = agreement_by_recording(folder / "data", BUNDLED_WEIGHTS, min_iou=0.7)
    assert len(shares) >= 2
    assert min(shares.values()) >= 0.98


def test_real_recordings_are_processed_whole(corpus: Path, tmp_path: Path) -> None:
    """The junction's four files: constant rate, raw stream, rotated, and without timestamps."""
    arguments = (corpus / "recordings" / "junction", "--data", tmp_path / "data", "--weights")
    process = run_cv_assets("process", *arguments, corpus / "weights" / "yolo11n.pt")
    assert process.returncode == 0, process.stdout + process.stderr
    query = "SELECT frame_count AS n FROM summaries"
    answer = run_cv_assets("sql", query, "--data", tmp_path / "data", "--format", "json")
    assert [json.loads(line)["n"] for line in answer.stdout.splitlines()] == [60, 60, 60, 60]


@pytest.mark.long
def test_after_a_change_of_settings_only_the_stale_assets_are_materialized(tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    write_video(demo_scene(5, 5, {"car": 1}), tmp_path / "recordings" / "a.mp4")
    arguments = ("process", tmp_path / "recordings", "--settings", settings)
    assert run_cv_assets(*arguments).returncode == 0
    nothing_stale = "0 of 1 recordings have stale assets."
    assert nothing_stale in run_cv_assets("stale", "--settings", settings).stdout

    with settings.open("a") as file:
        file.write("crops: {per_track: 1}\n")
    lines = run_cv_assets("stale", "--settings", settings).stdout.splitlines()
    reason = "crops: crops.per_track was 3, is now 1"
    assert lines[:2] == [f"{reason} (1 recording)", "1 of 1 recordings have stale assets."]
    lines = run_cv_assets("stale", "--each", "--settings", settings).stdout.splitlines()
    assert lines[0].split("  ")[1] == reason
    again = run_cv_assets(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"Stale results of 1 recording are recomputed; no model runs:\n  {reason} (1 recording)" in again.stderr
    assert "detections" not in again.stderr  # no model ran
    assert nothing_stale in run_cv_assets("stale", "--settings", settings).stdout
    with open_results(tmp_path / "data") as results:
        assert results.execute("SELECT count(*) FROM crops").fetchall() == [(1,)]

    detections = {"weights": str(BUNDLED_WEIGHTS), "nms_iou": 0.6}
    settings = write_settings(tmp_path, detections=detections, crops={"per_track": 1})
    with_json = run_cv_assets(*arguments, "--json")
    assert with_json.returncode == 0, with_json.stderr
    document = json.loads(with_json.stdout)
    reason = "detections.nms_iou was 0.7, is now 0.6"
    assert document["stale"] == [{"stage": "detections", "reason": reason, "recording_count": 1}]
    assert (document["had_work"], document["has_lost_results"]) == (False, False)
    (recording,) = document["recordings"]
    expected = {"source_path": "a.mp4", "camera": None, "status": "ok", "error": None, "duration_s": 5.0}
    assert {name: recording[name] for name in expected} == expected
    assert (recording["frame_count"], recording["track_counts"]) == (125, {"car": 1})
    assert recording["recording_id"] and recording["elapsed_s"] > 0 and recording["realtime_factor"] > 0
    assert "Nothing to do" in with_json.stderr
    lines = with_json.stderr.splitlines()
    commands = [shlex.split(line) for line in lines[lines.index("Next:") + 1 :]]
    assert [command[1] for command in commands] == ["sql", "crops"]
    assert run_cv_assets(*commands[0][1:]).returncode == 0
    assert any(line.endswith(f"process {arguments[1]} --stale --settings {settings}") for line in lines), lines


@pytest.mark.long
def test_one_bad_thing_stops_one_thing(tmp_path: Path) -> None:
    """Files, folders and clocks that no camera makes: each gets a sentence, and the good recording its results."""
    pattern = r"(?P<year>\w+)-(?P<month>\w+)-(?P<day>\w+) (?P<hour>\w+)\.(?P<minute>\w+)"
    ingest = {"settle_s": 1.0, "captured_at_patterns": [pattern]}
    settings = write_settings(tmp_path, ingest=ingest, cameras={"": {"clock_offset_s": -4e9}})
    recordings = tmp_path / "recordings"
    write_video(demo_scene(5, 3, {"car": 1}), recordings / "2026-Jan-01 12.00.mp4")
    for name, rate, scale in (("fast.avi", 4_000_000_000, 1), ("slow.avi", 1, 4_000_000_000)):
        set_avi_rate(write_numbered_video(recordings / name, 100, codec="mpeg4"), rate, scale)
    (recordings / "far.mp4").write_bytes(b"x")
    has_far_file = set_mtime_year(recordings / "far.mp4", 2300)
    (recordings / "gate").mkdir()
    make_deep_folder(recordings / "gate")
    process = run_cv_assets("process", recordings, "--settings", settings)
    assert process.returncode == 1, process.stdout + process.stderr
    assert "cannot be read: File name too long." in process.stderr
    assert "Traceback" not in process.stderr
    for sentence in (
        "\nfast.avi: rejected: The frame rate of the file, 2.15e+09 frames/s, is impossible",
        "\nslow.avi: rejected: The frame rate of the file, 4.66e-10 frames/s, is impossible",
        "\nfar.mp4: rejected: The mtime of the file is not in the years 1678 to 2261" if has_far_file else "",
    ):
        assert sentence in process.stdout
    query = "SELECT source_path, status, frame_count FROM recordings ORDER BY ALL"
    with open_results(tmp_path / "data") as results:
        statuses = {path: (status, count) for path, status, count in results.execute(query).fetchall()}
        clocks = results.execute("SELECT captured_at_source, count(*) FROM frames GROUP BY ALL").fetchall()
    assert statuses["2026-Jan-01 12.00.mp4"] == ("ok", 75)
    assert clocks == [("mtime", 75)]

    code = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str((tmp_path / "data" / "results.duckdb").resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
        locked = run_cv_assets("sql", "SELECT 1", "--settings", settings)
        checked = run_cv_assets("doctor", "--settings", settings)
        writer.communicate()
    assert locked.returncode == 2
    for output in (locked.stderr, checked.stdout):
        assert re.search(rf"The results .* are open for writing in .*PID {writer.pid}\): close them there", output)
