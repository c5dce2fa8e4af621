"""The Python snippets of docs/connect.md and the notebook run on published results."""

import json
from pathlib import Path

import pytest

from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT
from resources.schema.track_tables import TRACKS
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from tests.builders.numbered_videos import MakeVideo
from tests.builders.walk_recording import store_walk
from tests.test_docs import code_blocks

PAGE = PROJECT_ROOT / "docs" / "connect.md"
NOTEBOOK = PROJECT_ROOT / "docs" / "notebooks" / "cameras.ipynb"

pytestmark = pytest.mark.long


@pytest.fixture
def folder(tmp_path: Path, make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with published results in `data/`, which is the current folder."""
    store = Store(tmp_path / "data")
    store_walk(store, make_video)
    publish(store, Settings(data_folder=store.data_folder))
    assert store.row_count(TRACKS) == 2
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("snippet", code_blocks(PAGE.read_text(), "python"), ids=lambda text: text.split("\n")[0])
def test_a_snippet_runs_and_prints_rows(folder: Path, snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(snippet, str(PAGE), "exec"), {})
    output = capsys.readouterr().out
    assert "car" in output or "gate" in output, output


def test_each_cell_of_the_notebook_runs(folder: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["language"]) == (4, "python")
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    lengths = {name: len(value) for name, value in names.items() if hasattr(value, "iloc")}  # type: ignore[arg-type]
    assert lengths["recordings"] == 2
    assert lengths["objects"] == 2
    assert lengths["per_hour"] == 1
    assert lengths["crossings"] == 1
