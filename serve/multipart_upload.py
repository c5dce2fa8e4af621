"""A multipart form with one file, parsed while it arrives: the file's bytes go straight to the part file."""

from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve.problems import ProblemError

_MAX_FIELD_BYTES, _MAX_FIELDS = 10_000, 20


class MultipartUpload:
    """The form of an upload.

    Args:
        content_type: Header Content-Type of the request.
        write: Called with the bytes of the file.

    Attributes:
        fields: Text by name of the form's fields.
        file_name: Name of the file as the client gives it; None before the file begins.
        is_complete: Whether the end of the form has arrived.

    Raises:
        ProblemError: The header names no boundary.
    """

    def __init__(self, content_type: str, write: Callable[[bytes], None]) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise ProblemError(400, "Content-Type: multipart/form-data has no boundary: let the HTTP client set it.")
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.is_complete = False
        self._write = write
        self._header_name, self._header_value = b"", b""
        self._disposition = b""
        self._field_name, self._is_file, self._text = "", False, b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": self._add_content,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _form_problem(error) from error

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the body.

        Raises:
            ProblemError: The form is malformed, has several files, or too many or too long fields.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _form_problem(error) from error

    def _begin_part(self) -> None:
        self._disposition, self._text = b"", b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._field_name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = b"filename" in options
        if not self._is_file:
            if len(self.fields) >= _MAX_FIELDS:
                raise ProblemError(
                    422, f"body: the form has more than {_MAX_FIELDS} fields: send only the documented ones."
                )
            return
        if self.file_name is not None:
            raise ProblemError(422, "body: the form has several files: send each in a request of its own.")
        self.file_name = options[b"filename"].decode("utf-8", "replace")

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _MAX_FIELD_BYTES:
            raise ProblemError(
                422, f"body: a field of the form is longer than {_MAX_FIELD_BYTES} bytes: send it as a file."
            )

    def _end_part(self) -> None:
        if not self._is_file:
            self.fields[self._field_name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self.is_complete = True


def _form_problem(error: FormParserError) -> ProblemError:
    return ProblemError(400, f"body: the multipart form is malformed: {str(error).rstrip('.')}.")
