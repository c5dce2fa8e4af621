"""The state of the pipeline as Prometheus text: queue, backlog, rates, failures, disk and devices."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from resources.schema.recording_tables import RECORDING_CONTENTS
from resources.workers.worker_states import read_worker_states
from serve.app_state import AppState

_GPU_QUERY = (
    *("nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used,memory.total"),
    "--format=csv,noheader,nounits",
)
_GPU_TIMEOUT_S, _MEBIBYTE = 5.0, 2**20
_BACKLOG_SQL = """
SELECT coalesce(sum(coalesce(duration_s_from_content, duration_s_from_header)), 0) / 3600
FROM recordings ANTI JOIN summaries USING (recording_id)
WHERE status IS NULL OR status NOT IN ('rejected', 'quarantined')
"""
_STATUS_SQL = "SELECT coalesce(status, 'waiting'), count(*) FROM recordings GROUP BY ALL"
_FAILED_SQL = "SELECT count(*) FROM stage_runs WHERE status IN ('failed', 'quarantined')"
_HAS_TABLE_SQL = "SELECT count(*) FROM published_tables WHERE table_name IN ('recordings', 'summaries', 'stage_runs')"


def read_metrics(state: AppState) -> str:
    """Read the metrics of a pipeline.

    Raises:
        PipelineError: The data folder has no Dagster home.
    """
    return "".join(line + "\n" for metric in _metrics(state) for line in metric)


def _metrics(state: AppState) -> Iterator[list[str]]:
    runs = state.progress.runs()
    for is_queued, name, meaning in (
        (True, "queued_runs", "Runs that wait for a slot or a worker"),
        (False, "executing_runs", "Runs that execute"),
    ):
        counts = Counter(run.queue for run in runs if run.is_queued == is_queued)
        yield _lines(name, meaning, [({"queue": queue}, counts[queue]) for queue in ("gpu", "cpu")])
    queued = {recording_id for run in runs if run.is_queued for recording_id in run.recording_ids}
    yield _lines("queued_recordings", "Recordings of queued runs", [({}, len(queued))])
    yield from _progress_metrics(state)
    yield from _table_metrics(state)
    folders = {"data": state.data_folder, "watched": state.settings.watched_folder}
    free = [({"folder": name}, float(_free_bytes(folder))) for name, folder in folders.items()]
    yield _lines("disk_free_bytes", "Space left on the disk of a folder", free)
    workers = Counter(
        (worker.queue, "problem" if worker.problem else "busy" if worker.run_id else "idle")
        for worker in read_worker_states(state.data_folder)
        if worker.is_alive()
    )
    samples = [({"queue": queue, "state": name}, float(count)) for (queue, name), count in sorted(workers.items())]
    yield _lines("workers", "Workers that live", samples)
    yield _lines("cpu_load_ratio", "Load of the processor cores since the last request, 0 to 1", [({}, _cpu_load())])
    yield from _gpu_metrics()


def _progress_metrics(state: AppState) -> Iterator[list[str]]:
    reports = {key: report for key, report in state.progress.all_reports().items() if report.frames_per_s}
    frames_per_s = sum(report.frames_per_s or 0.0 for report in reports.values())
    contents = state.store.read(RECORDING_CONTENTS, list(reports), ["recording_id", "rate_fps"]).to_pylist()
    rates = {row["recording_id"]: row["rate_fps"] for row in contents}
    factor = sum((report.frames_per_s or 0.0) / rates[key] for key, report in reports.items() if rates.get(key))
    yield _lines("frames_per_second", "Frames per second of all executing stages together", [({}, frames_per_s)])
    yield _lines("realtime_factor", "Seconds of footage that these stages process per second", [({}, factor)])


def _table_metrics(state: AppState) -> Iterator[list[str]]:
    backlog_h, failed_count, counts = 0.0, 0, dict[str, int]()
    if state.results.exist:
        with state.results.cursor() as cursor:
            row = cursor.execute(_HAS_TABLE_SQL).fetchone()
            if row and row[0] == 3:
                backlog_h = float((cursor.execute(_BACKLOG_SQL).fetchone() or (0.0,))[0])
                failed_count = int((cursor.execute(_FAILED_SQL).fetchone() or (0,))[0])
                counts = dict(cursor.execute(_STATUS_SQL).fetchall())
    yield _lines("backlog_hours", "Footage of recordings without a summary, in hours", [({}, backlog_h)])
    samples = [({"status": status}, float(count)) for status, count in sorted(counts.items())]
    yield _lines("recordings", "Recordings by status", samples)
    yield _lines("failed_attempts_total", "Attempts that failed or crashed", [({}, failed_count)], kind="counter")


def _gpu_metrics() -> Iterator[list[str]]:
    rows = _read_gpus()
    yield _lines("gpu_load_ratio", "Load of a GPU, 0 to 1", [({"gpu": row[0]}, row[1] / 100) for row in rows])
    used = [({"gpu": row[0]}, row[2] * _MEBIBYTE) for row in rows]
    yield _lines("gpu_memory_used_bytes", "Memory in use on a GPU", used)
    total = [({"gpu": row[0]}, row[3] * _MEBIBYTE) for row in rows]
    yield _lines("gpu_memory_bytes", "Memory of a GPU", total)


def _read_gpus() -> list[tuple[str, float, float, float]]:
    """Index, load in percent, used and total memory in MiB of each GPU; empty without nvidia-smi."""
    if shutil.which(_GPU_QUERY[0]) is None:
        return []
    try:
        output = subprocess.run(_GPU_QUERY, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
        return [(row[0], float(row[1]), float(row[2]), float(row[3])) for row in rows]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return []  # a driver without this answer, such as that of a part of a GPU


def _lines(
    name: str, meaning: str, samples: Sequence[tuple[Mapping[str, str], float]], *, kind: str = "gauge"
) -> list[str]:
    """A metric in the text format of Prometheus; without samples only its description."""
    full_name = f"cv_assets_{name}"
    lines = [f"# HELP {full_name} {meaning}.", f"# TYPE {full_name} {kind}"]
    for labels, value in samples:
        text = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
        lines.append(f"{full_name}{{{text}}} {value:.10g}" if text else f"{full_name} {value:.10g}")
    return lines


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _cpu_load() -> float:
    return psutil.cpu_percent(interval=None) / 100
