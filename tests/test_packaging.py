"""What is installed: one package, complete, light to import, at pinned versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import swarm
from tests.source_map import ROOT, source_files

HEAVY = {"torch", "transformers", "hivemind", "accelerate", "bitsandbytes"}
LINKS = {"swarm/cli": "../cli", "swarm/peer": "../peer", "swarm/routing": "../routing"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, Any] = tomllib.load(file)["project"]
    return found


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel that is built from a copy of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
    ]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def normal(name: str) -> str:
    """A distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(("link", "target"), LINKS.items())
def test_links_to_the_top_level_folders_are_links(link: str, target: str) -> None:
    assert (ROOT / link).is_symlink()
    assert (ROOT / link).readlink() == Path(target)


@pytest.mark.slow
def test_the_wheel_puts_only_swarm_into_site_packages(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"swarm"}


@pytest.mark.slow
def test_the_wheel_has_every_source(wheel_names: set[str]) -> None:
    ours = {path for path in source_files() if not path.startswith(("tests/", "docs/"))}
    expected = {path if path.startswith("swarm/") else f"swarm/{path}" for path in ours}
    assert expected - wheel_names == set()


@pytest.mark.slow
def test_the_wheel_has_the_web_page(wheel_names: set[str]) -> None:
    files = {f"swarm/gateway/page/{path.name}" for path in (ROOT / "swarm/gateway/page").iterdir()}
    assert files - wheel_names == set()


@pytest.mark.slow
def test_the_wheel_has_types_licence_and_the_built_in_model(wheel_names: set[str]) -> None:
    assert "swarm/py.typed" in wheel_names
    assert any(name.endswith("/LICENSE") for name in wheel_names)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        name.rpartition("/")[2] for name in wheel_names if name.startswith("swarm/builtin/demo/")
    }


def modules_after(statement: str) -> set[str]:
    """What a fresh interpreter has imported after a statement."""
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["swarm", "swarm.core.config", "swarm.routing.records", "swarm.cli.main", "swarm.wire"]
)
def test_importing_a_light_module_imports_nothing_heavy(module: str) -> None:
    assert HEAVY & modules_after(f"import {module}") == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "from swarm import SwarmModel",
        "import swarm.client.entrance",
        "import swarm.client.swarm_survey, swarm.cli.status_table",
        "import swarm.cli.generate",
        "import swarm.cli.bootstrap, swarm.peer.ready",
    ],
)
def test_what_runs_without_layers_imports_no_torch(statement: str) -> None:
    """A client joins before it imports torch; the others never need it."""
    assert (HEAVY - {"hivemind"} | {"hivemind.averaging", "scipy"}) & modules_after(statement) == set()


def test_every_dependency_is_pinned_to_a_plain_version(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *(entry for extra in extras for entry in extra)]
    names = {normal(re.split(r"[<>=!~;\[ ]", entry)[0]) for entry in declared}
    assert names - {normal(pin.split("==")[0]) for pin in pins} == set()


def test_the_command_is_called_swarm(project: dict[str, Any]) -> None:
    assert project["scripts"] == {"swarm": "swarm.cli.main:main"}


def test_every_dependency_has_its_reason(project: dict[str, Any]) -> None:
    page = (ROOT / "docs/adr/0006-dependencies.md").read_text(encoding="utf-8")
    names = {re.split(r"[<>=!~;\[ ]", entry)[0] for entry in project["dependencies"]}
    assert {name for name in names if name.lower() not in page.lower()} == set()


def test_the_version_is_written_the_same_in_both_places(project: dict[str, Any]) -> None:
    assert project["version"] == swarm.__version__
