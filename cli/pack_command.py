"""The commands pack and verify-pack: hand on what was found with its evidence, and verify that nothing was changed."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import PATH_TYPE, context_option, data_option, settings_option
from cli.output_files import check_new_file
from resources.config.settings import Settings
from resources.environment import choose_settings, prepare_data_folder
from resources.errors import PipelineError, RecordingError
from resources.storage.delta_store import Store

if TYPE_CHECKING:
    import duckdb

    from cli.pack_contents import PackedRecording


@click.command()
@click.argument("recordings", nargs=-1, required=True, metavar="RECORDING...")
@click.option("--track", "tracks", type=int, multiple=True, help="Around this track; may be given several times.")
@click.option("--event", "events", type=int, multiple=True, help="Around this event, from 1 in order of time.")
@click.option("--from", "start", help="Start: seconds, 1:02.5, or a wall-clock time (UTC without an offset).")
@click.option("--to", "end", help="End, as --from.")
@context_option
@click.option("--reason", help="Why the pack is made; also the reason for which its recordings are kept.")
@click.option("--keep/--no-keep", "is_keeping", default=True, show_default=True, help="Keep its recordings.")
@click.option("--out", type=PATH_TYPE, required=True, help="File to write (.zip).")
@data_option
@settings_option
def pack(
    recordings: tuple[str, ...],
    out: Path,
    data: Path | None,
    settings: Path | None,
    **options: Any,
) -> None:
    """Write an evidence pack of RECORDINGs, whole or around tracks, events or times.

    A pack is a zip file with clips, stills, a report, the rows as CSV, the provenance, hashes of all files and, with
    the setting pack.signing_key, a signature. Its recordings are kept, as by the command keep.
    """
    from cli.pack_contents import write_pack_contents
    from cli.start_check import publish_for_query
    from resources.draft_file import draft_file
    from resources.evidence.evidence_pack import write_pack
    from resources.evidence.pack_signature import read_signing_key
    from resources.storage.results_database import open_results

    if (options["tracks"] or options["events"]) and len(recordings) > 1:
        raise PipelineError("pack: tracks and events are of one recording: name only that.")
    if (options["tracks"] or options["events"]) and (options["start"] or options["end"]):
        raise PipelineError("pack: give tracks and events, or --from and --to, not both.")
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    check_new_file("pack", out, loaded_settings, ".zip")
    key_file = loaded_settings.pack.signing_key
    key = read_signing_key(key_file) if key_file else None
    publish_for_query(loaded_settings)
    with open_results(loaded_settings.data_folder) as results:
        selected = _select(results, recordings, loaded_settings, options)
        ids = [recording.annotations.recording_id for recording in selected]
        reason = options["reason"] or f"Evidence pack {out.name} of {datetime.now(UTC):%Y-%m-%d}"
        try:
            with (
                _keeping(ids if options["is_keeping"] else [], reason, loaded_settings),
                draft_file("pack", out) as draft,
                tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder,
            ):
                write_pack_contents(Path(folder), results, selected, loaded_settings, options["reason"])
                count = write_pack(draft, Path(folder), key)
        except RecordingError as error:
            raise PipelineError(f"{', '.join(ids)}: {error}") from error
    signed = "signed" if key else "not signed, because the settings have no pack.signing_key"
    kept = f"; kept: {', '.join(ids)}" if options["is_keeping"] else ""
    click.echo(f"{out}: {count} files of {len(ids)} recording{'s' * (len(ids) != 1)}, {signed}{kept}.")


def _select(
    results: "duckdb.DuckDBPyConnection", names: Sequence[str], settings: Settings, options: dict[str, Any]
) -> "list[PackedRecording]":
    """The recordings with their boxes, videos and stretches.

    Raises:
        PipelineError: A recording, its video or a stretch of it does not exist.
    """
    from cli.pack_contents import PackedRecording
    from cv_assets.media_status import find_normalized_video, read_normalized_row
    from resources.clips.clip_selection import parse_time, stretch_between, stretch_of_event, stretch_of_track
    from resources.exports.annotations import read_annotations, select_recordings
    from resources.start_times import recording_start

    selected = []
    for row in select_recordings(results, names, None):
        recording = read_annotations(results, row, is_corrected=True, has_untracked=False)
        try:
            stored = read_normalized_row(recording.recording_id, Store(settings.data_folder))
            video = find_normalized_video(stored, settings.data_folder)
        except RecordingError as error:
            raise PipelineError(f"{recording.recording_id}: {error}") from error
        clock = recording_start(stored, settings)
        context_s = options["context"]
        stretches = [stretch_of_track(recording, number, context_s) for number in options["tracks"]]
        stretches += [stretch_of_event(results, recording, number, context_s) for number in options["events"]]
        if not stretches:
            edges = (options["start"], options["end"])
            times_s = [None if text is None else parse_time(text, clock and clock[0]) for text in edges]
            stretches = [stretch_between(recording, *times_s)]
        time_zone = settings.camera(row["camera"]).time_zone or settings.ingest.time_zone
        selected.append(PackedRecording(recording, stretches, video, clock and clock[0], time_zone))
    return selected


@contextmanager
def _keeping(recording_ids: Sequence[str], reason: str, settings: Settings) -> Iterator[None]:
    """Keep recordings from now on; those that were not kept before may be deleted again if the block fails."""
    if not recording_ids:
        yield
        return
    from resources.storage.results_database import publish
    from sensors.forgetting import keep_recordings, release_recordings
    from sensors.retention import kept_recordings

    prepare_data_folder(settings)
    store = Store(settings.data_folder)
    added = sorted(set(recording_ids) - kept_recordings(store))
    if added:
        keep_recordings(store, added, reason)
    try:
        yield
    except BaseException:
        if added:
            release_recordings(store, added)
        raise
    publish(store, settings)


@click.command("verify-pack")
@click.argument("file", type=PATH_TYPE)
@click.option("--public-key", type=PATH_TYPE, help="Public key (PEM) of the sender, who must have signed the pack.")
def verify_pack(file: Path, public_key: Path | None) -> None:
    """Verify that an evidence pack is as it was written, and name what is changed, missing or added.

    The exit status is 1 if anything is. Nothing is unpacked.
    """
    from resources.evidence.evidence_pack import check_pack
    from resources.evidence.pack_signature import read_public_key

    key = None
    if public_key:
        try:
            key = read_public_key(public_key.read_bytes(), str(public_key))
        except OSError as error:
            raise PipelineError(f"The public key {public_key} cannot be read: {error.strerror or error}.") from error
    check = check_pack(file, key)
    for problem in check.problems:
        click.echo(problem)
    if check.problems:
        click.echo(f"{file}: not as it was written.")
        sys.exit(1)
    if check.fingerprint is None:
        origin = "not signed: a changed file could have a changed hash, too"
    elif key:
        origin = f"signed by this key, {check.fingerprint}"
    else:
        origin = f"signed by {check.fingerprint}: compare it with the key of the sender, or use --public-key"
    click.echo(f"{file}: {check.file_count} files, all as they were written; {origin}.")
