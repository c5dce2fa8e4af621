"""Recaps by schedule: each camera's day in its time zone, whole or not at all, and failures that are seen."""

from datetime import UTC, datetime
from pathlib import Path

import av
import pytest
from dagster import DagsterInstance, RunRequest, build_schedule_context

from cv_assets.definitions import build_definitions
from resources.config.camera_config import CameraSettings
from resources.config.handover_config import RecapSettings
from resources.config.media_config import IngestSettings
from resources.config.settings import Settings
from resources.config.settings_file import load_settings
from resources.errors import PipelineError
from resources.storage.delta_store import Store
from resources.storage.results_database import publish
from sensors.recap_schedule import build_recap_job, build_recap_schedules, write_recap_of_day
from tests.builders.numbered_videos import MakeVideo
from tests.builders.walk_recording import store_walk


@pytest.fixture
def settings(store: Store, make_video: MakeVideo, tmp_path: Path) -> Settings:
    """Settings of a data folder with the recordings `walk` and `empty` of 2026-03-01 08:59:58 UTC."""
    store_walk(store, make_video)
    recaps = RecapSettings(folder=tmp_path / "recaps", cameras=("gate",), length_s=1)
    settings = Settings(data_folder=store.data_folder, recaps=recaps)
    publish(store, settings)
    return settings


def test_each_camera_has_a_schedule_in_its_time_zone(tmp_path: Path) -> None:
    recaps = RecapSettings(folder=tmp_path, cameras=("gate", "yard 1", "yard-1", ""), daily_at_hour=1)
    cameras = {"gate": CameraSettings(time_zone="Pacific/Auckland")}
    settings = Settings(ingest=IngestSettings(time_zone="Europe/Berlin"), cameras=cameras, recaps=recaps)
    schedules = build_recap_schedules(build_recap_job(), settings)
    names = [schedule.name for schedule in schedules]
    assert names[0] == "recap_gate" and names[3].startswith("recap_recordings_") and len(set(names)) == 4
    assert [schedule.execution_timezone for schedule in schedules] == ["Pacific/Auckland", *["Europe/Berlin"] * 3]
    assert {schedule.cron_schedule for schedule in schedules} == {"0 1 * * *"}
    # 01:00 of 2 March in Auckland, where the first of March was yesterday, is noon of that day in UTC.
    context = build_schedule_context(scheduled_execution_time=datetime(2026, 3, 1, 12, tzinfo=UTC))
    request = schedules[0].evaluate_tick(context).run_requests[0]  # type: ignore[index]
    assert isinstance(request, RunRequest)
    assert request.run_config["ops"]["write_day_recap"]["config"] == {"camera": "gate", "day": "2026-03-01"}
    assert build_recap_schedules(build_recap_job(), Settings(recaps=RecapSettings(cameras=("gate",)))) == []
    assert build_definitions(settings).resolve_schedule_def("recap_gate").job_name == "recap"


def test_the_recap_of_a_day_is_written_and_replaced(settings: Settings) -> None:
    assert settings.recaps.folder
    folder = settings.recaps.folder / "gate"
    for _ in range(2):
        assert "1.0 s of 1 stretch with" in write_recap_of_day(settings, "gate", "2026-03-01")
        assert [path.name for path in folder.iterdir()] == ["gate-2026-03-01.mp4"]
    with av.open(str(folder / "gate-2026-03-01.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 25
    nothing = write_recap_of_day(settings, "gate", "2026-03-02")
    assert nothing == "No processed recording of the camera 'gate' starts on 2026-03-02: no recap."


def test_the_day_is_that_of_the_time_zone(settings: Settings) -> None:
    far_east = settings.model_copy(update={"cameras": {"gate": CameraSettings(time_zone="Pacific/Kiritimati")}})
    # The container's time is UTC: 08:59:58 is 22:59:58 there.
    assert "1.0 s of" in write_recap_of_day(far_east, "gate", "2026-03-01")
    far_west = settings.model_copy(update={"cameras": {"gate": CameraSettings(time_zone="Pacific/Pago_Pago")}})
    assert "1.0 s of" in write_recap_of_day(far_west, "gate", "2026-02-28")


def test_a_recap_that_cannot_be_written_fails_with_the_reason_and_leaves_the_old_one(
    settings: Settings, tmp_path: Path
) -> None:
    write_recap_of_day(settings, "gate", "2026-03-01")
    assert settings.recaps.folder
    (file,) = (settings.recaps.folder / "gate").iterdir()
    before = file.read_bytes()
    (tmp_path / "walk.mp4").unlink()
    job = build_recap_job()
    config = {"ops": {"write_day_recap": {"config": {"camera": "gate", "day": "2026-03-01"}}}}
    with DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            config, instance=instance, resources={"settings": settings}, raise_on_error=False
        )
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "The normalized video was deleted" in str(failure.step_failure_data.user_failure_data)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before
    with pytest.raises(PipelineError, match="There is no processed recording of the camera 'gat'"):
        write_recap_of_day(settings, "gat", "2026-03-01")


@pytest.mark.parametrize(
    ("recaps", "sentence"),
    [
        ("{folder: recordings/recaps}", r"recaps.folder .* is inside the watched folder"),
        ("{folder: data/privacy_copies}", r"recaps.folder .* is inside the data folder"),
        ("{cameras: ['', recordings]}", "the recaps of '' are in the folder recordings"),
    ],
)
def test_folders_of_the_pipeline_and_two_cameras_in_one_folder_are_refused(
    recaps: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "pipeline.yaml").write_text(f"recaps: {recaps}")
    with pytest.raises(PipelineError, match=sentence):
        load_settings(tmp_path / "pipeline.yaml", {})
