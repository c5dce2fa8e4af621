"""The sentence for each reason why the bucket with the tables cannot be used."""

import os
import re
from pathlib import Path

URL_FILE_NAME = "tables_url"
"""File of a data folder with the address of its tables, if they are in a bucket."""
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REFUSALS = ("403 forbidden", "401 unauthorized", "accessdenied", "signaturedoesnotmatch", "invalidaccesskeyid",
             "lacked the necessary privileges", "lacked valid authentication")  # fmt: skip
_NO_BUCKET = "nosuchbucket"
_NO_CREDENTIALS = ("169.254.169.254", "no credentials")  # without any, the addresses of Amazon's machines are asked
_MAX_REASON_LENGTH = 120


def read_tables_url(data_folder: Path) -> str | None:
    """Read the address of the bucket with the tables of a data folder; None if they are in the folder itself."""
    try:
        return (data_folder / URL_FILE_NAME).read_text().strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def bucket_problem(error: BaseException, url: str | None) -> str | None:
    """The sentence for an error of S3-compatible storage; None for any other error.

    Args:
        error: The error of any library; deltalake's have only texts.
        url: The address of the tables.
    """
    text = str(error).lower()
    if isinstance(error, FileNotFoundError) or not ("generic s3 error" in text or "error performing" in text):
        return None
    name = f"tables_url: {url or 'the bucket'}"
    if _NO_BUCKET in text:
        return f"{name} cannot be used, because its bucket does not exist: create it, or correct the setting."
    if any(address in text for address in _NO_CREDENTIALS):
        return f"{name} cannot be used without credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    if any(refusal in text for refusal in _REFUSALS):
        return (
            f"{name} refuses these credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to those of a user who "
            "may list, read, write and delete objects there."
        )
    endpoint = next((os.environ[variable] for variable in _ENDPOINT_VARIABLES if os.environ.get(variable)), None)
    return (
        f"{name} cannot be reached at {endpoint or 'the address of Amazon S3'} ({_reason(error)}): check the network "
        "and AWS_ENDPOINT_URL, then start again; finished work is kept."
    )


def is_away(error: BaseException) -> bool:
    """Whether an error says that the storage cannot be reached or is overloaded, so that a repetition may help."""
    text = str(error).lower()
    is_refused = any(part in text for part in (_NO_BUCKET, *_NO_CREDENTIALS, *_REFUSALS))
    return bucket_problem(error, None) is not None and not is_refused


def _reason(error: BaseException) -> str:
    """The innermost reason, which is the last line."""
    lines = [re.sub(r"\x1b\[\d+m|↳", "", line).strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), "no reason")[:_MAX_REASON_LENGTH]
