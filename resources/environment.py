"""The environment and the data folder that all processes of a pipeline share."""

import os
import sys
from pathlib import Path

from resources.config.settings import Settings
from resources.config.settings_file import SETTINGS_VARIABLE, find_settings_file, load_settings
from resources.dagster_instance.instance_file import write_instance_file
from resources.dagster_instance.postgres_database import check_database, claim_database, name_postgres_driver
from resources.storage.delta_store import Store
from resources.storage.disk import check_data_folder, disk_errors
from resources.storage.folder_access import restrict_access
from resources.storage.tables_choice import check_tables_url, record_tables_url


def choose_settings(
    *,
    settings: Path | None = None,
    watched_folder: Path | None = None,
    data_folder: Path | None = None,
    weights: str | None = None,
) -> Settings:
    """Choose settings and folders for this process and its child processes, through environment variables.

    Prints the path of the settings file if the user has not named it.

    Args:
        settings: The settings file; None means the one that `find_settings_file` finds.
        watched_folder: The watched folder; None means that of the settings.
        data_folder: The data folder; None means that of the settings.
        weights: A weights file or name; None means that of the settings.

    Returns:
        The settings.

    Raises:
        PipelineError: The settings are invalid.
    """
    file = find_settings_file(settings)
    if settings is None:
        print(f"Settings: {file}", file=sys.stderr)
    variables = {
        # Child processes have other current folders, so the file is named for them.
        SETTINGS_VARIABLE: file if settings or file.exists() else None,
        "CV_ASSETS_WATCHED_FOLDER": watched_folder.expanduser().absolute() if watched_folder else None,
        "CV_ASSETS_DATA": data_folder.expanduser().absolute() if data_folder else None,
        "CV_ASSETS_WEIGHTS": _absolute_if_file(weights) if weights else None,
    }
    os.environ.update({name: str(value) for name, value in variables.items() if value is not None})
    loaded_settings = load_settings()
    # The real path: child processes keep the folder even if a link to it is changed meanwhile.
    os.environ["CV_ASSETS_DATA"] = str(loaded_settings.data_folder)
    os.environ["DAGSTER_HOME"] = str(loaded_settings.data_folder / "dagster")
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
    # Dagster's 60 s are too few for a tick on a machine that is busy with models, and a tick that ends late is useful.
    os.environ.setdefault("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "900")
    name_postgres_driver()
    return loaded_settings


def prepare_data_folder(settings: Settings) -> None:
    """Create the data folder with Dagster's home, restrict the access to it, and write the instance file into it.

    Prints a sentence if the access to existing files changes.

    Args:
        settings: Name the data folder, the group that may read it, and the bucket of its tables.

    Raises:
        PipelineError: The folder cannot be created or written, its disk is full, its format is too old or too new, or
            the group, the bucket or the database of Dagster's storage cannot be used.
    """
    data_folder = settings.data_folder
    check_data_folder(data_folder)
    check_tables_url(data_folder, settings.tables_url)
    Store(data_folder).check_format()
    with disk_errors(data_folder):
        if sentence := restrict_access(data_folder, settings.data_group):
            print(sentence, file=sys.stderr)
        record_tables_url(data_folder, settings.tables_url)
        home = data_folder / "dagster"
        home.mkdir(exist_ok=True)
        write_instance_file(home)
    if check_database(data_folder):
        claim_database(data_folder)


def _absolute_if_file(weights: str) -> str:
    path = Path(weights).expanduser()
    return str(path.absolute()) if path.exists() else weights
