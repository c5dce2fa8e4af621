"""Rules of the whole code base: imports run one way, imports have no side effects, modules are small and named once."""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cv_assets.asset_graph import AssetGraph
from resources.config.settings import Settings
from resources.config.settings_file import PROJECT_ROOT

WINGS = ("resources", "cv_assets", "sensors", "serve", "cli")
"""The packages in order of their imports: each may import those before it."""
ASSETS_IN_ORDER = (
    "recordings", "normalized_video", "scenes", "detections", "tracks", "still_tracks", "corrected_tracks",
    "track_links", "crops", "zone_events", "summaries", "zone_summaries",
)  # fmt: skip
MAX_LINES = 420
MAX_PRIVATE_NAMES = 5
"""Of Dagster; each has a reason and a contract test."""
# Separated, so that this file does not contain them.
FORBIDDEN_WORDS = "to-ld wan-ted an-ew some-body no-body he-ed me-nd".replace("-", "").split()


def python_files(wing: str) -> list[Path]:
    return sorted((PROJECT_ROOT / wing).rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(PROJECT_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(file: Path) -> set[str]:
    """Names of all modules that a file imports, also inside functions, and of all objects that it imports from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def tracked_files(*suffixes: str) -> list[Path]:
    """All files of the repository with some endings, new ones included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True).stdout
    files = [PROJECT_ROOT / name for name in listing.split("\0") if name]
    return [file for file in files if file.suffix in suffixes and file.exists()]


def run_python(code: str, **environment: str) -> Any:
    """Run code in a fresh process; returns the JSON value that it prints last."""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, env=environment or None
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("wing", WINGS)
def test_imports_run_from_cli_to_serve_to_sensors_to_assets_to_resources_and_never_back(wing: str) -> None:
    later_wings = WINGS[WINGS.index(wing) + 1 :]
    offenders = [
        f"{file.name} imports {name}"
        for file in python_files(wing)
        if file.relative_to(PROJECT_ROOT).as_posix() != "cv_assets/definitions.py"
        for name in imported_modules(file)
        if name.split(".")[0] in (*later_wings, "tests", "benchmarks", "demo")
    ]
    assert offenders == []


def test_only_the_definitions_import_a_later_wing() -> None:
    importing_sensors = [
        file.relative_to(PROJECT_ROOT).as_posix()
        for file in (*python_files("resources"), *python_files("cv_assets"))
        if "sensors" in {name.split(".")[0] for name in imported_modules(file)}
    ]
    assert importing_sensors == ["cv_assets/definitions.py"]
    definitions = imported_modules(PROJECT_ROOT / "cv_assets" / "definitions.py")
    assert not {"cli", "serve"} & {name.split(".")[0] for name in definitions}


@pytest.mark.parametrize("position", range(len(ASSETS_IN_ORDER)))
def test_an_asset_imports_no_later_asset(position: int) -> None:
    later_assets = {f"cv_assets.{name}" for name in ASSETS_IN_ORDER[position + 1 :]}
    assert not later_assets & imported_modules(PROJECT_ROOT / "cv_assets" / f"{ASSETS_IN_ORDER[position]}.py")


def test_no_two_modules_of_the_wings_share_a_name() -> None:
    names = Counter(file.stem for wing in WINGS for file in python_files(wing) if file.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_module_is_a_collection_of_unrelated_functions() -> None:
    names = {file.stem for wing in WINGS for file in (PROJECT_ROOT / wing).rglob("*")}
    assert not names & {"utils", "helpers", "common", "misc", "util"}


def test_no_module_of_the_wings_is_long() -> None:
    line_counts = {
        module_name(file): len(file.read_text().splitlines()) for wing in WINGS for file in python_files(wing)
    }
    assert {name: count for name, count in line_counts.items() if count > MAX_LINES} == {}


def test_every_wing_is_typed() -> None:
    assert [wing for wing in WINGS if not (PROJECT_ROOT / wing / "py.typed").exists()] == []


_IMPORT_EVERY_MODULE = """
import importlib, json, os, sys
from pathlib import Path

root, names = Path.cwd(), json.loads({names!r})
wings = tuple(str(root / wing) for wing in {wings!r})
reads, is_watching = [], True

def is_code(path):
    folders = ("/__pycache__/", "/.venv/", ".egg-info/", "__editable__")
    return path.endswith(".py") or any(name in path for name in folders) or os.path.isdir(path)

def watch_files(event, arguments):
    if is_watching and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        path = os.path.abspath(arguments[0])
        if path.startswith(str(root)) and not is_code(path):
            reads.append("file " + path)

get_variable = type(os.environ).__getitem__

def watch_variables(environment, name):
    frame = sys._getframe(1)
    while frame and frame.f_code.co_filename.startswith("<frozen "):
        frame = frame.f_back
    # Defaults for other libraries are set before those are imported; setdefault reads them first.
    is_default = frame and frame.f_code.co_name == "<module>" and name.startswith(("OPENCV_", "YOLO_"))
    if is_watching and frame and frame.f_code.co_filename.startswith(wings) and not is_default:
        reads.append(f"variable {{name}} in {{frame.f_code.co_filename}}")
    return get_variable(environment, name)

type(os.environ).__getitem__ = watch_variables
sys.addaudithook(watch_files)
for name in names:
    importlib.import_module(name)
is_watching = False
print(json.dumps(reads))
"""


@pytest.mark.slow
def test_imports_read_no_settings_no_environment_and_no_files() -> None:
    names = [module_name(file) for wing in WINGS for file in python_files(wing)]
    code = _IMPORT_EVERY_MODULE.format(names=json.dumps(names), wings=WINGS)
    environment = {"CV_ASSETS_SETTINGS": "/nowhere/pipeline.yaml", "PYTHONWARNINGS": "ignore"}
    assert run_python(code, **environment) == []


def test_the_code_location_loads_without_machine_learning_libraries() -> None:
    code = (
        "import json, sys; from cv_assets.definitions import build_definitions\n"
        "from resources.config.settings import Settings\n"
        "build_definitions(Settings()).get_repository_def()\n"
        "print(json.dumps(sorted({'torch', 'ultralytics', 'openvino', 'cv2'} & set(sys.modules))))"
    )
    assert run_python(code) == []


def test_every_asset_has_what_the_catalog_shows() -> None:
    stages = AssetGraph.build(Settings()).assets
    assert tuple(assets.op.name for assets in stages) == ASSETS_IN_ORDER
    specs = [spec for assets in stages for spec in assets.specs]
    assert {spec.key.to_user_string() for spec in specs} >= {
        *ASSETS_IN_ORDER[:-1],
        "frames",
        "track_boxes",
        "zone_minutes",
    }
    for spec in specs:
        name = spec.key.to_user_string()
        assert spec.group_name in ("ingest", "analysis"), name
        assert spec.description and spec.owners and spec.kinds and spec.code_version, name
        assert spec.partitions_def is not None, name
        if name != "normalized_video":  # files; all others are tables
            assert spec.metadata["dagster/column_schema"].columns, name


def test_no_file_contains_a_path_of_the_machine_that_it_was_written_on() -> None:
    for file in tracked_files(".py", ".md", ".yaml", ".toml", ".txt"):
        if file != Path(__file__):
            text = file.read_text(encoding="utf-8")
            assert "/root/" not in text and "/home/" not in text, file


def test_the_words_of_the_old_dialect_do_not_come_back() -> None:
    pattern = re.compile(rf"\b({'|'.join(FORBIDDEN_WORDS)})\b", re.IGNORECASE)
    offenders = [
        f"{file.relative_to(PROJECT_ROOT)}:{number}: {match[0]}"
        for file in tracked_files(".py", ".md", ".yaml", ".html", ".toml")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for match in pattern.finditer(line)
    ]
    assert offenders == []


def test_no_test_patches_an_object_by_its_dotted_path() -> None:
    offenders = [
        f"{file.relative_to(PROJECT_ROOT)}:{node.lineno}"
        for file in python_files("tests")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("setattr", "delattr", "patch")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]
    assert offenders == []


def private_names_of_libraries(file: Path) -> set[str]:
    """Private modules of Dagster that a file imports, and private attributes of foreign objects that it uses."""
    tree = ast.parse(file.read_text())
    names = {name for name in imported_modules(file) if re.match(r"dagster\w*(\.\w+)*\._", name)}
    own_names = {"self", "cls"}
    public_by_design = {"_replace", "_fields", "_asdict", "_exit"}  # of named tuples, and of os
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            is_own = isinstance(node.value, ast.Name) and node.value.id in own_names
            if not is_own and node.attr not in public_by_design:
                names.add(node.attr)
    return names | inherited_private_names(tree)


def inherited_private_names(tree: ast.Module) -> set[str]:
    """Private attributes that subclasses of Dagster's classes use on themselves without defining them."""
    from_dagster = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0].startswith("dagster")
        for alias in node.names
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ClassDef)
            and {base.id for base in node.bases if isinstance(base, ast.Name)} & from_dagster
        ):
            attributes = [item for item in ast.walk(node) if isinstance(item, ast.Attribute)]
            defined = {item.attr for item in attributes if isinstance(item.ctx, ast.Store)}
            defined |= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            defined |= {item.target.id for item in node.body
                        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}  # fmt: skip
            names |= {item.attr for item in attributes if re.match(r"_[^_]", item.attr)} - defined
    return names


def test_private_parts_of_dagster_are_used_in_one_module_only_and_are_few() -> None:
    names_by_file = {
        file.relative_to(PROJECT_ROOT).as_posix(): private_names_of_libraries(file)
        for wing in WINGS
        for file in python_files(wing)
    }
    private_api_names = names_by_file.pop("resources/dagster_instance/private_api.py")
    assert {file: names for file, names in names_by_file.items() if names} == {}
    assert "_metadata_accumulator" in private_api_names
    # A module is counted by what is imported from it.
    imported = {
        name for name in private_api_names if not any(other.startswith(f"{name}.") for other in private_api_names)
    }
    assert len(imported) <= MAX_PRIVATE_NAMES
