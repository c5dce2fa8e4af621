"""The disk is full in the middle of the work: one sentence, nothing half-written, and it goes on with space."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.scenes import demo_scene, write_video
from tests.end_to_end.stack import CV_ASSETS, clean_environment, write_settings

# A mount namespace of its own, in which a small disk can be mounted without being root.
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]
SIZE_MB = 260
_SCRIPT = """
set -eu
mount -t tmpfs -o size={size}m tmpfs {disk}
{command} > {folder}/first.txt 2>&1 &
work=$!
for _ in $(seq 1200); do ls {disk}/data/media/*/normalized.mp4 > {folder}/seen.txt 2>&1 && break; sleep 0.1; done
head -c {size}M /dev/zero > {disk}/hog 2> {folder}/hog.txt || true
wait $work && first=0 || first=$?
rm {disk}/hog
{command} > {folder}/second.txt 2>&1 && second=0 || second=$?
{sql} > {folder}/rows.txt
echo $first $second
"""


def can_mount(folder: Path) -> bool:
    try:
        command = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "disk"
    made.mkdir()
    if not can_mount(made):
        pytest.skip("this machine lets nobody mount a small disk (unshare --mount)")
    yield made


@pytest.mark.long
def test_a_full_disk_is_told_in_a_sentence_and_the_same_command_goes_on(disk: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path, data_folder=str(disk / "data"), batches={"max_recordings": 1})
    for number in range(3):
        write_video(demo_scene(number, 10, {"car": 1}), tmp_path / "recordings" / f"clip {number}.mp4")
    ours = f"{CV_ASSETS} process {tmp_path / 'recordings'} --settings {settings}"
    counted = "SELECT status, frame_count FROM recordings JOIN summaries USING (recording_id, frame_count)"
    sql = f"{CV_ASSETS} sql '{counted}' --settings {settings} --format csv"
    script = _SCRIPT.format(size=SIZE_MB, disk=disk, folder=tmp_path, command=ours, sql=sql)
    started = time.monotonic()
    ended = subprocess.run(
        [*OWN_MOUNTS, "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=500,
        env={**clean_environment(), "TMPDIR": os.environ.get("TMPDIR", "/tmp")},
        check=False,
    )
    told = (tmp_path / "first.txt").read_text()
    assert ended.stdout.split() == ["2", "0"], (ended.stderr, told, time.monotonic() - started)
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith("cv-assets: The disk of the data folder")
    assert sorted((tmp_path / "rows.txt").read_text().split()) == ["ok,250", "ok,250", "ok,250", "status,frame_count"]
