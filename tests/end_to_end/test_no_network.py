"""A run with local weights makes no call to the outside: it works where there is no network at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.scenes import demo_scene, write_video
from resources.results import open_results
from tests.conftest import BUNDLED_WEIGHTS

# A network namespace of its own has no route and no interface but an idle loopback.
WITHOUT_NETWORK = ["unshare", "--map-root-user", "--net"]


def can_unshare() -> bool:
    try:
        return subprocess.run([*WITHOUT_NETWORK, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="this machine lets nobody make a network namespace (unshare --net)")
def test_a_folder_is_processed_where_there_is_no_network(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    write_video(demo_scene(3, 6, {"car": 2, "person": 2}), folder / "street.mp4")
    reaching_out = "import socket; socket.create_connection(('1.1.1.1', 53), timeout=5)"
    blocked = subprocess.run([*WITHOUT_NETWORK, sys.executable, "-c", reaching_out], capture_output=True, check=False)
    assert blocked.returncode != 0
    ours = Path(sys.executable).with_name("cv-assets")
    shown = subprocess.run(
        [*WITHOUT_NETWORK, str(ours), "process", str(folder), "--data", str(tmp_path / "data"),
         "--weights", str(BUNDLED_WEIGHTS)],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},  # so that the weights are compiled there, too
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout + shown.stderr
    with open_results(tmp_path / "data") as results:
        assert results.execute("SELECT count(*) > 50 FROM detections").fetchall() == [(True,)]
