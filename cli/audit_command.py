"""The command audit: asks a person about a random sample of a camera's counts, and says how far they can be trusted."""

import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import PATH_TYPE, data_option, name_of_user, settings_option
from resources.audit.audit_sample import MIN_ITEMS
from resources.audit.interval_estimates import Interval
from resources.config.settings import Settings
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError

if TYPE_CHECKING:  # the other commands need none of it
    from resources.audit.audit_answers import CountReport

_MAX_LISTED = 20
_START = '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Audit</title>'


@click.command()
@click.argument("camera")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="How many events and stretches to look at.",
)
@click.option("--out", type=PATH_TYPE, help="Folder for the page audit-CAMERA.html [default: the current folder].")
@click.option("--seed", type=int, help="Seed of the random sample [default: a random one].")
@click.option("--answers", type=PATH_TYPE, help="Read the answers that the page has saved, and print the report.")
@click.option("--by", help="Who answered [default: the name of the user].")
@data_option
@settings_option
def audit(
    camera: str,
    sample: int,
    out: Path | None,
    seed: int | None,
    answers: Path | None,
    by: str | None,
    data: Path | None,
    settings: Path | None,
) -> None:
    """Measure how right the counts of CAMERA are: write a page with a random sample, then read the answers.

    The page works from the disk and shows frames of counted events and of stretches of time. With --answers, its
    answers are stored, and precision, recall and a 95 % interval of each count are printed.
    """
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    data_folder = loaded_settings.data_folder
    if not (data_folder / "tables").is_dir():
        raise PipelineError(f"The data folder {data_folder} has no results yet: name another one with --data.")
    if answers is not None:
        _read_answers(camera, loaded_settings, answers, by or name_of_user())
    else:
        _write_page(camera, loaded_settings, sample, out or Path(), secrets.randbits(32) if seed is None else seed)


def _write_page(camera: str, settings: Settings, count: int, folder: Path, seed: int) -> None:
    from cli.audit_page import build_audit_page

    if seed < 0:
        raise PipelineError(f"--seed must not be negative, but is {seed}.")
    file = folder / f"audit-{camera or 'recordings'}.html"
    try:
        if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(_START):
            raise PipelineError(f"The file {file} exists and is no page of an audit: name another folder with --out.")
        page = build_audit_page(camera, settings, count, seed)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(page.html, encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"The page {file} cannot be written: {error.strerror or error}.") from error
    events = sum(item.kind == "event" for item in page.sample.items)
    click.echo(f"{events} events and {len(page.sample.items) - events} stretches, seed {seed}.")
    click.echo(f"Open {file.absolute()} in a browser.")


def _read_answers(camera: str, settings: Settings, file: Path, answered_by: str) -> None:
    from cli.audit_page import camera_rows
    from resources.audit.audit_answers import read_answers, read_answers_file, report_counts, store_answers
    from resources.audit.audit_population import read_population
    from resources.audit.audit_sample import hash_counts
    from resources.storage.delta_store import Store
    from resources.storage.disk import disk_errors
    from resources.storage.results_database import publish

    content = read_answers_file(file, camera)
    store = Store(settings.data_folder)
    rows = camera_rows(camera, store)
    if unknown := sorted({item.recording_id for item in content.items} - rows.keys()):
        raise PipelineError(
            f"The file {file} has answers for {unknown[0]}, which is no recording of the camera {camera!r}: name the "
            "data folder of the audit with --data."
        )
    prepare_data_folder(settings)
    with disk_errors(settings.data_folder):
        added = store_answers(store, content, answered_by)
        publish(store, settings)
    before = f"; {len(content.items) - added} were stored before" if added < len(content.items) else ""
    click.echo(f"Stored {added} answer{'s' * (added != 1)}{before}.")
    if hash_counts(read_population(store, list(rows.values()), settings)) != content.counts_id:
        click.echo("The counts have changed since the sample was drawn: the report is about those of that time.")
    stored = read_answers(store, content.counts_id)
    click.echo("")
    _print_reports(report_counts(stored), camera)
    wrong = [row for row in stored if row["kind"] == "event" and row["answer"] == 0]
    if wrong:
        click.echo("\nWrong events (correct the tracks with cv-assets correct):")
    for row in wrong[:_MAX_LISTED]:
        click.echo(f"  {row['recording_id']}  track {row['track_id']}  {row['start_s']:.1f} s  {row['count_name']}")
    if len(wrong) > _MAX_LISTED:
        click.echo(f'  and {len(wrong) - _MAX_LISTED} others: cv-assets sql "FROM audit_answers WHERE answer = 0"')


def _print_reports(reports: Sequence["CountReport"], camera: str) -> None:
    width = max(len(report.count_name) for report in reports)
    line = f"{{:<{width}}}  {{:>7}}  {{:<20}}  {{:<20}}  {{:<22}}  {{}}"
    click.echo(line.format("count", "counted", "precision", "recall", "true number", "more for ±5 %"))
    most = 0
    for report in reports:
        counted, estimate, more = sum(stratum.size for stratum in report.events), report.estimate, "-"
        cells = ["-", "-", "-"]
        if estimate is not None:
            true, needed = estimate.corrected, report.count_more()
            number = f"{true.estimate:.0f} ({true.low:.0f} to {true.high:.0f})"
            cells, more = [_percent(estimate.precision), _percent(estimate.recall), number], str(needed)
            most = max(most, needed)
        click.echo(line.format(report.count_name, counted, *cells, more))
    click.echo("In brackets: the 95 % interval.")
    for report in reports:
        if report.open_strata:
            click.echo(f"{report.count_name}: no answers yet for {'; '.join(report.open_strata)}. Answer the rest.")
    if most:
        sample = max(most, MIN_ITEMS) * len(reports)
        click.echo(f"For ±5 % of each count: cv-assets audit {shlex.quote(camera)} --sample {sample}")


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.estimate:.0%} ({interval.low:.0%} to {interval.high:.0%})"
