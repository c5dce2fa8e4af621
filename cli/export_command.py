"""The command export: writes boxes, tracks and counts as files of other tools."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import duckdb

from cli.options import PATH_TYPE, data_option, settings_option
from resources.config.settings import Settings
from resources.environment import choose_settings
from resources.errors import PipelineError, RecordingError

if TYPE_CHECKING:
    from resources.exports.annotations import RecordingAnnotations

_FORMATS = {
    "coco": "COCO: boxes, masks, keypoints",
    "yolo": "dataset of Ultralytics, with images",
    "fiftyone": "COCO folder as FiftyOne imports it, with images",
    "mot": "sequence of the MOT challenge",
    "cvat": "CVAT for video 1.1",
    "label-studio": "tasks of Label Studio",
    "csv": "tables",
    "xlsx": "tables as sheets",
    "parquet": "tables",
    "arrow": "tables",
    "geojson": "paths on the ground",
    "flows": "counts by pair of lines, as OpenTrafficCam has them",
    "vtt": "events as captions",
}
_PER_FRAME, _TABLES = ("coco", "yolo", "fiftyone"), ("csv", "xlsx", "parquet", "arrow")
_MUST_HAVE_IMAGES = ("yolo", "fiftyone")
_INTERVAL_MIN = 15


@click.command(epilog="Formats: " + "; ".join(f"{name} ({text})" for name, text in _FORMATS.items()) + ".")
@click.argument("output_format", type=click.Choice(list(_FORMATS)), metavar="FORMAT")
@click.argument("recordings", nargs=-1, metavar="[RECORDING]...")
@click.option("--out", type=PATH_TYPE, required=True, help="Folder to write: a new one, or an empty one.")
@click.option("--camera", help="Only this camera; '' for recordings directly in the watched folder.")
@click.option("--class", "classes", multiple=True, help="Only this class; may be given several times.")
@click.option("--corrected", is_flag=True, help="Tracks as people have corrected them, not as the tracker gave them.")
@click.option("--every", type=click.IntRange(min=1), help="Of coco, yolo and fiftyone: only each Nth frame.")
@click.option("--images", is_flag=True, help="Of coco: write the frames, too.")
@click.option("--table", "tables", multiple=True, help="Of csv, xlsx, parquet and arrow: a table; several times.")
@click.option("--interval", type=click.IntRange(1, 1440), help="Of flows: minutes [default: 15].")
@click.option("--origin", type=float, nargs=2, help="Of geojson: latitude and longitude of the ground's point (0, 0).")
@click.option("--bearing", type=float, help="Of geojson: direction of the ground's y axis from north [default: 0].")
@data_option
@settings_option
def export(
    output_format: str,
    recordings: tuple[str, ...],
    out: Path,
    data: Path | None,
    settings: Path | None,
    **options: Any,
) -> None:
    """Write boxes, tracks or counts of recordings (all without RECORDING) in FORMAT to a new folder."""
    from cli.start_check import publish_for_query
    from resources.exports.annotations import select_recordings
    from resources.exports.export_folder import export_folder
    from resources.storage.results_database import open_results

    _check_options(output_format, options)
    loaded_settings = choose_settings(settings=settings, data_folder=data)
    publish_for_query(loaded_settings)
    with open_results(loaded_settings.data_folder) as results:
        rows = select_recordings(results, recordings, options["camera"], needs_video=output_format not in _TABLES)
        with export_folder(out, loaded_settings) as folder:
            count, noun = _write(output_format, results, rows, folder, loaded_settings, options)
    click.echo(f"{out}: {count} {noun} of {len(rows)} recording{'s' * (len(rows) != 1)}.")


def _check_options(output_format: str, options: dict[str, Any]) -> None:
    """Refuse options that the format does not have.

    Raises:
        PipelineError: An option belongs to other formats.
    """
    has_boxes = output_format not in (*_TABLES, "flows", "vtt")
    allowed = {
        "every": output_format in _PER_FRAME,
        "images": output_format in _PER_FRAME,
        "tables": output_format in _TABLES,
        "interval": output_format == "flows",
        "origin": output_format == "geojson",
        "bearing": output_format == "geojson",
        "classes": has_boxes,
        "corrected": has_boxes,
    }
    names = {"classes": "class", "tables": "table"}
    for option, is_allowed in allowed.items():
        is_given = options[option] not in (None, ()) and options[option] is not False
        if is_given and not is_allowed:
            raise PipelineError(f"export {output_format} takes no --{names.get(option, option)}: leave it out.")


def _write(
    output_format: str,
    results: duckdb.DuckDBPyConnection,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    settings: Settings,
    options: dict[str, Any],
) -> tuple[int, str]:
    """Write the files; returns how many of what there are."""
    from resources.exports.result_files import write_flow_counts

    recording_ids = [row["recording_id"] for row in rows]
    if output_format in _TABLES:
        return _write_tables(output_format, results, recording_ids, folder, options["tables"])
    if output_format == "flows":
        file = folder / "counts.csv"
        return write_flow_counts(results, file, recording_ids, options["interval"] or _INTERVAL_MIN), "counts"
    if output_format == "vtt":
        return _write_captions(results, rows, folder), "captions"
    return _write_boxes(output_format, results, rows, folder, settings, options)


def _write_boxes(
    output_format: str,
    results: duckdb.DuckDBPyConnection,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    settings: Settings,
    options: dict[str, Any],
) -> tuple[int, str]:
    """Write the files of a format that has boxes; returns how many of what there are."""
    from resources.exports.annotations import list_classes, read_annotations
    from resources.exports.image_datasets import DETECTED, TRACKED, write_coco, write_yolo
    from resources.exports.track_files import write_cvat, write_label_studio, write_mot

    selection = {"is_corrected": options["corrected"], "has_untracked": output_format in _PER_FRAME}
    classes = list_classes(results, [row["recording_id"] for row in rows], **selection)
    for name in options["classes"]:
        if name not in classes:
            raise PipelineError(f"No object has the class {name!r}; there are: {', '.join(classes) or 'none'}.")
    classes = [name for name in classes if not options["classes"] or name in options["classes"]]

    def annotations() -> "Iterator[RecordingAnnotations]":
        for row in rows:
            yield read_annotations(results, row, class_names=options["classes"], **selection)

    if output_format == "geojson":
        return _write_geojson(annotations(), rows, folder, settings, options), "paths"
    per_track: dict[str, Callable[..., int]] = {
        "mot": write_mot,
        "cvat": write_cvat,
        "label-studio": write_label_studio,
    }
    if write := per_track.get(output_format):
        return write(folder, annotations(), classes), "boxes"
    has_images = options["images"] or output_format in _MUST_HAVE_IMAGES
    writer = _image_writer(settings) if has_images else None
    every = options["every"] or 1
    if output_format == "yolo":
        assert writer
        return write_yolo(folder, annotations(), classes, every, writer), "boxes"
    names = {"labels_name": "labels.json", "images_name": "data"} if output_format == "fiftyone" else {}
    boxes_are = TRACKED if options["corrected"] else DETECTED
    return write_coco(folder, annotations(), classes, every, writer, boxes_are=boxes_are, **names), "boxes"


def _write_captions(results: duckdb.DuckDBPyConnection, rows: Sequence[dict[str, Any]], folder: Path) -> int:
    """Write RECORDING.vtt with the events of each recording; returns the number of captions."""
    from resources.clips.clip_selection import format_vtt, read_captions, stretch_between
    from resources.exports.annotations import read_annotations

    count = 0
    for row in rows:
        recording = read_annotations(results, row, is_corrected=True, has_untracked=False)
        captions, _ = read_captions(results, recording, stretch_between(recording, None, None))
        (folder / f"{recording.recording_id}.vtt").write_text(format_vtt(captions), encoding="utf-8")
        count += len(captions)
    return count


def _write_geojson(
    recordings: "Iterator[RecordingAnnotations]",
    rows: Sequence[dict[str, Any]],
    folder: Path,
    settings: Settings,
    options: dict[str, Any],
) -> int:
    from resources.exports.result_files import write_geojson

    cameras = {row["recording_id"]: settings.camera(row["camera"]) for row in rows}
    for row in rows:
        if not cameras[row["recording_id"]].ground:
            raise PipelineError(f"The camera {row['camera'] or ''!r} has no ground: cv-assets zones draws it.")
    origin, bearing_deg = options["origin"], options["bearing"] or 0.0
    return write_geojson(folder / "paths.geojson", list(recordings), cameras, origin, bearing_deg)


def _image_writer(settings: Settings) -> Callable[..., None]:
    """Write frames of recordings; the video of each must be there."""
    from cv_assets.media_status import find_normalized_video
    from resources.exports.export_folder import write_images
    from resources.storage.delta_store import Store
    from resources.storage.recording_rows import read_recording_rows

    store = Store(settings.data_folder)

    def write(recording: "RecordingAnnotations", frame_indices: Sequence[int], files: Sequence[Path]) -> None:
        try:
            row = read_recording_rows(store, [recording.recording_id])[recording.recording_id]
            with find_normalized_video(row, settings.data_folder).reading() as path:
                write_images(path, recording, frame_indices, files)
        except RecordingError as error:
            raise PipelineError(f"{recording.recording_id}: {error}") from error

    return write


def _write_tables(
    output_format: str,
    results: duckdb.DuckDBPyConnection,
    recording_ids: Sequence[str],
    folder: Path,
    names: Sequence[str],
) -> tuple[int, str]:
    """Write a file per table, or a sheet per table of one Excel file; returns the number of rows."""
    from cli.result_formats import replace_blobs, write_xlsx
    from resources.exports.result_files import DEFAULT_TABLES, select_table, write_arrow

    results.execute("SET TimeZone = 'UTC'")
    relations = {name: select_table(results, name, recording_ids) for name in names or DEFAULT_TABLES}
    if output_format == "xlsx":
        write_xlsx(relations, folder / "results.xlsx")
    for name, relation in relations.items():
        if output_format == "csv":
            replace_blobs(relation).write_csv(str(folder / f"{name}.csv"), header=True)
        elif output_format == "parquet":
            relation.write_parquet(str(folder / f"{name}.parquet"))
        elif output_format == "arrow":
            write_arrow(relation, folder / f"{name}.arrow")
    return sum(len(relation) for relation in relations.values()), "rows"
