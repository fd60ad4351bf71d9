"""What `bench_training.py` measures: this package, plain training, and what a user would pick instead."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from metanmt.config import Config
from metanmt.data.batch import Batch, make_batch
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.meta.initialization import words_of_run
from metanmt.meta.learners import learner_class
from metanmt.meta.outer import outer_optimizer, outer_step
from metanmt.meta.task import Episode, EpisodeSampler, Task, load_tasks
from metanmt.nmt.loss import Loss, decoder_input
from metanmt.nmt.model import SIZES, make_model
from metanmt.nmt.precision import autocast, mixed
from metanmt.runtime import device, quiet_transformers

RATE = 1e-4


@dataclass
class Bench:
    """What every arm shares: data, configuration, and a fresh model with the same weights."""

    store: TokenStore
    config: Config
    updates: int

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.store.tokenizer_folder)
        self.tasks = load_tasks(self.store, self.config.batch, self.config.outer)
        self.where = device()

    def model(self) -> Any:
        """Return the model of the configuration, the same weights every time."""
        torch.manual_seed(1)
        return make_model(self.config.model, self.tokenizer).to(self.where)

    def sampler(self, batches: int) -> EpisodeSampler:
        """Return a sampler, the same for every arm, of episodes of so many batches of `batch.max_tokens` each."""
        batch = replace(self.config.batch, max_tokens=batches * self.config.batch.max_tokens)
        return EpisodeSampler(self.tasks, self.config.outer, batch, self.tokenizer.pad_id, seed=1)

    def as_new(self, model: Any) -> list[Task]:
        """Return the tasks, of languages that may be met as new ones."""
        return words_of_run(model, self.tasks, self.tokenizer, self.store.folder, True, lambda: False)[1]

    def wait(self) -> None:
        """Wait for the device."""
        if self.where.type == "cuda":
            torch.cuda.synchronize()


Step = Callable[[int], int]
"""Makes update number n and returns the target tokens that passed forward and backward."""


def ours(bench: Bench, learner: str, inner_steps: int, unseen_share: float = 0.0) -> Step:
    """Return the step of this package."""
    inner = replace(bench.config.inner, steps=max(1, inner_steps))
    config = replace(bench.config, inner=inner, outer=replace(bench.config.outer, unseen_share=unseen_share))
    initialization = bench.model()
    made = learner_class(learner)(initialization, config)
    optimizer = outer_optimizer(initialization, made.own, config.outer)
    loss, sampler = Loss(config.outer.label_smoothing, config.run.precision), bench.sampler(inner_steps + made.query)
    if unseen_share:
        sampler.only(*bench.as_new(initialization))

    def step(number: int) -> int:
        episodes = made.meta_batch(sampler, number)
        outer_step(initialization, episodes, optimizer, made, config.outer, loss)
        return sum(episode.target_tokens for episode in episodes)

    return step


def plain(bench: Bench, batches: int) -> Step:
    """Return ordinary training on the batches that an episode of so many batches has: the theoretical cost.

    No copy of the model, no inner update: forward, backward, clipping and one step of the optimiser an update.
    """
    model = bench.model()
    optimizer = outer_optimizer(model, nn.Module(), bench.config.outer)
    loss, sampler = Loss(bench.config.outer.label_smoothing, bench.config.run.precision), bench.sampler(batches)

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
    wanted = bench.config.batch.max_tokens / task.bitext.target.lengths(task.usable).mean()
    chosen = rng.choice(task.usable, max(1, round(wanted)), replace=False)
    return make_batch(task.bitext, chosen, 1 << 30, bench.tokenizer.pad_id)


def higher_fomaml(bench: Bench, inner_steps: int, *, our_batches: bool) -> Step:
    """Return first-order MAML as the examples of `higher` write it, with the loss of `transformers`.

    Its batches are ours, cut by length into passes, or those that a user of it would make.
    """
    import higher

    model = bench.model()
    optimizer, inner = (
        outer_optimizer(model, nn.Module(), bench.config.outer),
        torch.optim.SGD(model.parameters(), lr=RATE),
    )
    sampler, config = bench.sampler(inner_steps + 1), bench.config

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


def joeynmt_joint(bench: Bench) -> Step:
    """Return joint training by `joeynmt`: its model and loss, its batches by tokens with padding, a fused AdamW.

    Its sampler fills a batch with sentences as they come, until their number times the longest is an update's tokens.
    """
    from types import SimpleNamespace

    from joeynmt.batch import Batch as JoeyBatch
    from joeynmt.model import build_model
    from joeynmt.vocabulary import Vocabulary

    width, feed_forward, layers, heads = SIZES[bench.config.model.size]
    marks = SimpleNamespace(unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", sep_token=None)
    marks.unk_id, marks.pad_id, marks.bos_id, marks.eos_id, marks.sep_id, marks.lang_tags = 0, 1, 2, 3, None, []
    pieces = [f"piece {number}" for number in range(bench.tokenizer.vocabulary_size - 4)]
    vocabulary = Vocabulary(pieces, marks)
    part = {
        "type": "transformer",
        "num_layers": layers,
        "num_heads": heads,
        "hidden_size": width,
        "ff_size": feed_forward,
        "dropout": bench.config.model.dropout,
        "layer_norm": "pre",
        "embeddings": {"embedding_dim": width, "scale": True},
    }
    torch.manual_seed(1)
    shape = {"encoder": dict(part), "decoder": dict(part), "tied_embeddings": True, "tied_softmax": True}
    model = build_model(shape, vocabulary, vocabulary).to(bench.where)
    model.loss_function = ("crossentropy", bench.config.outer.label_smoothing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), fused=True)
    wanted = bench.config.batch.max_tokens * bench.config.outer.meta_batch_size

    def batch(rng: np.random.Generator) -> Any:
        """Sentences of all tasks alike, until they fill the tokens of an update; 4 is added to every id of a piece."""
        rows: list[tuple[list[int], list[int]]] = []
        longest = 0
        while longest * len(rows) < wanted:
            task = bench.tasks[rng.integers(len(bench.tasks))]
            index = int(rng.choice(task.usable))
            sides = (side.sentence(index)[:-1].tolist() for side in (task.bitext.source, task.bitext.target))
            source, target = ([min(piece + 4, len(vocabulary) - 1) for piece in side] for side in sides)
            rows.append(([*source, marks.eos_id], [marks.bos_id, *target, marks.eos_id]))
            longest = max(longest, len(rows[-1][0]), len(rows[-1][1]))
        sources, targets = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(side) for side in sides], True, marks.pad_id)
            for sides in zip(*rows, strict=True)
        )
        lengths = torch.tensor([len(source) for source, _ in rows])
        numbers = torch.arange(len(rows))
        return JoeyBatch(sources, lengths, None, targets, None, numbers, bench.where, marks.pad_id, marks.eos_id)

    def step(number: int) -> int:
        model.train()
        drawn = batch(np.random.default_rng(number))
        drawn.sort_by_src_length()
        with autocast(bench.config.run.precision, bench.where):
            loss, _, _, _ = model(return_type="loss", **vars(drawn))
        drawn.normalize(loss, "tokens").backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), bench.config.outer.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return int(drawn.ntokens)

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
    bf16 = mixed(bench.config.run.precision, bench.where)
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

    class Counting(Seq2SeqTrainer):
        def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            watch.tokens += int((inputs["labels"] != -100).sum())  # here: the collator is a batch ahead
            return super().training_step(model, inputs, *more, **named)

    class Shifting(DataCollatorForSeq2Seq):
        def __call__(self, features: Any, return_tensors: Any = None) -> Any:
            batch = super().__call__(features, return_tensors)
            # M2M100 shifts its labels only where it also computes the loss, which label smoothing takes from it
            batch["decoder_input_ids"] = shift_tokens_right(batch["labels"], tokenizer.pad_token_id, start)
            return batch

    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            watch = Watch()
            trainer = Counting(
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
                data_collator=Shifting(tokenizer, model=model, label_pad_token_id=-100),
                callbacks=[watch],
            )
            trainer.train()
            yield watch.tokens / watch.elapsed
