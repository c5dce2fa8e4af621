"""Where a command works: the environment that every process of one pipeline shares, and the lock on its data folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resources.errors import PipelineError
from resources.postgres import check_database
from resources.settings import PROJECT_ROOT, SETTINGS_VARIABLE, Settings, load_settings
from resources.storage import Store, check_data_folder, disk_errors


def choose(
    *,
    settings: Path | None = None,
    watched_folder: Path | None = None,
    data_folder: Path | None = None,
    weights: str | None = None,
) -> Settings:
    """Settle settings and folders for this process and all that it starts.

    Args:
        settings: The settings file; None keeps CV_ASSETS_SETTINGS or the project's pipeline.yaml.
        watched_folder: Where recordings are dropped; None keeps what the settings say.
        data_folder: Where everything is stored; None keeps what the settings say.
        weights: A weights file or name; None keeps what the settings say.

    Raises:
        PipelineError: The settings cannot be used.
    """
    given = {
        SETTINGS_VARIABLE: settings.expanduser().absolute() if settings else None,
        "CV_ASSETS_WATCHED_FOLDER": watched_folder.expanduser().absolute() if watched_folder else None,
        "CV_ASSETS_DATA": data_folder.expanduser().absolute() if data_folder else None,
        "CV_ASSETS_WEIGHTS": _absolute_if_file(weights) if weights else None,
    }
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    chosen = load_settings()
    os.environ["DAGSTER_HOME"] = str(chosen.data_folder / "dagster")
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
    return chosen


def prepare_data_folder(data_folder: Path) -> None:
    """Make the data folder and, in it, Dagster's home with the project's dagster.yaml linked into it.

    Raises:
        PipelineError: The folder cannot be made or written, its disk is full, another version wrote its tables, or the
            database that keeps its history cannot be used.
    """
    check_data_folder(data_folder)
    if outdated := Store(data_folder).outdated_tables():
        raise PipelineError(
            f"The data folder {data_folder} was written by another version, whose tables have other columns "
            f"({', '.join(outdated)}): choose a new one with --data or data_folder."
        )
    with disk_errors(data_folder):
        home = data_folder / "dagster"
        home.mkdir(exist_ok=True)
        link, target = home / "dagster.yaml", PROJECT_ROOT / "dagster.yaml"
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    check_database(data_folder)


@contextmanager
def data_folder_lock(data_folder: Path) -> Iterator[None]:
    """Be the only pipeline on this data folder until the block ends.

    Raises:
        PipelineError: Another one works on it.
    """
    with (data_folder / ".pipeline.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise PipelineError(
                f"Another pipeline (process {holder}) works on {data_folder}: drop the recordings into its watched "
                "folder, stop it, or choose another data folder with --data."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        os.set_inheritable(lock.fileno(), False)
        yield


def _absolute_if_file(weights: str) -> str:
    path = Path(weights).expanduser()
    return str(path.absolute()) if path.exists() else weights
