"""Checkpoints from folders and from the hub: what is read, what is refused, and how they are told apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.core.config import ModelConfig
from swarm.core.errors import ConfigError, ModelError
from swarm.core.span import Span
from swarm.shards import loading
from swarm.shards.hub import HubFiles
from swarm.shards.shard import Shard
from swarm.shards.source import ModelSource
from tests.fake_hub import COMMIT, FakeHub
from tests.shard_lab import CPU, folder_of, source_of

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny llama that a test may damage."""
    return Path(shutil.copytree(folder_of("llama"), tmp_path / "model"))


def opened(folder: Path) -> ModelSource:
    """The folder as a source."""
    return ModelSource.open(ModelConfig(str(folder)))


def loaded(source: ModelSource, span: Span | None = None) -> Shard:
    """Some layers of it, 1:3 if nothing else is said."""
    return Shard.load(source, span or Span(1, 3), dtype=torch.float32, device=CPU)


def tensor_bytes(folder: Path, prefixes: tuple[str, ...]) -> int:
    """Size of the tensors whose names begin so."""
    total = 0
    for file in folder.glob("*.safetensors"):
        total += sum(t.nbytes for name, t in load_file(file).items() if name.startswith(prefixes))
    return total


@pytest.mark.parametrize("span", [Span(0, 1), Span(1, 4), Span(5, 6)])
def test_only_the_tensors_of_the_span_are_read(span: Span) -> None:
    shard = loaded(source_of("llama"), span)
    prefixes = tuple(f"model.layers.{index}." for index in range(span.start, span.end))
    assert shard.bytes_read == tensor_bytes(folder_of("llama"), prefixes)
    assert 0 <= shard.weight_bytes - shard.bytes_read <= 64, (
        "only a few computed buffers are held beyond that"
    )


def test_fused_experts_are_read_once() -> None:
    shard = loaded(source_of("mixtral"), Span(2, 4))
    assert shard.bytes_read == tensor_bytes(folder_of("mixtral"), ("model.layers.2.", "model.layers.3."))


def test_layer_bytes_tell_what_loading_will_take() -> None:
    source = source_of("qwen3_moe")
    shard = loaded(source, Span(1, 4))
    assert 0 <= shard.weight_bytes - source.layer_bytes(Span(1, 4), torch.float32) <= 64
    assert source.layer_bytes(Span(1, 4), torch.bfloat16) * 2 == source.layer_bytes(Span(1, 4), torch.float32)


def test_a_source_knows_its_model() -> None:
    source = source_of("llama")
    assert (source.n_layers, source.dtype("auto"), source.dtype("float16")) == (
        6,
        torch.float32,
        torch.float16,
    )


def test_the_built_in_model_opens() -> None:
    source = ModelSource.open(ModelConfig("demo"))
    assert loaded(source, Span(0, 1)).weight_bytes > 0


def test_fine_tunes_of_equal_shapes_differ() -> None:
    assert source_of("llama").uid != source_of("llama", seed=1).uid


def test_a_copy_has_the_same_identity(folder: Path) -> None:
    assert opened(folder).uid == source_of("llama").uid


def test_another_configuration_is_another_model(folder: Path) -> None:
    change_config(folder, rms_norm_eps=1e-3)
    assert opened(folder).uid != source_of("llama").uid


def test_a_small_change_within_one_tensor_is_noticed(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[:64] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    assert opened(folder).uid != source_of("llama").uid


def change_config(folder: Path, **changes: object) -> None:
    """Overwrite fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_index(folder: Path, *, drop: str = "", rename: str = "") -> None:
    """Take a tensor out of the index, or let the first one point to another file."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    if drop:
        del index["weight_map"][drop]
    if rename:
        index["weight_map"][sorted(index["weight_map"])[0]] = rename
    path.write_text(json.dumps(index))


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def keep_pickles_only(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")


def use_unknown_architecture(folder: Path) -> None:
    change_config(folder, model_type="martian", architectures=["MartianForCausalLM"])


def use_encoder_decoder(folder: Path) -> None:
    change_config(folder, model_type="t5", is_encoder_decoder=True)


def name_missing_file(folder: Path) -> None:
    change_index(folder, rename="model-00099-of-00099.safetensors")


def remove_weights(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_config, "has no config.json"),
        (break_config, "cannot be read as JSON"),
        (keep_pickles_only, "only safetensors are read.*save_pretrained"),
        (use_unknown_architecture, "'martian' is not supported"),
        (use_encoder_decoder, "encoder-decoder"),
        (name_missing_file, "names model-00099-of-00099.safetensors, which does not exist"),
        (remove_weights, "has no model.safetensors"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder: Path, damage: object, words: str) -> None:
    assert callable(damage)
    damage(folder)
    with pytest.raises(ModelError, match=words) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change_index(folder, drop="model.layers.2.mlp.up_proj.weight")
    with pytest.raises(ModelError, match=r"lacks the tensor 'model.layers.2.mlp.up_proj.weight'"):
        loaded(opened(folder))
    assert loaded(opened(folder), Span(3, 5)), "other layers can be served"


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    change_config(folder, intermediate_size=48)
    with pytest.raises(ModelError, match=r"has shape .* its configuration says"):
        loaded(opened(folder))


@pytest.mark.parametrize("left", [0, 4, 2000])
def test_a_truncated_file_is_named(folder: Path, left: int) -> None:
    source = opened(folder)
    name = source.weight_map["model.layers.1.mlp.up_proj.weight"]
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:left])
    with pytest.raises(ModelError, match=f"{name} is damaged or truncated"):
        loaded(source)


def test_layers_outside_of_the_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"layers 4:7 asked for, but .* has only layers 0:6"):
        loaded(source_of("llama"), Span(4, 7))


def test_lack_of_memory_is_said_with_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda device: 10_000)
    with pytest.raises(
        ModelError, match=r"need 0\.00 GiB on cpu, but 0\.00 GiB are free: serve fewer layers"
    ):
        loaded(source_of("llama"))


@pytest.mark.parametrize("name", ["/nowhere/at all/model", "./model", "../model", ""])
def test_a_name_that_is_neither_folder_nor_repository_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a repository"):
        ModelSource.open(ModelConfig(name))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub with the tiny llama."""
    with FakeHub(folder_of("llama")) as server:
        yield server


def from_hub(hub: FakeHub, cache: Path, name: str = "tiny/model") -> ModelSource:
    """The tiny llama, downloaded."""
    config = ModelConfig(name, cache_dir=cache)
    return ModelSource(name, HubFiles.open(config, endpoint=hub.endpoint))


def test_only_the_files_of_the_span_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    source = from_hub(hub, tmp_path)
    assert source.uid
    assert not [name for name in hub.sent if name.endswith(".safetensors")], (
        "names and identity need no weights"
    )
    shard = loaded(source)
    needed = {
        file
        for key, file in source.weight_map.items()
        if key.startswith(("model.layers.1.", "model.layers.2."))
    }
    assert {name for name in hub.sent if name.endswith(".safetensors")} == needed
    assert len(needed) < len(set(source.weight_map.values()))
    assert shard.bytes_read == loaded(source_of("llama")).bytes_read


def test_what_is_in_the_cache_is_not_downloaded_again(hub: FakeHub, tmp_path: Path) -> None:
    loaded(from_hub(hub, tmp_path))
    before = list(hub.sent)
    source = from_hub(hub, tmp_path)
    loaded(source)
    assert hub.sent == before
    assert source.folder.name == COMMIT


def test_without_a_network_the_cache_is_used(tmp_path: Path) -> None:
    with FakeHub(folder_of("llama")) as server:
        source = from_hub(server, tmp_path)
        for name in set(source.weight_map.values()):
            source.file(name)
        (tmp_path / "models--tiny--model/refs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "models--tiny--model/refs/main").write_text(COMMIT)
    offline = from_hub(server, tmp_path)
    assert offline.uid == source.uid
    assert loaded(offline).span == Span(1, 3)


def test_without_a_network_an_incomplete_cache_is_said(tmp_path: Path) -> None:
    with FakeHub(folder_of("llama")) as server:
        loaded(from_hub(server, tmp_path))
        (tmp_path / "models--tiny--model/refs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "models--tiny--model/refs/main").write_text(COMMIT)
    with pytest.raises(ModelError, match="the cache has not all of tiny/model"):
        from_hub(server, tmp_path)


def test_an_unknown_repository_is_named(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no/such is neither a local folder nor a model on the hub"):
        from_hub(hub, tmp_path, "no/such")


def test_an_unreachable_hub_is_said(tmp_path: Path) -> None:
    with FakeHub(folder_of("llama")) as server:
        pass
    with pytest.raises(ModelError, match="tiny/model is no folder here, and the hub cannot be reached"):
        from_hub(server, tmp_path)
