"""A disk that fills while recordings are processed: one sentence, no partial rows, and the same command resumes."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from tests.builders.command_line import CV_ASSETS, clean_environment, write_settings

# A mount namespace of its own, in which a small disk can be mounted without being root.
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]
SIZE_MB = 260
_SCRIPT = """
set -eu
mount -t tmpfs -o size={size}m tmpfs {disk}
{command} > {folder}/first.txt 2>&1 &
process=$!
for _ in $(seq 1200); do ls {disk}/data/media/*/normalized.mp4 > {folder}/videos.txt 2>&1 && break; sleep 0.1; done
head -c {size}M /dev/zero > {disk}/filler 2> {folder}/filler.txt || true
wait $process && first=0 || first=$?
rm {disk}/filler
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
def disk(tmp_path: Path) -> Path:
    """A folder on which the test can mount a small disk."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    if not can_mount(mount_point):
        pytest.skip("this machine does not allow users to mount a small disk (unshare --mount)")
    return mount_point


@pytest.mark.long
def test_a_full_disk_gives_one_sentence_and_the_same_command_resumes(disk: Path, tmp_path: Path) -> None:
    settings = write_settings(tmp_path, data_folder=str(disk / "data"), batches={"max_recordings": 1})
    for number in range(3):
        write_video(demo_scene(number, 10, {"car": 1}), tmp_path / "recordings" / f"clip {number}.mp4")
    command = f"{CV_ASSETS} process {tmp_path / 'recordings'} --settings {settings}"
    query = "SELECT status, frame_count FROM recordings JOIN summaries USING (recording_id, frame_count)"
    sql = f"{CV_ASSETS} sql '{query}' --settings {settings} --format csv"
    script = _SCRIPT.format(size=SIZE_MB, disk=disk, folder=tmp_path, command=command, sql=sql)
    started_s = time.monotonic()
    process = subprocess.run(
        [*OWN_MOUNTS, "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=500,
        env={**clean_environment(), "TMPDIR": os.environ.get("TMPDIR", "/tmp")},
        check=False,
    )
    output = (tmp_path / "first.txt").read_text()
    assert process.stdout.split() == ["2", "0"], (process.stderr, output, time.monotonic() - started_s)
    assert "Traceback" not in output
    last_line = output.strip().splitlines()[-1]
    assert last_line.startswith("cv-assets: The disk of the data folder")
    assert sorted((tmp_path / "rows.txt").read_text().split()) == ["ok,250", "ok,250", "ok,250", "status,frame_count"]
