"""The compose file: the specification's schema, parts that fit together, commands that parse."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from swarm.cli.bootstrap import BootstrapSettings
from swarm.cli.gateway_settings import GatewaySettings
from swarm.cli.serve_settings import ServeSettings
from tests.command_lines import ADDRESS, parsed
from tests.test_deploy_options import DEPLOY

FILE = DEPLOY / "compose.yaml"
SETTINGS: dict[str, type[Any]] = {
    "serve": ServeSettings,
    "bootstrap": BootstrapSettings,
    "gateway": GatewaySettings,
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """With the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose["services"].items() if "build" in service}


@pytest.mark.slow
def test_the_file_follows_the_schema_of_compose() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_there_are_a_way_in_three_peers_a_gateway_and_who_watches(compose: dict[str, Any]) -> None:
    commands = [service["command"][0] for service in ours(compose).values()]
    assert sorted(commands) == ["bootstrap", "gateway", "serve", "serve", "serve"]
    assert compose["services"].keys() - ours(compose).keys() == {"prometheus", "grafana"}


def test_every_command_is_valid(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_PEERS", ADDRESS)  # `join` sets it
    for service in ours(compose).values():
        assert SETTINGS[service["command"][0]].load(parsed(service["command"]))


def test_the_peers_share_the_demo_model_without_a_gap(compose: dict[str, Any]) -> None:
    layers = [
        parsed(service["command"])["layers"]
        for service in ours(compose).values()
        if "serve" in service["command"]
    ]
    bounds = [tuple(map(int, span.split(":"))) for span in layers]
    assert [start for start, _ in bounds] + [8] == [0] + [end for _, end in bounds]


def test_services_and_volumes_that_are_named_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service.get("depends_on", {}).keys() <= compose["services"].keys()
        for source, _, _ in (volume.partition(":") for volume in service["volumes"]):
            assert source in compose["volumes"] or (DEPLOY / source).exists(), source


def test_images_have_versions_and_ports_are_published_to_this_machine_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_members_join_through_the_file_that_the_bootstrap_node_writes(compose: dict[str, Any]) -> None:
    services = ours(compose)
    bootstrap = services.pop("bootstrap")
    written = bootstrap["environment"]["SWARM_READY_FILE"]
    assert "/dns4/bootstrap/tcp/31330" in bootstrap["command"]
    for service in services.values():
        assert service["entrypoint"] == ["join", written]
        assert "shared:/shared:ro" in service["volumes"]


def test_prometheus_asks_gateway_and_peers_and_grafana_asks_prometheus(compose: dict[str, Any]) -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    asked = [target for job in jobs for each in job["static_configs"] for target in each["targets"]]
    options = {name: parsed(service["command"]) for name, service in ours(compose).items()}
    pages = [f"gateway:{options.pop('gateway')['port']}"]
    pages += [f"{name}:{found['metrics_port']}" for name, found in options.items() if name != "bootstrap"]
    assert asked == pages
    assert all(found["metrics_host"] == "0.0.0.0" for name, found in options.items() if name != "bootstrap")
    folder = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((folder / "dashboards" / "swarm.yaml").read_text())["providers"]
    assert any(
        volume.split(":")[1] == provider["options"]["path"]
        for volume in compose["services"]["grafana"]["volumes"]
    )
