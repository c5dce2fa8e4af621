"""Checks of the files that commands write for people."""

from collections.abc import Sequence
from pathlib import Path

from resources.config.settings import Settings
from resources.errors import PipelineError


def check_new_file(what: str, file: Path, settings: Settings, suffix: str, beside: Sequence[str] = ()) -> None:
    """Check that a file, and those that are written beside it, can be made.

    Args:
        what: What the file is, for the error.
        file: The file.
        settings: The watched folders and the data folder, in which people's files must not lie.
        suffix: The ending of its name.
        beside: Endings of the files of the same name beside it.

    Raises:
        PipelineError: The name has another ending, a file exists, or lies in a folder of the pipeline or in one that
            does not exist.
    """
    if file.suffix.lower() != suffix:
        raise PipelineError(f"The {what} {file} is a {suffix} file: end its name with {suffix}.")
    check_outside_pipeline(what, file, settings)
    for new_file in (file, *(file.with_suffix(ending) for ending in beside)):
        if new_file.exists():
            raise PipelineError(f"The file {new_file} exists: name another one with --out.")
    if not file.parent.is_dir():
        raise PipelineError(f"The folder {file.parent} does not exist.")


def check_outside_pipeline(what: str, path: Path, settings: Settings) -> None:
    """Check that a path lies outside of the folders of the pipeline.

    Raises:
        PipelineError: It does not.
    """
    for name, folder in (*(("watched", path) for path in settings.watched_folders), ("data", settings.data_folder)):
        if path.resolve().is_relative_to(folder.resolve()):
            raise PipelineError(f"The {what} {path} would lie inside the {name} folder: choose another with --out.")
