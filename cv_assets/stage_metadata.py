"""Metadata that Dagster's UI shows for a stage: counts, contact sheets, and progress while the stage runs."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from dagster import AssetExecutionContext, AssetObservation, MarkdownMetadataValue, MetadataValue

from resources.media.progress import ReportProgress
from resources.previews.image_encoding import MAX_FRAME_BYTES, MAX_SHEET_BYTES, embed_in_markdown, encode_jpeg

PROGRESS_INTERVAL_S = 2.0
_NAMED_CLASSES = 12
_UNITS = {"_px_s": "px/s", "_s": "s", "_px": "px", "_fps": "frames/s", "_bytes": "MB"}
_LABELS = {"status": "stage status", "error": "stage error"}

Metadata = Mapping[str, Any]


def count_metadata(row_count: int, **values: Any) -> Metadata:
    """Metadata of one recording's rows in a table."""
    return {"dagster/partition_row_count": row_count, **values}


def display_metadata(values: Metadata) -> Metadata:
    """Metadata as the UI shows it: pictures first, names in words with their units, numbers rounded.

    Args:
        values: Metadata of a stage; a name with a slash is kept, because Dagster or a plot reads it.
    """
    shown = {}
    for name, value in values.items():
        suffix, unit = next(((suffix, unit) for suffix, unit in _UNITS.items() if name.endswith(suffix)), ("", ""))
        if "/" in name:
            shown[name] = value
            continue
        value = value / 1e6 if unit == "MB" else value
        words = _LABELS.get(name, name.removesuffix(suffix).replace("_", " "))
        shown[f"{words} ({unit})" if unit else words] = _round(value, 4 if unit == "frames/s" else 3)
    return dict(sorted(shown.items(), key=lambda item: not isinstance(item[1], MarkdownMetadataValue)))


def _round(value: Any, digits: int) -> Any:
    """Round a float to some significant digits, but never its integer part; other values are kept."""
    if not isinstance(value, float) or not math.isfinite(value) or value == 0:
        return value
    return round(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def recording_link(recording_id: str) -> MetadataValue:
    """The page of a recording, at a path of Dagster's UI, which leads on to wherever the pages are served."""
    return MetadataValue.url(f"/recordings/{recording_id}")


def class_count_metadata(unit: str, counts: Mapping[str, int]) -> Metadata:
    """Metadata with the count of each class, which the UI plots over the recordings; rare classes are added up.

    Args:
        unit: Unit of the counts, such as `boxes`.
        counts: Number of objects by class.
    """
    ordered = Counter(counts).most_common()
    metadata = {f"{unit}/{name}": count for name, count in ordered[:_NAMED_CLASSES]}
    others = sum(count for _, count in ordered[_NAMED_CLASSES:])
    return metadata | ({f"{unit}/others": others} if others else {})


def sheet_metadata(sheet: np.ndarray, caption: str) -> MetadataValue:
    """A contact sheet with its caption as Markdown for Dagster's UI.

    Args:
        sheet: uint8 BGR array of shape (height_px, width_px, 3).
        caption: What the sheet shows, above it and in place of the image where that is not shown.
    """
    return MetadataValue.md(f"{caption}\n\n{embed_in_markdown(encode_jpeg(sheet, MAX_SHEET_BYTES), caption)}")


def progress_reporter(context: AssetExecutionContext, asset_name: str, recording_id: str) -> ReportProgress:
    """Build a callback that logs progress as observations, every two seconds and with each preview."""
    last_s, last_done = time.monotonic(), 0
    # The rate is measured from the first report: before it, models were loaded and frames read from checkpoints.
    first: tuple[float, int] | None = None

    def report(done: int, total: int, preview: np.ndarray | None = None, /) -> None:
        nonlocal last_s, last_done, first
        now_s = time.monotonic()
        first = first or (now_s, done)
        is_due = now_s - last_s >= PROGRESS_INTERVAL_S or (done == total and done != last_done)
        if preview is None and not is_due:
            return
        last_s, last_done = now_s, done
        metadata: dict[str, Any] = {"frames_done": done, "frames_total": total}
        if done > first[1]:
            rate_fps = (done - first[1]) / max(now_s - first[0], 1e-3)
            metadata |= {"frames_per_s": round(rate_fps, 1), "remaining (s)": round((total - done) / rate_fps, 1)}
        if preview is not None:
            markdown = embed_in_markdown(encode_jpeg(preview, MAX_FRAME_BYTES), f"frame {done} of {total}")
            metadata["preview"] = MetadataValue.md(markdown)
        context.log_event(AssetObservation(asset_name, partition=recording_id, metadata=metadata))

    return report
