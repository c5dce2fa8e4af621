"""Writes the tables of two small recordings and of a file that is no video, as a fixture of the present format.

Run once for each format, before the release: python -m tests.builders.format_fixture
"""

import socket
import tempfile
from pathlib import Path
from shutil import make_archive
from unittest.mock import patch

from dagster import DagsterInstance

from resources.storage.delta_store import Store
from resources.storage.format_version import FORMAT_VERSION
from resources.storage.results_database import publish
from tests.builders.pipeline import INGEST_STAGES, Pipeline

ARCHIVE = Path(__file__).parents[1] / "resources" / "storage" / f"tables_of_format_{FORMAT_VERSION}.tar.xz"


def write_format_fixture() -> None:
    """Run ingest and analysis, write their rows into new tables, each in a single commit, and archive these."""
    with (
        tempfile.TemporaryDirectory() as work_folder,
        DagsterInstance.ephemeral() as instance,
        patch.object(socket, "gethostname", return_value="machine"),
    ):
        pipeline = Pipeline(Path(work_folder), instance)
        pipeline.run(INGEST_STAGES, "a", "c")
        analysis_stages = [name for name in pipeline.stage_names if name not in INGEST_STAGES]
        for name in ("a", "c"):
            if not pipeline.run(analysis_stages, name, name).success:
                raise RuntimeError(f"The analysis of the recording {name} failed: see the messages above.")
        publish(pipeline.store, pipeline.settings)
        store = Store(Path(work_folder) / "fixture")
        for table in pipeline.store.tables():
            store.append(table, pipeline.store.read(table))
        make_archive(str(ARCHIVE).removesuffix(".tar.xz"), "xztar", store.tables_folder)


if __name__ == "__main__":
    write_format_fixture()
