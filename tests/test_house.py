"""The house keeps its plan: imports run one way, nothing heavy loads early, no cupboard for odds and ends."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from resources.settings import PROJECT_ROOT

WINGS = ("resources", "cv_assets", "sensors")
ASSETS_IN_ORDER = (
    "recordings", "normalized_video", "scenes", "wall_clock", "detections", "tracks", "track_links", "crops",
    "zone_events", "summaries", "zone_summaries",
)  # fmt: skip


def imports_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("wing", WINGS)
def test_imports_run_from_sensors_to_assets_to_resources_and_never_back(wing: str) -> None:
    later = WINGS[WINGS.index(wing) + 1 :]
    offenders = [
        f"{file.name} imports {name}"
        for file in (PROJECT_ROOT / wing).rglob("*.py")
        if file.name != "definitions.py"
        for name in imports_of(file)
        if name.split(".")[0] in (*later, "tests", "benchmarks", "demo")
    ]
    assert offenders == []


def test_only_definitions_sees_every_wing() -> None:
    seeing = [
        file.relative_to(PROJECT_ROOT).as_posix()
        for wing in WINGS
        for file in (PROJECT_ROOT / wing).rglob("*.py")
        if {name.split(".")[0] for name in imports_of(file)} >= {"sensors", "resources"} and wing == "cv_assets"
    ]
    assert seeing == ["cv_assets/definitions.py"]


@pytest.mark.parametrize("position", range(len(ASSETS_IN_ORDER)))
def test_an_asset_imports_no_later_asset(position: int) -> None:
    later = {f"cv_assets.{name}" for name in ASSETS_IN_ORDER[position + 1 :]}
    assert not later & imports_of(PROJECT_ROOT / "cv_assets" / f"{ASSETS_IN_ORDER[position]}.py")


def test_there_is_no_cupboard_for_odds_and_ends() -> None:
    names = {file.stem for wing in WINGS for file in (PROJECT_ROOT / wing).rglob("*")}
    assert not names & {"utils", "helpers", "common", "misc", "util"}


def test_loading_the_code_location_imports_no_torch() -> None:
    code = (
        "import sys, cv_assets.definitions; "
        "print(sorted({'torch', 'ultralytics', 'openvino', 'cv2'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert shown.stdout.strip() == "[]"


def test_every_asset_carries_what_the_catalog_shows() -> None:
    from cv_assets.walk import WALK

    specs = [spec for assets in WALK for spec in assets.specs]
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
        if name not in ("normalized_video", "wall_clock"):  # files and times; all others are tables
            assert spec.metadata["dagster/column_schema"].columns, name


def test_files_of_the_project_name_no_place_of_their_making() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        file = PROJECT_ROOT / name
        if file.suffix in (".py", ".md", ".yaml", ".toml", ".txt") and file.exists() and file != Path(__file__):
            text = file.read_text(encoding="utf-8")
            assert "/root/" not in text and "/home/" not in text, name
