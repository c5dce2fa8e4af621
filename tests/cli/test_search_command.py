"""`cv-assets search` and `cv-assets teach`: similar crops with filters, and a probe that becomes a crop model."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from cli.main import commands
from cv_assets.crop_models import answer_recording
from resources.config.settings_file import load_settings
from resources.errors import PipelineError
from resources.inference.detector import Models
from resources.inference.text_encoder import TextEncoder
from resources.schema.table_registry import crop_model_tables
from resources.storage.delta_store import Store
from resources.storage.results_database import open_results, publish
from tests.builders.embedded_crops import DIMENSIONS, EMBEDDINGS, TRACK_COUNT, class_of, filled_rows, store_crops


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    file = tmp_path / "pipeline.yaml"
    file.write_text("crop_models: [{name: look, weights: mobilenet}]\n")
    store_crops(Store(tmp_path / "data"))
    return file


def run(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(commands, [*arguments, "--settings", str(file)])


def search(file: Path, *arguments: str) -> list[tuple[str, int]]:
    """Recordings and tracks that are found, in order."""
    result = run(file, "search", *arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    return [(row["recording_id"], row["track_id"]) for row in rows]


def test_search_finds_similar_objects_once_each_and_not_the_example(settings_file: Path) -> None:
    found = search(settings_file, "--crop", "a:1", "--limit", "100")
    assert len(found) == len(set(found)) == 2 * TRACK_COUNT - 1 and ("a", 1) not in found
    assert {track_id % 2 for _, track_id in found[: TRACK_COUNT - 1]} == {1}


def test_filters_of_a_search_hold_at_once(settings_file: Path) -> None:
    crop = ("--crop", "a:1", "--limit", "100")
    assert {class_of(track) for _, track in search(settings_file, *crop, "--class", "person")} == {"person"}
    assert {track for _, track in search(settings_file, *crop, "--attribute", "colour=red")} == {1, 2, 3}
    assert sorted(search(settings_file, *crop, "--zone", "yard")) == [("a", 3), ("b", 3)]
    assert search(settings_file, *crop, "--camera", "gate", "--zone", "yard", "--class", "car") == []
    # The recordings start at 08:59:58.
    between = ("--from", "2026-03-01 09:00:00", "--to", "2026-03-01 09:00:03")
    assert {track for _, track in search(settings_file, *crop, *between)} == {2, 3, 4}


def test_a_search_writes_a_contact_sheet(settings_file: Path, tmp_path: Path) -> None:
    import cv2

    result = run(settings_file, "search", "--crop", "a:1:2", "--limit", "7", "--sheet", str(tmp_path / "sheet.jpg"))
    assert result.exit_code == 0 and "7 pictures" in result.output
    assert cv2.imread(str(tmp_path / "sheet.jpg")) is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "search needs exactly one of --crop, --image and --text, or --build-index alone"),
        (("--crop", "a"), "is not of the form RECORDING:TRACK"),
        (("--crop", "a:99"), "The crop a:99 has no row in look_crop_embeddings"),
        (("--crop", "a:1", "--camera", "gat"), "did you mean 'gate'?"),
        (("--crop", "a:1", "--zone", "yrd"), "did you mean 'yard'?"),
        (("--crop", "a:1", "--attribute", "hat=yes"), "The attribute hat has no table hat_track_classes"),
        (("--crop", "a:1", "--from", "noon"), "--from 'noon' is no time such as"),
        (("--text", "a red car"), "search.text_encoder is not set"),
        (("--image", "/nowhere.jpg"), "The image /nowhere.jpg cannot be read: No such file"),
    ],
)
def test_a_wrong_search_gets_one_sentence(settings_file: Path, arguments: tuple[str, ...], sentence: str) -> None:
    result = run(settings_file, "search", *arguments)
    assert result.exit_code in (1, 2) and sentence in result.stderr


def test_embeddings_are_arrays_of_a_view_and_a_macro_ranks_them(settings_file: Path) -> None:
    run(settings_file, "search", "--crop", "a:1")
    with open_results(settings_file.parent / "data") as results:
        types = results.execute("SELECT data_type, table_name IN (SELECT view_name FROM duckdb_views()) FROM "
                                "duckdb_columns() WHERE column_name = 'embedding'").fetchall()  # fmt: skip
        assert types == [(f"FLOAT[{DIMENSIONS}]", True)]
        rows = results.execute("FROM look_crop_embeddings_like('a', 2, 1) LIMIT 3").fetchall()
    assert rows[0][:4] == ("a", "gate", 2, 1) and rows[0][4] == pytest.approx(1)


def test_vectors_of_another_length_are_left_out(settings_file: Path) -> None:
    store = Store(settings_file.parent / "data")
    row = {"recording_id": "b", "track_id": 1, "rank": 1, "model_id": "m-1", "embedding": [1.0] * (DIMENSIONS + 1)}
    store.replace(EMBEDDINGS, ["b"], filled_rows(EMBEDDINGS, row))
    result = run(settings_file, "search", "--crop", "a:1")
    assert "The crop a:1 has no embedding: it has another length than the others" in result.stderr
    with open_results(settings_file.parent / "data") as results:
        counts = results.execute("SELECT count(*), count(embedding) FROM look_crop_embeddings").fetchone()
    assert counts == (3 * TRACK_COUNT + 1, 1)


def test_an_index_finds_what_the_scan_finds_until_the_embeddings_change(settings_file: Path) -> None:
    pytest.importorskip("faiss")
    crop = ("--crop", "a:1", "--limit", "20")
    scanned = search(settings_file, *crop)
    result = run(settings_file, "search", "--build-index")
    assert result.exit_code == 0, result.output
    assert re.search(r"144 embeddings of m-1; \d+\.\d% of the true nearest are found", result.output)
    assert search(settings_file, *crop) == scanned
    index_file = settings_file.parent / "data" / "index" / "look_crop_embeddings.parquet"
    keys = pq.read_table(index_file)
    pq.write_table(pa.concat_tables([keys.slice(keys.num_rows - 1)] * keys.num_rows), index_file)
    assert len(search(settings_file, *crop)) == 1  # the index decides what is compared
    assert search(settings_file, *crop, "--camera", "gate") == scanned  # and not with a filter
    index_file.write_bytes(b"damaged")
    assert search(settings_file, *crop) == scanned
    assert run(settings_file, "search", "--build-index").exit_code == 0
    store = Store(settings_file.parent / "data")
    store.replace(EMBEDDINGS, ["b"], EMBEDDINGS.empty)
    publish(store, load_settings(settings_file))
    assert {recording_id for recording_id, _ in search(settings_file, "--crop", "a:1")} == {"a"}


def write_text_encoder(folder: Path) -> Path:
    """Write a tiny encoder: the direction of a text depends on whether it has the token of "even"."""
    import openvino
    from openvino import opset13 as ops

    folder.mkdir()
    letters = sorted({*"evnod"} | {f"{letter}</w>" for letter in "evnod"})
    pieces = [*letters, "ev", "eve", "even</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\ne v\nev e\neve n</w>\n")
    tokens = ops.parameter([1, 8], np.int64, name="input_ids")
    table = np.zeros((len(pieces), DIMENSIONS), np.float32)
    table[:, 1] = 0.01
    table[pieces.index("even</w>"), 0] = 1
    rows = ops.gather(ops.constant(table), tokens, ops.constant(0))
    vector = ops.reduce_mean(rows, ops.constant(np.array([1])), False)
    openvino.save_model(openvino.Model([vector], [tokens], "text"), folder / "text.xml")
    return folder


def test_texts_are_searched_with_a_text_encoder_of_ones_own(settings_file: Path, tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "encoder")
    assert len(TextEncoder(folder).tokenize("Even odd")) == 6  # start, even, o, d, d</w>, end
    settings_file.write_text(f"{settings_file.read_text()}search: {{text_encoder: encoder}}\n")
    even, odd = (search(settings_file, "--text", text, "--limit", "10") for text in ("EVEN", "odd"))
    assert {track % 2 for _, track in even} == {0} and {track % 2 for _, track in odd} == {1}
    (folder / "merges.txt").unlink()
    with pytest.raises(PipelineError, match=r"has no merges.txt: copy it from the encoder"):
        TextEncoder(folder)


def test_a_probe_is_taught_in_seconds_and_becomes_a_crop_model(settings_file: Path, tmp_path: Path) -> None:
    positive = [argument for track in (1, 3, 5, 7, 9, 11) for argument in ("--positive", f"a:{track}")]
    (tmp_path / "negative.txt").write_text("\n".join(f"a:{track}" for track in (2, 4, 6, 8, 10)))
    file = tmp_path / "odd.probe.json"
    arguments = ("teach", "odd", *positive, "--negative", str(tmp_path / "negative.txt"), "--output", str(file))
    result = run(settings_file, *arguments)
    assert result.exit_code == 0, result.output
    assert "trained on 18 positive and 15 negative crops; 100%" in result.output
    entry = result.output.splitlines()[-1]
    settings_file.write_text(f"crop_models:\n  - {{name: look, weights: mobilenet}}\n{entry}\n")
    settings = load_settings(settings_file)
    store, (_, probe) = Store(settings.data_folder), settings.crop_models
    answer_recording("b", store, probe, 0.25, Models(tmp_path), "", lambda *_: None)
    classes, votes = (store.read(table, ["b"]) for table in crop_model_tables("odd", "probe"))
    assert classes.num_rows == 2 * 3 * TRACK_COUNT
    expected = {track: "odd" if track % 2 else "not odd" for track in range(1, TRACK_COUNT + 1)}
    assert {row["track_id"]: row["class_name"] for row in votes.to_pylist()} == expected


def test_wrong_examples_get_one_sentence(settings_file: Path, tmp_path: Path) -> None:
    result = run(settings_file, "teach", "hat", "--positive", "a:1", "--negative", "a:2")
    assert "hat has 1 positive tracks or pictures with an embedding, but needs at least 5" in result.stderr
    result = run(settings_file, "teach", "hat", "--positive", "a:1", "--negative", "a:1")
    assert "The example a:1 is both positive and negative" in result.stderr
    result = run(settings_file, "teach", "hat", "--positive", "nothing", "--negative", "a:1")
    assert "The example 'nothing' is neither a folder nor a file" in result.stderr
    result = run(settings_file, "teach", "Hat!", "--positive", "a:2", "--negative", "a:1")
    assert "NAME 'Hat!' must be lower-case letters" in result.stderr
