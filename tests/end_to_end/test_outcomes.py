"""A cron job's folder, and the people who are told of it."""

import os
from pathlib import Path

import pytest

from demo.scenes import demo_scene, write_video
from resources.results import open_results
from tests.conftest import HISTORIES
from tests.end_to_end.stack import write_settings
from tests.end_to_end.test_process import cv_assets
from tests.receivers import HOST, hook


@HISTORIES
def test_a_folder_is_told_once_however_often_it_is_processed(
    history_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", HOST)
    with hook() as web:
        settings = write_settings(
            tmp_path, notifications={"every_s": 1, "webhooks": [{"name": "ops", "url": {"env": "OPS_HOOK"}}]}
        )
        write_video(demo_scene(5, 3, {"car": 1}), tmp_path / "recordings" / "good.mp4")
        (tmp_path / "recordings" / "bad.mp4").write_bytes(b"x" * 100)
        arguments = ("process", tmp_path / "recordings", "--settings", settings)
        unset = cv_assets(*arguments)
        assert (unset.returncode, "OPS_HOOK is not set" in unset.stderr) == (2, True)
        monkeypatch.setenv("OPS_HOOK", web.url)

        trial = cv_assets("notify", "--settings", settings)
        assert (trial.returncode, trial.stdout) == (0, "ops: sent\n")
        web.posted.clear()

        for _ in range(2):
            assert cv_assets(*arguments, postgres_url=history_url).returncode == 1
        told = sorted(event["told"] for posted in web.posted for event in posted["events"])
        assert len(told) == 2
        assert "rejected: It is not a video that can be opened (100 bytes)" in told[0]
        assert told[1].startswith("good-") and told[1].endswith(" came through.")
        with open_results(tmp_path / "data") as results:
            rows = results.execute("SELECT kind, channel, state FROM notifications ORDER BY kind").fetchall()
        assert rows == [("failure", "ops", "sent"), ("start", "", "baseline"), ("success", "ops", "sent")]
        logged = [file.read_bytes() for file in (tmp_path / "data" / "logs").iterdir()]
        assert all(b"verysecret" not in text for text in logged)
        assert os.environ["OPS_HOOK"] not in trial.stdout
