"""Metadata that Dagster's UI shows for a stage: counts, contact sheets, and progress while the stage runs."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from dagster import AssetExecutionContext, AssetObservation, MetadataValue

from resources.media.progress import ReportProgress
from resources.previews.image_encoding import MAX_FRAME_BYTES, MAX_SHEET_BYTES, embed_in_markdown, encode_jpeg

PROGRESS_INTERVAL_S = 2.0
_NAMED_CLASSES = 12

Metadata = Mapping[str, Any]


def count_metadata(row_count: int, **values: Any) -> Metadata:
    """Metadata of one recording's rows in a table."""
    return {"dagster/partition_row_count": row_count, **values}


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


def sheet_metadata(sheet: np.ndarray, alt_text: str) -> MetadataValue:
    """A contact sheet as Markdown for Dagster's UI.

    Args:
        sheet: uint8 BGR array of shape (height_px, width_px, 3).
        alt_text: Text in place of the image.
    """
    return MetadataValue.md(embed_in_markdown(encode_jpeg(sheet, MAX_SHEET_BYTES), alt_text))


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
            metadata |= {"frames_per_s": round(rate_fps, 1), "eta_s": round((total - done) / rate_fps, 1)}
        if preview is not None:
            markdown = embed_in_markdown(encode_jpeg(preview, MAX_FRAME_BYTES), f"frame {done} of {total}")
            metadata["preview"] = MetadataValue.md(markdown)
        context.log_event(AssetObservation(asset_name, partition=recording_id, metadata=metadata))

    return report
