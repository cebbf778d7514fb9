"""Trains the demo model: `python -m swarm.builtin.train [--out DIR] [--threads N] [--device cpu] [--resume DIR]`.

Text comes from `corpus.py`, so nothing is downloaded. Rows are packed from whole documents, each starting with one,
and the loss covers every token. Every `EVAL_EVERY` steps the checkpoint is saved, and sums that training never shows
are asked.
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
TOKENS_PER_STEP = 2048
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
SEED = 7
LOG_EVERY = 50
EVAL_EVERY = 250
EVAL_SUMS = 200
SAMPLE_PROMPTS = ("<|bos|>Once upon a time", "<|bos|><|user|>Tell me a story about an owl.<|assistant|>")


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own mixture of text; lr warms up, then falls along a cosine."""

    steps: int
    story_share: float  # of the documents
    row_tokens: tuple[int, ...]  # taken in turn; long rows teach reach
    lr: float
    final_lr: float
    seed: int


# Adding is the harder skill and comes first; then stories, with enough sums to keep it; at last mostly one story a
# row, so that no other story's names stand before it.
PHASES = (
    Phase(2000, 0.05, (256, 128, 256, 128, 256, 128, 256, 1024), lr=2e-3, final_lr=1.3e-3, seed=8),
    Phase(750, 0.20, (256, 256, 512, 256, 256, 256, 512, 1024), lr=6e-4, final_lr=2.7e-4, seed=9),
    Phase(800, 0.30, (192, 192, 256, 192, 192, 192, 256, 1024), lr=6e-4, final_lr=1e-5, seed=11),
)


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


def packed_rows(tokenizer: PreTrainedTokenizerFast, phase: Phase) -> Iterator[torch.Tensor]:
    """One batch of token ids [rows, row_tokens] a step; a row starts with a document and its last one is cut."""
    texts = documents(phase.seed, phase.story_share)
    for step in range(phase.steps):
        length = phase.row_tokens[step % len(phase.row_tokens)]
        rows = []
        for _ in range(TOKENS_PER_STEP // length):
            row: list[int] = []
            while len(row) < length:
                row += tokenizer.backend_tokenizer.encode(next(texts), add_special_tokens=False).ids
            rows.append(row[:length])
        yield torch.tensor(rows)


def train(out: Path, device: str, resume: Path | None = None) -> float:
    """Trains, leaves the checkpoint in `out`, and returns its share of right held-out sums.

    With `resume`, the folder of a checkpoint that went through all other phases, only the last one is run.
    """
    torch.manual_seed(SEED)
    if resume is None:
        tokenizer = train_tokenizer(islice(documents(SEED), TOKENIZER_DOCUMENTS))
        with torch.device(device):
            model = build_model(tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(resume)
        model = LlamaForCausalLM.from_pretrained(resume, attn_implementation="eager", device_map=device)
    log.info("%d parameters, %d tokens in the vocabulary", model.num_parameters(), len(tokenizer))
    for phase in PHASES if resume is None else PHASES[-1:]:
        _run_phase(model, tokenizer, phase, out)
    return _evaluate(model, tokenizer)


def _run_phase(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: Phase, out: Path) -> None:
    optimizer = _optimizer(model, phase)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_at(step, phase) / phase.lr)
    losses = 0.0
    for step, batch in enumerate(packed_rows(tokenizer, phase), start=1):
        losses += _train_step(model, batch.to(model.device), optimizer)
        schedule.step()
        if step % LOG_EVERY == 0:
            log.info("step %d  loss %.4f  lr %.1e", step, losses / LOG_EVERY, schedule.get_last_lr()[0])
            losses = 0.0
        if step % EVAL_EVERY == 0:
            _evaluate(model, tokenizer)
            _save(model, tokenizer, out)
    _save(model, tokenizer, out)


def _train_step(model: LlamaForCausalLM, ids: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    # bfloat16 only inside the forward pass: weights and optimizer stay float32.
    with torch.autocast(ids.device.type, torch.bfloat16):
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


def _optimizer(model: LlamaForCausalLM, phase: Phase) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    gains = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=phase.lr, betas=(0.9, 0.98), fused=True)


def _lr_at(step: int, phase: Phase) -> float:
    if step < WARMUP_STEPS:
        return phase.lr * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, phase.steps - WARMUP_STEPS)
    return phase.final_lr + (phase.lr - phase.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    tokenizer.backend_tokenizer.no_padding()  # a leftover of the measurement
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Command line of the trainer; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m swarm.builtin.train", description=main.__doc__)
    parser.add_argument(
        "--out", type=Path, default=demo_path(), help="folder of the checkpoint (default: the shipped one)"
    )
    parser.add_argument(
        "--resume", type=Path, help="checkpoint after all other phases: run only the last one"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    score = train(options.out, options.device, options.resume)
    log.info("saved %s, held-out sums right: %.3f", options.out, score)


if __name__ == "__main__":
    main()
