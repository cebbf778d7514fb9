"""Trains the demo model: `python -m swarm.builtin.train [--out DIR] [--steps N] [--threads N] [--device cpu]`.

Text comes from `corpus.py`, so nothing is downloaded. Rows are packed from whole documents, each starting with one,
and the loss covers every token. Every `EVAL_EVERY` steps the best checkpoint so far is kept, judged by sums that
training never shows.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from swarm.builtin import demo_path
from swarm.builtin.corpus import documents, held_out_sums
from swarm.builtin.measure import complete, sum_accuracy
from swarm.builtin.tokenizer import MAX_POSITIONS, train_tokenizer

log = logging.getLogger("swarm.builtin.train")

TOKENIZER_DOCUMENTS = 8000
EVAL_EVERY = 250
EVAL_SUMS = 200
SAMPLE_PROMPTS = ("<|bos|>Once upon a time", "<|bos|><|user|>Tell me a story about an owl.<|assistant|>")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome besides the corpus."""

    steps: int = 5000
    warmup_steps: int = 100
    tokens_per_step: int = 2048
    row_tokens: tuple[int, ...] = (
        256,
        128,
        256,
        128,
        256,
        128,
        256,
        1024,
    )  # taken in turn; long rows teach reach
    lr: float = 2e-3
    final_lr: float = 0.02  # share of `lr`
    weight_decay: float = 0.05
    autocast: torch.dtype = torch.bfloat16  # of the forward pass; weights and optimizer stay float32
    seed: int = 7


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of 1.2 million parameters; eight layers, so that three peers can share them."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        dtype="float32",
        **ids,
    )
    # Plain attention: twice as fast as the fused one for rows this short on a CPU.
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, **ids)  # type: ignore[no-untyped-call]
    return model


def packed_rows(tokenizer: PreTrainedTokenizerFast, seed: int, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Endless batches of token ids [rows, row_tokens]; a row starts with a document and its last one is cut."""
    texts = documents(seed)
    for step in _count():
        length = recipe.row_tokens[step % len(recipe.row_tokens)]
        rows = []
        for _ in range(recipe.tokens_per_step // length):
            row: list[int] = []
            while len(row) < length:
                row += tokenizer.backend_tokenizer.encode(next(texts), add_special_tokens=False).ids
            rows.append(row[:length])
        yield torch.tensor(rows)


def train(out: Path, recipe: Recipe, device: str) -> float:
    """Trains, keeps the best checkpoint in `out`, and returns its share of right held-out sums."""
    torch.manual_seed(recipe.seed)
    tokenizer = train_tokenizer(islice(documents(recipe.seed), TOKENIZER_DOCUMENTS))
    with torch.device(device):
        model = build_model(tokenizer)
    log.info("%d parameters, %d tokens in the vocabulary", model.num_parameters(), len(tokenizer))
    optimizer = _optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_share(step, recipe))
    best, losses = -1.0, 0.0
    batches = packed_rows(tokenizer, recipe.seed + 1, recipe)
    for step, batch in enumerate(islice(batches, recipe.steps), start=1):
        losses += _train_step(model, batch.to(device), optimizer, recipe)
        schedule.step()
        if step % 50 == 0:
            log.info("step %d  loss %.4f  lr %.1e", step, losses / 50, schedule.get_last_lr()[0])
            losses = 0.0
        if step % EVAL_EVERY == 0 or step == recipe.steps:
            score = _evaluate(model, tokenizer)
            if score >= best:
                best = score
                _save(model, tokenizer, out)
    return best


def _train_step(
    model: LlamaForCausalLM, ids: torch.Tensor, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> float:
    with torch.autocast(ids.device.type, recipe.autocast):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _evaluate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """The worse of the plain and the chat score, on other pairs than the tests draw."""
    model.train(False)
    pairs = held_out_sums(EVAL_SUMS, seed=12345)
    plain = sum_accuracy(model, tokenizer, pairs)
    chat = sum_accuracy(model, tokenizer, pairs, chat=True)
    log.info("held-out sums right: plain %.3f, chat %.3f", plain, chat)
    for text in complete(model, tokenizer, SAMPLE_PROMPTS, 200):
        log.info("sample: %s", text)
    model.train(True)
    return min(plain, chat)


def _optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    gains = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)


def _lr_share(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _count() -> Iterator[int]:
    step = 0
    while True:
        yield step
        step += 1


def main() -> None:
    """Command line of the trainer; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m swarm.builtin.train", description=main.__doc__)
    parser.add_argument(
        "--out", type=Path, default=demo_path(), help="folder of the checkpoint (default: the shipped one)"
    )
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    score = train(options.out, Recipe(steps=options.steps), options.device)
    log.info("saved %s, held-out sums right: %.3f", options.out, score)


if __name__ == "__main__":
    main()
