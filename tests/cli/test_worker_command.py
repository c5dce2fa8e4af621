"""The command worker: how it ends."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import worker_command
from cli.main import commands
from resources.errors import PipelineError
from resources.workers import worker


def test_workers_are_stopped_although_their_runs_cannot_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    class FailedWorkers:
        failed, run_ids = "worker 1", ("run",)

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def start(self) -> None:
            pass

        def stop(self, patience_s: float) -> None:
            stopped.append(patience_s)

    def interrupt(_: object) -> None:
        raise PipelineError("The database is away.")

    monkeypatch.setattr(worker, "Workers", FailedWorkers)
    monkeypatch.setattr(worker_command, "_interrupt", interrupt)
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("")
    result = CliRunner().invoke(commands, ["worker", "--queue", "cpu", "--data", str(tmp_path)])
    assert "The database is away." in str(result.exception) + result.output
    assert stopped == [10.0]
