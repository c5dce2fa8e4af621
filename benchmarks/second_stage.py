"""Embeddings, search, teaching and text: `python -m benchmarks.second_stage` measures these cases alone.

With `--million` it builds and searches an index of a million embeddings instead, which takes minutes and 2 GB of disk.
"""

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.embedding_model import load_embedding
from benchmarks.report import (
    CORPUS,
    Case,
    describe_machine,
    figure_case,
    max_case,
    min_case,
    min_ratio_case,
    print_table,
)
from benchmarks.teaching import teach_cases
from cli.options import end_process
from cv_assets.crop_texts import normalize_text, vote_on_text
from demo.drawn_scenes.random_scenes import random_scene
from demo.drawn_scenes.rendering import draw_frame
from resources.camera_clock import find_start
from resources.config.settings import Settings
from resources.crop_search import CropQuery, search_crops
from resources.inference.detector import Detector
from resources.schema.columns import BOX, Table
from resources.schema.recording_tables import RECORDING_CONTENTS, RECORDINGS
from resources.schema.table_registry import crop_model_tables
from resources.schema.track_tables import CROPS
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from resources.storage.vector_index import build_index, open_index

_NEIGHBOURS = 9  # frames; pictures of a person that are nearer in time are not compared
_SPEED_CROPS = 400
_SEARCH_RECORDINGS, _CROPS_PER_RECORDING, _CAMERAS = 100, 1000, 10
_MILLION, _INDEX_BATCH, _CLUSTERS = 1_000_000, 50_000, 20_000
_PLATE_HEIGHTS_PX = (6, 8, 10, 16)
_PLATES, _PLATE_CROPS = 12, 5
_CLOCK_HEIGHTS_PX, _CLOCKS = (10, 13, 16, 24), 20


def embedding_cases(detector: Detector) -> Iterator[Case]:
    """How well embeddings find the same object again, beside colour histograms and chance."""
    sets = {"drawn": _read_drawn_objects(), "TUD-Campus": _read_tud_campus()}
    for name, (crops, objects, frames) in sets.items():
        if not crops:
            click.echo(f"{name}: no corpus of recordings; the case is left out.")
            continue
        embeddings = _embed(detector, crops)
        histograms = np.stack([_histogram(crop) for crop in crops])
        random = np.random.default_rng(0).normal(size=embeddings.shape)
        top_1, precision = _rank(embeddings, objects, frames)
        peer_top_1, peer_precision = _rank(histograms, objects, frames)
        chance_top_1, chance_precision = _rank(random, objects, frames)
        yield min_ratio_case(f"{name}: top-1 of {len(crops)} crops vs histograms", top_1, peer_top_1, "share", 0.0)
        yield min_ratio_case(f"{name}: mAP vs histograms", precision, peer_precision, "share", 0.0)
        yield min_ratio_case(f"{name}: top-1 vs chance", top_1, chance_top_1, "share", 1.0)
        yield min_ratio_case(f"{name}: mAP vs chance", precision, chance_precision, "share", 1.0)
        mirrored = _embed(detector, [np.ascontiguousarray(crop[:, ::-1]) for crop in crops])
        nearest = (mirrored @ embeddings.T).argmax(axis=1)
        yield min_case(f"{name}: mirrored crop nearest to its original", _share(nearest, len(crops)), "share", 0.99)


def _embed(detector: Detector, crops: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([embedding.vector for embedding in detector.embed(crops)])


def _share(nearest: np.ndarray, count: int) -> float:
    return float((nearest == np.arange(count)).mean())


def _rank(vectors: np.ndarray, objects: np.ndarray, frames: np.ndarray) -> tuple[float, float]:
    """Share of crops whose most similar one shows the same object, and mean average precision."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
    similarities, firsts, precisions = vectors @ vectors.T, [], []
    for index in range(len(vectors)):
        is_compared = np.abs(frames - frames[index]) >= _NEIGHBOURS
        is_same = (objects == objects[index])[is_compared]
        if not is_same.any():
            continue
        ranked = is_same[np.argsort(-similarities[index][is_compared], kind="stable")]
        firsts.append(ranked[0])
        shares = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        precisions.append((shares * ranked).sum() / ranked.sum())
    return float(np.mean(firsts)), float(np.mean(precisions))


def _histogram(crop: np.ndarray) -> np.ndarray:
    """Square roots of the shares of colours (8 hues, 4 saturations, 4 values)."""
    levels = cv2.calcHist([cv2.cvtColor(crop, cv2.COLOR_BGR2HSV)], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256])
    return np.asarray(np.sqrt(levels.ravel() / levels.sum()))


Crops = tuple[list[np.ndarray], np.ndarray, np.ndarray]


def _read_tud_campus() -> Crops:
    """Crops of every third frame, without margins; their persons, and their frames; empty without a corpus."""
    folder = CORPUS / "ground_truth" / "TUD-Campus"
    crops, objects, frames = list[np.ndarray](), list[int](), list[int]()
    if not folder.exists():
        return crops, np.array(objects), np.array(frames)
    truth = np.loadtxt(folder / "gt.txt", delimiter=",")
    capture, frame_number = cv2.VideoCapture(str(folder / "TUD-Campus.mp4")), 0
    while capture.grab():
        frame_number += 1
        if frame_number % 3:
            continue
        frame = np.asarray(capture.retrieve()[1])
        for row in truth[truth[:, 0] == frame_number]:
            left, top = np.maximum(row[2:4], 0).astype(int)
            right, bottom = (row[2:4] + row[4:6]).astype(int)
            crop = frame[top:bottom, left:right]
            if min(crop.shape[:2]) >= 12:
                crops.append(crop.copy())
                objects.append(int(row[1]))
                frames.append(frame_number)
    return crops, np.array(objects), np.array(frames)


def _read_drawn_objects() -> Crops:
    """Crops of objects of drawn scenes, each at several times."""
    crops, objects, frames = list[np.ndarray](), list[int](), list[int]()
    for seed in range(10):
        scene = random_scene(seed, max_objects=12)
        for frame_number in range(0, 100, 10):
            image, boxes = draw_frame(scene, frame_number / 25)
            for box in boxes:
                crop = image[box.y_min_px : box.y_max_px, box.x_min_px : box.x_max_px]
                if min(crop.shape[:2]) >= 16 and box.visible_fraction > 0.7:
                    crops.append(crop.copy())
                    objects.append(1000 * seed + box.object_id)
                    frames.append(frame_number)
    return crops, np.array(objects), np.array(frames)


def speed_cases(detector: Detector) -> Iterator[Case]:
    """Embedded crops per second and core, and the share of the engine's own speed."""
    import openvino

    random = np.random.default_rng(0)
    crops = [random.integers(0, 255, (200, 80, 3), np.uint8)] * _SPEED_CROPS
    list(detector.embed(crops[:20]))
    own_s = min(_duration_s(lambda: list(detector.embed(crops))) for _ in range(3))
    from resources.inference.plain_networks import BUNDLED_FOLDER

    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(BUNDLED_FOLDER / "mobilenet.xml"), "CPU", settings)
    requests, image = openvino.AsyncInferQueue(compiled), np.zeros((1, 3, 224, 224), np.float32)

    def run_engine() -> None:
        for _ in crops:
            requests.start_async({0: image}, share_inputs=True)
        requests.wait_all()

    run_engine()
    engine_s = min(_duration_s(run_engine) for _ in range(3))
    cores = os.cpu_count() or 1
    yield min_case("embedded crops per second and core", _SPEED_CROPS / own_s / cores, "crops/s", 60)
    yield min_ratio_case("embedding vs the engine alone", _SPEED_CROPS / own_s, _SPEED_CROPS / engine_s, "crops/s", 0.8)


def _duration_s(work: Any) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def search_cases(scratch: Path) -> Iterator[Case]:
    """Search over 100,000 crops of 10 cameras, from Parquet."""
    store, settings = Store(scratch / "search"), Settings(data_folder=scratch / "search")
    (embeddings,) = crop_model_tables("look", "embed")
    ids = [f"r{number:03d}" for number in range(_SEARCH_RECORDINGS)]
    random = np.random.default_rng(0)
    of_recordings: dict[Table, dict[str, Any]] = {
        RECORDINGS: {"container_name": "mp4"},
        RECORDING_CONTENTS: {"rate_fps": 25.0},
    }
    for table, values in of_recordings.items():
        rows = [{"recording_id": name, "camera": f"cam{index % _CAMERAS}"} | values for index, name in enumerate(ids)]
        store.replace(table, ids, _filled_rows(table, rows))
    for recording_id in ids:
        keys = [
            {"recording_id": recording_id, "track_id": number // 3 + 1, "rank": number % 3 + 1}
            for number in range(_CROPS_PER_RECORDING)
        ]
        vectors = random.normal(size=(len(keys), 256)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = [
            key | {"embedding": vector, "model_id": "m", "engine_name": "e"}
            for key, vector in zip(keys, vectors, strict=True)
        ]
        store.replace(embeddings, [recording_id], _filled_rows(embeddings, rows))
        store.replace(CROPS, [recording_id], _filled_rows(CROPS, [key | {"class_name": "car"} for key in keys]))
    publish(store, settings)
    with open_results(settings.data_folder) as connection:
        for name, camera, limit_s in (("with a camera filter", "cam3", 0.5), ("without a filter", None, 1.5)):
            query = CropQuery(vectors[0], "m", camera=camera)
            search = _SearchOnce(connection, embeddings.name, query)
            yield max_case(f"search of 100,000 crops {name}", min(_duration_s(search) for _ in range(3)), "s", limit_s)


class _SearchOnce:
    """Runs one search."""

    def __init__(self, connection: Any, table: str, query: CropQuery) -> None:
        self._arguments = connection, table, query

    def __call__(self) -> None:
        """Search, and fetch the rows."""
        search_crops(*self._arguments).fetchall()


def index_cases(scratch: Path) -> Iterator[Case]:
    """An index of a million embeddings that lie in clusters, as those of real crops do."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(_CLUSTERS, 256)).astype(np.float32)
    folder = scratch / "million"
    folder.mkdir()
    for number in range(_MILLION // _INDEX_BATCH):
        noise = random.normal(size=(_INDEX_BATCH, 256)).astype(np.float32)
        vectors = centres[random.integers(0, _CLUSTERS, _INDEX_BATCH)] + 0.7 * noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        offsets = np.arange(_INDEX_BATCH + 1, dtype=np.int32) * 256
        columns = {
            "recording_id": [f"r{number}"] * _INDEX_BATCH,
            "track_id": np.arange(_INDEX_BATCH, dtype=np.int32),
            "rank": np.ones(_INDEX_BATCH, np.int32),
            "embedding": pa.ListArray.from_arrays(offsets, vectors.ravel()),
            "model_id": ["m"] * _INDEX_BATCH,
        }
        pq.write_table(pa.table(columns), folder / f"{number:03d}.parquet")
    with duckdb.connect() as connection:
        files, cast = f"read_parquet('{folder}/*.parquet')", "TRY_CAST(embedding AS FLOAT[256]) AS embedding"
        connection.execute(f"CREATE VIEW crops_of_a_year AS SELECT * EXCLUDE (embedding), {cast} FROM {files}")
        started_s = time.perf_counter()
        built = build_index(connection, "crops_of_a_year", 1, "m", scratch / "index")
        built_s = time.perf_counter() - started_s
    index = open_index(scratch / "index", "crops_of_a_year", 1, "m")
    assert index is not None
    durations_s = [_duration_s(partial(index.search, vector, 200)) for vector in vectors[:50]]
    yield min_case(f"index of {built.vector_count:,} embeddings: recall", built.recall, "share", 0.95)
    yield max_case("the same: a search", float(np.median(durations_s)), "s", 0.05)
    yield figure_case("the same: built in s", built_s)


def _filled_rows(table: Table, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of a table with 1, true or "" in every column that must have a value and has none."""
    values = {pa.string(): "", pa.bool_(): True}
    ones = {field.name: None if field.nullable else values.get(field.type, 1) for field in table.arrow_schema}
    boxes = {column.name: 1.0 for column in BOX if column.name in ones}
    return pa.Table.from_pylist([ones | boxes | row for row in rows], table.arrow_schema)


def text_cases() -> Iterator[Case]:
    """Drawn plates at four sizes, blurred and noisy: characters of single crops, and of the vote of a track."""
    from importlib.util import find_spec

    if find_spec("rapidocr") is None:
        click.echo("rapidocr is not installed: text is not measured.")
        return
    from resources.inference.text_reader import read_text

    random = np.random.default_rng(0)
    for height_px in _PLATE_HEIGHTS_PX:
        single, voted = list[float](), list[float]()
        for _ in range(_PLATES):
            plate = _random_plate(random)
            readings = []
            for _ in range(_PLATE_CROPS):
                lines = read_text(_draw_plate(plate, height_px, random))
                text = normalize_text(lines[0].text) if lines else ""
                readings.append((text, lines[0].confidence if lines else 0.0))
                single.append(_character_accuracy(text, plate))
            voted.append(_character_accuracy(vote_on_text([reading for reading in readings if reading[0]])[0], plate))
        yield min_ratio_case(
            f"plates, letters of {height_px} px: vote vs single crop", float(np.mean(voted)), float(np.mean(single)),
            "share", 1.0,
        )  # fmt: skip


def clock_cases() -> Iterator[Case]:
    """Drawn clocks of cameras, blurred and noisy: share of recordings whose start is read right."""
    from importlib.util import find_spec

    if find_spec("rapidocr") is None:
        return
    from cv_assets.camera_clocks import read_clocks

    random = np.random.default_rng(0)
    for height_px in _CLOCK_HEIGHTS_PX:
        right = []
        for _ in range(_CLOCKS):
            start = datetime(2026, 1, 1) + timedelta(seconds=int(random.integers(0, 31_000_000)))
            frames = [
                (time_s, _draw_clock(start + timedelta(seconds=time_s), height_px, random))
                for time_s in range(0, 35, 5)
            ]
            found = find_start(read_clocks(iter(frames))[0])
            right.append(found is not None and found.started_at == start)
        minimum = 0.99 if height_px >= 16 else 0.0
        yield min_case(
            f"clock of {height_px} px read right in {_CLOCKS} recordings", float(np.mean(right)), "share", minimum
        )


def _draw_clock(time: datetime, height_px: int, random: np.random.Generator) -> np.ndarray:
    """Draw a clock at the top of a picture of 360 px height, white with a black border, blurred and with noise."""
    image = np.kron(random.integers(20, 200, (9, 16, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    size = height_px / 22
    for colour, thickness in (((0, 0, 0), max(2, height_px // 5)), ((255, 255, 255), max(1, height_px // 11))):
        text, origin = f"{time:%Y-%m-%d %H:%M:%S}", (12, 14 + height_px)
        cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness, cv2.LINE_AA)
    blurred = cv2.GaussianBlur(image, (0, 0), float(random.uniform(0.3, 0.8)))
    return np.asarray(np.clip(blurred + random.normal(0, 6, blurred.shape), 0, 255), np.uint8)


def _random_plate(random: np.random.Generator) -> str:
    letters, digits = list("ABCDEFGHJKLMNPRSTUVWXYZ"), list("0123456789")
    return "".join([*random.choice(letters, 3), *random.choice(digits, 4)])


def _draw_plate(text: str, height_px: int, random: np.random.Generator) -> np.ndarray:
    """Draw a plate on a grey car, with letters of some height, blurred and with noise."""
    scale = 4
    image = np.full((3 * height_px * scale, 9 * height_px * scale, 3), 90, np.uint8)
    cv2.rectangle(
        image,
        (2 * scale, height_px * scale // 2),
        (image.shape[1] - 2 * scale, image.shape[0] - height_px * scale // 2),
        (235, 235, 235),
        -1,
    )
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, height_px * scale // 9)
    size = height_px * scale / 22
    width = cv2.getTextSize(text, font, size, thickness)[0][0]
    origin = ((image.shape[1] - width) // 2, 2 * height_px * scale)
    cv2.putText(image, text, origin, font, size, (20, 20, 20), thickness, cv2.LINE_AA)
    small = cv2.resize(image, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), float(random.uniform(0.3, 1.2)))
    return np.asarray(np.clip(blurred + random.normal(0, 10, blurred.shape), 0, 255), np.uint8)


def _character_accuracy(text: str, truth: str) -> float:
    """1 less the edit distance per character of the truth, at least 0."""
    distances = list(range(len(truth) + 1))
    for row, character in enumerate(text, 1):
        previous, distances[0] = distances[0], row
        for column, other in enumerate(truth, 1):
            previous, distances[column] = (
                distances[column],
                min(distances[column] + 1, distances[column - 1] + 1, previous + (character != other)),
            )
    return max(0.0, 1 - distances[-1] / len(truth))


def second_stage_cases(scratch: Path) -> Iterator[Case]:
    """All cases."""
    detector = load_embedding()
    yield from embedding_cases(detector)
    yield from speed_cases(detector)
    yield from search_cases(scratch)
    yield from teach_cases(detector)
    yield from text_cases()
    yield from clock_cases()


if __name__ == "__main__":
    cases = index_cases if "--million" in sys.argv[1:] else second_stage_cases
    warnings.simplefilter("ignore")
    click.echo(f"Measuring on {describe_machine()}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        measured = []
        for case in cases(Path(name)):
            click.echo(f"{case.case}: {case.ours:.3f} {case.unit}", err=True)
            measured.append(case)
        print_table(measured)
    end_process(0)
