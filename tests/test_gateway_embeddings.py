"""OpenAI's embeddings over HTTP, and how pooling is read from a checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI

from swarm.core.errors import ModelError
from swarm.gateway.pooling import Pooling, read_pooling
from tests.gateway_lab import LocalModel, RunningGateway, demo_tokenizer, local_demo, make_gateway, running

TEXTS = ["Once upon a time", "12 + 7 = 19"]
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def read(folder: Path) -> Pooling | None:
    def fetch(name: str) -> Path:
        if not (folder / name).is_file():
            raise ModelError(f"no {name}")
        return folder / name

    return read_pooling(fetch)


def write(folder: Path, modules: list[Any], mode: str) -> None:
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 128, "pooling_mode_max_tokens": False, mode: True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("pooling_mode_lasttoken", Pooling("last", True)),
        ("pooling_mode_mean_tokens", Pooling("mean", True)),
        ("pooling_mode_cls_token", Pooling("first", True)),
        ("pooling_mode_max_tokens", None),
    ],
)
def test_pooling_is_read_from_the_checkpoint(tmp_path: Path, mode: str, expected: Pooling | None) -> None:
    write(tmp_path, MODULES, mode)
    assert read(tmp_path) == expected


def test_models_that_are_not_known_to_pool_do_not(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    write(tmp_path, [*MODULES[:2], dense], "pooling_mode_lasttoken")
    assert read(tmp_path) is None
    (tmp_path / "modules.json").write_text("{")
    assert read(tmp_path) is None


@pytest.mark.parametrize("mode", ["first", "mean", "last"])
def test_vectors_are_what_the_mode_says(mode: Any) -> None:
    hidden = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]])
    expected = {"first": [3.0, 4.0], "mean": [4 / 3, 2.0], "last": [0.0, 2.0]}[mode]
    assert torch.allclose(Pooling(mode, False).pool(hidden), torch.tensor(expected))
    assert torch.allclose(Pooling(mode, True).pool(hidden).norm(), torch.tensor(1.0))


@pytest.fixture(scope="module")
def served() -> Iterator[RunningGateway]:
    with running(make_gateway(LocalModel(), pooling=Pooling("last", True))) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: RunningGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def local_vector(text: str) -> torch.Tensor:
    with torch.no_grad():
        hidden = local_demo().model(**demo_tokenizer()(text, return_tensors="pt"))[0]
    return Pooling("last", True).pool(hidden)


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_vectors_are_the_local_models_in_order(client: OpenAI, form: Any) -> None:
    found = client.embeddings.create(model="demo", input=TEXTS, **form)
    assert [entry.index for entry in found.data] == [0, 1]
    for entry, text in zip(found.data, TEXTS, strict=True):
        assert torch.allclose(torch.tensor(entry.embedding), local_vector(text), atol=1e-5)
    assert found.usage.prompt_tokens == sum(len(demo_tokenizer()(text)["input_ids"]) for text in TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"input": []}, {"dimensions": 7}, {"input": "12 " * 2000}, {"input": [9999]}]
)
def test_what_cannot_be_encoded_is_refused(client: OpenAI, options: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(**{"model": "demo", "input": "x"} | options)


@pytest.mark.slow
def test_operators_see_what_became_of_texts_but_not_the_texts(
    client: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "swarm.gateway.account")
    found = client.embeddings.create(model="demo", input=TEXTS, extra_headers={"x-request-id": "vectors-1"})
    [record] = [record for record in caplog.records if record.message == "a request ended"]
    fields = record.__dict__
    assert (fields["operation"], fields["outcome"], fields["request_id"]) == (
        "embeddings",
        "done",
        "vectors-1",
    )
    assert (fields["prompt_tokens"], fields["new_tokens"]) == (found.usage.prompt_tokens, 0)
    assert not any(text in str(fields) for text in TEXTS)
