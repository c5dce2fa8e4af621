"""The queue that people build first: Celery tasks that detect with a warm Ultralytics model and write rows.

`python -m benchmarks.celery_tasks CLIPS ROWS` queues a task per clip and waits for all rows.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("clips", broker=os.environ.get("CELERY_BROKER"))
_models: dict[str, Any] = {}


def detect(clip: str, rows: str) -> None:
    """Detect objects in a clip and write them as Parquet."""
    import pandas as pd
    from ultralytics import YOLO

    weights = os.environ["CELERY_WEIGHTS"]
    if weights not in _models:
        _models[weights] = YOLO(weights)
    boxes = [
        {"frame_index": index, "class": int(box.cls), "confidence": float(box.conf), "xyxy": box.xyxy[0].tolist()}
        for index, result in enumerate(_models[weights].predict(clip, stream=True, verbose=False))
        for box in result.boxes
    ]
    draft = Path(f"{rows}.part")
    pd.DataFrame(boxes).to_parquet(draft)
    draft.rename(rows)


# With a name: where this module is the script, Celery would register another one than in the worker.
_queued_detect = app.task(detect, name="detect")


def main() -> None:
    """Queue all clips but the first, which warms the worker up, and print the seconds per clip."""
    clips, folder = sorted(Path(sys.argv[1]).glob("*.mp4")), Path(sys.argv[2])
    folder.mkdir()
    for number, clip in enumerate(clips):
        if number == 1:
            _wait_for_rows(folder, 1)
            started_s = time.monotonic()
        _queued_detect.delay(str(clip), str(folder / f"{clip.stem}.parquet"))
    _wait_for_rows(folder, len(clips))
    print(json.dumps({"seconds_per_clip": (time.monotonic() - started_s) / (len(clips) - 1)}))


def _wait_for_rows(folder: Path, count: int) -> None:
    deadline_s = time.monotonic() + 1800
    while len(list(folder.glob("*.parquet"))) < count:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"Timed out waiting for {count} clips.")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
