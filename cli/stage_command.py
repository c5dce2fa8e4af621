"""The command stage: runs a stage of one's own on the stored inputs of a recording, and shows what has changed."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import PATH_TYPE, data_option, settings_option
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError, RecordingError
from resources.storage.delta_store import Store
from resources.storage.disk import disk_errors

if TYPE_CHECKING:
    from resources.config.settings import Settings
    from resources.own_stages.stage_file import OwnStage

_SHOWN_ROWS = 10
_TEST_NAME = "last_test.parquet"
_MAX_VALUE_LENGTH = 40


@click.command(name="stage")
@click.argument("action", type=click.Choice(["test"]))
@click.argument("file", type=PATH_TYPE)
@click.option("--recording", required=True, help="The recording whose stored inputs are used.")
@click.option("--rows", type=click.IntRange(min=0), default=_SHOWN_ROWS, help="How many rows are shown.")
@data_option
@settings_option
def stage(action: str, file: Path, recording: str, rows: int, data: Path | None, settings: Path | None) -> None:
    """Run the stage of one's own in FILE on a recording, and show its rows and how they differ from the last ones.

    The only ACTION is test. FILE need not be in the settings, and no table is written. The rows are compared with those
    of the last test of this stage and recording; before the first test, with the stored ones.
    """
    from resources.config.stage_config import OwnStageSettings
    from resources.own_stages.stage_file import read_stage_file

    loaded_settings = choose_settings(settings=settings, data_folder=data)
    path = file.expanduser().absolute()
    limits = next((own for own in loaded_settings.stages if own.file == path.resolve()), OwnStageSettings(file=path))
    declared = read_stage_file(limits)
    store = Store(loaded_settings.data_folder)
    _check_recording(store, recording)
    _check_inputs(declared, loaded_settings)
    prepare_data_folder(loaded_settings)
    with disk_errors(store.data_folder):
        _test_stage(declared, recording, store, rows)


def _test_stage(declared: "OwnStage", recording_id: str, store: Store, shown_count: int) -> None:
    import pyarrow.parquet as pq

    from cv_assets.own_stage_assets import DEVICE_SETTINGS, compute_rows
    from cv_assets.stage_inputs import StageInputs
    from resources.inference.devices import available_devices

    device = "cpu" if declared.device == "cpu" else available_devices(DEVICE_SETTINGS)[0]
    started = datetime.now(UTC)
    try:
        inputs = StageInputs.read(declared, recording_id, store, device)
        computed = compute_rows(inputs, lambda *_: None)
    except RecordingError as error:
        raise PipelineError(str(error)) from error
    elapsed_s = (datetime.now(UTC) - started).total_seconds()
    unit = "frames" if declared.has_frames else "crops" if declared.has_crops else "recording"
    count = f"{inputs.item_count} {unit}" if unit != "recording" else "1 recording"
    click.echo(f"{declared.name}: {_count_rows(computed.num_rows)} from {count} in {elapsed_s:.2f} s")
    for row in computed.slice(0, shown_count).to_pylist():
        click.echo(f"  {_describe_row(row)}")
    if computed.num_rows > shown_count:
        click.echo(f"  … and {computed.num_rows - shown_count} more")
    last = store.data_folder / "unfinished" / declared.name / recording_id / _TEST_NAME
    before, origin = _read_last_rows(declared, recording_id, store, last)
    if before is None:
        click.echo("There are no earlier rows to compare with.")
    else:
        changes = list(_describe_changes(declared.table.key, before, computed.to_pylist()))
        click.echo(f"Compared with {origin}: {len(changes) or 'no'} difference{'s' * (len(changes) != 1)}")
        for change in changes[:shown_count]:
            click.echo(f"  {change}")
        if len(changes) > shown_count:
            click.echo(f"  … and {len(changes) - shown_count} more")
    last.parent.mkdir(parents=True, exist_ok=True)
    draft = last.with_suffix(".draft")
    pq.write_table(computed, draft)
    draft.replace(last)


def _read_last_rows(
    declared: "OwnStage", recording_id: str, store: Store, last: Path
) -> tuple[list[dict[str, Any]] | None, str]:
    """The rows to compare with, and what they are; None if there are none."""
    import pyarrow.parquet as pq

    from resources.storage.own_tables import find_stored_table
    from resources.storage.stage_runs import newest_stage_runs

    if last.exists():
        tested_at = datetime.fromtimestamp(last.stat().st_mtime, UTC)
        return pq.read_table(last).to_pylist(), f"the test of {tested_at:%Y-%m-%d %H:%M:%S} UTC"
    table = find_stored_table(store.tables_folder, declared.name)
    runs = newest_stage_runs(store, [recording_id], columns=("stage",), only_materialized=True)
    if table is None or declared.name not in runs["stage"].to_pylist():
        return None, ""
    return store.read(table, [recording_id]).to_pylist(), f"the stored rows of {declared.name}"


def _describe_changes(
    key: Sequence[str], before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Describe rows that were added, removed and changed, one line each."""
    rows_before, rows_now = ({tuple(row.get(name) for name in key): row for row in rows} for rows in (before, now))
    for values, row in rows_now.items():
        if values not in rows_before:
            yield f"+ {_describe_row(row)}"
            continue
        old = rows_before[values]
        changed = [name for name in dict.fromkeys((*old, *row)) if old.get(name) != row.get(name)]
        if changed:
            named = ", ".join(f"{name} {_shorten(row.get(name))} (was {_shorten(old.get(name))})" for name in changed)
            yield f"~ {_describe_row({name: row[name] for name in key})}: {named}"
    for values, row in rows_before.items():
        if values not in rows_now:
            yield f"- {_describe_row(row)}"


def _describe_row(row: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={_shorten(value)}" for name, value in row.items() if name != "recording_id")


def _shorten(value: Any) -> str:
    text = "NULL" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 1]}…"


def _count_rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _check_recording(store: Store, recording_id: str) -> None:
    """Check that a recording is in the tables.

    Raises:
        PipelineError: It is not; the sentence suggests the nearest one.
    """
    from resources.storage.recording_rows import read_recording_rows

    known = list(read_recording_rows(store, columns=["recording_id"]))
    if recording_id not in known:
        nearest = difflib.get_close_matches(recording_id, known, n=1, cutoff=0.3)
        hint = f"did you mean {nearest[0]}?" if nearest else "process recordings first."
        raise PipelineError(f"The data folder {store.data_folder} has no recording {recording_id!r}; {hint}")


def _check_inputs(declared: "OwnStage", settings: "Settings") -> None:
    """Check that the inputs of a stage exist, as for a stage of the settings.

    Raises:
        PipelineError: They do not.
    """
    from cv_assets.asset_graph import stages_in_order
    from cv_assets.own_stage_assets import read_own_stages

    others = tuple(own for own in settings.stages if own.file != declared.settings.file)
    tested = settings.model_copy(update={"stages": (*others, declared.settings)})
    problems = read_own_stages(tested, stages_in_order(tested)).problems
    for problem in problems.values():
        if problem.startswith(str(declared.settings.file)):
            raise PipelineError(problem)
