"""The Dockerfile, without building it: what a linter would say, and that everything it copies is there."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.source_map import ROOT

DEPLOY = ROOT / "docs" / "deploy"
VARIANTS = ("cpu", "cuda")


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """All of them, in order: keyword and the rest, in one line each."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def last(instructions: list[tuple[str, str]], keyword: str) -> str:
    return next(rest for word, rest in reversed(instructions) if word == keyword)


def final_stage(instructions: list[tuple[str, str]]) -> list[tuple[str, str]]:
    begin = max(i for i, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[begin:]


def test_every_instruction_is_one_of_docker(instructions: list[tuple[str, str]]) -> None:
    known = {
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "FROM",
        "HEALTHCHECK",
        "RUN",
        "USER",
        "VOLUME",
        "WORKDIR",
    }
    assert {word for word, _ in instructions} <= known


def test_images_are_of_exact_versions_or_earlier_stages(instructions: list[tuple[str, str]]) -> None:
    stages: set[str] = set()
    for image, _, stage in (rest.partition(" AS ") for word, rest in instructions if word == "FROM"):
        wanted = {image.replace("${VARIANT}", variant) for variant in VARIANTS}
        assert wanted <= stages or re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+[\w.-]*", image), image
        stages.add(stage)


def test_the_image_runs_as_nobody_special_and_says_how_it_is(instructions: list[tuple[str, str]]) -> None:
    stage = final_stage(instructions)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(stage, "USER"))
    assert "SWARM_READY_FILE" in last(stage, "HEALTHCHECK")
    assert json.loads(last(stage, "ENTRYPOINT")) == ["swarm"]
    after_user = stage[[word for word, _ in stage].index("USER") :]
    assert not {"RUN", "COPY"} & {word for word, _ in after_user}


def test_packages_are_installed_at_the_versions_of_the_tests(instructions: list[tuple[str, str]]) -> None:
    installs = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert installs
    assert all("-c constraints.txt" in rest for rest in installs)


def test_what_is_copied_is_there_and_not_ignored(instructions: list[tuple[str, str]]) -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copies = [rest.split()[:-1] for word, rest in instructions if word == "COPY" and "--from" not in rest]
    sources = {source for copy in copies for source in copy}
    assert all((ROOT / source).exists() for source in sources)
    assert sources == allowed
    assert not any(fnmatch.fnmatch(source, "**/__pycache__") for source in sources)


def test_join_runs_a_command_in_the_swarm_of_a_ready_file(tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text(
        json.dumps({"addresses": ["/dns4/b/tcp/1/p2p/x", "/ip4/127.0.0.1/tcp/1/p2p/x"]})
    )
    program = tmp_path / "swarm"
    program.write_text('#!/bin/sh\necho "$SWARM_PEERS" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [DEPLOY / "join.sh", tmp_path / "ready.json", "serve", "demo"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "/dns4/b/tcp/1/p2p/x serve demo\n"
