#!/usr/bin/env python
"""Training speed against what a user would pick instead, and against theory; one run, interleaved, medians.

    scripts/bench_training.py DATA                              on a prepared data folder, tiny, this machine's device
    scripts/bench_training.py DATA --size base --max-tokens 16000 --meta-batch 2 --rounds 7
    scripts/bench_training.py DATA --memory                     peak memory of every arm, each in a process of its own

The others are measured where they are installed: `pip install accelerate` for the Seq2SeqTrainer of transformers,
`pip install higher` for its first-order MAML. Same model, data, precision, loss and target tokens an update. Figures
are non-padding target tokens a second of forward-backward passes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from metanmt.config import Config, load_config
from metanmt.data.batch import Batch, make_batch
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.meta.learners import learner_class
from metanmt.meta.outer import make_optimizer, outer_step
from metanmt.meta.task import Episode, EpisodeSampler, Task, load_tasks
from metanmt.nmt.loss import Loss, decoder_input
from metanmt.nmt.model import make_model, parameter_count
from metanmt.report import table
from metanmt.runtime import autocast, device, peak_memory_bytes, quiet_transformers

RATE = 1e-4


@dataclass
class Bench:
    """What every arm shares: data, configuration, and a fresh model with the same weights."""

    store: TokenStore
    config: Config
    updates: int

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.store.tokenizer_folder)
        self.tasks = load_tasks(self.store, self.config.batch)
        self.where = device()

    def model(self) -> Any:
        """Return the model of the configuration, the same weights every time."""
        torch.manual_seed(1)
        return make_model(self.config.model, self.tokenizer).to(self.where)

    def sampler(self, max_tokens: int | None = None) -> EpisodeSampler:
        """Return a sampler of the same episodes for every arm."""
        batch = replace(self.config.batch, max_tokens=max_tokens or self.config.batch.max_tokens)
        return EpisodeSampler(self.tasks, self.config.outer, batch, self.tokenizer.pad_id, seed=1)

    def wait(self) -> None:
        """Wait for the device."""
        if self.where.type == "cuda":
            torch.cuda.synchronize()


Step = Callable[[int], int]
"""Makes update number n and returns the target tokens that passed forward and backward."""


def ours(bench: Bench, learner: str, inner_steps: int) -> Step:
    """Return the step of this package."""
    config = replace(bench.config, inner=replace(bench.config.inner, steps=max(1, inner_steps)))
    initialization = bench.model()
    made = learner_class(learner)(initialization, config)
    optimizer = make_optimizer(initialization, made.own, config.outer)
    loss, sampler = Loss(config.outer.label_smoothing, config.run.precision), bench.sampler()

    def step(number: int) -> int:
        episodes = sampler.meta_batch(number, inner_steps, query=made.query)
        outer_step(initialization, episodes, optimizer, made, config.outer, loss)
        return sum(episode.target_tokens for episode in episodes)

    return step


def plain(bench: Bench, batches: int) -> Step:
    """Return ordinary training on the batches that an episode of so many batches has: the theoretical cost.

    No copy of the model, no inner update: forward, backward, clipping and one step of the optimiser an update.
    """
    model = bench.model()
    optimizer = make_optimizer(model, nn.Module(), bench.config.outer)
    loss, sampler = Loss(bench.config.outer.label_smoothing, bench.config.run.precision), bench.sampler()

    def step(number: int) -> int:
        episodes = sampler.meta_batch(number, batches, query=False)
        optimizer.zero_grad()
        for episode in episodes:
            for batch in episode.batches:
                loss.backward(model, batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), bench.config.outer.clip_norm)
        optimizer.step()
        return sum(episode.target_tokens for episode in episodes)

    return step


def random_batch(bench: Bench, task: Task, rng: np.random.Generator) -> Batch:
    """Return a batch as a data loader makes it: sentences drawn at random, padded to the longest of them."""
    wanted = bench.config.batch.max_tokens / task.mean_target_tokens
    chosen = rng.choice(task.usable, max(1, round(wanted)), replace=False)
    return make_batch(task.bitext, chosen, 1 << 30, bench.tokenizer.pad_id)


def higher_fomaml(bench: Bench, inner_steps: int, *, our_batches: bool) -> Step:
    """Return first-order MAML as the examples of `higher` write it, with the loss of `transformers`.

    Its batches are ours, cut by length into passes, or those that a user of it would make.
    """
    import higher

    model = bench.model()
    optimizer, inner = (
        make_optimizer(model, nn.Module(), bench.config.outer),
        torch.optim.SGD(model.parameters(), lr=RATE),
    )
    sampler, config = bench.sampler(), bench.config

    def batch_loss(network: Any, batch: Any) -> torch.Tensor:
        total = torch.zeros((), device=bench.where)
        for part in batch:
            part = part.to(bench.where)
            with autocast(config.run.precision, bench.where):
                logits = network(
                    input_ids=part.source,
                    attention_mask=part.source_mask,
                    decoder_input_ids=decoder_input(part.labels, model.config, part.pad_id),
                    use_cache=False,
                ).logits
            total = total + functional.cross_entropy(
                logits.flatten(0, 1).float(),
                part.labels.flatten(),
                ignore_index=part.pad_id,
                reduction="sum",
                label_smoothing=config.outer.label_smoothing,
            )
        return total / batch.target_tokens

    def step(number: int) -> int:
        episodes = sampler.meta_batch(number, inner_steps)
        if not our_batches:
            rng = np.random.default_rng(number)
            draws = [
                [random_batch(bench, task, rng) for _ in range(inner_steps + 1)] for task in sampler.draw_tasks(number)
            ]
            episodes = [Episode(e.pair, tuple(d[:-1]), d[-1]) for e, d in zip(episodes, draws, strict=True)]
        optimizer.zero_grad()
        for episode in episodes:
            assert episode.query is not None
            with higher.innerloop_ctx(model, inner, copy_initial_weights=False, track_higher_grads=False) as (f, d):
                for batch in episode.support:
                    d.step(batch_loss(f, batch))
                gradients = torch.autograd.grad(batch_loss(f, episode.query) / len(episodes), list(f.parameters()))
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.outer.clip_norm)
        optimizer.step()
        return sum(episode.target_tokens for episode in episodes)

    return step


def trainer_rates(bench: Bench, rounds: int) -> Iterator[float]:
    """Yield the rate of `Seq2SeqTrainer`, a round at a time: length grouping, fused optimiser, same precision."""
    from transformers import (
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
    )
    from transformers.models.m2m_100.modeling_m2m_100 import shift_tokens_right

    quiet_transformers()
    rng = np.random.default_rng(1)
    rows = []
    for task in bench.tasks:
        for index in rng.choice(task.usable, min(len(task.usable), 2_000), replace=False):
            source, target = task.bitext.source.sentence(index), task.bitext.target.sentence(index)
            rows.append({"input_ids": source.tolist(), "labels": target.tolist()})
    wanted = bench.config.batch.max_tokens * bench.config.outer.meta_batch_size
    size = max(1, round(wanted / statistics.mean(len(row["labels"]) for row in rows)))
    bf16 = isinstance(autocast(bench.config.run.precision, bench.where), torch.autocast)
    model, tokenizer = bench.model(), AutoTokenizer.from_pretrained(bench.store.tokenizer_folder)

    start = model.config.decoder_start_token_id

    class Watch(TrainerCallback):
        tokens, started, elapsed = 0, 0.0, 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                bench.wait()
                self.tokens, self.started = 0, time.perf_counter()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            bench.wait()
            self.elapsed = time.perf_counter() - self.started

    class Counting(DataCollatorForSeq2Seq):
        def __call__(self, features: Any, return_tensors: Any = None) -> Any:
            batch = super().__call__(features, return_tensors)
            watch.tokens += int((batch["labels"] != -100).sum())
            # M2M100 shifts its labels only where it also computes the loss, which label smoothing takes from it
            batch["decoder_input_ids"] = shift_tokens_right(batch["labels"], tokenizer.pad_token_id, start)
            return batch

    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            watch = Watch()
            trainer = Seq2SeqTrainer(
                model=model,
                args=Seq2SeqTrainingArguments(
                    output_dir=folder,
                    per_device_train_batch_size=size,
                    max_steps=bench.updates + 2,
                    train_sampling_strategy="group_by_length",
                    optim="adamw_torch_fused",
                    learning_rate=RATE,
                    label_smoothing_factor=bench.config.outer.label_smoothing,
                    max_grad_norm=bench.config.outer.clip_norm,
                    bf16=bf16,
                    use_cpu=bench.where.type == "cpu",
                    logging_strategy="no",
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    seed=number,
                ),
                train_dataset=rows,
                data_collator=Counting(tokenizer, model=model, label_pad_token_id=-100),
                callbacks=[watch],
            )
            trainer.train()
            yield watch.tokens / watch.elapsed


def step_rates(bench: Bench, step: Step, rounds: int) -> Iterator[float]:
    """Yield target tokens a second of a step, a round at a time."""
    number = 0
    for _ in range(2):
        step(number)
    while rounds:
        bench.wait()
        started, tokens = time.perf_counter(), 0
        for _ in range(bench.updates):
            tokens += step(number)
            number += 1
        bench.wait()
        yield tokens / (time.perf_counter() - started)
        rounds -= 1


def arms(bench: Bench, rounds: int) -> dict[str, Callable[[], Iterator[float]]]:
    """Return what is measured, by name."""

    def timed(make: Callable[[], Step]) -> Callable[[], Iterator[float]]:
        return lambda: step_rates(bench, make(), rounds)

    found: dict[str, Callable[[], Iterator[float]]] = {
        "joint": timed(lambda: ours(bench, "joint", 0)),
        "plain, 1 batch": timed(lambda: plain(bench, 1)),
        "fomaml, k=1": timed(lambda: ours(bench, "fomaml", 1)),
        "plain, 2 batches": timed(lambda: plain(bench, 2)),
        "fomaml, k=4": timed(lambda: ours(bench, "fomaml", 4)),
        "plain, 5 batches": timed(lambda: plain(bench, 5)),
        "reptile, k=4": timed(lambda: ours(bench, "reptile", 4)),
        "plain, 4 batches": timed(lambda: plain(bench, 4)),
    }
    if importlib.util.find_spec("accelerate"):
        found["Seq2SeqTrainer"] = lambda: trainer_rates(bench, rounds)
    if importlib.util.find_spec("higher"):
        found["higher FOMAML, k=1"] = timed(lambda: higher_fomaml(bench, 1, our_batches=True))
        found["higher FOMAML, k=1, batches drawn at random"] = timed(lambda: higher_fomaml(bench, 1, our_batches=False))
    return found


COMPARED = {  # what each is divided by
    "joint": ("Seq2SeqTrainer", "plain, 1 batch"),
    "fomaml, k=1": (
        "higher FOMAML, k=1",
        "higher FOMAML, k=1, batches drawn at random",
        "plain, 2 batches",
    ),
    "fomaml, k=4": ("plain, 5 batches",),
    "reptile, k=4": ("plain, 4 batches",),
}


def measure(bench: Bench, rounds: int) -> str:
    """Return the table of rates and ratios; the arms take turns, so that whatever disturbs disturbs all."""
    running = {name: make() for name, make in arms(bench, rounds).items()}
    rates: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, arm in running.items():
            rates[name].append(next(arm))
    rows = []
    for name, values in rates.items():
        ratios = []
        for other in COMPARED.get(name, ()):
            if other in rates:
                ratio = statistics.median(a / b for a, b in zip(values, rates[other], strict=True))
                ratios.append(f"{ratio:.2f} x {other}")
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        rows.append([name, f"{statistics.median(values):,.0f}", spread, "; ".join(ratios)])
    return table(["arm", "target tokens/s", "spread", "ratio (median of the rounds)"], rows)


def memory(arguments: argparse.Namespace, names: list[str]) -> str:
    """Return the table of peak memory; each arm runs two updates in a process of its own."""
    peaks = {}
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[name] = json.loads(answer.stdout.splitlines()[-1])
    rows = [[name, f"{peak['bytes'] / 2**20:,.0f}", f"{peak['weights'] / 2**20:,.1f}"] for name, peak in peaks.items()]
    return table(["arm", "peak MiB", "weights MiB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--max-tokens", type=int, default=400, help="target tokens of a logical batch")
    parser.add_argument("--micro-tokens", type=int, default=1_000, help="padded tokens of a forward-backward pass")
    parser.add_argument("--meta-batch", type=int, default=4)
    parser.add_argument("--updates", type=int, default=8, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = [
        f"batch.max_tokens={arguments.max_tokens}",
        f"batch.micro_tokens={arguments.micro_tokens}",
        f"outer.meta_batch_size={arguments.meta_batch}",
        f"run.precision={arguments.precision}",
        "model.dropout=0.0",
        f"inner.learning_rate={RATE}",
        f"outer.learning_rate={RATE}",
    ]
    bench = Bench(TokenStore.open(arguments.data), load_config(Path(arguments.size), settings), arguments.updates)
    if arguments.only:
        bench.updates = 2
        next(arms(bench, 1)[arguments.only]())
        weights = 4 * parameter_count(bench.model())
        print(json.dumps({"bytes": peak_memory_bytes(), "weights": weights}))
    elif arguments.memory:
        print(memory(arguments, list(arms(bench, 1))))
    else:
        count = parameter_count(bench.model())
        print(f"{arguments.size}: {count:,} parameters, vocabulary {bench.tokenizer.vocabulary_size:,}, {bench.where}")
        print(measure(bench, arguments.rounds))


if __name__ == "__main__":
    main()
