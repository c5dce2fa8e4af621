"""Where the synopsis of a recording is that its page shows; it is deleted with the recording."""

import shutil
from pathlib import Path


def synopsis_file(data_folder: Path, recording_id: str) -> Path:
    """The video; where its objects are stands beside it, in a JSON file of the same name."""
    return data_folder / "synopses" / recording_id / "synopsis.mp4"


def delete_synopsis(data_folder: Path, recording_id: str) -> None:
    """Delete the synopsis of a recording, if it has one."""
    shutil.rmtree(data_folder / "synopses" / recording_id, ignore_errors=True)
