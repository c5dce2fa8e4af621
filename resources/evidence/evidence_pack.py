"""A pack: files, their hashes in SHA256SUMS and its signature, in one zip file; and its verification."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resources.errors import PipelineError
from resources.evidence.pack_archive import (
    ArchiveEntry,
    hash_file,
    is_safe_name,
    read_entry,
    scan_archive,
    show_name,
    write_archive,
)
from resources.evidence.pack_signature import is_signed_by, key_fingerprint, public_pem, read_public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MANIFEST, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.pub"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")
_MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True)
class PackCheck:
    """What is found when a pack is verified.

    Attributes:
        file_count: Number of files that the pack lists.
        problems: What is changed, missing, added or unsafe, a phrase each; none if the pack is as it was written.
        fingerprint: Fingerprint of the key by which the pack is signed; None without a valid signature.
    """

    file_count: int
    problems: Sequence[str]
    fingerprint: str | None


def write_pack(output: Path, folder: Path, key: "Ed25519PrivateKey | None") -> int:
    """Write the files of a folder as a pack; adds the list of their hashes and its signature to the folder.

    Args:
        output: The zip file.
        folder: The folder.
        key: Signs the pack; None leaves it without a signature.

    Returns:
        The number of files.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    hashes = {name: hash_file(folder / name).sha256 for name in names}
    manifest = _format_manifest(hashes)
    (folder / MANIFEST).write_bytes(manifest)
    first = [MANIFEST]
    if key:
        (folder / SIGNATURE).write_bytes(key.sign(manifest))
        (folder / PUBLIC_KEY).write_bytes(public_pem(key.public_key()))
        first += [SIGNATURE, PUBLIC_KEY]
    write_archive(output, [(name, folder / name) for name in (*first, *names)])
    return len(names)


def check_pack(path: Path, trusted_key: "Ed25519PublicKey | None") -> PackCheck:
    """Compare every byte of a pack with its list of hashes, and verify the signature.

    Args:
        path: The zip file.
        trusted_key: The key by which the pack must be signed; None accepts any key, and packs without a signature.

    Raises:
        PipelineError: The file cannot be read, or is no pack.
    """
    try:
        scan = scan_archive(path)
        entries = {entry.name: entry for entry in scan.entries}
        manifest_entry = scan.entries[0] if scan.entries else None
        if manifest_entry is None or manifest_entry.name != MANIFEST:
            raise PipelineError(f"The file {path} is no evidence pack, or its beginning is lost.")
        if manifest_entry.digest.size_bytes > _MAX_MANIFEST_BYTES:
            raise PipelineError(f"The file {path} is no evidence pack: its list of hashes is too long.")
        manifest = read_entry(path, manifest_entry)
        problems, fingerprint = _check_signature(path, entries, manifest, trusted_key)
    except OSError as error:
        raise PipelineError(f"The file {path} cannot be read: {error.strerror or error}.") from error
    text = manifest.decode("utf-8", "backslashreplace")
    hashes = {name: sha256 for sha256, name in _LINE.findall(text)}
    if _format_manifest(hashes) != manifest:
        problems.append(f"changed: {MANIFEST}")
    problems += _compare_names(scan.entries, hashes)
    for name, sha256 in hashes.items():
        if name not in entries:
            problems.append(f"missing: {show_name(name)}")
        elif entries[name].digest.sha256 != sha256:
            problems.append(f"changed: {show_name(name)}")
    return PackCheck(len(hashes), [*problems, *scan.problems], fingerprint)


def _format_manifest(hashes: Mapping[str, str]) -> bytes:
    """The list of hashes, as sha256sum writes and checks it."""
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()


def _compare_names(entries: Sequence[ArchiveEntry], hashes: Mapping[str, str]) -> list[str]:
    problems, names = [], set[str]()
    for entry in entries:
        if not is_safe_name(entry.name):
            problems.append(f"unsafe name: {show_name(entry.name)}")
        if entry.name in names:
            problems.append(f"added: a second {show_name(entry.name)}")
        elif entry.name not in hashes and entry.name not in (MANIFEST, SIGNATURE, PUBLIC_KEY):
            problems.append(f"added: {show_name(entry.name)}")
        names.add(entry.name)
    return problems


def _check_signature(
    path: Path, entries: Mapping[str, ArchiveEntry], manifest: bytes, trusted_key: "Ed25519PublicKey | None"
) -> tuple[list[str], str | None]:
    """Verify the signature; returns problems, and the fingerprint of the key if it has signed the pack."""
    contents = [
        read_entry(path, entries[name]) if name in entries and entries[name].digest.size_bytes < 1 << 16 else None
        for name in (SIGNATURE, PUBLIC_KEY)
    ]
    signature, pem = contents
    if signature is None and pem is None:
        return (["not signed"] if trusted_key else []), None
    if signature is None or pem is None:
        return [f"missing: {SIGNATURE if signature is None else PUBLIC_KEY}"], None
    try:
        key = read_public_key(pem, PUBLIC_KEY)
    except PipelineError:
        return [f"changed: {PUBLIC_KEY}"], None
    if public_pem(key) != pem:
        return [f"changed: {PUBLIC_KEY}"], None
    if not is_signed_by(key, signature, manifest):
        return [f"the signature is not by the key in the pack: {MANIFEST}, {SIGNATURE} or {PUBLIC_KEY} changed"], None
    if trusted_key and public_pem(trusted_key) != pem:
        return [f"signed by another key: {key_fingerprint(key)}"], None
    return [], key_fingerprint(key)
