from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cv_assets.commands.cli import commands
from resources.errors import PipelineError
from resources.settings import Settings, load_settings, settings_version


def write(folder: Path, text: str) -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(text)
    return file


def zone(points: str) -> str:
    return f"cameras: {{gate: {{zones: [{{name: yard, points: [{points}]}}]}}}}"


def line(points: str) -> str:
    return f"cameras: {{gate: {{lines: [{{name: door, points: [{points}]}}]}}}}"


def ground(points: str) -> str:
    return f"cameras: {{gate: {{ground: {{points: [{points}], metres: [[0, 0], [1, 0], [1, 1], [0, 1]]}}}}}}"


def hook(text: str) -> str:
    return f"notifications: {{webhooks: [{{name: ops, {text}}}]}}"


def post(text: str) -> str:
    given = {"name": "desk", "host": "h", "sender": "a@b", "recipients": ["c@d"]} | yaml.safe_load(f"{{{text}}}")
    return yaml.safe_dump({"notifications": {"mails": [given], "webhooks": [{"name": "a", "url": "http://a/"}]}})


TWICE = (
    "cameras: {g: {lines: [{name: a, points: [[0, 0], [1, 1]]}], zones: [{name: a, points: [[0, 0], [1, 0], [1, 1]]}]}}"
)


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
        pytest.param(
            "models: [{name: a, weights: b.pt, min_confidense: 1}]",
            "unknown setting models.0.min_confidense; did you mean models.0.min_confidence",
            id="in a list",
        ),
        pytest.param("models: [{name: A b, weights: b.pt}]", r"models.0.name: .*pattern", id="model name"),
        pytest.param(
            "models: [{name: a, weights: b.pt}, {name: a, weights: c.pt}]", "two models are called a", id="model twice"
        ),
        pytest.param("detections: {task: track}", r"detections.task: .*'detect', 'segment'", id="task"),
        pytest.param("detections: {regions: {gate: [[[0, 2], [1, 1], [0, 1]]]}}", "each from 0 to 1", id="region"),
        pytest.param("tracks: {qqq: 1}", "unknown setting tracks.qqq; known: method", id="nothing near"),
        pytest.param("video: {crf: 99}", r"video.crf: .*less than or equal to 51", id="range"),
        pytest.param("video: {crf: x}", r"video.crf: .*integer", id="type"),
        pytest.param("video:", "video is empty", id="empty section"),
        pytest.param("- a", "must hold keys and values, not a list", id="list"),
        pytest.param("a: [", "is not valid YAML", id="syntax"),
        pytest.param(
            "queue: {gpu_runs: 1}\ncameras:\n  a: {}\nqueue:\n  gpu_runs: 3\n",
            'is not valid YAML: "queue" stands there twice, the second time in line 4.',
            id="a key twice",
        ),
        pytest.param("queue:\n  gpu_runs: 1\n  gpu_runs: 3\n", '"gpu_runs" stands there twice', id="a key twice below"),
        pytest.param("intake: {time_zone: Mars/Base}", "not an IANA time zone", id="zone"),
        pytest.param(
            "cameras: {gate: {lnes: []}}", "cameras.gate.lnes; did you mean cameras.gate.lines", id="in camera"
        ),
        pytest.param(
            "cameras: {gate: {lines: [{nam: a}]}}", "lines.0.nam; did you mean cameras.gate.lines.0.name", id="in line"
        ),
        pytest.param("cameras: {gate: }", "cameras.gate is empty", id="empty camera"),
        pytest.param(zone("[0, 0], [1, 1]"), "a zone needs at least 3 points, not 2", id="two corners"),
        pytest.param(
            zone("[0, 0], [1, 1], [1, 0], [0, 1]"), "crosses itself: the edge from point 1 meets", id="bow tie"
        ),
        pytest.param(zone("[0, 0], [0.5, 0.5], [1, 1]"), "no area: its points lie on one line", id="flat zone"),
        pytest.param(
            zone("[0, 0], [1, 0], [1, 2]"), r"zone yard has the point \[1, 2\] outside .* units: px", id="outside"
        ),
        pytest.param(zone("[0, 0], [1, 0], [1, -1]"), r"zone yard has the point \[1, -1\] outside", id="negative"),
        pytest.param(line("[0, 0]"), "a line needs at least 2 points, not 1", id="one point"),
        pytest.param(line("[0, 0], [0, 0]"), "points 1 and 2 of the line are the same", id="no length"),
        pytest.param(TWICE, "two zones or lines are called a: every name must be its own", id="same name"),
        pytest.param(ground("[0, 0], [1, 0], [1, 1]"), "3 points and 4 positions in metres", id="uneven ground"),
        pytest.param(
            ground("[0, 0], [1, 0], [0.5, 0], [0.2, 0]"), "too many of the points lie on one line", id="flat ground"
        ),
        pytest.param("intake: {captured_at_patterns: ['(']}", "not a regular expression", id="pattern"),
        pytest.param("intake: {captured_at_patterns: ['x']}", "lacks the named groups", id="groups"),
        pytest.param(hook("url: ftp://hidden/x"), "url: the address must be like https://host/path", id="address"),
        pytest.param(hook("urll: hidden"), "webhooks.0.urll; did you mean notifications.webhooks.0.url", id="in hook"),
        pytest.param(hook("url: {enf: HOOK}"), "url.enf; did you mean notifications.webhooks.0.url.env", id="secret"),
        pytest.param(hook("url: http://a/, events: [faliure]"), "events.0: Input should be 'success'", id="event"),
        pytest.param(post("user: cv"), "user and password go together", id="no password"),
        pytest.param(post("password: hidden"), "user and password go together", id="no user"),
        pytest.param(post("port: 0"), "mails.0.port: .*greater than or equal to 1", id="port"),
        pytest.param(post("recipients: []"), "mails.0.recipients: .*at least 1", id="nobody"),
        pytest.param(post("sender: cv"), "mails.0.sender: ", id="no address"),
        pytest.param(post("name: a"), "two channels are called a", id="same channel"),
        pytest.param("notifications: {silent_after_h: {gate: 0}}", "silent_after_h.gate: .*greater than 0", id="hours"),
    ],
)
def test_a_wrong_file_gets_one_sentence_that_names_it(tmp_path: Path, text: str, sentence: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(PipelineError, match=sentence) as caught:
        load_settings(file, {})
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


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


def test_cameras_are_found_by_name_and_points_in_pixels_are_checked_against_the_picture(tmp_path: Path) -> None:
    text = "cameras: {'': {anchor: centre}, gate: {units: px, lines: [{name: door, points: [[0, 0], [0, 500]]}]}}"
    settings = load_settings(write(tmp_path, text), {})
    assert settings.camera(None).anchor == "centre"
    assert settings.camera("elsewhere").lines == ()
    gate = settings.camera("gate")
    assert gate.outside(640, 480) == "the line door has the point [0, 500] outside the picture of 640 x 480 px"
    assert gate.outside(640, 500) is None


def test_equal_settings_have_equal_versions() -> None:
    one, other = Settings(), Settings.model_validate({"video": {"crf": 30}})
    assert settings_version("a", one.video) == settings_version("a", Settings().video)
    assert settings_version("a", one.video) != settings_version("a", other.video)
    assert settings_version("a", one.video) != settings_version("b", one.video)


def test_weights_in_the_watched_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "mine.pt").write_bytes(b"x")
    with pytest.raises(PipelineError, match="lie in the watched folder, where anybody may drop files"):
        load_settings(write(tmp_path, "detections: {weights: recordings/mine.pt}"), {})


def test_secrets_of_channels_are_not_printed_and_their_certificates_lie_beside_the_file(tmp_path: Path) -> None:
    text = (
        "notifications: {webhooks: [{name: ops, url: 'http://a/hidden', ca_file: ca.pem}], mails: [{name: desk, "
        "host: h, user: cv, password: hidden, sender: a@b, recipients: [c@d]}], silent_after_h: {gate: 2, '*': 24}}"
    )
    file = write(tmp_path, text)
    settings = load_settings(file, {})
    assert "hidden" not in str(settings)
    assert settings.notifications.channels[0].ca_file == tmp_path / "ca.pem"
    assert [settings.notifications.silence_of(camera) for camera in ("gate", "yard")] == [2, 24]
    printed = CliRunner().invoke(commands, ["settings", "--settings", str(file)])
    assert "silent_after_h" in printed.output
    assert "hidden" not in printed.output
