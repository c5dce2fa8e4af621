import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from resources.errors import PipelineError
from resources.storage.disk import check_data_folder


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="cannot be used: Not a directory"):
        check_data_folder(tmp_path / "file" / "data")
    with pytest.raises(PipelineError, match="MB free"):
        check_data_folder(tmp_path, min_free_bytes=10**18)


@pytest.mark.parametrize(
    ("arguments", "min_free_bytes"),
    [pytest.param((), 200_000_000, id="by default"), pytest.param((100_000_000,), 100_000_000, id="as given")],
)
def test_a_data_folder_needs_a_minimum_of_free_space(
    arguments: tuple[int, ...], min_free_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_blocks = min_free_bytes // 1000
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free_blocks, f_frsize=1000))
    check_data_folder(tmp_path, *arguments)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free_blocks - 1, f_frsize=1000))
    minimum_mb = min_free_bytes // 1_000_000
    with pytest.raises(PipelineError, match=rf"only {minimum_mb - 1} MB free, and {minimum_mb} MB are needed"):
        check_data_folder(tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []
