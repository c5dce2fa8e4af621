"""The examples of docs/api.md run as they stand against a real pipeline."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from demo.scenes import demo_scene, write_video
from resources.results import results_path
from resources.settings import PROJECT_ROOT
from tests.end_to_end.stack import CV_ASSETS, Stack

DOCUMENT = (PROJECT_ROOT / "docs" / "api.md").read_text()


def examples(language: str) -> str:
    """All examples of a language as one program."""
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("api"))
    made.start()
    yield made
    made.stop()


def environment(stack: Stack, scene: int) -> dict[str, str]:
    clip = stack.folder / f"clip{scene}.mp4"
    write_video(demo_scene(scene, 4, {"car": 1}), clip)
    return {
        **stack.environment,
        "PATH": f"{CV_ASSETS.parent}:{os.environ['PATH']}",
        "CV_ASSETS_URL": f"http://127.0.0.1:{stack.port}",
        "CV_ASSETS_SETTINGS": str(stack.settings),
        "WATCHED": str(stack.watched),
        "RESULTS": str(results_path(stack.data)),
        "CLIP": str(clip),
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_in_the_shell(stack: Stack) -> None:
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", examples("sh")],
        env=environment(stack, 1), capture_output=True, text=True, timeout=240, cwd=stack.folder,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert re.match(r"visitor-[0-9a-f]{8}\n", ended.stdout)
    assert '"status":"ok"' in ended.stdout
    assert '{"class_name":"car","objects":1}' in ended.stdout
    assert '"runsOrError"' in ended.stdout
    assert '"LaunchRunSuccess"' in ended.stdout


def test_the_examples_in_python(stack: Stack) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", examples("python")],
        env=environment(stack, 2), capture_output=True, text=True, timeout=240, cwd=stack.folder,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "('ok', None)" in ended.stdout
    assert "[(4.0, 100, 1)]" in ended.stdout
    assert "SUCCESS" in ended.stdout.splitlines()[-1]


def test_the_statuses_are_all_explained() -> None:
    from dagster import DagsterRunStatus

    from resources.schema import STATUSES

    for status in (*STATUSES, *(status.value for status in DagsterRunStatus)):
        if status not in ("NOT_STARTED", "MANAGED", "SUSPENDED"):  # which no run here has, or for a moment only
            assert f"`{status}`" in DOCUMENT, status
