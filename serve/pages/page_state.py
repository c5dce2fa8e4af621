"""What pages keep in memory between requests: the library and the boxes of the newest published results."""

import threading
from dataclasses import dataclass, field
from typing import Annotated

import duckdb
from fastapi import Depends, Request

from resources.config.settings import Settings
from serve.pages.box_chunks import BoxCache
from serve.pages.picture_examples import PictureExamples
from serve.pages.recording_library import NO_CAMERA, Library
from serve.pages.result_rows import Row
from serve.problems import ProblemError


@dataclass
class PageState:
    """The memory of the pages of one server.

    Attributes:
        boxes: Boxes of the recordings that pages show.
        pictures: Pictures that people have uploaded.
    """

    boxes: BoxCache = field(default_factory=BoxCache)
    pictures: PictureExamples = field(default_factory=PictureExamples)
    _library: Library | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read_library(self, connection: duckdb.DuckDBPyConnection) -> Library:
        """All recordings of the results, read once per publication."""
        snapshot = snapshot_name(connection)
        with self._lock:
            if self._library is None or self._library.snapshot != snapshot:
                self._library = Library.read(connection, snapshot)
            return self._library


def snapshot_name(connection: duckdb.DuckDBPyConnection) -> str:
    """Path of the published file that a connection has open."""
    query = "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    return str(connection.execute(query).fetchall()[0][0])


def get_page_state(request: Request) -> PageState:
    """The memory of the pages, which the first request creates."""
    if not hasattr(request.app.state, "pages"):
        request.app.state.pages = PageState()
    pages = request.app.state.pages
    assert isinstance(pages, PageState)
    return pages


Pages = Annotated[PageState, Depends(get_page_state)]
"""Parameter of a handler that gets the memory of the pages."""


def find_recording(library: Library, recording_id: str) -> Row:
    """The row of a recording.

    Raises:
        ProblemError: There is no such recording.
    """
    row = library.find(recording_id)
    if row is None:
        raise ProblemError(404, f"Recording {recording_id[:100]!a} is not among the results: the library lists all.")
    return row


def find_camera(library: Library, name: str) -> str | None:
    """The camera of an address; None for the recordings directly in the watched folder.

    Raises:
        ProblemError: The camera has no recording.
    """
    if name not in library.choices()["cameras"]:
        raise ProblemError(404, f"Camera {name[:100]!a} has no recording: the page Cameras lists all.")
    return None if name == NO_CAMERA else name


def relative_shapes(settings: Settings, camera: str | None, size_px: tuple[int, int]) -> list[Row]:
    """The zones and lines of a camera in the settings, with points as fractions of the frame."""
    of_camera = settings.camera(camera)
    scale = size_px if of_camera.units == "px" else (1, 1)
    return [
        {"kind": kind, "name": shape.name, "points": [[x / scale[0], y / scale[1]] for x, y in shape.points]}
        for kind, shapes in (("zone", of_camera.zones), ("line", of_camera.lines))
        for shape in shapes
    ]
