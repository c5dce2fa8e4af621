"""Evidence packs of a stored recording, through the commands."""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli.main import commands
from resources.clips.clip_selection import frame_at
from resources.evidence.pack_signature import public_pem
from resources.storage.delta_store import Store
from sensors.retention import kept_recordings
from tests.builders.numbered_videos import MakeVideo, read_number
from tests.builders.walk_recording import TIMES_S, store_walk


@pytest.fixture
def arguments(store: Store, make_video: MakeVideo) -> list[str]:
    """Options of commands for a data folder with the recordings `walk` and `empty`."""
    return store_walk(store, make_video)


def run(arguments: Sequence[str], *command: str) -> Result:
    return CliRunner().invoke(commands, [*command, *arguments])


def test_a_signed_pack_has_clips_stills_rows_and_provenance_and_keeps_its_recording(
    arguments: list[str], store: Store, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "key.pub").write_bytes(public_pem(key.public_key()))
    settings = tmp_path / "pipeline.yaml"
    settings.write_text("pack: {signing_key: key.pem}")
    out = tmp_path / "case.zip"
    command = ("pack", "walk", "--event", "1", "--context", "0.3", "--reason", "case <7>", "--out", str(out))
    result = run(arguments, *command, "--settings", str(settings))
    assert result.exit_code == 0, result.output
    assert ", signed; kept: walk." in result.output
    verified = CliRunner().invoke(commands, ["verify-pack", str(out), "--public-key", str(tmp_path / "key.pub")])
    assert (verified.exit_code, "all as they were written; signed by this key" in verified.output) == (0, True)
    with zipfile.ZipFile(out) as archive:
        archive.extractall(tmp_path / "pack")
    pack = tmp_path / "pack"
    with av.open(str(pack / "clips" / "walk-gate-in-1.mp4")) as clip:
        numbers = [read_number(frame.to_ndarray(format="bgr24")) for frame in clip.decode(video=0)]
    edges = (frame_at(TIMES_S, TIMES_S[15] - 0.3), frame_at(TIMES_S, TIMES_S[15] + 0.3))
    assert numbers == list(range(edges[0], edges[1] + 1))
    rows = list(csv.DictReader(io.StringIO((pack / "rows" / "track_boxes.csv").read_text())))
    assert {int(row["frame_index"]) for row in rows} == set(numbers)
    (event,) = csv.DictReader(io.StringIO((pack / "rows" / "zone_events.csv").read_text()))
    assert event["line_name"] == "gate"
    assert len(list(csv.DictReader(io.StringIO((pack / "rows" / "v_objects.csv").read_text())))) == 2
    stills = sorted(path.name for path in (pack / "stills").iterdir())
    assert stills == [f"walk-gate-in-1-{name}.jpg" for name in ("event-1", "track-1", "track-2")]
    import cv2

    picture = cv2.imread(str(pack / "stills" / "walk-gate-in-1-event-1.jpg"))
    assert picture is not None and np.asarray(picture).shape == (200, 320, 3)
    provenance = json.loads((pack / "provenance.json").read_text())
    assert provenance["reason"] == "case <7>"
    assert provenance["recordings"][0]["file"]["recording_id"] == "walk"
    report = (pack / "report.html").read_text()
    assert "case &lt;7&gt;" in report and "walk-gate-in-1-track-2.jpg" in report
    assert kept_recordings(store) == {"walk"}


def test_a_pack_of_whole_recordings_names_the_changed_file(arguments: list[str], store: Store, tmp_path: Path) -> None:
    out = tmp_path / "case.zip"
    result = run(arguments, "pack", "walk", "empty", "--no-keep", "--out", str(out))
    assert "of 2 recordings, not signed, because the settings have no pack.signing_key." in result.output
    assert kept_recordings(store) == set()
    content = bytearray(out.read_bytes())
    content[content.index(b"start_utc")] ^= 1
    out.write_bytes(content)
    verified = CliRunner().invoke(commands, ["verify-pack", str(out)])
    assert verified.exit_code == 1
    assert "changed: rows/" in verified.output and "not as it was written." in verified.output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("walk", "--out", "a.tar"), "end its name with .zip."),
        (("walk", "--event", "9", "--out", "a.zip"), "has 1 events, and none number 9."),
        (("walk", "empty", "--track", "1", "--out", "a.zip"), "tracks and events are of one recording"),
        (("walk", "--track", "1", "--from", "1", "--out", "a.zip"), "not both."),
        (("walk", "--out", "nowhere/a.zip"), "does not exist."),
    ],
)
def test_what_cannot_be_packed_is_refused_and_nothing_is_kept(
    arguments: list[str], store: Store, options: tuple[str, ...], sentence: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = run(arguments, "pack", *options)
    assert sentence in str(result.exception) + result.output
    assert kept_recordings(store) == set()
    assert not list(tmp_path.glob("*.zip"))


def test_a_file_that_is_no_pack_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK", b"not a zip" * 100):
        (tmp_path / "a.zip").write_bytes(content)
        result = CliRunner().invoke(commands, ["verify-pack", str(tmp_path / "a.zip")])
        assert result.exit_code == 2
        assert "is no evidence pack, or its beginning is lost." in result.output
