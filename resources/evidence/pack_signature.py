"""Ed25519 signatures of packs; OpenSSL makes the keys and verifies the signatures, too."""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from resources.errors import PipelineError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def read_signing_key(path: Path) -> "Ed25519PrivateKey":
    """Read a private key from a PEM file.

    Raises:
        PipelineError: The file cannot be read, or has no Ed25519 key without a passphrase.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise PipelineError(f"The signing key {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError) as error:
        raise PipelineError(_no_key(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PipelineError(_no_key(path))
    return key


def _no_key(path: Path) -> str:
    return (
        f"The signing key {path} is no Ed25519 key without a passphrase: openssl genpkey -algorithm ed25519 makes one."
    )


def read_public_key(content: bytes, name: str) -> "Ed25519PublicKey":
    """Read a public key from the bytes of a PEM file.

    Raises:
        PipelineError: They are none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PipelineError(f"The public key {name} is no public key in PEM format.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise PipelineError(f"The public key {name} is no Ed25519 key.")
    return key


def public_pem(key: "Ed25519PublicKey") -> bytes:
    """A public key as a PEM file."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_fingerprint(key: "Ed25519PublicKey") -> str:
    """A short name of a public key, by which people compare it: SHA-256 of its DER form, in Base64."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")


def is_signed_by(key: "Ed25519PublicKey", signature: bytes, content: bytes) -> bool:
    """Whether a signature of some bytes is by a key."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
