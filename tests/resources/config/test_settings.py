from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cli.main import commands
from resources.config.settings import Settings, settings_version
from resources.config.settings_file import load_settings
from resources.errors import PipelineError


def write_settings(folder: Path, text: str) -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(text)
    return file


def zone_yaml(points: str) -> str:
    return f"cameras: {{gate: {{zones: [{{name: yard, points: [{points}]}}]}}}}"


def line_yaml(points: str) -> str:
    return f"cameras: {{gate: {{lines: [{{name: door, points: [{points}]}}]}}}}"


def ground_yaml(points: str) -> str:
    return f"cameras: {{gate: {{ground: {{points: [{points}], metres: [[0, 0], [1, 0], [1, 1], [0, 1]]}}}}}}"


def pattern_yaml(month: str) -> str:
    """A pattern with a group for the month that is not a usual one."""
    pattern = rf"(?P<year>\d{{4}}){month}(?P<day>\d\d)_(?P<hour>\d\d)(?P<minute>\d\d)"
    return yaml.safe_dump({"ingest": {"captured_at_patterns": [pattern]}})


def webhook_yaml(text: str) -> str:
    return f"notifications: {{webhooks: [{{name: ops, {text}}}]}}"


def email_yaml(text: str) -> str:
    channel = {"name": "desk", "host": "h", "sender": "a@b", "recipients": ["c@d"]} | yaml.safe_load(f"{{{text}}}")
    return yaml.safe_dump({"notifications": {"emails": [channel], "webhooks": [{"name": "a", "url": "http://a/"}]}})


ZONE_AND_LINE_WITH_ONE_NAME = (
    "cameras: {g: {lines: [{name: a, points: [[0, 0], [1, 1]]}], zones: [{name: a, points: [[0, 0], [1, 0], [1, 1]]}]}}"
)


def test_every_key_is_optional(tmp_path: Path) -> None:
    settings = load_settings(write_settings(tmp_path, ""), {})
    assert settings.detections == Settings().detections
    assert settings.watched_folder == tmp_path / "recordings"
    assert settings.data_folder == tmp_path / "data"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("wached_folder: x", "yaml: wached_folder is unknown; did you mean watched_folder", id="top"),
        pytest.param("tracks: {lst_s: 1}", "yaml: tracks.lst_s is unknown; did you mean tracks.lost_s", id="nested"),
        pytest.param(
            "models: [{name: a, weights: b.pt, min_confidense: 1}]",
            "models.0.min_confidense is unknown; did you mean models.0.min_confidence",
            id="in a list",
        ),
        pytest.param("models: [{name: A b, weights: b.pt}]", r"models.0.name: .*pattern", id="model name"),
        pytest.param(
            "models: [{name: a, weights: b.pt}, {name: a, weights: c.pt}]",
            "models: two models have the name a",
            id="model twice",
        ),
        pytest.param("detections: {task: track}", r"detections.task: .*'detect', 'segment'", id="task"),
        pytest.param("detections: {regions: {gate: [[[0, 2], [1, 1], [0, 1]]]}}", "each from 0 to 1", id="region"),
        pytest.param("tracks: {qqq: 1}", "tracks.qqq is unknown; known: method", id="nothing near"),
        pytest.param("video: {crf: 99}", r"video.crf: .*less than or equal to 51", id="range"),
        pytest.param("video: {crf: x}", r"video.crf: .*integer", id="type"),
        pytest.param("video:", "video is empty", id="empty section"),
        pytest.param("- a", "must be a mapping of keys to values, not a list", id="list"),
        pytest.param("a: [", "is not valid YAML: line 1, column 5: expected the node content", id="syntax"),
        pytest.param("a:\n  b: @hidden", "line 2, column 6: found character '@' that cannot start any", id="reserved"),
        pytest.param("a: 1\n password: hidden", "line 2, column 10: mapping values are not allowed", id="indented"),
        pytest.param("password: 'hidden", "line 1, column 18: found unexpected end of stream", id="open quote"),
        pytest.param('password: "hid\\den hidden"', "found unknown escape character 'd'", id="escape"),
        pytest.param("password: *hidden", r"found undefined alias \(not shown\)", id="alias"),
        pytest.param("password: !hidden x", r"not determine a constructor for the tag \(not shown\)", id="tag"),
        pytest.param("password: !!int hidden", "line 1, column 11: the value is not of the type int", id="int"),
        pytest.param("password: !!bool hidden", "the value is not of the type bool", id="bool"),
        pytest.param("password: !!timestamp hidden", "the value is not of the type timestamp", id="timestamp"),
        pytest.param("password: &hidden a\nuser: &hidden b", "found duplicate anchor|found undefined", id="anchor"),
        pytest.param("{? [hidden] : 1}", "found unhashable key", id="no key"),
        pytest.param(
            "https://a/hidden: 1\nhttps://a/hidden: 2", "YAML: a key is repeated in line 2", id="address twice"
        ),
        pytest.param(
            "https://a/hidden: 1", r"yaml: a key, \(not shown\) is unknown; known: watched_folder", id="no name"
        ),
        pytest.param(
            webhook_yaml("url: {https://a/hidden: }"),
            r"url\.\(not shown\) is unknown; known: env\.",
            id="secret as key",
        ),
        pytest.param(email_yaml("password: {hidden: }"), r"password\.\(not shown\) is unknown", id="password as key"),
        pytest.param(
            webhook_yaml("url: {env: 'https://a/hidden'}"), r"webhooks.0.url.env: .*match pattern", id="secret as name"
        ),
        pytest.param(
            "cameras: {emails: [{name: ops, password: hidden}]}", "cameras.emails: Input should be", id="wrong section"
        ),
        pytest.param(
            "queue: {gpu_runs: 1}\ncameras:\n  a: {}\nqueue:\n  gpu_runs: 3\n",
            'is not valid YAML: the key "queue" is repeated in line 4.',
            id="repeated key",
        ),
        pytest.param(
            "queue:\n  gpu_runs: 1\n  gpu_runs: 3\n", '"gpu_runs" is repeated in line 3', id="repeated nested key"
        ),
        pytest.param("ingest: {time_zone: Mars/Base}", "not an IANA time zone", id="zone"),
        pytest.param(
            "cameras: {gate: {lnes: []}}",
            "cameras.gate.lnes is unknown; did you mean cameras.gate.lines",
            id="in camera",
        ),
        pytest.param(
            "cameras: {gate: {lines: [{nam: a}]}}",
            "lines.0.nam is unknown; did you mean cameras.gate.lines.0.name",
            id="in line",
        ),
        pytest.param("cameras: {gate: }", "cameras.gate is empty", id="empty camera"),
        pytest.param(zone_yaml("[0, 0], [1, 1]"), "a zone needs at least 3 points, not 2", id="two corners"),
        pytest.param(
            zone_yaml("[0, 0], [1, 1], [1, 0], [0, 1]"), "crosses itself: the edge from point 1 meets", id="bow tie"
        ),
        pytest.param(zone_yaml("[0, 0], [0.5, 0.5], [1, 1]"), "no area: its points lie on one line", id="flat zone"),
        pytest.param(
            zone_yaml("[0, 0], [1, 0], [1, 2]"),
            r"zone yard has the point \[1, 2\] outside the frame; .* units: px",
            id="outside",
        ),
        pytest.param(zone_yaml("[0, 0], [1, 0], [1, -1]"), r"zone yard has the point \[1, -1\] outside", id="negative"),
        pytest.param(line_yaml("[0, 0]"), "a line needs at least 2 points, not 1", id="one point"),
        pytest.param(line_yaml("[0, 0], [0, 0]"), "points 1 and 2 of the line are the same", id="no length"),
        pytest.param(
            ZONE_AND_LINE_WITH_ONE_NAME, "two zones or lines have the name a: every name must be unique", id="same name"
        ),
        pytest.param(ground_yaml("[0, 0], [1, 0], [1, 1]"), "3 points and 4 positions in metres", id="uneven ground"),
        pytest.param(
            ground_yaml("[0, 0], [1, 0], [0.5, 0], [0.2, 0]"),
            "too many of the points lie on one line",
            id="flat ground",
        ),
        pytest.param("ingest: {captured_at_patterns: ['(']}", "not a regular expression", id="pattern"),
        pytest.param("ingest: {captured_at_patterns: ['x']}", "lacks the named groups", id="groups"),
        pytest.param(
            pattern_yaml(r"(?P<month>[A-Z][a-z]{2})"),
            r"has the named group month, which matches no number: use digits",
            id="letters",
        ),
        pytest.param("ingest: {captured_at_patterns: ['a{99999999999}']}", "not a regular expression", id="repeat"),
        pytest.param("cameras: {gate: {clock_offset_s: 1.0e+18}}", "clock_offset_s: .*less than or equal", id="clock"),
        pytest.param(
            "cameras: {gate: {clock_offset_s: -1.0e+18}}", "clock_offset_s: .*greater than or equal", id="slow"
        ),
        pytest.param("retention: {runs_after_days: 1.0e+9}", "runs_after_days: .*less than or equal", id="days"),
        pytest.param("video: {max_rate_fps: 1.0e-300}", "max_rate_fps: .*greater than or equal", id="rate"),
        pytest.param("video: {max_memory_mb: 100000000000}", "max_memory_mb: .*less than or equal", id="memory"),
        pytest.param(zone_yaml("[0, 0], " * 1000), r"points: List should have at most 200 items", id="points"),
        pytest.param(
            "cameras: {gate: {zones: [" + "{name: a, points: [[0, 0], [1, 0], [1, 1]]}, " * 300 + "]}}",
            r"zones: List should have at most 200 items",
            id="zones",
        ),
        pytest.param(
            f"detections: {{class_names: [{'a, ' * 10_001}]}}", "class_names: List should have at most", id="classes"
        ),
        pytest.param(
            f"detections: {{class_names: [{'person, ' * 1_000_000}]}}",
            "settings file is larger than 1,000,000 bytes: shorten its lists",
            id="large file",
        ),
        pytest.param('data_folder: "a\\ud800b"', r"path '.*\\ud800b' has a zero byte or is not valid UTF-8", id="path"),
        pytest.param(
            "data_folder: ~unknown-user/x", "a path cannot be used: Could not determine home", id="unknown user"
        ),
        pytest.param(f"detections: {{weights: {'a' * 300}}}", "a path cannot be used: .*File name too long", id="long"),
        pytest.param('data_folder: "a\\0b"', r"path '.*\\x00b' has a zero byte", id="zero byte"),
        pytest.param(
            webhook_yaml("url: ftp://hidden/x"), "url: the address must be like https://host/path", id="address"
        ),
        pytest.param(
            webhook_yaml("urll: hidden"),
            "webhooks.0.urll is unknown; did you mean notifications.webhooks.0.url",
            id="in hook",
        ),
        pytest.param(
            webhook_yaml("url: {enf: HOOK}"),
            "url.enf is unknown; did you mean notifications.webhooks.0.url.env",
            id="secret",
        ),
        pytest.param(
            webhook_yaml("url: http://a/, events: [faliure]"), "events.0: Input should be 'success'", id="event"
        ),
        pytest.param(email_yaml("user: cv"), "user and password go together", id="no password"),
        pytest.param(email_yaml("password: hidden"), "user and password go together", id="no user"),
        pytest.param(email_yaml("port: 0"), "emails.0.port: .*greater than or equal to 1", id="port"),
        pytest.param(email_yaml("recipients: []"), "emails.0.recipients: .*at least 1", id="no recipient"),
        pytest.param(email_yaml("sender: cv"), "emails.0.sender: ", id="no address"),
        pytest.param(email_yaml("name: a"), "two channels have the name a", id="same channel"),
        pytest.param(
            "notifications: {no_data_after_h: {gate: 0}}", "no_data_after_h.gate: .*greater than 0", id="hours"
        ),
    ],
)
def test_an_invalid_settings_file_gets_one_sentence_that_starts_with_the_file(
    tmp_path: Path, text: str, sentence: str
) -> None:
    file = write_settings(tmp_path, text)
    with pytest.raises(PipelineError, match=sentence) as raised:
        load_settings(file, {})
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)
    assert "hidden" not in str(raised.value)
    # Dagster prints the causes of an error, which contain values.
    assert raised.value.__cause__ is None and (raised.value.__context__ is None or raised.value.__suppress_context__)


def test_a_missing_settings_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"none.yaml: the settings file cannot be read: No such file"):
        load_settings(tmp_path / "none.yaml", {})


def test_environment_variables_override_the_file(tmp_path: Path) -> None:
    file = write_settings(tmp_path, "data_folder: a\ndetections: {weights: b.pt, min_confidence: 0.2}")
    settings = load_settings(file, {"CV_ASSETS_DATA": "/x/y", "CV_ASSETS_WEIGHTS": "c.pt"})
    assert settings.data_folder == Path("/x/y")
    assert settings.detections.weights == "c.pt"
    assert settings.detections.min_confidence == 0.2


def test_weights_are_relative_to_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"x")
    settings = load_settings(write_settings(tmp_path, "detections: {weights: mine.pt}"), {})
    assert settings.detections.weights == str(tmp_path / "mine.pt")


def test_a_data_folder_inside_a_watched_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is inside the watched folder"):
        load_settings(write_settings(tmp_path, "watched_folder: a\ndata_folder: a/data"), {})


def test_points_in_pixels_are_checked_against_the_frame_size_of_the_camera(tmp_path: Path) -> None:
    text = "cameras: {'': {anchor: centre}, gate: {units: px, lines: [{name: door, points: [[0, 0], [0, 500]]}]}}"
    settings = load_settings(write_settings(tmp_path, text), {})
    assert settings.camera(None).anchor == "centre"
    assert settings.camera("elsewhere").lines == ()
    gate = settings.camera("gate")
    assert gate.out_of_frame_error(640, 480) == "the line door has the point [0, 500] outside the frame of 640 x 480 px"
    assert gate.out_of_frame_error(640, 500) is None


def test_equal_settings_have_equal_versions() -> None:
    default, changed = Settings(), Settings.model_validate({"video": {"crf": 30}})
    assert settings_version("a", default.video) == settings_version("a", Settings().video)
    assert settings_version("a", default.video) != settings_version("a", changed.video)
    assert settings_version("a", default.video) != settings_version("b", default.video)


def test_weights_in_a_watched_folder_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "mine.pt").write_bytes(b"x")
    with pytest.raises(PipelineError, match="are in a watched folder, to which anyone may add files"):
        load_settings(write_settings(tmp_path, "detections: {weights: recordings/mine.pt}"), {})


def test_a_stage_is_relative_to_the_settings_file_and_not_in_a_watched_folder(tmp_path: Path) -> None:
    settings = load_settings(write_settings(tmp_path, "stages: [{file: stages/mine.py}]"), {})
    assert settings.stages[0].file == tmp_path / "stages" / "mine.py"
    with pytest.raises(PipelineError, match=r"mine.py is in a watched folder, .* and its code is executed"):
        load_settings(write_settings(tmp_path, "stages: [{file: recordings/mine.py}]"), {})


def test_certificates_are_relative_to_the_settings_file(tmp_path: Path) -> None:
    text = "notifications: {webhooks: [{name: ops, url: 'http://a/', ca_file: ca.pem}]}"
    settings = load_settings(write_settings(tmp_path, text), {})
    assert settings.notifications.channels[0].ca_file == tmp_path / "ca.pem"


def test_the_no_data_limit_of_a_camera_is_its_own_or_that_of_all_others(tmp_path: Path) -> None:
    text = "notifications: {no_data_after_h: {gate: 2, '*': 24}}"
    notifications = load_settings(write_settings(tmp_path, text), {}).notifications
    assert [notifications.no_data_limit_h(camera) for camera in ("gate", "yard")] == [2, 24]


def test_secrets_of_channels_are_never_printed(tmp_path: Path) -> None:
    text = (
        "notifications: {webhooks: [{name: ops, url: 'http://a/hidden'}], emails: [{name: desk, "
        "host: h, user: cv, password: hidden, sender: a@b, recipients: [c@d]}]}"
    )
    file = write_settings(tmp_path, text)
    assert "hidden" not in str(load_settings(file, {}))
    printed = CliRunner().invoke(commands, ["settings", "--settings", str(file)])
    assert "emails" in printed.output
    assert "hidden" not in printed.output


@pytest.mark.parametrize(
    "month", [r"(?P<month>\d\d)", r"(?P<month>[)\]]?\d+)", r"(?P<month>[](]|1[0-2])", r"(?P<month>(?<=m)\d\d(?=d))"]
)
def test_groups_that_match_numbers_are_valid(tmp_path: Path, month: str) -> None:
    assert load_settings(write_settings(tmp_path, pattern_yaml(month)), {}).ingest.captured_at_patterns


@pytest.mark.parametrize("spelling", ["data", "data/", "./data", "other/../data", "link", "link/."])
def test_a_data_folder_has_one_path_however_it_is_spelled(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    file = write_settings(tmp_path, f"data_folder: {spelling}")
    assert load_settings(file, {}).data_folder == tmp_path / "data"
    assert load_settings(file, {"CV_ASSETS_DATA": str(tmp_path / spelling)}).data_folder == tmp_path / "data"


@pytest.mark.parametrize("watched_folder", ["data/media", "data/media/a", "data/recordings", "link/tables"])
def test_a_watched_folder_inside_the_data_folder_is_an_error(tmp_path: Path, watched_folder: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(PipelineError, match=r"is inside the data folder .*, in which the pipeline writes and deletes"):
        load_settings(write_settings(tmp_path, f"watched_folder: {watched_folder}"), {})
    with pytest.raises(PipelineError, match="is inside the data folder"):
        load_settings(write_settings(tmp_path, f"further_watched_folders: [{watched_folder}]"), {})


def test_links_that_lead_to_themselves_are_no_crash(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert load_settings(write_settings(tmp_path, "watched_folder: loop"), {}).watched_folder == tmp_path / "loop"
    assert load_settings(write_settings(tmp_path, "data_folder: loop/data"), {}).data_folder.name == "data"
