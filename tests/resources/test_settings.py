from pathlib import Path

import pytest

from resources.errors import PipelineError
from resources.settings import Settings, load_settings, settings_version


def write(folder: Path, text: str) -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(text)
    return file


def test_every_key_is_optional(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ""), {})
    assert settings.detections == Settings().detections
    assert settings.watched_folder == tmp_path / "recordings"
    assert settings.data_folder == tmp_path / "data"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("wached_folder: x", "unknown setting wached_folder; did you mean watched_folder", id="top"),
        pytest.param("tracks: {lst_s: 1}", "unknown setting tracks.lst_s; did you mean tracks.lost_s", id="nested"),
        pytest.param("tracks: {qqq: 1}", "unknown setting tracks.qqq; known: method", id="nothing near"),
        pytest.param("video: {crf: 99}", r"video.crf: .*less than or equal to 51", id="range"),
        pytest.param("video: {crf: x}", r"video.crf: .*integer", id="type"),
        pytest.param("video:", "video is empty", id="empty section"),
        pytest.param("- a", "must hold keys and values, not a list", id="list"),
        pytest.param("a: [", "is not valid YAML", id="syntax"),
        pytest.param("intake: {time_zone: Mars/Base}", "not an IANA time zone", id="zone"),
        pytest.param("intake: {captured_at_patterns: ['(']}", "not a regular expression", id="pattern"),
        pytest.param("intake: {captured_at_patterns: ['x']}", "lacks the named groups", id="groups"),
    ],
)
def test_a_wrong_file_gets_one_sentence_that_names_it(tmp_path: Path, text: str, sentence: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(PipelineError, match=sentence) as caught:
        load_settings(file, {})
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot be read: No such file"):
        load_settings(tmp_path / "none.yaml", {})


def test_variables_override_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "data_folder: a\ndetections: {weights: b.pt, min_confidence: 0.2}")
    settings = load_settings(file, {"CV_ASSETS_DATA": "/x/y", "CV_ASSETS_WEIGHTS": "c.pt"})
    assert settings.data_folder == Path("/x/y")
    assert settings.detections.weights == "c.pt"
    assert settings.detections.min_confidence == 0.2


def test_weights_beside_the_settings_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"x")
    settings = load_settings(write(tmp_path, "detections: {weights: mine.pt}"), {})
    assert settings.detections.weights == str(tmp_path / "mine.pt")


def test_a_data_folder_inside_the_watched_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="lies inside the watched folder"):
        load_settings(write(tmp_path, "watched_folder: a\ndata_folder: a/data"), {})


def test_equal_settings_have_equal_versions() -> None:
    one, other = Settings(), Settings.model_validate({"video": {"crf": 30}})
    assert settings_version("a", one.video) == settings_version("a", Settings().video)
    assert settings_version("a", one.video) != settings_version("a", other.video)
    assert settings_version("a", one.video) != settings_version("b", one.video)
