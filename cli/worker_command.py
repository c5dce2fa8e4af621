"""The command worker: executes the runs of one queue, for a pipeline on this machine or on another."""

import time
from pathlib import Path

import click

from cli.options import data_option, interrupt_on_sigterm, settings_option, weights_option
from resources.environment import choose_settings
from resources.errors import PipelineError

_CHECK_INTERVAL_S = 0.5
_INTERRUPTION_S = 10.0


@click.command()
@click.option("--queue", type=click.Choice(["gpu", "cpu", "housekeeping"]), required=True, help="The queue to serve.")
@click.option("--device", default="", help="The only device that its models may use, such as cuda:0 or cpu.")
@click.option("--count", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of workers.")
@click.option(
    "--drain-s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Time in seconds that runs get to end after SIGTERM; then they are interrupted, and continue elsewhere.",
)
@data_option
@weights_option
@settings_option
def worker(
    queue: str,
    device: str,
    count: int,
    drain_s: float,
    data: Path | None,
    weights: str | None,
    settings: Path | None,
) -> None:
    """Execute the runs of one queue until stopped, for a pipeline on this machine or on another.

    The pipeline is `cv-assets dev` on the same data folder. Runs come through its folder, or through the broker in
    CV_ASSETS_BROKER.
    """
    from cli.local_workers import check_device
    from resources.storage.tables_choice import check_tables_url
    from resources.workers.run_queue import HOUSEKEEPING_QUEUE
    from resources.workers.worker import WorkerOptions, Workers
    from resources.workers.worker_states import delete_old_worker_states

    loaded_settings = choose_settings(settings=settings, data_folder=data, weights=weights)
    data_folder = loaded_settings.data_folder
    if not (data_folder / "dagster" / "dagster.yaml").exists():
        raise PipelineError(
            f"The data folder {data_folder} has no pipeline: start `cv-assets dev` on it first, or name another with "
            "--data."
        )
    check_tables_url(data_folder, loaded_settings.tables_url)
    if device:
        check_device(loaded_settings, device)
    delete_old_worker_states(data_folder)
    is_warm = queue != HOUSEKEEPING_QUEUE
    options = [WorkerOptions(queue, device, is_kept_warm=is_warm, is_started_at_once=is_warm)] * count
    workers = Workers(data_folder, options, loaded_settings.queue.worker_max_memory_mb, must_agree=True)
    workers.start()
    click.echo(f"{count} workers take runs from the queue {queue} of {data_folder}; stop with Ctrl+C or SIGTERM.")
    try:
        with interrupt_on_sigterm():
            while not workers.failed:
                time.sleep(_CHECK_INTERVAL_S)
        raise PipelineError(f"The worker {workers.failed} has ended unexpectedly: start it again.")
    except KeyboardInterrupt:
        workers.take_no_more()
        deadline_s = time.monotonic() + drain_s
        while workers.run_ids and time.monotonic() < deadline_s:
            time.sleep(_CHECK_INTERVAL_S)
    finally:
        run_ids = workers.run_ids
        try:
            if run_ids:
                _interrupt(run_ids)
        finally:  # also when Dagster's database is away: the threads of the workers would keep the process alive
            workers.stop(_INTERRUPTION_S if run_ids else 0.0)


def _interrupt(run_ids: list[str]) -> None:
    """Interrupt runs, so that their work is requested again and continues from its checkpoints."""
    from dagster import DagsterInstance

    from sensors.crash_recovery import mark_running_as_interrupted

    with DagsterInstance.get() as instance:
        mark_running_as_interrupted(instance, run_ids)
