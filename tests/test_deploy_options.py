"""What pages and deployment files tell to type exists: every command, option and setting."""

from __future__ import annotations

import json
import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from swarm.cli.serve_settings import ServeSettings
from tests.command_lines import parsed, told_in
from tests.gateway_lab import LocalModel, make_gateway
from tests.page_blocks import SHELL, blocks_of
from tests.source_map import ROOT

DEPLOY = ROOT / "docs" / "deploy"
UNIT = DEPLOY / "swarm-peer.service"
PLIST = DEPLOY / "org.layerswarm.peer.plist"
PAGES = sorted({ROOT / "README.md", *ROOT.glob("docs/**/*.md")} - {ROOT / "docs" / "cli.md"})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_page_have_these_options(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == SHELL:
            for arguments in told_in(block.text):
                parsed(arguments)


def test_an_option_that_is_gone_is_found() -> None:
    [arguments] = told_in("cd x && swarm serve demo --layer 0:4")
    with pytest.raises(AssertionError, match="No such option: --layer"):
        parsed(arguments)


def test_the_peer_of_a_service_has_valid_options() -> None:
    settings = ServeSettings.load({"config": str(DEPLOY / "peer.yaml")})
    assert (settings.port, settings.direct_port) == (31330, 31331)


def test_the_options_that_are_commented_out_are_valid_too(tmp_path: Path) -> None:
    lines = (DEPLOY / "peer.yaml").read_text().splitlines()[1:]
    whole = "\n".join(line.removeprefix("# ") for line in lines).replace("12D3KooW...", "12D3KooWabc")
    (tmp_path / "peer.yaml").write_text(whole)
    assert ServeSettings.load({"config": str(tmp_path / "peer.yaml")}).layers is not None


def test_the_services_run_the_same_command() -> None:
    [started] = re.findall(r"^ExecStart=(.+)$", UNIT.read_text(), re.MULTILINE)
    with PLIST.open("rb") as file:
        agent = plistlib.load(file)
    for program, *arguments in (started.split(), agent["ProgramArguments"]):
        assert program == "/opt/swarm/bin/swarm"
        assert Path(parsed(arguments)["config"]).name == "peer.yaml"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.slow
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/swarm/bin/swarm", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_services_leave_time_to_drain() -> None:
    [stop_s] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    with PLIST.open("rb") as file:
        agent_stop_s = plistlib.load(file)["ExitTimeOut"]
    drain_s = ServeSettings.model_fields["drain_s"].default
    assert int(stop_s) > drain_s
    assert agent_stop_s > drain_s


def shown_on_the_dashboard() -> set[str]:
    """The names of all metrics in its queries."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "swarm.json").read_text())
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    return set(re.findall(r"(?:gen_ai|swarm)_\w+", queries))


@pytest.mark.slow
def test_the_dashboard_shows_metrics_that_gateways_have() -> None:
    page = make_gateway(LocalModel()).meter.exposition().decode()
    told = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    shown = {name for name in shown_on_the_dashboard() if not name.startswith("swarm_peer_")}
    assert shown
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown} - told == set()
