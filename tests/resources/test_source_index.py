"""The table source_files: when files were seen, and folders that are empty now."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from resources.config.settings import Settings
from resources.file_identification import identify_files
from resources.source_index import SourceFile, SourceIndex, find_emptied_folders
from resources.storage.delta_store import Store
from resources.watched_files import list_watched_files


def test_recordings_are_found_by_the_time_at_which_their_files_were_seen(store: Store) -> None:
    now = datetime.now(UTC)
    files = [
        SourceFile("a.mp4", 1, 1, "a-1", "a-1", "known", None, seen_at_utc=now - timedelta(seconds=40)),
        SourceFile("b.mp4", 1, 1, "b-2", "b-2", "known", None, seen_at_utc=now - timedelta(seconds=20)),
        SourceFile("c.mp4", 0, 1, None, None, "unreadable", "The file is empty (0 bytes).", seen_at_utc=now),
    ]
    SourceIndex(store).save(files)
    assert SourceIndex(store).recordings_seen_since(now - timedelta(seconds=30)) == {"b-2": files[1].seen_at_utc}


def test_an_emptied_folder_is_found(tmp_path: Path) -> None:
    folder, nas = tmp_path / "recordings", tmp_path / "nas"
    folder.mkdir()
    nas.mkdir()
    settings = Settings(watched_folder=folder, further_watched_folders=(nas,))
    (nas / "a.mp4").write_bytes(b"first")
    (folder / "b.mp4").write_bytes(b"second")
    known = identify_files(settings, list_watched_files(settings).files, {})
    assert find_emptied_folders(settings, list_watched_files(settings), known) == {}
    (nas / "a.mp4").unlink()
    assert find_emptied_folders(settings, list_watched_files(settings), known) == {nas: 1}
