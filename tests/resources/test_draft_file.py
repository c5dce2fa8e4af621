from pathlib import Path

import duckdb
import pytest

from resources.draft_file import draft_file
from resources.errors import PipelineError


def test_two_writers_of_a_file_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "monday.mp4"
    with draft_file("recap", file) as first:
        first.write_text("the first part")
        with draft_file("recap", file) as second:
            second.write_text("the other")
        assert file.read_text() == "the other"
        with first.open("a") as stream:
            stream.write(" and the rest")
    assert file.read_text() == "the first part and the rest"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_keeps_the_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "monday.mp4"
    file.write_text("of an earlier run")
    text = 'IO Error: Async write failed: {"exception_message":"Could not write","errno":"28"}'
    for error in (OSError(28, "No space left on device"), duckdb.IOException(text)):
        sentence = f"The recap {file} cannot be written: No space left on device."
        with pytest.raises(PipelineError, match=sentence), draft_file("recap", file) as draft:
            draft.write_text("half")
            raise error
        assert file.read_text() == "of an earlier run"
        assert list(tmp_path.iterdir()) == [file]
