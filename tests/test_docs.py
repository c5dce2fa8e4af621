"""README and docs agree with the code: links, tables, settings, commands, files and functions."""

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cli.main import commands
from cv_assets.model_lease import DEVICE_TAG
from resources.config.camera_config import CameraSettings
from resources.config.crop_model_config import CropModelSettings
from resources.config.detection_config import DetectionSettings, ModelSettings
from resources.config.network_config import NetworkSettings
from resources.config.operations_config import ChannelSettings, EmailSettings, NotificationSettings, WebhookSettings
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT, load_settings
from resources.config.stage_config import OwnStageSettings
from resources.config.tile_config import TileSettings
from resources.schema.table_registry import TABLES
from resources.schema.views import VIEWS
from resources.workers.run_executor import WORKER_RUN_TAG, WORKER_TAG
from sensors.recomputation import STALE_VARIABLE

DOCS = PROJECT_ROOT / "docs"
README = PROJECT_ROOT / "README.md"
PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *DOCS.glob("*.md")])
MAX_README_LINES = 200
VIEW_NAMES = {view.table.name for view in VIEWS}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def section_of(page: Path, heading: str) -> str:
    """The text below a heading of the second level."""
    (text,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page.read_text(), re.DOTALL | re.MULTILINE)
    return str(text)


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def without_code_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def table_rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without their headers."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    is_rule = [set(line) <= set("|-: ") for line in lines]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for number, line in enumerate(lines)
        if not is_rule[number] and not (number + 1 < len(lines) and is_rule[number + 1])
    ]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_code_blocks(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(page.read_text()))
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_of_the_docs_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    missing = [page.name for page in DOCS.glob("*.md") if page.name != "index.md" and f"]({page.name})" not in index]
    assert missing == []


def test_the_readme_lists_exactly_the_declared_tables() -> None:
    names = [name for row in table_rows(section_of(README, "Tables")) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(names) == sorted({*TABLES, *VIEW_NAMES})


@each_page
def test_every_example_of_settings_is_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(code_blocks(page.read_text(), "ya?ml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        assert isinstance(load_settings(file, {}), Settings)


# The text in docs/configuration.md for defaults that would be too long there.
_DESCRIBED_DEFAULTS = {
    "extensions": "common video formats",
    "captured_at_patterns": "built-in",
    "events": "all",
}


def documented_defaults(heading: str) -> list[dict[str, str]]:
    """By table below a heading of docs/configuration.md: the default by key."""
    tables = re.split(r"^\| key \|.*\n\|[-|]+\|\n", section_of(DOCS / "configuration.md", heading), flags=re.MULTILINE)
    return [
        {cells[0].strip("`"): cells[1].strip("`") for cells in table_rows(table.split("\n\n")[0])}
        for table in tables[1:]
    ]


def default_value(model: type[BaseModel], name: str) -> Any:
    """The default of a setting as YAML has it."""
    instance = model.model_construct()
    return instance.model_dump(mode="json", include={name}, warnings=False).get(name)


def check_defaults(documented: Mapping[str, str], model: type[BaseModel], fields: Mapping[str, FieldInfo]) -> None:
    assert list(documented) == list(fields)
    for name, field in fields.items():
        if field.is_required():
            assert documented[name] == "required", name
        elif name in _DESCRIBED_DEFAULTS:
            assert documented[name] == _DESCRIBED_DEFAULTS[name]
        else:
            assert yaml.safe_load(documented[name]) == default_value(model, name), name


def own_fields(model: type[BaseModel], base: type[BaseModel]) -> dict[str, FieldInfo]:
    return {name: field for name, field in model.model_fields.items() if name not in base.model_fields}


def settings_sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Sections of pipeline.yaml that are one object, with the headings that document them."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and name != "notifications":
            yield name, field.annotation
    yield "cameras", CameraSettings


@pytest.mark.parametrize(("heading", "model"), list(settings_sections()))
def test_every_setting_is_documented_with_its_default(heading: str, model: type[BaseModel]) -> None:
    (documented,) = documented_defaults(heading)
    check_defaults(documented, model, model.model_fields)


def test_every_key_of_a_plain_network_is_documented_with_its_default() -> None:
    (documented,) = documented_defaults("network")
    check_defaults(documented, NetworkSettings, NetworkSettings.model_fields)


def test_every_key_of_a_crop_model_is_documented_with_its_default() -> None:
    (documented,) = documented_defaults("crop_models")
    check_defaults(documented, CropModelSettings, CropModelSettings.model_fields)


def test_every_key_of_tiles_is_documented_with_its_default() -> None:
    (documented,) = documented_defaults("tiles")
    check_defaults(documented, TileSettings, TileSettings.model_fields)


def test_every_key_of_a_stage_is_documented_with_its_default() -> None:
    (documented,) = documented_defaults("stages")
    check_defaults(documented, OwnStageSettings, OwnStageSettings.model_fields)


def test_every_folder_is_documented_with_its_default() -> None:
    (documented,) = documented_defaults("Folders")
    check_defaults(documented, Settings, {name: Settings.model_fields[name] for name in documented})
    headings = {
        *documented,
        *(heading for heading, _ in settings_sections()),
        "models",
        "crop_models",
        "stages",
        "notifications",
    }
    headings |= documented_defaults("rename_classes")[0].keys()
    assert headings == set(Settings.model_fields)


def test_every_setting_of_notifications_is_documented_with_its_default() -> None:
    notifications, channel, webhook, email = documented_defaults("notifications")
    check_defaults(notifications, NotificationSettings, NotificationSettings.model_fields)
    check_defaults(channel, ChannelSettings, ChannelSettings.model_fields)
    check_defaults(webhook, WebhookSettings, own_fields(WebhookSettings, ChannelSettings))
    check_defaults(email, EmailSettings, own_fields(EmailSettings, ChannelSettings))


def test_further_models_have_the_defaults_of_the_detector_except_as_documented() -> None:
    (documented,) = documented_defaults("models")
    for name, field in ModelSettings.model_fields.items():
        if field.is_required():
            assert documented.pop(name) == "required", name
        else:
            assert default_value(ModelSettings, name) == default_value(DetectionSettings, name), name
    assert documented == {}


def test_the_default_file_extensions_are_documented() -> None:
    text = section_of(DOCS / "configuration.md", "ingest").replace("\n", " ")
    (sentence,) = re.findall(r"The default extensions are ([^.]*)\.", text)
    assert sorted(re.findall(r"\w+", sentence.replace(" and ", " "))) == sorted(
        extension.lstrip(".") for extension in Settings().ingest.extensions
    )


def test_every_environment_variable_is_documented() -> None:
    rows = table_rows(section_of(DOCS / "configuration.md", "Environment variables"))
    documented = {row[0].strip("`") for row in rows}
    files = (
        file
        for wing in ("resources", "cv_assets", "sensors", "serve", "cli")
        for file in (PROJECT_ROOT / wing).rglob("*.py")
    )
    in_code = {name for file in files for name in re.findall(r"\bCV_ASSETS_[A-Z_]*[A-Z]\b", file.read_text())}
    # STALE_VARIABLE is set by `cv-assets process` for its own daemon, not by people.
    assert in_code - {STALE_VARIABLE} == documented - {"CV_ASSETS_CORPUS"}


def code_lines(page: Path) -> list[str]:
    """All lines of code in a page: those of code blocks, and each piece of code inside a sentence."""
    text = page.read_text()
    in_blocks = "\n".join(code_blocks(text, r"\w*")).replace("\\\n", " ").splitlines()
    return [*in_blocks, *re.findall(r"`([^`]+)`", without_code_blocks(text))]


@each_page
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    for line in code_lines(page):
        if match := re.search(r"\bcv-assets ([a-z][a-z-]*)([^|#\n]*)", line):
            name, arguments = match.groups()
            assert name in commands.commands, line
            parameters = commands.commands[name].params
            options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
            assert set(re.findall(r"(?<![\w-])--[a-z-]+", arguments)) <= options, line


def test_every_command_is_documented() -> None:
    documented = set(re.findall(r"\| `cv-assets ([a-z-]+)", (DOCS / "operations.md").read_text()))
    assert documented == set(commands.commands)
    assert all(isinstance(command, click.Command) for command in commands.commands.values())


@each_page
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {match[1] for line in code_lines(page) if (match := re.match(r"make ([a-z-]+)", line))}
    assert named <= set(targets)


def test_every_benchmark_that_the_docs_name_exists() -> None:
    names = set(re.findall(r"`benchmarks\.(\w+)", (DOCS / "operations.md").read_text()))
    assert names
    assert [name for name in names if not (PROJECT_ROOT / "benchmarks" / f"{name}.py").exists()] == []


@pytest.mark.parametrize(
    ("question", "answer"), table_rows(section_of(DOCS / "architecture.md", "Where is …?")), ids=lambda text: text[:40]
)
def test_every_file_and_function_of_the_architecture_page_exists(question: str, answer: str) -> None:
    modules: list[str] = []
    for text in re.findall(r"`([^`]+)`", answer):
        if "/" in text:
            files = sorted(PROJECT_ROOT.glob(text))
            assert files, text
            modules = [_module_name(file) for file in files if file.suffix == ".py"]
        elif modules:
            name = text.partition("(")[0]
            assert any(_has_attribute(importlib.import_module(module), name) for module in modules), (modules, name)
            _check_parameters(text, modules)


def _module_name(file: Path) -> str:
    return ".".join(file.relative_to(PROJECT_ROOT).with_suffix("").parts)


def _has_attribute(value: Any, dotted_name: str) -> bool:
    for name in dotted_name.split("."):
        if not hasattr(value, name) and name not in getattr(value, "__annotations__", {}):
            return False
        value = getattr(value, name, None)
    return True


def _check_parameters(call: str, modules: list[str]) -> None:
    """Check that a call in the text gives as many arguments as its function needs."""
    if "(" not in call:
        return
    expression = ast.parse(call, mode="eval").body
    assert isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name)
    function = getattr(importlib.import_module(modules[0]), expression.func.id)
    code = function.__code__
    required_count = code.co_argcount - len(function.__defaults__ or ())
    assert required_count <= len(expression.args) <= code.co_argcount, call


@each_page
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    names = re.findall(
        r"`((?:resources|cv_assets|sensors|serve|cli|demo|tests|docs|benchmarks)/[\w./-]*)`", page.read_text()
    )
    generated = {"demo/run", "demo/run/", "benchmarks/results.json"}
    examples = {"cv_assets/your_stage.py", "resources/inference/engines/your_engine.py"}
    tags = {DEVICE_TAG, WORKER_TAG, WORKER_RUN_TAG}
    missing = {name for name in names if not (PROJECT_ROOT / name).exists()}
    assert missing <= generated | examples | tags


def test_the_pre_commit_hooks_need_no_network() -> None:
    configuration = yaml.safe_load((PROJECT_ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in configuration["repos"]] == ["local"]
    hooks = configuration["repos"][0]["hooks"]
    assert hooks
    for hook in hooks:
        assert hook["language"] == "system", hook["id"]
        assert hook["entry"].startswith(".venv/bin/"), hook["id"]
