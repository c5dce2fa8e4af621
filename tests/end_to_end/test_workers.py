"""Workers: they keep the model loaded, take up new weights, and lose no run when killed or restarted."""

import shutil
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from tests.builders.locations import BUNDLED_WEIGHTS
from tests.builders.running_pipeline import RunningPipeline

pytestmark = pytest.mark.long
_ATTEMPTS = """
SELECT r.status, worker, worker_run, model_load_count, r.error FROM stage_runs r JOIN recordings USING (recording_id)
WHERE stage = 'detections' AND source_path = '{name}' ORDER BY finished_at_utc
"""


class _Clips:
    """A running pipeline, to which clips are dropped one after the other."""

    def __init__(self, folder: Path, **queue: int) -> None:
        self.weights = folder / "model.pt"
        shutil.copy(BUNDLED_WEIGHTS, self.weights)
        self.pipeline = RunningPipeline(folder, detections={"weights": str(self.weights)}, queue=queue)
        self._count = 0

    def drop(self, duration_s: float = 5) -> str:
        """Drop a clip; returns its name."""
        self._count += 1
        name = f"clip-{self._count}.mp4"
        draft = self.pipeline.folder / name
        write_video(demo_scene(self._count, duration_s, {"car": 1}), draft)
        draft.rename(self.pipeline.watched_folder / name)
        return name

    def wait_for_results(self, name: str) -> list[Any]:
        """Wait until a clip has results; returns the attempts of its model stage."""
        query = f"SELECT status FROM recordings JOIN summaries USING (recording_id) WHERE source_path = '{name}'"
        self.pipeline.wait_until(lambda: self.pipeline.sql(query) == [("ok",)], 900, f"the results of {name}")
        return self.pipeline.sql(_ATTEMPTS.format(name=name))

    def executor_pids(self) -> dict[str, int]:
        """Process id of the process of each worker that is kept warm, by the name of its queue."""
        processes = self.pipeline.processes("run_executor")
        return {process.cmdline()[-2].split("-")[-2]: process.pid for process in processes}


@pytest.fixture
def clips(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[_Clips]:
    clips = _Clips(tmp_path, cpu_runs=1, **getattr(request, "param", {}))
    clips.pipeline.start()
    yield clips
    clips.pipeline.stop()
    assert clips.pipeline.processes() == []


def test_a_worker_loads_the_model_once_takes_up_new_weights_and_survives_a_kill(clips: _Clips) -> None:
    attempts = [clips.wait_for_results(clips.drop()) for _ in range(2)]
    (first, second) = (of_clip[0] for of_clip in attempts)
    assert first[1] == second[1], "one worker"
    assert [attempt[2:4] for attempt in (first, second)] == [(1, 1), (2, 1)], "its model is loaded once"

    pid = clips.executor_pids()["gpu"]
    with zipfile.ZipFile(clips.weights, "a") as archive:
        archive.comment = b"weights of another day"
    name = clips.drop()
    assert clips.wait_for_results(name)[0][2:4] == (1, 1), "a new process has loaded the new weights"
    assert clips.executor_pids()["gpu"] != pid
    model_ids = clips.pipeline.sql("SELECT DISTINCT model_id FROM model_runs")
    assert len(model_ids) == 2

    name = clips.drop(duration_s=20)
    markers = clips.pipeline.data_folder / "unfinished" / "runs"
    clips.pipeline.wait_until(
        lambda: any(marker.read_text().startswith("detections") for marker in markers.glob("*")), 900, "the model stage"
    )
    for process in clips.pipeline.processes("run_executor", "-gpu-"):
        process.send_signal(signal.SIGKILL)
    crashed, repeated = clips.wait_for_results(name)
    assert (crashed[0], repeated[0]) == ("failed", "ok")
    assert "crashed in the stage detections" in crashed[4]
    frame_counts = (
        "SELECT count(*), count(DISTINCT frame_index) FROM frames JOIN recordings USING (recording_id) "
        f"WHERE source_path = '{name}'"
    )
    assert clips.pipeline.sql(frame_counts) == [(500, 500)]


@pytest.mark.parametrize("clips", [{"worker_max_memory_mb": 500}], indirect=True)
def test_a_worker_past_its_memory_limit_restarts_between_runs(clips: _Clips) -> None:
    attempts = [clips.wait_for_results(clips.drop())[0] for _ in range(2)]
    assert [attempt[:1] + attempt[2:4] for attempt in attempts] == [("ok", 1, 1)] * 2
