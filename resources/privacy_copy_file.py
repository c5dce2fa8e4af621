"""Where the privacy copy of a recording is."""

from pathlib import Path

PRIVACY_COPIES_FOLDER = "privacy_copies"


def privacy_copy_path(data_folder: Path, recording_id: str) -> Path:
    """The file of a recording's privacy copy; the folder has nothing else, so that it can be shared as it is."""
    return data_folder / PRIVACY_COPIES_FOLDER / f"{recording_id}.mp4"
