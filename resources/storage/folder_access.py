"""Who may read a data folder: its owner alone, or also the members of one group (setting data_group).

New files get their modes from the umask of the pipeline's processes, which their child processes inherit, and their
group from the set-group-ID bit of the folders.
"""

import grp
import os
import stat
from contextlib import suppress
from pathlib import Path

from resources.errors import PipelineError

PRIVATE_MODE = 0o700
_GROUP_MODE = 0o2750
_PRIVATE_UMASK, _GROUP_UMASK = 0o077, 0o027


def find_group_id(group_name: str) -> int:
    """Find the id of the group that may read the data folder.

    Raises:
        PipelineError: There is no such group, or this user is not one of its members.
    """
    try:
        group_id = grp.getgrnam(group_name).gr_gid
    except KeyError as error:
        raise PipelineError(
            f"data_group: the group {group_name} does not exist on this machine: create it, or name another one."
        ) from error
    if os.geteuid() != 0 and group_id not in (os.getegid(), *os.getgroups()):
        raise PipelineError(
            f"data_group: this user is not a member of the group {group_name}: add the user to it and log in again, or "
            "name another group."
        )
    return group_id


def restrict_access(data_folder: Path, group_name: str | None) -> str | None:
    """Let only this user, and the members of a group if one is given, read a data folder and what is written later.

    Sets the umask of this process. Files that exist are changed only where the folder itself has another mode or group.

    Args:
        data_folder: The data folder; it exists.
        group_name: Name of the group; None means this user alone.

    Returns:
        One sentence if the access to existing files has changed, or cannot be changed.

    Raises:
        PipelineError: The group does not exist, or this user is not one of its members.
    """
    group_id = find_group_id(group_name) if group_name else None
    os.umask(_PRIVATE_UMASK if group_id is None else _GROUP_UMASK)
    status = data_folder.stat()
    mode_before = stat.S_IMODE(status.st_mode)
    if mode_before == (PRIVATE_MODE if group_id is None else _GROUP_MODE) and group_id in (None, status.st_gid):
        return None
    if not _make_private(data_folder):
        return (
            f"The data folder {data_folder} keeps its permissions, because it is shared, belongs to another user, or "
            "is on a file system without permissions: only new files are restricted, where that is possible."
        )
    # A folder without these may be one with files of a person, in which the pipeline has written nothing yet.
    if any((data_folder / name).is_dir() for name in ("dagster", "tables")):
        for folder, _, file_names in os.walk(data_folder):
            for path in (Path(folder), *(Path(folder, name) for name in file_names)):
                _restrict_path(path, group_id)
    # Last, so that the next start continues where a kill has interrupted this one.
    _restrict_path(data_folder, group_id)
    if group_id is not None:
        return f"The data folder {data_folder} can now be read by the members of the group {group_name}."
    if mode_before & ~PRIVATE_MODE:
        return (
            f"The data folder {data_folder} was open to other users of this machine: now only you can read it. The "
            "setting data_group lets the members of a group read it."
        )
    return None


def read_only_mode(data_folder: Path) -> int:
    """Mode of a file of a data folder that is never written again: its readers are those of the folder."""
    return 0o440 if data_folder.stat().st_mode & stat.S_IRGRP else 0o400


def _make_private(folder: Path) -> bool:
    """Let only this user use a folder; returns whether that has worked. A folder like /tmp is left as it is."""
    if folder.stat().st_mode & stat.S_ISVTX:
        return False
    try:
        folder.chmod(PRIVATE_MODE)
    except PermissionError:
        return False
    return stat.S_IMODE(folder.stat().st_mode) == PRIVATE_MODE


def _restrict_path(path: Path, group_id: int | None) -> None:
    """Keep the owner's permissions of a file or folder, let the group read it unless it is a lock; others get none."""
    with suppress(FileNotFoundError):  # a process that ends may delete its files now
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return
        owner_mode = stat.S_IMODE(mode) & PRIVATE_MODE
        group_mode = 0
        if group_id is not None:
            os.chown(path, -1, group_id)
            if stat.S_ISDIR(mode):
                group_mode = _GROUP_MODE & ~PRIVATE_MODE
            elif path.suffix != ".lock":
                group_mode = (owner_mode >> 3) & stat.S_IRGRP
        path.chmod(owner_mode | group_mode)
