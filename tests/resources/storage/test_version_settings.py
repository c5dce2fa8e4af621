"""The settings behind versions, in small files of the data folder."""

from pathlib import Path

from resources.storage.version_settings import read_version_settings, store_version_settings


def test_the_settings_of_a_version_are_stored_once_and_a_damaged_file_is_unknown(tmp_path: Path) -> None:
    assert read_version_settings(tmp_path, "tracks", "1a") is None
    store_version_settings(tmp_path, "tracks", "1a", {"tracks.lost_s": 1.2})
    store_version_settings(tmp_path, "tracks", "1a", {"tracks.lost_s": 9.9})
    assert read_version_settings(tmp_path, "tracks", "1a") == {"tracks.lost_s": 1.2}
    (file,) = (tmp_path / "settings").iterdir()
    assert file.name == "tracks-1a.json"
    for text in ('{"tracks.lo', "[]"):
        file.write_text(text)
        assert read_version_settings(tmp_path, "tracks", "1a") is None
