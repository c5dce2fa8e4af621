"""Writes zones and lines of a camera into the settings file; the rest of the text, with its comments, stays."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from resources.config.settings_file import load_settings
from resources.errors import PipelineError

_INDENT = 2


def add_shapes(file: Path, camera: str, shapes: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path | None:
    """Add zones and lines to a camera's section of the settings file; one of the same name is replaced.

    The new text is written only if it is valid and differs from the old one in nothing but these shapes. The old file
    is kept beside it.

    Args:
        file: The settings file, which need not exist.
        camera: Name of the camera.
        shapes: Values of the keys `zones` and `lines`.

    Returns:
        The copy of the old file; None if there was none.

    Raises:
        PipelineError: The new settings would be invalid, or the file cannot be written.
    """
    try:
        old_text = file.read_text(encoding="utf-8") if file.exists() else ""
        text = _add_shapes_only(old_text, _parse(old_text, file), camera, shapes)
        if text is None:
            raise PipelineError(
                f"{file}: the section cameras is written in a way that cannot be changed here: copy the zones into it."
            )
        _check_settings(file, text)
        copy_of_old = None
        if file.exists():
            copy_of_old = _free_name(file)
            _write_as_readable_as(file, copy_of_old, old_text)
        _replace_file(file, text)
    except OSError as error:
        raise PipelineError(f"{file}: the settings file cannot be written: {error.strerror or error}.") from error
    return copy_of_old


def add_shapes_to_text(text: str, camera: str, shapes: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Add zones and lines to a camera's section of a YAML text.

    Args:
        text: The settings.
        camera: Name of the camera.
        shapes: Values of the keys `zones` and `lines`.

    Returns:
        The new text; a section in flow style ({...}) becomes one in block style.
    """
    if text and not text.endswith("\n"):
        text += "\n"
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    section = _find(root, "cameras")
    if section is None:
        return text + "cameras:\n" + _key_text(camera, _dump(_merged({}, shapes), 2 * _INDENT), _INDENT)
    entry = _find(section, camera)
    if _is_inline(section):
        cameras = dict(yaml.safe_load(text).get("cameras") or {})
        cameras[camera] = _merged(cameras.get(camera) or {}, shapes)
        return _replace_value(text, root, "cameras", _dump(cameras, _INDENT))
    indent = section.value[0][0].start_mark.column
    if entry is None:
        return _insert_line(
            text, _end_line(section), _key_text(camera, _dump(_merged({}, shapes), indent + _INDENT), indent)
        )
    values = (yaml.safe_load(text)["cameras"][camera]) or {}
    if _is_inline(entry):
        return _replace_value(text, section, camera, _dump(_merged(values, shapes), indent + _INDENT))
    inner = entry.value[0][0].start_mark.column
    merged = _merged(values, shapes)
    # From the last key to the first, so that the positions of those before stay right.
    for key in sorted((key for key in shapes if shapes[key]), key=lambda name: _position(entry, name), reverse=True):
        if _find(entry, key) is None:
            text = _insert_line(text, _end_line(entry), _key_text(key, _dump(merged[key], inner + _INDENT), inner))
        else:
            text = _replace_value(text, entry, key, _dump(merged[key], inner + _INDENT))
    return text


def _position(entry: yaml.MappingNode, key: str) -> int:
    """Where a key of a section is; a key that it lacks is added at its end."""
    return next((index for index, (name, _) in enumerate(entry.value) if name.value == key), len(entry.value))


def _merged(values: Mapping[str, Any], shapes: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The section of a camera with the shapes added; a shape replaces the one of its name."""
    merged = copy.deepcopy(dict(values))
    for key, added in shapes.items():
        if added:
            names = {shape["name"] for shape in added}
            merged[key] = [*(shape for shape in merged.get(key) or [] if shape.get("name") not in names), *added]
    return merged


def _with_shapes(
    values: Mapping[str, Any], camera: str, shapes: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    cameras = dict(values.get("cameras") or {})
    return {**values, "cameras": {**cameras, camera: _merged(cameras.get(camera) or {}, shapes)}}


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise PipelineError(f"{file}: the settings file is no valid YAML: correct it first.")
    return values


def _add_shapes_only(
    text: str, values: Mapping[str, Any], camera: str, shapes: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str | None:
    """Add shapes to a text with some values; None if that is not possible without another change of its values."""
    try:
        new_text = add_shapes_to_text(text, camera, shapes)
        is_right = yaml.safe_load(new_text) == _with_shapes(values, camera, shapes)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError):
        return None  # what YAML allows, and this module does not know: documents, anchors, sections of another type
    return new_text if is_right else None


def _check_settings(file: Path, text: str) -> None:
    """Check that a new text has valid settings.

    Raises:
        PipelineError: They are invalid.
    """
    # In the same folder, because paths are relative to the file.
    with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".yaml", prefix=".check-", encoding="utf-8") as trial:
        trial.write(text)
        trial.flush()
        try:
            load_settings(Path(trial.name))
        except PipelineError as error:
            raise PipelineError(str(error).replace(trial.name, str(file))) from None


def _free_name(file: Path) -> Path:
    stem = f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}"
    names = (file.with_name(f"{stem}{suffix}.old") for suffix in ("", *(f"-{number}" for number in range(1, 1000))))
    return next(name for name in names if not name.exists())


def _replace_file(file: Path, text: str) -> None:
    """Write a file, or the one that a link names, so that readers see the old text or the whole new one."""
    file = file.resolve()
    next_file = file.with_name(f".{file.name}.next")
    if file.exists():
        _write_as_readable_as(file, next_file, text)
    else:
        next_file.write_text(text, encoding="utf-8")
    next_file.replace(file)


def _write_as_readable_as(file: Path, target: Path, text: str) -> None:
    """Write a text that may contain secrets into a new file, which at no time more people can read than a file."""
    target.touch(0o600)
    target.write_text(text, encoding="utf-8")
    target.chmod(file.stat().st_mode & 0o777)


def _find(node: yaml.Node | None, key: str) -> Any:
    """The value of a key of a mapping; None if it is missing."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _is_inline(node: yaml.Node) -> bool:
    """Whether a value is not a mapping in block style with keys: empty, {} or {...}."""
    return not isinstance(node, yaml.MappingNode) or bool(node.flow_style) or not node.value


def _end_line(node: yaml.Node) -> int:
    """Index of the line after the last line of a value, without the comments and empty lines that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end_line(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.line) + (1 if node.end_mark.column or node.end_mark.line == node.start_mark.line else 0)


def _insert_line(text: str, line: int, added: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:line], added, *lines[line:]])


def _replace_value(text: str, parent: yaml.MappingNode, key: str, block: str) -> str:
    """Replace the value of a key by a text in block style."""
    name, value = next(pair for pair in parent.value if pair[0].value == key)
    lines = text.splitlines(keepends=True)
    first, end = name.start_mark.line, max(_end_line(value), name.start_mark.line + 1)
    head = lines[first][: name.end_mark.column]
    return "".join([*lines[:first], f"{head}:\n", block, *lines[end:]])


def _key_text(key: str, block: str, indent: int) -> str:
    name = yaml.safe_dump(key, default_flow_style=True).removesuffix("...\n").strip()
    return f"{' ' * indent}{name}:\n{block}"


def _dump(value: Any, indent: int) -> str:
    """Write a value in block style, with lists of points on one line each."""
    text = yaml.dump(value, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=110)
    return "".join(f"{' ' * indent}{line}\n" for line in text.splitlines())


class _BlockDumper(yaml.SafeDumper):
    """Writes lists of numbers, and lists of such lists, on one line, and indents the items of other lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    is_inline = all(not isinstance(item, Mapping) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=is_inline)


_BlockDumper.add_representer(list, _represent_list)
_BlockDumper.add_representer(tuple, _represent_list)  # type: ignore[arg-type]
