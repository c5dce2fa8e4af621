"""Packs: any byte that is changed, missing or added is found and named."""

import random
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from resources.errors import PipelineError
from resources.evidence.evidence_pack import check_pack, write_pack
from resources.evidence.pack_archive import hash_file, scan_archive, write_archive
from resources.evidence.pack_signature import public_pem

CONTENTS = {"clips/a.mp4": b"\0\1\2" * 50, "report.html": "<p>Tür</p>".encode(), "rows/empty.csv": b""}
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a pack."""
    for name, content in CONTENTS.items():
        file = tmp_path / "content" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "content"


@pytest.mark.parametrize("key", [None, KEY])
def test_a_pack_is_verified_and_unpacked_by_other_tools(
    folder: Path, key: Ed25519PrivateKey | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    assert write_pack(path, folder, key) == len(CONTENTS)
    check = check_pack(path, key.public_key() if key else None)
    assert (check.problems, check.file_count, bool(check.fingerprint)) == ([], len(CONTENTS), key is not None)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in CONTENTS} == CONTENTS
        archive.extractall(tmp_path / "unpacked")
    command = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path / "unpacked").returncode == 0


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.long)])
def test_every_changed_byte_of_a_pack_is_found(folder: Path, count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write_pack(path, folder, KEY)
    original, generator = path.read_bytes(), random.Random(0)
    spans = [(entry.name, entry.content_position, entry.digest.size_bytes) for entry in scan_archive(path).entries]
    for position in generator.sample(range(len(original)), min(count, len(original))):
        damaged = bytearray(original)
        damaged[position] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            problems = check_pack(path, None).problems
        except PipelineError as error:
            assert position < 200, error  # the header of the first file
            continue
        assert problems, position
        for name, start, size in spans:
            if start <= position < start + size:
                assert any(name in problem for problem in problems), (name, problems)


def test_a_pack_that_is_cut_off_names_what_is_missing(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write_pack(path, folder, None)
    content = path.read_bytes()
    entries = {entry.name: entry for entry in scan_archive(path).entries}
    for size in range(0, len(content), 5):
        path.write_bytes(content[:size])
        try:
            problems = check_pack(path, None).problems
        except PipelineError as error:
            assert "no evidence pack, or its beginning is lost" in str(error)
            continue
        assert problems
        for name in CONTENTS:
            end = entries[name].content_position + entries[name].digest.size_bytes
            assert (f"missing: {name}" in problems) == (size < end)
    path.write_bytes(content + b"\0\0")
    assert check_pack(path, None).problems == ["2 bytes added at the end"]


@pytest.mark.parametrize("name", ["../evil.sh", "/etc/evil", "C:\\evil", "clips/../../evil", "a\nb", "clips/a.mp4"])
def test_added_files_and_names_that_lead_outside_are_named(folder: Path, name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write_pack(path, folder, None)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two files with one name
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    problems = check_pack(path, None).problems
    shown = name if name.isprintable() else ascii(name)
    assert (f"unsafe name: {shown}" in problems) == (name != "clips/a.mp4")
    assert any(problem.startswith("added: ") and problem.endswith(shown) for problem in problems)


def rewrite(path: Path, change: Callable[[dict[str, Path]], None], tmp_path: Path) -> None:
    """Write a pack again with other files, as a person would who knows its format."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "again")
        files = {name: tmp_path / "again" / name for name in archive.namelist()}
    change(files)
    write_archive(path, list(files.items()))


def test_a_file_that_was_changed_with_its_hash_is_found_by_the_signature(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"

    def change(files: dict[str, Path]) -> None:
        before = hash_file(files["report.html"]).sha256
        files["report.html"].write_text("forged")
        manifest = files["SHA256SUMS"]
        manifest.write_text(manifest.read_text().replace(before, hash_file(files["report.html"]).sha256))

    write_pack(path, folder, None)
    rewrite(path, change, tmp_path)
    assert check_pack(path, None).problems == []  # hashes alone show no forgery
    assert check_pack(path, KEY.public_key()).problems == ["not signed"]
    path.unlink()
    for name in ("SHA256SUMS",):
        (folder / name).unlink()
    write_pack(path, folder, KEY)
    rewrite(path, change, tmp_path)
    assert "the signature is not by the key in the pack" in check_pack(path, None).problems[0]


def test_a_pack_of_another_key_is_refused(folder: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "a.zip", Ed25519PrivateKey.generate()
    write_pack(path, folder, other)
    assert check_pack(path, None).problems == []
    (problem,) = check_pack(path, KEY.public_key()).problems
    assert problem.startswith("signed by another key: SHA256:")

    def remove_signature(files: dict[str, Path]) -> None:
        del files["SHA256SUMS.sig"]

    rewrite(path, remove_signature, tmp_path)
    assert check_pack(path, None).problems == ["missing: SHA256SUMS.sig"]


@pytest.mark.slow
def test_openssl_verifies_a_signature(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write_pack(path, folder, KEY)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    files = "-inkey SHA256SUMS.pub -in SHA256SUMS -sigfile SHA256SUMS.sig"
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", *files.split()]
    assert subprocess.run(command, cwd=tmp_path / "unpacked").returncode == 0
    assert (tmp_path / "unpacked" / "SHA256SUMS.pub").read_bytes() == public_pem(KEY.public_key())


@pytest.mark.long
def test_files_of_more_than_four_gigabytes_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    with (folder / "a.mp4").open("wb") as file:
        file.truncate((4 << 30) + 5)
    (folder / "b.txt").write_text("after it")
    write_pack(tmp_path / "a.zip", folder, None)
    assert check_pack(tmp_path / "a.zip", None).problems == []
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("b.txt") == b"after it"
        assert archive.getinfo("a.mp4").file_size == (4 << 30) + 5
    (tmp_path / "a.zip").unlink()  # pytest keeps the folders of its last runs
