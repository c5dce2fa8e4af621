from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import commands
from resources.storage.delta_store import Store
from tests.builders.numbered_videos import MakeVideo
from tests.builders.walk_recording import store_walk


@pytest.fixture
def arguments(store: Store, make_video: MakeVideo) -> list[str]:
    """Options of commands for a data folder with the recordings `walk` and `empty`."""
    return store_walk(store, make_video)


def run(arguments: Sequence[str], *command: str) -> Result:
    return CliRunner().invoke(commands, [*command, *arguments])


def test_a_clip_of_a_track_is_drawn_and_has_captions(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "clips"
    result = run(
        arguments, "clip", "walk", "--track", "2", "--event", "1", "--context", "0.2", "--boxes", "--blur", "car",
        "--out", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "walk-person-2.mp4: frames 1 to 21, 2.10 s, encoded." in result.output
    assert sorted(path.name for path in out.iterdir()) == [
        *("walk-gate-in-1.mp4", "walk-gate-in-1.srt", "walk-gate-in-1.vtt"),
        *("walk-person-2.mp4", "walk-person-2.srt", "walk-person-2.vtt"),
    ]
    assert "car 1 crosses in: gate" in (out / "walk-gate-in-1.srt").read_text()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["nowhere"], "No recording has the id 'nowhere'"),
        (["walk", "--track", "9"], "The recording walk has no track 9."),
        (["walk", "--event", "1", "--context", "-1"], "-1.0 is not in the range x>=0"),
        (["walk", "--event", "2"], "The recording walk has 1 events, and none number 2."),
        (["walk", "--track", "1", "--from", "2"], "give tracks and events, or --from and --to, not both."),
        (["walk", "--track", "1", "--search", "car"], "give --search, or tracks, events and times, not both."),
        (["walk", "--from", "3", "--to", "2"], "the clip starts at 3 s, after its end at 2 s."),
        (
            ["walk", "--from", "600"],
            "the clip lies outside the recording: it starts at 600 s, and the recording ends at",
        ),
        (
            ["walk", "--to", "2026-03-01 08:59:00"],
            "it ends 58 s before the recording starts. A wall-clock time without",
        ),
        (["walk", "--blur", "bus"], "No object has the class 'bus'; there are: car, person; and face and plate."),
    ],
)
def test_a_clip_that_cannot_be_cut_leaves_nothing(
    arguments: list[str], command: list[str], sentence: str, tmp_path: Path
) -> None:
    result = run(arguments, "clip", *command, "--out", str(tmp_path / "clips" / "a.mp4"))
    assert result.exit_code != 0
    assert sentence in str(result.exception or "") + result.output
    assert not list(tmp_path.glob("clips/*"))


def test_no_file_beside_a_clip_is_overwritten(arguments: list[str], tmp_path: Path) -> None:
    captions = tmp_path / "a.srt"
    captions.write_text("by a person")
    result = run(arguments, "clip", "walk", "--event", "1", "--out", str(tmp_path / "a.mp4"))
    assert f"The file {captions} exists: name another one with --out." in result.output
    assert (captions.read_text(), (tmp_path / "a.mp4").exists()) == ("by a person", False)


def test_a_search_gives_a_clip_of_each_object_that_is_found(arguments: list[str], tmp_path: Path) -> None:
    result = run(arguments, "clip", "walk", "--search", "person", "--context", "0.2", "--out", str(tmp_path / "clips"))
    assert result.exit_code == 0, result.output
    assert [path.name for path in sorted(tmp_path.glob("clips/*.mp4"))] == ["walk-person-2.mp4"]
    refused = run(arguments, "clip", "walk", "--search", "a red car", "--out", str(tmp_path / "other"))
    assert (
        "--search 'a red car' is no class of the recording walk (it has: car, person), no crop RECORDING:TRACK and no "
        "picture; a description needs the setting search.text_encoder."
    ) in str(refused.exception) + refused.output


def test_a_privacy_copy_is_written_with_its_audit_and_only_once(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "copies" / "walk.mp4"
    out.parent.mkdir()
    result = run(arguments, "privacy-copy", "walk", "--cover", "car,person", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "walk.mp4: 30 frames, 3.00 s, at " in result.output
    assert "0 of 44 boxes, 0 of 0 faces and 0 of 0 texts of the original are seen." in result.output
    assert [path.name for path in out.parent.iterdir()] == ["walk.mp4"]
    for options, sentence in (
        (("--cover", "car", "--out", str(out)), "exists: name another one with --out."),
        (("--cover", "bus", "--out", str(tmp_path / "b.mp4")), "No object has the class 'bus'"),
        (("--cover", ",", "--out", str(tmp_path / "b.mp4")), "--cover names nothing"),
        (("--cover", "car", "--out", str(tmp_path / "b.mkv")), "is a .mp4 file: end its name with .mp4."),
    ):
        refused = run(arguments, "privacy-copy", "walk", *options)
        assert sentence in str(refused.exception) + refused.output
        assert refused.exit_code != 0


def test_a_recap_of_a_camera_is_written_once(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "recap.mp4"
    command = ("recap", "--camera", "gate", "--day", "2026-03-01", "--length", "1", "--out", str(out))
    result = run(arguments, *command)
    assert "recap.mp4: 1.0 s of 1 stretch with 3.0 s in all, from 1 of 2 recordings." in result.output
    again = run(arguments, *command)
    assert "exists: name another one with --out." in str(again.exception) + again.output
    for options, sentence in (
        (("--camera", "gate", "--day", "2026-03-02"), "No recording of the camera starts on 2026-03-02."),
        (("--camera", "gate", "--day", "noon"), "'noon' is no day"),
        (("--camera", "gate", "--day", "9999-12-31"), "'9999-12-31' is no day"),
        (("empty",), "there is nothing to recap"),
        ((), "name recordings, or a camera with --camera."),
    ):
        refused = run(arguments, "recap", *options, "--out", str(tmp_path / "other.mp4"))
        assert sentence in str(refused.exception) + refused.output
        assert not (tmp_path / "other.mp4").exists()
