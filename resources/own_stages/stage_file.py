"""Reads the declaration of a stage of one's own from the text of its file, without running it.

So loading the code location runs no code of others, and a broken file costs its own stage only. The text that was read
is also what the child process runs: the code version and the code always agree, even if the file changes meanwhile.
"""

import ast
import difflib
import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import duckdb

from resources.config.stage_config import OwnStageSettings
from resources.errors import PipelineError
from resources.own_stages import stage_api
from resources.schema.columns import (
    BIG,
    BOX,
    CAPTURED_AT_UTC,
    CLASS_NAME,
    CONFIDENCE,
    END_S,
    END_UTC,
    FLAG,
    FLOAT,
    FRAME_INDEX,
    RECORDING_CAMERA,
    RECORDING_ID,
    START_S,
    START_UTC,
    TEXT,
    TIME_MMSS,
    TIME_S,
    TRACK_ID,
    Column,
    Table,
)

FRAMES_INPUT, CROPS_INPUT = "frames", "crops"
"""The inputs that a stage receives as pictures; all others are tables."""
_STANDARD_COLUMNS = {
    column.name: column for column in (FRAME_INDEX, TIME_S, TRACK_ID, CLASS_NAME, CONFIDENCE, START_S, END_S, *BOX)
}
_DERIVED = {TIME_S.name: (CAPTURED_AT_UTC, TIME_MMSS), START_S.name: (START_UTC,), END_S.name: (END_UTC,)}
_TYPES = {"text": TEXT, "float": FLOAT, "int": BIG, "flag": FLAG}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
_RESERVED_NAMES = ("recording_id", "camera", CAPTURED_AT_UTC.name)
_MAX_FILE_BYTES = 1_000_000
_MAX_COLUMNS = 200


@dataclass(frozen=True)
class OwnStage:
    """A declared stage.

    Attributes:
        name: Name of the function, of the stage and of its table.
        settings: File and limits.
        source: The text of the file.
        table: The table that it writes.
        inputs: `frames` or `crops`, and names of tables.
        version: Version that the file declares.
        batch_size: Number of frames or crops in a batch.
        device: `cpu`, or `auto` for a leased device.
        max_rate_fps: At most this many frames per second; None means all.
        description: The docstring of the function.
    """

    name: str
    settings: OwnStageSettings
    source: str
    table: Table
    inputs: tuple[str, ...]
    version: str
    batch_size: int
    device: str
    max_rate_fps: float | None
    description: str

    @property
    def has_frames(self) -> bool:
        """Whether the stage receives frames."""
        return FRAMES_INPUT in self.inputs

    @property
    def has_crops(self) -> bool:
        """Whether the stage receives crops."""
        return CROPS_INPUT in self.inputs

    @property
    def content_hash(self) -> str:
        """Hash of the text of the file."""
        return hashlib.blake2b(self.source.encode(), digest_size=8).hexdigest()


def read_stage_file(settings: OwnStageSettings) -> OwnStage:
    """Read the declaration of a stage.

    Raises:
        PipelineError: The file cannot be read, is no Python, or has no valid declaration of exactly one stage; the
            sentence names the file and the line.
    """
    file = settings.file
    source = _read_text(file)
    try:
        module = ast.parse(source, str(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise PipelineError(f"{file}{line}: the file is not valid Python: {text}.") from None
    declared = [
        (node, decorator)
        for node in module.body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and _called_name(decorator) == stage_api.stage.__name__
    ]
    if len(declared) != 1:
        count = "no function" if not declared else f"{len(declared)} functions"
        raise PipelineError(
            f"{file}: a stage is one function with the decorator @stage(…), and the file has {count} with it: see "
            "docs/stages.md."
        )
    function, decorator = declared[0]
    reader = _DeclarationReader(file, _plain_constants(module))
    return _build_stage(settings, source, function, reader, reader.read_arguments(decorator))


def _build_stage(
    settings: OwnStageSettings,
    source: str,
    function: ast.FunctionDef,
    reader: "_DeclarationReader",
    arguments: Mapping[str, tuple[Any, int]],
) -> OwnStage:
    values = {name: value for name, (value, _) in arguments.items()}

    def check(is_valid: bool, name: str, rule: str) -> None:
        if not is_valid:
            line = arguments[name][1] if name in arguments else function.lineno
            raise PipelineError(f"{settings.file}, line {line}: {rule}")

    def is_texts(value: object) -> bool:
        return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, str) for item in value)

    name, description = function.name, inspect.cleandoc(ast.get_docstring(function) or "")
    check(bool(_NAME.fullmatch(name)), "", f"the function {name} names a table: use lower-case letters, digits and _.")
    check(not _is_sql_keyword(name), "", f"the function {name} names a table, and {name} is a word of SQL: rename it.")
    check(bool(description), "", f"{name} has no docstring: its first line says what a row of the table is.")
    inputs, key = values["inputs"], values["key"]
    check(is_texts(inputs), "inputs", "inputs is not a list of names such as ['frames'] or ['track_boxes'].")
    is_double = FRAMES_INPUT in inputs and CROPS_INPUT in inputs
    check(not is_double, "inputs", "inputs has frames and crops: a batch consists of one of them; use two stages.")
    check(is_texts(key), "key", "key is not a list of names of columns.")
    columns = reader.read_columns(values["columns"], arguments["columns"][1])
    unknown = [column for column in key if column not in {column.name for column in columns}]
    check(not unknown, "key", f"key names {', '.join(unknown)}, which is not in columns.")
    batch_size, device, rate = values.get("batch_size", 16), values.get("device", "cpu"), values.get("max_rate_fps")
    is_count = isinstance(batch_size, int) and not isinstance(batch_size, bool) and 1 <= batch_size <= 10_000
    check(is_count, "batch_size", f"batch_size is {batch_size!r}: name a whole number from 1 to 10000.")
    check(device in ("cpu", "auto"), "device", f"device is {device!r}: name 'cpu' or 'auto'.")
    is_rate = rate is None or (isinstance(rate, int | float) and rate > 0)
    check(is_rate, "max_rate_fps", f"max_rate_fps is {rate!r}: name a number above 0, or None.")
    check(rate is None or FRAMES_INPUT in inputs, "max_rate_fps", "max_rate_fps needs the input frames.")
    nullable = tuple(replace(column, nullable=column.name not in key) for column in columns)
    names = {column.name for column in columns}
    derived = tuple(column for name in _DERIVED for column in _DERIVED[name] if name in names)
    added = [column.name for column in derived if column.name in names]
    check(not added, "columns", f"the pipeline adds the column {', '.join(added)} itself: leave it out.")
    grain = " ".join(description.split("\n\n")[0].split()).rstrip(".") + "."
    table = Table(name, grain, ("recording_id", *key), (RECORDING_ID, RECORDING_CAMERA, *nullable, *derived))
    version = str(values.get("version", "1"))
    return OwnStage(
        name, settings, source, table, tuple(inputs), version, batch_size, device, rate and float(rate), description
    )


@dataclass(frozen=True)
class _DeclarationReader:
    """Evaluates the arguments of a decorator that are plain values.

    Attributes:
        file: The file.
        constants: Plain values that the file assigns to names before.
    """

    file: Path
    constants: Mapping[str, Any]

    def read_arguments(self, decorator: ast.Call) -> dict[str, tuple[Any, int]]:
        """Value and line of each argument of the decorator; columns stay expressions."""
        parameters = inspect.signature(stage_api.stage).parameters
        if decorator.args or any(keyword.arg is None for keyword in decorator.keywords):
            self._fail(decorator, f"@stage takes keyword arguments only: {', '.join(parameters)}.")
        arguments: dict[str, tuple[Any, int]] = {}
        for keyword in decorator.keywords:
            name = str(keyword.arg)
            if name not in parameters:
                self._fail(keyword.value, f"@stage has no argument {name}; {_hint(name, list(parameters))}")
            value = keyword.value if name == "columns" else self._evaluate(keyword.value, name)
            arguments[name] = value, keyword.value.lineno
        required = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
        if missing := [name for name in required if name not in arguments]:
            self._fail(decorator, f"@stage lacks the argument {missing[0]}.")
        return arguments

    def read_columns(self, expression: ast.expr, line: int) -> list[Column]:
        """The declared columns."""
        if not isinstance(expression, ast.List | ast.Tuple) or not 1 <= len(expression.elts) <= _MAX_COLUMNS:
            raise PipelineError(f"{self.file}, line {line}: columns is not a list of 1 to {_MAX_COLUMNS} columns.")
        columns: list[Column] = []
        for element in expression.elts:
            column = self._read_column(element)
            if column.name in {other.name for other in columns}:
                self._fail(element, f"the column {column.name} is declared twice.")
            columns.append(column)
        return columns

    def _read_column(self, element: ast.expr) -> Column:
        if isinstance(element, ast.Call) and _called_name(element) == stage_api.Column.__name__:
            return self._declare_column(element, self._read_column_values(element))
        name = self._evaluate(element, "a column")
        if not isinstance(name, str) or name not in _STANDARD_COLUMNS:
            self._fail(
                element,
                f"{name!r} is not a column that other tables have: declare Column(name, type, meaning), or use one of "
                f"{', '.join(_STANDARD_COLUMNS)}.",
            )
        return _STANDARD_COLUMNS[name]

    def _read_column_values(self, element: ast.Call) -> dict[str, Any]:
        names = [field.name for field in fields(stage_api.Column)]
        if len(element.args) > len(names):
            self._fail(element, f"Column takes {len(names)} arguments at most: {', '.join(names)}.")
        values = dict(zip(names, [self._evaluate(value, "a column") for value in element.args], strict=False))
        for keyword in element.keywords:
            if keyword.arg not in names:
                self._fail(element, f"Column has no argument {keyword.arg}; {_hint(str(keyword.arg), names)}")
            values[str(keyword.arg)] = self._evaluate(keyword.value, "a column")
        if missing := [name for name in names[:3] if not isinstance(values.get(name), str) or not values[name]]:
            self._fail(element, f"a column needs texts for name, type and meaning; {missing[0]} is missing.")
        return values

    def _declare_column(self, element: ast.Call, values: dict[str, Any]) -> Column:
        name, kind = values.pop("name"), values.pop("type")
        if not _NAME.fullmatch(name) or name in _RESERVED_NAMES:
            self._fail(element, f"the column {name!r} needs another name: lower-case letters, digits and _.")
        if kind not in _TYPES:
            self._fail(element, f"the column {name} has the type {kind!r}; known: {', '.join(_TYPES)}.")
        if not isinstance(values.get("unit", ""), str):
            self._fail(element, f"the column {name} has the unit {values['unit']!r}, which is no text.")
        for bound in ("minimum", "maximum"):
            if not isinstance(values.get(bound), int | float | None):
                self._fail(element, f"the column {name} has the {bound} {values[bound]!r}, which is no number.")
            if values.get(bound) is not None and kind not in ("float", "int"):
                self._fail(element, f"the column {name} is a {kind}, which has no {bound}: leave it out.")
        return Column(name, _TYPES[kind], **values)

    def _evaluate(self, expression: ast.expr, name: str) -> Any:
        if isinstance(expression, ast.Name) and expression.id in self.constants:
            return self.constants[expression.id]
        if isinstance(expression, ast.List | ast.Tuple):
            return [self._evaluate(element, name) for element in expression.elts]
        try:
            return ast.literal_eval(expression)
        except (ValueError, TypeError, SyntaxError, RecursionError):
            self._fail(expression, f"{name} is not a plain value: the declaration is read without running the file.")

    def _fail(self, node: ast.AST, rule: str) -> Any:
        raise PipelineError(f"{self.file}, line {getattr(node, 'lineno', 1)}: {rule}")


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as content:
            data = content.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise PipelineError(f"{file}: the file of a stage is larger than {_MAX_FILE_BYTES:,} bytes: shorten it.")
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise PipelineError(f"{file}: the file of a stage is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        raise PipelineError(f"{file}: the file of a stage cannot be read: {error.strerror or error}.") from error


def _plain_constants(module: ast.Module) -> dict[str, Any]:
    """Plain values that a module assigns once to a name."""
    constants: dict[str, Any] = {}
    repeated: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in constants:
                repeated.add(name)
            try:
                constants[name] = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, RecursionError):
                repeated.add(name)
    return {name: value for name, value in constants.items() if name not in repeated}


def _is_sql_keyword(name: str) -> bool:
    """Whether SQL takes a name only in quotes: neither the published results nor people write it so."""
    try:
        duckdb.extract_statements(f"SELECT {name} FROM {name} ORDER BY {name}")
    except duckdb.ParserException:
        return True
    return False


def _called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _hint(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}."
