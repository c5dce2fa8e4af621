"""A recording is its content: files that are replaced, completed in place, or named and hashed alike."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.file_hashes import content_fingerprint
from tests.builders.command_line import run_cv_assets, write_settings
from tests.resources.test_file_identification import FIRST_OF_EQUAL_DIGITS, SECOND_OF_EQUAL_DIGITS

pytestmark = pytest.mark.long
HOLE_BYTES = 60_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A settings file, and recordings/ in which the names of some files will get other content."""
    write_settings(tmp_path)
    for camera in ("gate", "yard"):
        (tmp_path / "recordings" / camera).mkdir()
    return tmp_path


def process(folder: Path, *options: str) -> str:
    """Process recordings/; returns what the command printed."""
    arguments = ("process", folder / "recordings", "--settings", folder / "pipeline.yaml", *options)
    process = run_cv_assets(*arguments, timeout_s=900)
    assert process.returncode in (0, 1), process.stdout + process.stderr
    return process.stdout


def query(folder: Path, sql: str) -> list[dict[str, Any]]:
    """Query the results."""
    answer = run_cv_assets("sql", sql, "--settings", folder / "pipeline.yaml", "--format", "json")
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def recordings(folder: Path) -> dict[str, dict[str, Any]]:
    """Path, status, frames and content hash of each recording, by its id."""
    rows = query(
        folder,
        "SELECT recording_id, source_path, status, content_hash, "
        "(SELECT count(*) FROM frames WHERE frames.recording_id = recordings.recording_id) AS frame_count "
        "FROM recordings ORDER BY recording_id",
    )
    return {row.pop("recording_id"): row for row in rows}


def with_hole(content: bytes) -> bytes:
    """A copy of a video that is preallocated and not complete: the same size and samples, and zeros in between."""
    gap = (len(content) - 65_536) // 15 - 65_536  # between two sampled blocks
    assert gap > HOLE_BYTES, len(content)
    start = (len(content) - 65_536) * 7 // 15 + 65_536
    return content[:start] + bytes(HOLE_BYTES) + content[start + HOLE_BYTES :]


def test_a_recording_is_never_computed_from_the_content_of_another_file(folder: Path) -> None:
    swap, grown, copy = (folder / "recordings" / "gate" / name for name in ("swap.mp4", "grown.mp4", "copy.mp4"))
    write_video(demo_scene(5, 3, {"car": 1}), swap)
    write_video(demo_scene(6, 6, {"car": 2}), grown, options={"preset": "ultrafast", "crf": "1"})
    complete = grown.read_bytes()
    grown.write_bytes(with_hole(complete))
    alike = folder / "recordings" / "gate" / "alike.mp4", folder / "recordings" / "yard" / "alike.mp4"
    for path, number in zip(alike, (FIRST_OF_EQUAL_DIGITS, SECOND_OF_EQUAL_DIGITS), strict=True):
        path.write_bytes(f"recording {number}".encode())
    output = process(folder)
    first = recordings(folder)
    by_path = {row["source_path"]: (recording_id, row) for recording_id, row in first.items()}

    # Two files whose ids would be equal are two recordings.
    ids = [by_path[path][0] for path in ("gate/alike.mp4", "yard/alike.mp4")]
    fingerprints = [content_fingerprint(path) for path in alike]
    assert sorted(ids) in [sorted([f"alike-{short[:8]}", f"alike-{long}"]) for short, long in (
        fingerprints, fingerprints[::-1])]  # fmt: skip
    assert all(f"{path}/alike.mp4: rejected" in output for path in ("gate", "yard"))

    # A file that was completed in place is a new recording, though its size and samples are the same; so is the other
    # file that replaced one. What is stale of the old recordings cannot be computed again.
    swap_id, (grown_id, grown_row) = by_path["gate/swap.mp4"][0], by_path["gate/grown.mp4"]
    assert grown_row["status"] == "partial"
    fingerprint = content_fingerprint(grown)
    grown.write_bytes(complete)
    copy.write_bytes(complete)
    os.utime(copy, (1e9, 1e9))
    assert content_fingerprint(grown) == fingerprint
    write_video(demo_scene(7, 5, {"car": 1}), swap)
    with (folder / "pipeline.yaml").open("a") as file:
        file.write("video: {crf: 30}\n")
    process(folder, "--stale")
    second = recordings(folder)
    assert {recording_id: second[recording_id] for recording_id in first} == first
    new = {row["source_path"]: row for recording_id, row in second.items() if recording_id not in first}
    assert {path: row["status"] for path, row in new.items() if "swap" in path} == {"gate/swap.mp4": "ok"}
    (new_grown,) = [row for path, row in new.items() if "swap" not in path]
    assert new_grown["status"] == "ok"
    files = {row["source_path"]: row for row in query(folder, "SELECT * FROM source_files")}
    assert {files[f"gate/{name}.mp4"]["state"] for name in ("grown", "copy")} == {"known", "duplicate"}
    assert files["gate/grown.mp4"]["recording_id"] == files["gate/copy.mp4"]["recording_id"] != grown_id

    lines = run_cv_assets("stale", "--each", "--settings", folder / "pipeline.yaml").stdout.splitlines()
    assert f"{swap_id}  normalized_video: video.crf was 23, is now 30" in lines
    assert lines[-1].startswith("2 of these have no file with their content in the watched folders")
    assert "Nothing to do" in process(folder, "--stale")
