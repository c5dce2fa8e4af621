"""A run on a machine without a network."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resources.config.settings_file import PROJECT_ROOT
from resources.storage.results_database import open_results
from tests.builders.command_line import CV_ASSETS
from tests.builders.network_namespace import WITHOUT_NETWORK, can_unshare

pytestmark = pytest.mark.skipif(
    not can_unshare(), reason="this machine does not allow network namespaces (unshare --net)"
)


def test_a_network_namespace_has_no_network() -> None:
    """What test_process relies on, whose first run has no network and local weights."""
    connect = "import socket; socket.create_connection(('1.1.1.1', 53), timeout=5)"
    blocked = subprocess.run([*WITHOUT_NETWORK, sys.executable, "-c", connect], capture_output=True, check=False)
    assert b"Network is unreachable" in blocked.stderr


@pytest.mark.long
@pytest.mark.skipif((PROJECT_ROOT / "weights" / "yolo26n.pt").exists(), reason="the default weights are here")
def test_without_weights_and_network_the_bundled_detector_finds_persons_and_cars(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in ("junction/Cars-Truck_no-pts.avi", "asl_help.mkv"):
        shutil.copy(corpus / "recordings" / name, folder)
    process = subprocess.run(
        [*WITHOUT_NETWORK, str(CV_ASSETS), "process", str(folder), "--data", str(tmp_path / "data")],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    sentences = [line for line in process.stderr.splitlines() if line.startswith("The weights yolo26n.pt")]
    assert len(sentences) == 1
    assert "the bundled detector NanoDet-g is used" in sentences[0]
    with open_results(tmp_path / "data") as results:
        counts = dict(results.execute("SELECT class_name, count(*) FROM tracks GROUP BY ALL").fetchall())
        assert counts["person"] >= 1
        assert counts["car"] >= 3
        assert results.execute("SELECT DISTINCT model_id[:8] FROM model_runs").fetchall() == [("nanodet-",)]
