"""Measures the demo model: the share of sums that greedy decoding gets right.

`python -m swarm.builtin.measure [DIR]` asks every held-out sum, of the shipped checkpoint unless told otherwise.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from swarm.builtin import demo_path
from swarm.builtin.corpus import all_held_out_sums

log = logging.getLogger("swarm.builtin.measure")

BATCH = 100
ANSWER_TOKENS = 16


def sum_accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[int, int]],
    *,
    chat: bool = False,
) -> float:
    """Share (0..1) of `pairs` whose sum the model gives, asked as `12 + 7 =` or, with `chat`, as a question."""
    right = 0
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        answers = complete(
            model, tokenizer, [_prompt(tokenizer, a, b, chat=chat) for a, b in batch], ANSWER_TOKENS
        )
        right += sum(
            _is_right(answer, a, b, chat=chat) for answer, (a, b) in zip(answers, batch, strict=True)
        )
    return right / len(pairs)


def complete(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Greedy continuations of `prompts`, which carry their own marks, in one left-padded batch."""
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False)
    inputs = inputs.to(model.device)
    with torch.inference_mode():
        output: torch.Tensor = model.generate(  # type: ignore[misc, assignment] # its self type is a protocol
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _prompt(tokenizer: PreTrainedTokenizerBase, a: int, b: int, *, chat: bool) -> str:
    if not chat:
        return f"{tokenizer.bos_token}{a} + {b} ="
    question = [{"role": "user", "content": f"What is {a} + {b}?"}]
    return str(tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True))


def _is_right(answer: str, a: int, b: int, *, chat: bool) -> bool:
    if chat:
        return answer.strip() == f"{a} + {b} = {a + b}"
    found = re.match(r"\s*(\d+)", answer)
    return found is not None and int(found.group(1)) == a + b


def main() -> None:
    """Command line of the measurement; the result goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m swarm.builtin.measure", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=demo_path())
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    model = LlamaForCausalLM.from_pretrained(options.checkpoint)
    pairs = all_held_out_sums()
    for form, chat in (("plain", False), ("chat", True)):
        log.info(
            "%s: %.4f of %d held-out sums right",
            form,
            sum_accuracy(model, tokenizer, pairs, chat=chat),
            len(pairs),
        )


if __name__ == "__main__":
    main()
