"""The declaration of a stage is read from the text of its file, which is not run."""

from pathlib import Path

import pytest

from resources.errors import PipelineError
from tests.builders.own_stage_files import FRAME_STAGE, read_stage, write_stage

VALID = FRAME_STAGE.format(body="")


def test_the_declaration_becomes_a_table_with_types_units_and_comments(tmp_path: Path) -> None:
    stage = read_stage(write_stage(tmp_path, VALID))
    assert (stage.name, stage.inputs, stage.batch_size, stage.device) == ("frame_levels", ("frames",), 4, "cpu")
    assert stage.table.grain == "One row per frame with its brightness."
    assert stage.table.key == ("recording_id", "frame_index")
    assert [column.name for column in stage.table.columns] == [
        *("recording_id", "camera", "frame_index", "time_s", "brightness", "captured_at_utc", "time_mmss"),
    ]
    brightness = stage.table.columns[4]
    assert (brightness.comment, str(brightness.type), brightness.nullable) == ("Mean level [0 to 255]", "double", True)
    assert not stage.table.columns[2].nullable


def test_the_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "was run"
    source = f"import no_such_module\nopen({str(marker)!r}, 'w').close()\nraise SystemExit\n{VALID}"
    assert read_stage(write_stage(tmp_path, source)).name == "frame_levels"
    assert not marker.exists()


def test_a_comment_in_the_file_changes_its_content(tmp_path: Path) -> None:
    before = read_stage(write_stage(tmp_path, VALID)).content_hash
    assert read_stage(write_stage(tmp_path, f"# other\n{VALID}")).content_hash != before


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("def frame_levels(batch):", "def frame_levels(batch:", r"line \d+: the file is not valid Python"),
        ("@stage(", "@other(", "the file has no function with it"),
        (
            'inputs=["frames"]',
            'inputs=read("x")',
            "line 7: inputs is not a plain value: the declaration is read without",
        ),
        ('inputs=["frames"]', 'inputs=["frames", "crops"]', "line 7: inputs has frames and crops"),
        ('inputs=["frames"],', "", "@stage lacks the argument inputs"),
        ('key=["frame_index"]', 'keys=["frame_index"]', r"@stage has no argument keys; did you mean key\?"),
        ('key=["frame_index"]', 'key=["frame"]', "line 8: key names frame, which is not in columns"),
        ('["frame_index", "time_s"', '["frame_no", "time_s"', "'frame_no' is not a column that other tables have"),
        (
            '"float", "Mean',
            '"double", "Mean',
            "the column brightness has the type 'double'; known: text, float, int, flag",
        ),
        ('"brightness", "float"', '"Brightness", "float"', "the column 'Brightness' needs another name"),
        (
            '"brightness", "float"',
            '"time_mmss", "float"',
            "the pipeline adds the column time_mmss itself: leave it out",
        ),
        ('"brightness", "float"', '"captured_at_utc", "float"', "the column 'captured_at_utc' needs another name"),
        ('"0 to 255", minimum=0', '"0 to 255", 0, 1, 2', "Column takes 6 arguments at most: name, type, meaning, unit"),
        ('"0 to 255"', "255", "the column brightness has the unit 255, which is no text"),
        ("maximum=255", "maximum={}", "the column brightness has the maximum {}, which is no number"),
        (
            '["frame_index", "time_s"',
            '["frame_index", ["time_s"]',
            r"\['time_s'\] is not a column that other tables have",
        ),
        ('"float", "Mean', '"text", "Mean', "the column brightness is a text, which has no minimum: leave it out"),
        ("maximum=255", "maximal=255", r"Column has no argument maximal; did you mean maximum\?"),
        ("maximum=255", "maximum='255'", "the column brightness has the maximum '255', which is no number"),
        ("batch_size=SIZE", "batch_size=0", "line 10: batch_size is 0: name a whole number from 1 to 10000"),
        ("batch_size=SIZE", "device='gpu'", "device is 'gpu': name 'cpu' or 'auto'"),
        ("def frame_levels", "def FrameLevels", "the function FrameLevels names a table: use lower-case letters"),
        ("def frame_levels", "def order", "the function order names a table, and order is a word of SQL: rename it"),
    ],
)
def test_a_wrong_declaration_is_one_sentence_with_file_and_line(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in VALID
    file = write_stage(tmp_path, VALID.replace(before, after))
    with pytest.raises(PipelineError, match=message) as error:
        read_stage(file)
    assert str(error.value).startswith(str(file))
    assert str(error.value).endswith((".", "?"))


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"missing.py: the file of a stage cannot be read: No such file"):
        read_stage(tmp_path / "missing.py")
    (tmp_path / "latin.py").write_bytes("# é".encode("latin-1"))
    with pytest.raises(PipelineError, match=r"latin.py: the file of a stage is not UTF-8 text"):
        read_stage(tmp_path / "latin.py")
