"""Who may read a data folder. The tests compare modes: for root, who may run them, files of every mode are readable."""

import grp
import os
import stat
from pathlib import Path

import pytest

from resources.config.settings import Settings
from resources.environment import prepare_data_folder
from resources.errors import PipelineError
from resources.schema.summary_tables import CLASS_MINUTES
from resources.storage.delta_store import Store
from resources.storage.folder_access import find_group_id, restrict_access
from resources.storage.results_database import open_results, publish
from tests.builders.class_minutes import class_minutes

OWN_GROUP = grp.getgrgid(os.getegid()).gr_name


def write_results(data_folder: Path) -> None:
    store = Store(data_folder)
    store.replace(CLASS_MINUTES, ["a"], class_minutes("a", 2))
    publish(store, Settings())


def modes(folder: Path) -> dict[str, set[int]]:
    """The modes of all folders, published files, locks and other files under a folder."""
    modes: dict[str, set[int]] = {"folder": {stat.S_IMODE(folder.stat().st_mode)}}
    for path in folder.rglob("*"):
        if not path.is_symlink():
            kind = "folder" if path.is_dir() else "lock" if path.suffix == ".lock" else path.parent.name
            kind = kind if kind in ("folder", "lock", "published") else "file"
            modes.setdefault(kind, set()).add(stat.S_IMODE(path.stat().st_mode))
    return modes


PRIVATE = {"folder": {0o700}, "published": {0o400}, "lock": {0o600}, "file": {0o600}}
FOR_A_GROUP = {"folder": {0o2750}, "published": {0o440}, "lock": {0o600}, "file": {0o640}}
"""Locks are the owner's alone: who can open one can hold up the pipeline."""


@pytest.mark.parametrize(("group", "expected"), [(None, PRIVATE), (OWN_GROUP, FOR_A_GROUP)])
def test_a_new_data_folder_is_private_unless_a_group_may_read_it(
    tmp_path: Path, group: str | None, expected: dict[str, set[int]]
) -> None:
    data_folder = tmp_path / "outer" / "data"
    prepare_data_folder(Settings(data_folder=data_folder, data_group=group))
    write_results(data_folder)
    assert modes(data_folder) == expected
    assert {path.lstat().st_gid for path in data_folder.rglob("*")} == {os.getegid()}
    assert stat.S_IMODE(data_folder.parent.stat().st_mode) == 0o755  # it is not the pipeline's
    with open_results(data_folder) as results:
        assert results.execute("SELECT count(*) FROM recording_class_minutes").fetchall() == [(2,)]


def test_the_access_to_an_existing_folder_is_changed_once_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_folder, outside = tmp_path / "data", tmp_path / "outside.txt"
    data_folder.mkdir(mode=0o755)
    write_results(data_folder)  # with the umask of the person, as before this setting existed
    outside.touch(mode=0o644)
    (data_folder / "link").symlink_to(outside)
    private, shared = Settings(data_folder=data_folder), Settings(data_folder=data_folder, data_group=OWN_GROUP)
    for settings, expected, sentence in (
        (private, PRIVATE, f"The data folder {data_folder} was open to other users of this machine: now only you"),
        (private, PRIVATE, ""),
        (shared, FOR_A_GROUP, f"can now be read by the members of the group {OWN_GROUP}.\n"),
        (shared, FOR_A_GROUP, ""),
        (private, PRIVATE, "was open to other users"),
    ):
        prepare_data_folder(settings)
        printed = capsys.readouterr().err
        assert sentence in printed and bool(sentence) == bool(printed)
        assert modes(data_folder) == expected
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_a_folder_that_others_use_too_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "theirs.txt").touch(mode=0o644)
    assert "keeps its permissions" in str(restrict_access(shared, None))
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    assert stat.S_IMODE((shared / "theirs.txt").stat().st_mode) == 0o644

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    tmp_path.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", refuse)  # as in a folder of another user
    assert "keeps its permissions" in str(restrict_access(tmp_path, None))


def test_a_group_that_cannot_be_used_is_an_error_of_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PipelineError, match=r"^data_group: the group no-such-group does not exist on this machine"):
        prepare_data_folder(Settings(data_folder=tmp_path / "data", data_group="no-such-group"))
    assert find_group_id(OWN_GROUP) == os.getegid()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "getegid", lambda: 12345)
    monkeypatch.setattr(os, "getgroups", lambda: [12346])
    with pytest.raises(PipelineError, match=rf"^data_group: this user is not a member of the group {OWN_GROUP}: add"):
        find_group_id(OWN_GROUP)
