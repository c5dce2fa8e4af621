"""Unfinished files of killed processes."""

import os
from pathlib import Path

from resources.storage.leftovers import remove_leftovers


def test_unfinished_files_are_removed_and_results_checkpoints_and_crash_markers_stay(tmp_path: Path) -> None:
    kept = [
        "media/a/normalized.mp4",
        "unfinished/runs/6f1c",
        "unfinished/detections/a/v1/00000/detections.arrow",
        "dagster/dagster.yaml",
        "tables/format_version",
        "published/results-1.duckdb",
        ".pipeline.lock",
        ".write-probe-2",  # another command is writing it
    ]
    removed = [
        "media/a/.6f1c.partial.mp4",
        "unfinished/detections/a/v1/.1-77/detections.arrow",
        "dagster/.dagster.yaml.77",
        "tables/.format_version-77-1",
        ".write-probe-77",
    ]
    for name in (*kept, *removed):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        if name in removed:
            os.utime(file, (0, 0))
    assert remove_leftovers(tmp_path) == len(removed)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == sorted(kept)
    assert remove_leftovers(tmp_path) == 0
