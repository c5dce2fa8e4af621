"""Leftovers: unfinished files of killed processes, in the places where the pipeline writes before it renames."""

import shutil
import time
from pathlib import Path

_OF_RUNS = ("media/*/.*.partial.mp4", "unfinished/*/*/*/.*", "tables/*/.*.partial")
_OF_ANY_COMMAND = (".write-probe-*", ".tables_url-*", "dagster/.dagster.yaml.*", "tables/.format_version-*")
_MAX_WRITE_S = 60.0  # a command writes such a file in a moment, and may do so just now


def remove_leftovers(data_folder: Path) -> int:
    """Remove the unfinished files of killed processes; call this only while no run writes into the data folder.

    Crash markers stay: the run planner reads them. So do checkpoints, which the next run continues.

    Returns:
        Number of files and folders.
    """
    leftovers = [path for pattern in _OF_RUNS for path in data_folder.glob(pattern)]
    for pattern in _OF_ANY_COMMAND:
        leftovers += [path for path in data_folder.glob(pattern) if time.time() - path.stat().st_mtime > _MAX_WRITE_S]
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)
