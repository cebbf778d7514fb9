"""The Kubernetes manifests, without a cluster: selectors, ports, probes and volumes meet what they name."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from swarm.cli.serve_settings import ServeSettings
from tests.command_lines import ADDRESS, parsed
from tests.test_deploy_compose import SETTINGS
from tests.test_deploy_options import DEPLOY

FOLDER = DEPLOY / "kubernetes"
API_VERSIONS = {
    "Deployment": "apps/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "Kustomization": "kustomize.config.k8s.io/v1beta1",
    "Namespace": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "Service": "v1",
    "StatefulSet": "apps/v1",
}
MADE_BEFORE = {"swarm-bootstrap", "swarm-gateway-keys"}  # the secrets of the page on deployment
PORT_OPTIONS = {"libp2p": "port", "direct": "direct_port", "http": "port", "metrics": "metrics_port"}


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    return [each for file in sorted(FOLDER.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in kinds]


def workloads(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return of_kind(objects, "Deployment", "StatefulSet")


def labels(workload: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


def container(workload: dict[str, Any]) -> dict[str, Any]:
    """The one that goes on."""
    [found] = pod(workload)["containers"]
    assert isinstance(found, dict)
    return found


def ports(workload: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(workload)["ports"]}


def selected(objects: list[dict[str, Any]], selector: dict[str, str]) -> list[dict[str, Any]]:
    return [each for each in workloads(objects) if selector.items() <= labels(each).items()]


def test_every_object_has_kind_version_and_name(objects: list[dict[str, Any]]) -> None:
    assert {each["kind"] for each in objects} == API_VERSIONS.keys()
    for each in objects:
        assert each["apiVersion"] == API_VERSIONS[each["kind"]]
        assert each["kind"] == "Kustomization" or each["metadata"]["name"]


def test_the_kustomization_names_every_file(objects: list[dict[str, Any]]) -> None:
    [kustomization] = of_kind(objects, "Kustomization")
    files = {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    assert kustomization["images"][0]["newTag"] != "latest"


def test_selectors_meet_exactly_one_workload(objects: list[dict[str, Any]]) -> None:
    for each in workloads(objects):
        assert selected(objects, each["spec"]["selector"]["matchLabels"]) == [each]
    for each in of_kind(objects, "Service"):
        assert len(selected(objects, each["spec"]["selector"])) == 1
    for each in of_kind(objects, "PodDisruptionBudget"):
        assert len(selected(objects, each["spec"]["selector"]["matchLabels"])) == 1
    for each in of_kind(objects, "NetworkPolicy"):
        assert selected(objects, each["spec"]["podSelector"]["matchLabels"])


def test_services_lead_to_ports_of_their_pods(objects: list[dict[str, Any]]) -> None:
    for service in of_kind(objects, "Service"):
        [workload] = selected(objects, service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} == ports(workload).keys()


def test_commands_are_valid_and_listen_where_the_ports_are(
    objects: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_PEERS", ADDRESS)
    monkeypatch.setenv("SWARM_MODEL", "demo")
    for workload in workloads(objects):
        arguments = container(workload)["args"]
        settings = SETTINGS[arguments[0]].load(parsed(arguments))
        for name, port in ports(workload).items():
            assert getattr(settings, PORT_OPTIONS[name]) == port


def test_what_the_configuration_sets_are_settings(objects: list[dict[str, Any]]) -> None:
    [kustomization] = of_kind(objects, "Kustomization")
    [generated] = kustomization["configMapGenerator"]
    names = {literal.partition("=")[0] for literal in generated["literals"]}
    for workload in workloads(objects):
        entries = container(workload)
        assert all(each["configMapRef"]["name"] == generated["name"] for each in entries.get("envFrom", []))
        names |= {entry["name"] for entry in entries.get("env", [])}
        assert (
            pod(workload)["enableServiceLinks"] is False
        )  # SWARM_GATEWAY_PORT and its like would be settings
    assert {name.removeprefix("SWARM_").lower() for name in names} <= ServeSettings.model_fields.keys()


def test_probes_ask_ports_that_exist(objects: list[dict[str, Any]]) -> None:
    for workload in workloads(objects):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container(workload)[kind]
            asked = probe.get("tcpSocket") or probe.get("httpGet")
            assert asked["port"] in ports(workload) if asked else probe["exec"]["command"]


def test_mounts_have_volumes_and_volumes_exist(objects: list[dict[str, Any]]) -> None:
    for workload in workloads(objects):
        volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
        claimed = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        mounted = {
            mount["name"]
            for each in [*pod(workload)["containers"], *pod(workload).get("initContainers", [])]
            for mount in each["volumeMounts"]
        }
        assert mounted == volumes.keys() | claimed
        assert {
            volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume
        } <= MADE_BEFORE


def test_secrets_that_are_mounted_are_told_to_be_made() -> None:
    page = (DEPLOY / "README.md").read_text()
    assert all(f"create secret generic {name} " in page for name in MADE_BEFORE)


def test_pods_run_confined(objects: list[dict[str, Any]]) -> None:
    for workload in workloads(objects):
        assert pod(workload)["securityContext"]["runAsNonRoot"] is True
        for each in [*pod(workload)["containers"], *pod(workload).get("initContainers", [])]:
            context = each["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_autoscalers_watch_the_queue_of_what_they_scale(objects: list[dict[str, Any]]) -> None:
    scaled = {}
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        [workload] = [each for each in workloads(objects) if each["metadata"]["name"] == target["name"]]
        assert target["kind"] == workload["kind"]
        assert "replicas" not in workload["spec"], "applying it again would undo what the autoscaler did"
        [metric] = scaler["spec"]["metrics"]
        name = metric["pods"]["metric"]["name"]
        scaled[target["name"]] = name
        assert f"seriesQuery: {name}{{" in (DEPLOY / "README.md").read_text()
    assert scaled == {"swarm-gateway": "swarm_gateway_queue", "swarm-peer": "swarm_peer_queue"}


def test_what_is_scraped_is_a_port_that_serves_it(objects: list[dict[str, Any]]) -> None:
    for name in ("swarm-peer", "swarm-gateway"):
        [workload] = [each for each in workloads(objects) if each["metadata"]["name"] == name]
        told = workload["spec"]["template"]["metadata"]["annotations"]
        assert int(told["prometheus.io/port"]) in ports(workload).values()
        assert told["prometheus.io/scrape"] == "true"


def test_stateful_peers_have_their_service_and_time_to_drain(objects: list[dict[str, Any]]) -> None:
    [peers] = of_kind(objects, "StatefulSet")
    assert peers["spec"]["serviceName"] in [each["metadata"]["name"] for each in of_kind(objects, "Service")]
    assert pod(peers)["terminationGracePeriodSeconds"] > ServeSettings.model_fields["drain_s"].default
