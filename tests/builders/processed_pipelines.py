"""Pipelines on copies of what others left: all tests of a session share one run of the stages."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dagster import DagsterInstance

from tests.builders.pipeline import INGEST_STAGES, Pipeline

CAMERA_PATHS = {"a": "gate/2026-03-01_08-00-00_a", "c": "yard/2026-03-02_08-00-00_c"}
"""Paths of the good recordings in the folders of two cameras."""


@contextmanager
def open_pipeline(folder: Path, earlier: Path | None = None, home: str = "dagster") -> Iterator[Pipeline]:
    """A pipeline with the recordings of two cameras, on a copy of all that an earlier one left.

    Args:
        folder: The folder of the pipeline.
        earlier: The folder of the earlier pipeline, with its Dagster history in `dagster`; None starts with nothing.
        home: Where in its folder the pipeline has its Dagster history.
    """
    if earlier:
        shutil.copytree(earlier / "recordings", folder / "recordings")
        shutil.copytree(earlier / "data", folder / "data", symlinks=True)
        shutil.copytree(earlier / "dagster", folder / home)
    (folder / home).mkdir(parents=True, exist_ok=True)
    with DagsterInstance.local_temp(str(folder / home)) as instance:
        yield Pipeline(folder, instance, CAMERA_PATHS)


def ingested_folder(factory: pytest.TempPathFactory) -> Path:
    """What a pipeline left that ingested all recordings in one run, of which one was rejected."""

    def ingest(folder: Path) -> None:
        with open_pipeline(folder) as pipeline:
            pipeline.run(INGEST_STAGES, "a", "c")

    return _make_once(factory, "ingested", ingest)


def processed_folder(factory: pytest.TempPathFactory) -> Path:
    """What a pipeline left that has all assets of the good recordings."""
    ingested = ingested_folder(factory)

    def process(folder: Path) -> None:
        with open_pipeline(folder, ingested) as pipeline:
            for name in ("a", "c"):
                assert pipeline.run(pipeline.stage_names[len(INGEST_STAGES) :], name, name).success

    return _make_once(factory, "processed", process)


def _make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Make a folder in the first process of the session that needs it; others wait until it is whole."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = folder.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)  # of a process that failed
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder
