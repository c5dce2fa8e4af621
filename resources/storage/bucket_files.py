"""The objects of a bucket, by paths below a prefix; requests are repeated while the storage is away."""

import os
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from typing import BinaryIO, TypeVar

from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, PyFileSystem

from resources.storage.bucket_problems import is_away

_CHUNK_BYTES = 8_000_000
_PAUSE_S = 0.5
_T = TypeVar("_T")


def bucket_options(patience_s: float) -> dict[str, str]:
    """Options of deltalake beside the AWS_* variables, which it reads itself: a commit never replaces an object.

    Args:
        patience_s: Time that a request is repeated.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    options = {"aws_conditional_put": "etag", "max_retries": "1000", "retry_timeout": f"{max(1, round(patience_s))}s"}
    return options | ({"aws_allow_http": "true"} if endpoint.lower().startswith("http://") else {})


class BucketFiles:
    """The objects below a prefix of a bucket.

    Args:
        url: The bucket and the prefix, `s3://bucket/prefix`.
        patience_s: Time that a request is repeated while the storage is away.
    """

    def __init__(self, url: str, patience_s: float) -> None:
        self._url, self._patience_s = url, patience_s

    @cached_property
    def _files(self) -> FileSystem:
        # The same library as for the tables, so that there is one way to configure access. It holds the interpreter
        # during a request, so it does not repeat any itself.
        return PyFileSystem(DeltaStorageHandler(self._url, bucket_options(0) | {"max_retries": "0"}))

    def _repeat(self, request: Callable[[], _T]) -> _T:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return request()
            except OSError as error:
                if not is_away(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)

    def list_entries(self, folder: str, *, is_recursive: bool = False) -> list[FileInfo]:
        """List what is in a folder; nothing if it does not exist."""
        selector = FileSelector(folder, allow_not_found=True, recursive=is_recursive)
        return list(self._repeat(lambda: self._files.get_file_info(selector)))

    def find(self, path: str) -> FileInfo | None:
        """Find an object; None if there is none. This request is not repeated."""
        (entry,) = self._files.get_file_info([path])
        return None if entry.type == FileType.NotFound else entry

    def download(self, path: str, target: BinaryIO) -> None:
        """Write the content of an object into a file.

        Raises:
            FileNotFoundError: There is no such object.
        """

        def request() -> None:
            target.seek(0)
            target.truncate()
            with self._files.open_input_stream(path) as content:
                shutil.copyfileobj(content, target, _CHUNK_BYTES)

        self._repeat(request)

    def write_text(self, path: str, text: str) -> None:
        """Write a small object at once."""

        def request() -> None:
            # Without a buffer, pyarrow writes what deltalake does not take.
            with self._files.open_output_stream(path, buffer_size=_CHUNK_BYTES) as content:
                content.write(text.encode())

        self._repeat(request)

    def delete(self, path: str) -> None:
        """Delete an object, if it exists."""
        self._repeat(lambda: self._files.delete_file(path))
