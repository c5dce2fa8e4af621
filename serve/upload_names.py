"""The name and the camera of an upload, checked before anything is written."""

from collections.abc import Collection
from pathlib import Path

from resources.config.settings import Settings
from serve.problems import ProblemError

_MAX_NAME_BYTES = 200  # a file system allows 255, and other names are made from this one
_MAX_QUOTE_LENGTH = 100


def check_upload_target(settings: Settings, name: str, camera: str) -> Path:
    """Check the name and the camera of an upload.

    Args:
        settings: Settings that name the watched folder and the extensions of recordings.
        name: Name of the file.
        camera: The camera; empty for a recording directly in the watched folder.

    Returns:
        The file in the watched folder to which the upload will be renamed; its folder need not exist.

    Raises:
        ProblemError: A name is no name of a file or folder, or the extension is none of a recording.
    """
    _check_part("name", name)
    if camera:
        _check_part("camera", camera)
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if extension not in (known := frozenset(settings.ingest.extensions)):
        raise ProblemError(415, f"name: {_quote(name)} has no extension of a recording: use one of {_join(known)}.")
    folder = settings.watched_folder / camera if camera else settings.watched_folder
    if folder.resolve() != settings.watched_folder.resolve() / camera:
        raise ProblemError(422, f"camera: {_quote(camera)} leads out of the watched folder: choose another one.")
    if folder.exists() and not folder.is_dir():
        raise ProblemError(422, f"camera: {_quote(camera)} is a file of the watched folder: choose another one.")
    return folder / name


def _check_part(field: str, text: str) -> None:
    if not text:
        raise ProblemError(422, f"{field}: the name is empty: give the name of the file, such as name=visit.mp4.")
    if text.startswith(".") or "/" in text or "\\" in text or not text.isprintable() or text != text.strip():
        raise ProblemError(
            422,
            f"{field}: {_quote(text)} is not a plain name: leave out folders, a dot or space at the start, and "
            "control characters.",
        )
    if len(text.encode("utf-8", "surrogatepass")) > _MAX_NAME_BYTES or any(
        "\ud800" <= char <= "\udfff" for char in text
    ):
        raise ProblemError(
            422, f"{field}: {_quote(text)} is too long or no valid UTF-8: use {_MAX_NAME_BYTES} bytes at most."
        )


def _quote(text: str) -> str:
    return ascii(text[:_MAX_QUOTE_LENGTH])


def _join(extensions: Collection[str]) -> str:
    return ", ".join(sorted(extensions))
