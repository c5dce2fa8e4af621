"""The examples of docs/api.md run unchanged against a real pipeline."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from dagster import DagsterRunStatus

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.config.settings_file import PROJECT_ROOT
from resources.dagster_instance.server_addresses import PAGES, read_address
from resources.schema.columns import STATUSES
from serve.recording_report import STATE_MEANINGS
from tests.builders.command_line import CV_ASSETS
from tests.builders.running_pipeline import RunningPipeline

DOCUMENT = (PROJECT_ROOT / "docs" / "api.md").read_text()


def examples(language: str) -> str:
    """All examples of a language as one program."""
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPipeline]:
    pipeline = RunningPipeline(tmp_path_factory.mktemp("api"))
    pipeline.start()
    pipeline.wait_until(lambda: read_address(pipeline.data_folder, PAGES), 60, "the pages to be served")
    yield pipeline
    pipeline.stop()


def example_environment(pipeline: RunningPipeline, seed: int) -> dict[str, str]:
    """The variables that the examples read; draws the clip that they submit."""
    clip = pipeline.folder / f"clip{seed}.mp4"
    write_video(demo_scene(seed, 4, {"car": 1}), clip)
    return {
        **pipeline.environment,
        "PATH": f"{CV_ASSETS.parent}:{os.environ['PATH']}",
        "CV_ASSETS_URL": f"http://127.0.0.1:{pipeline.port}",
        "CV_ASSETS_API": read_address(pipeline.data_folder, PAGES) or "",
        "CLIP": str(clip),
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.long
def test_the_shell_examples_submit_query_and_materialize(pipeline: RunningPipeline) -> None:
    process = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", examples("sh")],
        env=example_environment(pipeline, 1), capture_output=True, text=True, timeout=240, cwd=pipeline.folder,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr + process.stdout
    assert re.match(r"visitor-[0-9a-f]{8}\nFalse\ndone\n", process.stdout)
    assert '"frame_count":100' in process.stdout and "track_id,class_name\n1,car\n" in process.stdout
    assert '{"class_name":"car","objects":1}' in process.stdout
    assert 'cv_assets_queued_runs{queue="gpu"}' in process.stdout
    assert (pipeline.folder / "part.mp4").stat().st_size == 100
    assert '"runsOrError"' in process.stdout
    assert '"LaunchRunSuccess"' in process.stdout


@pytest.mark.long
def test_the_python_examples_submit_query_and_materialize(pipeline: RunningPipeline) -> None:
    process = subprocess.run(
        [sys.executable, "-c", examples("python")],
        env=example_environment(pipeline, 2), capture_output=True, text=True, timeout=240, cwd=pipeline.folder,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr + process.stdout
    assert "done ok None\n4.0 100 1\nTrue\n" in process.stdout
    assert "SUCCESS" in process.stdout.splitlines()[-1]


def test_every_state_of_recordings_is_documented() -> None:
    for state, meaning in STATE_MEANINGS.items():
        assert f"| `{state}` | {meaning.split(';')[0].split(':')[0]}" in DOCUMENT, state


def test_every_status_of_recordings_and_runs_is_documented() -> None:
    for status in (*STATUSES, *(status.value for status in DagsterRunStatus)):
        if status not in ("NOT_STARTED", "MANAGED", "SUSPENDED"):  # which no run of this pipeline has for long
            assert f"`{status}`" in DOCUMENT, status
