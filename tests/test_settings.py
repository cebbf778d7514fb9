"""Where a setting's value comes from, and what is said when it is wrong."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from swarm.cli.client_settings import GenerateSettings
from swarm.cli.options import command_of
from swarm.cli.serve_settings import LimitSettings, ServeSettings
from swarm.core.config import ClientConfig, ModelConfig, NodeConfig, PeerConfig, PeerLimits
from swarm.core.errors import ConfigError
from swarm.core.span import Span

ADDRESS = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"
OTHER = "/dns4/peer.example/tcp/4001/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xp"


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ServeSettings.model_fields.keys() | GenerateSettings.model_fields.keys():
        monkeypatch.delenv(f"SWARM_{name.upper()}", raising=False)


def yaml(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(**flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        ServeSettings.load({"model": "demo", **flags})
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_how_activations_travel_is_a_setting_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"model": "demo", "prompt": "x"}
    assert GenerateSettings.load(given).client_config() == ClientConfig()
    assert GenerateSettings.load(given | {"wire": "int8"}).client_config() == ClientConfig(wire="int8")
    monkeypatch.setenv("SWARM_WIRE", "int8")
    assert GenerateSettings.load(given).client_config().coding == "int8"
    with pytest.raises(ConfigError, match="--wire: must be 'model' or 'int8'"):
        GenerateSettings.load(given | {"wire": "int4"})


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [ServeSettings.load({"model": "demo"}).port]
    flags: dict[str, object] = {"model": "demo", "config": yaml(tmp_path, "port: 1001")}
    seen.append(ServeSettings.load(flags).port)
    monkeypatch.setenv("SWARM_PORT", "1002")
    seen.append(ServeSettings.load(flags).port)
    seen.append(ServeSettings.load({**flags, "port": "1003"}).port)
    assert seen == [0, 1001, 1002, 1003]


def test_the_file_itself_may_be_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_CONFIG", yaml(tmp_path, "model: demo\ncache-tokens: 4096"))
    settings = ServeSettings.load({})
    assert (settings.model, settings.cache_tokens) == ("demo", 4096)


def test_an_empty_environment_variable_or_key_means_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_CACHE_TOKENS", "")
    config = yaml(tmp_path, "quantize:\nname: null\n")
    settings = ServeSettings.load({"model": "demo", "config": config})
    assert (settings.cache_tokens, settings.quantize, settings.name) == (None, None, None)


@pytest.mark.parametrize("written", [f"{ADDRESS},{OTHER}", f"{ADDRESS} {OTHER}"])
def test_addresses_in_one_text_are_split(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("SWARM_PEERS", written)
    assert ServeSettings.load({"model": "demo"}).peers == (ADDRESS, OTHER)


def test_addresses_may_be_a_list_in_the_file(tmp_path: Path) -> None:
    config = yaml(tmp_path, f"peers:\n  - {ADDRESS}\n  - {OTHER}\n")
    assert ServeSettings.load({"model": "demo", "config": config}).peers == (ADDRESS, OTHER)


def test_layers_in_yaml_are_not_read_as_a_sexagesimal_number(tmp_path: Path) -> None:
    config = yaml(tmp_path, "layers: 4:8")
    assert ServeSettings.load({"model": "demo", "config": config}).layers == Span(4, 8)


def test_stop_texts_keep_commas_and_spaces() -> None:
    settings = GenerateSettings.load({"model": "demo", "prompt": "x", "stop": ["a, b", "\n"]})
    assert settings.stop == ("a, b", "\n")


def test_the_settings_become_the_config_of_a_peer(tmp_path: Path) -> None:
    flags = {
        "model": "org/model",
        "revision": "main",
        "token": "secret",
        "layers": "0:4",
        "peers": [ADDRESS],
        "device": "cuda:1",
        "dtype": "bfloat16",
        "quantize": "nf4",
        "cache_tokens": "100",
        "host": "127.0.0.1",
        "port": "4001",
        "public_address": ["/ip4/192.0.2.1/tcp/4001"],
        "name": "ada",
        "max_sessions": "2",
        "ready_file": str(tmp_path / "ready"),
        "layers_file": str(tmp_path / "layers"),
        "slowdown_file": str(tmp_path / "factor"),
    }
    assert ServeSettings.load(flags).peer_config(tmp_path / "id", tmp_path) == PeerConfig(
        model=ModelConfig("org/model", "main", "secret", None),
        node=NodeConfig((ADDRESS,), "127.0.0.1", 4001, ("/ip4/192.0.2.1/tcp/4001",), tmp_path / "id"),
        layers=Span(0, 4),
        device="cuda:1",
        dtype="bfloat16",
        quantize="nf4",
        cache_tokens=100,
        name="ada",
        limits=PeerLimits(max_sessions=2, max_sessions_per_client=2),
        ready_file=tmp_path / "ready",
        layers_file=tmp_path / "layers",
        slowdown_file=tmp_path / "factor",
        speed_file=tmp_path / "speeds.json",
        compiled_folder=tmp_path / "compiled",
    )


def test_every_limit_of_a_peer_is_an_option_with_its_default() -> None:
    limits = LimitSettings.load({})
    assert limits.limits() == PeerLimits()
    assert {field.name for field in fields(PeerLimits)} <= LimitSettings.model_fields.keys()
    other = {name: True if value is False else int(value) - 1 for name, value in asdict(PeerLimits()).items()}
    given = {name: str(value) for name, value in other.items()}
    assert asdict(LimitSettings.load(given).limits()) == other


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"cache_tokens": "0"}, "--cache-tokens: must be a positive integer"),
        ({"cache_tokens": "many"}, "--cache-tokens: must be a positive integer"),
        ({"layers": "4"}, "--layers: a layer range is written START:END, for example 0:8; got '4'"),
        ({"layers": "8:4"}, "--layers: a layer range needs 0 <= start < end, got 8:4"),
        ({"device": "gpu"}, "--device: must be auto, cpu, cuda, cuda:N or mps"),
        ({"dtype": "float64"}, "--dtype: must be 'auto', 'float32', 'bfloat16' or 'float16'"),
        ({"quantize": "int4"}, "--quantize: must be 'int8' or 'nf4'"),
        ({"port": "70000"}, "--port: must be a port number from 0 (any free port) to 65535"),
        ({"drain_s": "nan"}, "--drain-s: must be seconds, more than 0"),
        ({"lease_s": "31"}, "--lease-s: must be more than 0 and at most 30 seconds"),
        ({"name": "x" * 65}, "--name: must be at most 64 printable characters"),
        ({"name": "a\nb"}, "--name: must be at most 64 printable characters"),
        ({"host": "example.org"}, "--host: must be an IP address, such as 0.0.0.0 or 127.0.0.1"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(flags: dict[str, object], complaint: str) -> None:
    assert refusal(**flags) == complaint


@pytest.mark.parametrize(
    "address", ["localhost:4001", "/ip4/127.0.0.1/tcp/4001", "http://x/p2p/abc", "/p2p/abc"]
)
def test_a_peer_that_is_no_address_is_shown_with_an_example(address: str) -> None:
    text = refusal(peers=[address])
    assert text.startswith(f"--peers: '{address}' is not a peer address: it looks like /ip4/")


def test_an_error_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_THREADS", "-1")
    assert refusal() == "SWARM_THREADS: must be a positive integer"


def test_an_error_in_the_file_names_file_and_key(tmp_path: Path) -> None:
    config = yaml(tmp_path, "cache_tokens: [1, 2]")
    assert refusal(config=config) == f"{config}: cache_tokens: must be a positive integer"


def test_orders_are_for_a_peer_with_given_layers(tmp_path: Path) -> None:
    assert "--layers-file is for --layers A:B" in refusal(layers_file=str(tmp_path / "layers"))


def test_several_errors_stand_on_one_line() -> None:
    assert refusal(port="x", threads="0").count("; ") == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cache_token: 5", "cache_token: unknown key; did you mean cache_tokens?"),
        ("zzz: 5", "zzz: unknown key; known keys are "),
        ("port: 1\nport: 2", "line 2: port is given twice"),
        ("port: [1", "line 1: malformed YAML: "),
        ("port: 1\n\tname: x", "line 2: malformed YAML: "),
        ("- a", "must hold lines such as 'cache_tokens: 4096'"),
        ("[1]: 2", "line 1: a key must be one word"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    config = yaml(tmp_path, text)
    assert refusal(config=config).startswith(f"{config}: {complaint}")


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    assert refusal(config=str(tmp_path / "none.yaml")).startswith("--config: cannot read")
    (tmp_path / "binary.yaml").write_bytes(b"port: \xff")
    assert refusal(config=str(tmp_path / "binary.yaml")).endswith("is not UTF-8 text (byte 6)")


def test_an_empty_file_gives_nothing(tmp_path: Path) -> None:
    assert ServeSettings.load({"model": "demo", "config": yaml(tmp_path, "# nothing\n")}).port == 0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"quantize": "nf4", "device": "mps"}, ("--quantize nf4", "--device mps")),
        ({"threads": "2", "device": "cuda"}, ("--threads", "--device cuda")),
        (
            {"max_sessions": "2", "max_sessions_per_client": "3"},
            ("--max-sessions-per-client 3", "--max-sessions 2"),
        ),
    ],
)
def test_options_that_contradict_each_other_are_both_named(
    flags: dict[str, object], named: tuple[str, str]
) -> None:
    text = refusal(**flags)
    assert all(name in text for name in named)


@pytest.mark.parametrize("option", ["top_p", "top_k", "seed"])
def test_greedy_leaves_nothing_to_sample(option: str) -> None:
    with pytest.raises(ConfigError, match=r"contradicts --temperature 0"):
        GenerateSettings.load({"model": "demo", "prompt": "x", "temperature": "0", option: "1"})


def test_a_system_message_needs_the_chat_template() -> None:
    with pytest.raises(ConfigError, match="--system contradicts --no-chat"):
        GenerateSettings.load({"model": "demo", "prompt": "x", "system": "be kind", "chat": False})


def test_a_missing_model_says_how_to_give_it() -> None:
    with pytest.raises(
        ConfigError, match="MODEL is missing: give it on the command line, as SWARM_MODEL or in"
    ):
        ServeSettings.load({})


def test_a_prompt_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ConfigError, match="PROMPT: is not UTF-8 text"):
        GenerateSettings.load({"model": "demo", "prompt": "caf\udce9"})


def test_secrets_do_not_stand_in_errors_or_configs() -> None:
    assert "hf_abc" not in refusal(token="hf_abc", port="x")
    assert "hf_abc" not in repr(ServeSettings.load({"model": "demo", "token": "hf_abc"}).model_source())


def test_options_are_made_from_the_settings_and_arrive_in_the_action() -> None:
    seen: list[ServeSettings] = []
    command_of(ServeSettings, seen.append)(model="demo", port="5", peers=[], name=None)
    assert [(s.model, s.port, s.peers) for s in seen] == [("demo", 5, ())]
