"""What the handlers of requests share: settings, tables, published results and Dagster's instance."""

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from cv_assets.asset_graph import AssetGraph
from resources.config.settings import Settings
from resources.config.settings_file import find_settings_file, load_settings
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.watched_files import FileState
from serve.clip_runner import ClipRunner
from serve.dagster_client import DagsterClient
from serve.published_results import PublishedResults
from serve.run_progress import RunProgress
from serve.sql_runner import SqlRunner
from serve.submissions import Submissions
from serve.uploads import Uploads

if TYPE_CHECKING:
    from dagster import DagsterInstance


class AppState:
    """The state of the server.

    Args:
        settings: Settings at the start.
        instance: Dagster's instance; None means that of DAGSTER_HOME, opened with the first use.

    Attributes:
        data_folder: The data folder, which stays the same while the server runs.
        store: The tables, for reading.
        results: The published results.
        progress: The unfinished runs, and what their stages report.
        submissions: What programs have submitted, and their callbacks.
        uploads: Puts uploads into the watched folder.
        dagster: Launches and ends runs.
        sql: Runs SQL queries in processes of their own.
        clips: Makes clips in processes of their own.
    """

    def __init__(self, settings: Settings, instance: "DagsterInstance | None" = None) -> None:
        self.data_folder: Path = settings.data_folder
        self.store = Store(settings.data_folder)
        self.results = PublishedResults(settings.data_folder)
        self.progress = RunProgress(lambda: self.instance)
        self.submissions = Submissions(settings.data_folder)
        self.uploads = Uploads(self.store)
        self.dagster = DagsterClient(settings.data_folder)
        self.sql = SqlRunner(settings.data_folder)
        self.clips = ClipRunner()
        self._settings, self._instance = settings, instance
        self._graph: AssetGraph | None = None
        self._lock = threading.Lock()
        self._settings_state = _read_file_state(find_settings_file())

    @property
    def settings(self) -> Settings:
        """The settings in force; a changed file is read again, and kept out while it is invalid."""
        state = _read_file_state(find_settings_file())
        with self._lock:
            if state != self._settings_state:
                self._settings_state = state
                try:
                    settings = load_settings()
                except PipelineError:
                    return self._settings  # the pipeline itself reports what is wrong with the file
                if settings.data_folder == self.data_folder:
                    self._settings = settings
            return self._settings

    @property
    def graph(self) -> AssetGraph:
        """The asset graph of the settings in force."""
        settings = self.settings
        with self._lock:
            if self._graph is None or self._graph.settings is not settings:
                self._graph = AssetGraph.build(settings)
            return self._graph

    @property
    def instance(self) -> "DagsterInstance":
        """Dagster's instance, for its runs and events.

        Raises:
            PipelineError: The data folder has no Dagster home.
        """
        with self._lock:
            if self._instance is None:
                self._instance = _open_instance(self.data_folder)
            return self._instance


def _open_instance(data_folder: Path) -> "DagsterInstance":
    from dagster import DagsterInstance

    if not (data_folder / "dagster" / "dagster.yaml").exists():
        raise PipelineError(f"The data folder {data_folder} has no Dagster home: start the pipeline once.")
    os.environ.setdefault("DAGSTER_HOME", str(data_folder / "dagster"))
    return DagsterInstance.get()


def _read_file_state(file: Path) -> FileState | None:
    try:
        return FileState.read(file)
    except OSError:
        return None


def get_state(request: Request) -> AppState:
    """The state of the server that answers a request."""
    state = request.app.state.cv_assets
    assert isinstance(state, AppState)
    return state


State = Annotated[AppState, Depends(get_state)]
"""Parameter of a handler that gets the state of the server."""
