"""Notifications of `cv-assets process`, as a cron job runs it."""

import os
from pathlib import Path

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.storage.results_database import open_results
from tests.builders.command_line import run_cv_assets, write_settings
from tests.builders.message_receivers import HOST, webhook_server


@pytest.mark.long
def test_each_event_is_reported_once_however_often_the_folder_is_processed(
    history_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", HOST)
    with webhook_server() as webhook:
        settings = write_settings(
            tmp_path, notifications={"interval_s": 1, "webhooks": [{"name": "ops", "url": {"env": "OPS_HOOK"}}]}
        )
        write_video(demo_scene(5, 3, {"car": 1}), tmp_path / "recordings" / "good.mp4")
        (tmp_path / "recordings" / "bad.mp4").write_bytes(b"x" * 100)
        arguments = ("process", tmp_path / "recordings", "--settings", settings)
        without_variable = run_cv_assets(*arguments)
        assert (without_variable.returncode, "OPS_HOOK is not set" in without_variable.stderr) == (2, True)
        monkeypatch.setenv("OPS_HOOK", webhook.url)

        trial = run_cv_assets("notify", "--settings", settings)
        assert (trial.returncode, trial.stdout) == (0, "ops: sent\n")
        webhook.messages.clear()

        for _ in range(2):
            assert run_cv_assets(*arguments, postgres_url=history_url).returncode == 1
        texts = sorted(event["message"] for message in webhook.messages for event in message["events"])
        assert len(texts) == 2
        assert "rejected: The file is not a video that can be opened (100 bytes)" in texts[0]
        assert texts[1].startswith("good-") and texts[1].endswith(" succeeded.")
        with open_results(tmp_path / "data") as results:
            rows = results.execute("SELECT kind, channel, state FROM notifications ORDER BY kind").fetchall()
        assert rows == [("failure", "ops", "sent"), ("start", "", "baseline"), ("success", "ops", "sent")]
        logs = [file.read_bytes() for file in (tmp_path / "data" / "logs").iterdir()]
        assert all(b"verysecret" not in log for log in logs)
        assert os.environ["OPS_HOOK"] not in trial.stdout
