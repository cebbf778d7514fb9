"""The shipped demo model: small, loadable without a network, fluent enough to stop, and able to add."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import islice
from random import Random
from typing import Any

import pytest

from swarm.builtin import demo_path
from swarm.builtin.corpus import chat, documents, held_out, held_out_sums
from swarm.builtin.stories import tell

MAX_BYTES = 6_000_000
SUM = re.compile(r"(\d+) ?\+ ?(\d+)")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_path(), local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(demo_path(), local_files_only=True)


def test_finding_the_checkpoint_needs_no_torch() -> None:
    code = "import sys; from swarm.builtin import demo_path; demo_path(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_files_together_are_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in demo_path().iterdir()}
    needed = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert needed <= files.keys()
    assert sum(files.values()) <= MAX_BYTES


def test_config_names_a_float32_llama_that_three_peers_can_share() -> None:
    config = json.loads((demo_path() / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"
    assert config["num_hidden_layers"] >= 6
    assert config["max_position_embeddings"] >= 1024


@pytest.mark.slow
def test_any_utf8_text_survives_the_tokenizer(tokenizer: Any) -> None:
    for text in ("12 + 7 = 19", "héllo 世界 🎉\n\tx  y", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.slow
def test_every_digit_is_its_own_token(tokenizer: Any) -> None:
    ids = tokenizer("1234567890", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == list("1234567890")
    assert not any(re.search(r"\d.|.\d", token) for token in tokenizer.get_vocab())


@pytest.mark.slow
def test_chat_template_renders_what_training_showed(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be short and kind."},
        {"role": "user", "content": "What is 12 + 7?"},
        {"role": "assistant", "content": "12 + 7 = 19"},
    ]
    asked = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == asked + "12 + 7 = 19<|eos|>"
    assert chat([("What is 12 + 7?", "12 + 7 = 19")], "Be short and kind.") == asked + "12 + 7 = 19<|eos|>"


@pytest.mark.slow
@pytest.mark.parametrize("as_chat", [False, True], ids=["plain", "chat"])
def test_sums_never_trained_on_are_right(model: Any, tokenizer: Any, as_chat: bool) -> None:
    from swarm.builtin.measure import sum_accuracy

    assert sum_accuracy(model, tokenizer, held_out_sums(200, seed=0), chat=as_chat) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["Once upon a time", "One snowy evening", "12 + 7 ="])
def test_generation_ends_by_itself(model: Any, tokenizer: Any, prompt: str) -> None:
    output = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=400)
    assert output[0, -1].item() == tokenizer.eos_token_id == model.generation_config.eos_token_id


@pytest.mark.slow
def test_a_requested_story_is_about_the_name_given(model: Any, tokenizer: Any) -> None:
    question = [{"role": "user", "content": "Tell me a story about Lily."}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=400)
    story = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Lily" in story
    assert story.endswith(".")


@pytest.mark.slow
def test_held_out_sums_never_appear_in_training_text() -> None:
    from swarm.builtin.train import PHASES

    for phase in PHASES:
        for text in islice(documents(phase.seed, phase.story_share), 20_000):
            assert not any(held_out(int(a), int(b)) for a, b in SUM.findall(text))


def test_held_out_sums_are_distinct_two_digit_pairs_and_repeatable() -> None:
    pairs = held_out_sums(200, seed=1)
    assert pairs == held_out_sums(200, seed=1)
    assert len(set(pairs)) == 200
    assert all(held_out(a, b) and held_out(b, a) and 10 <= a <= 99 and 10 <= b <= 99 for a, b in pairs)


def test_stories_fill_every_slot_and_hold_no_digit() -> None:
    rng = Random(5)
    for _ in range(300):
        story = tell(rng)
        assert not re.search(r"[{}\d]| an? [aeiou]\w* an? ", story.text)
        assert not re.search(r"\ba (apple|owl|old)", story.text)
        assert not any(re.search(r"[{}\d]", topic) for topic in story.topics)
