"""`metanmt meta-train`: learn one initialisation from the meta-train pairs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metanmt.config import Config
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.data.vectors import data_vectors
from metanmt.errors import DivergenceError, MetanmtError
from metanmt.meta.distributed import Ranks, joined_ranks
from metanmt.meta.outer import LEARNERS, Learner, StepReport, learning_rate, make_optimizer, outer_step
from metanmt.meta.run import Run, RunState
from metanmt.meta.task import Episode, EpisodeSampler, load_tasks
from metanmt.meta.validation import MetaValidation
from metanmt.meta.weights import make_learner
from metanmt.nmt.lexicon import add_lexicon, move_outer
from metanmt.nmt.loss import Loss
from metanmt.nmt.model import make_model, parameter_count
from metanmt.runlog import Progress, say
from metanmt.runtime import Interruption, device, peak_memory_bytes, seed_torch

SMALLEST_MICRO_TOKENS = 64


def run(config: Config, data: Path, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Meta-train as configured and return what the run cost and reached.

    The best checkpoint by meta-validation is `out/best`, the last one `out/last`; both are Hugging Face folders.
    Under torchrun, the processes share the tasks of each meta-batch; the first one validates, writes and reports.

    Args:
        config: the resolved configuration.
        data: a folder that `metanmt prepare` wrote.
        out: the run's folder.
        resume: continue the run that is there; without it an existing run is refused.
    """
    store = TokenStore.open(data)
    with joined_ranks() as ranks:
        ranks.check(config.outer.meta_batch_size)
        training = _Training(config, store, ranks)  # before the folder is made: what cannot be run leaves none
        files = Run.open(out, config, store.digest, resume=resume) if ranks.first else Run(out)
        with files, Interruption() as interruption:
            training.start(files, resume=resume)
            training.until_done(interruption)
            if interruption.requested:
                training.stop()
        return training.summary()


class _Training:
    """What a run holds between its steps."""

    files: Run

    def __init__(self, config: Config, store: TokenStore, ranks: Ranks) -> None:
        self.config, self.store, self.ranks = config, store, ranks
        self.tokenizer = load_tokenizer(store.tokenizer_folder)
        self.tasks = load_tasks(store, config.batch)
        self.sampler = EpisodeSampler(self.tasks, config.outer, config.batch, self.tokenizer.pad_id, config.run.seed)
        self.validate = MetaValidation(store, self.tokenizer, config)
        seed_torch(config.run.seed)
        initialization = make_model(config.model, self.tokenizer)
        if config.model.lexicon == "universal":
            add_lexicon(initialization, config.model, data_vectors(store.folder, store.digest))
        self.initialization = initialization.to(device())
        move_outer(self.initialization)
        self.fast_model = make_learner(self.initialization)
        self.optimizer = make_optimizer(self.initialization, config.outer)
        self.loss = Loss(config.outer.label_smoothing, config.run.precision)

    def start(self, files: Run, *, resume: bool) -> None:
        """Begin in the run's folder, or go on from its newest whole checkpoint."""
        self.files = files
        self.state = self.loaded() if resume else RunState()
        self.clock = _Clock(self.state.elapsed_seconds)
        if self.state.step == 0:
            outer, processes = self.config.outer, f" in {self.ranks.size} processes" if self.ranks.size > 1 else ""
            say(
                f"{outer.learner}: {parameter_count(self.initialization):,} parameters, {len(self.tasks)} tasks, "
                f"{outer.max_target_tokens:,} target tokens, on {device()}{processes}"
            )

    def loaded(self) -> RunState:
        """Set the run to its newest whole checkpoint; the first process mends the folder before the others read it."""
        if not self.ranks.first:
            self.ranks.total(0)
        state = self.files.load(self.initialization, self.optimizer)
        if self.ranks.first:
            self.ranks.total(0)
        return state

    def until_done(self, interruption: Interruption) -> None:
        """Make outer steps until the run's cost is spent; validate and save on the way, in the first process."""
        limit = self.config.outer.max_target_tokens
        with Progress("meta-train", limit, "tokens", self.state.target_tokens) as progress:
            while self.state.target_tokens < limit:
                before = self.state.target_tokens
                stopping = self.step(interruption.requested, progress)
                stopping |= self.ranks.size == 1 and interruption.requested
                progress.advance(self.state.target_tokens - before)
                if self.ranks.first:
                    self.keep(stopping=stopping)
                if stopping:
                    self.stop()

    def stop(self) -> None:
        """End the run before its time, or at it, and say how it goes on."""
        folder, step = self.files.folder, self.state.step
        if self.state.target_tokens >= self.config.outer.max_target_tokens:
            raise KeyboardInterrupt(f"Stopped; the run {folder} is complete, {step} steps.")
        again = f"metanmt meta-train {folder / 'config.toml'} --data {self.store.folder} --out {folder} --resume"
        raise KeyboardInterrupt(f"Stopped at step {step}; it goes on by: {again}")

    def step(self, stop_requested: bool, progress: Progress) -> bool:
        """Make one outer step; return whether any process was asked to stop."""
        config, state = self.config, self.state
        phase = phase_of(config, state.target_tokens)
        learner = LEARNERS[phase]
        rate = learning_rate(config.outer, state.step, state.target_tokens / config.outer.max_target_tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        try:
            episodes = self.episodes(learner)
            tokens, computations, stopping = self.ranks.total(
                sum(episode.target_tokens for episode in episodes),
                sum(len(episode.batches) for episode in episodes),
                stop_requested,
            )
            report = self.outer_step(learner, episodes)
            self.state = replace(
                state,
                step=state.step + 1,
                target_tokens=state.target_tokens + tokens,
                gradient_computations=state.gradient_computations + computations,
                elapsed_seconds=self.clock(),
                skipped_steps=state.skipped_steps + report.skipped,
                skipped_in_a_row=state.skipped_in_a_row + 1 if report.skipped else 0,
            )
            if self.state.step % config.run.log_every == 0:
                metrics = _metrics(self.state, phase, rate, report, self.ranks)
                progress.note = f"{phase} loss {metrics.get('query_loss', metrics.get('support_loss', 0)):.3f}"
                if self.ranks.first:
                    self.files.log(metrics)
        except RuntimeError as error:
            self.survive(error)
            raise
        _stop_if_diverged(self.state, config)
        return stopping > 0

    def episodes(self, learner: Learner) -> list[Episode]:
        """Return this process' episodes of the step in hand; the same ones whenever asked."""
        inner_steps = self.config.inner.steps if learner.inner_loop else 0
        return self.sampler.meta_batch(self.state.step, inner_steps, query=learner.query, ranks=self.ranks)

    def outer_step(self, learner: Learner, episodes: list[Episode]) -> StepReport:
        """Make the outer step; where memory runs out, make it again in micro-batches of half the size."""
        while True:
            try:
                return outer_step(
                    self.initialization,
                    self.fast_model,
                    episodes,
                    self.optimizer,
                    learner,
                    self.config,
                    self.loss,
                    self.ranks,
                )
            except torch.OutOfMemoryError:
                half = self.config.batch.micro_tokens // 2
                if half < SMALLEST_MICRO_TOKENS:
                    raise MetanmtError(
                        "The memory of the device is too small even for one sentence at a time.",
                        "Choose a smaller model.size, or lower batch.max_sentence_tokens.",
                    ) from None
                say(f"Out of memory: micro-batches of {half:,} tokens from here on; the result stays the same.")
                self.config = replace(self.config, batch=replace(self.config.batch, micro_tokens=half))
            self.fast_model.zero_grad()
            torch.cuda.empty_cache()
            self.sampler.batch = self.config.batch
            self.validate = MetaValidation(self.store, self.tokenizer, self.config)
            episodes = self.episodes(learner)

    def keep(self, *, stopping: bool) -> None:
        """Validate when it is time to, and save a checkpoint then, at intervals, and before stopping."""
        state, config = self.state, self.config
        done = state.target_tokens >= config.outer.max_target_tokens
        if _validations(state, config) > state.validations or done:
            scores = self.validate(self.fast_model, self.initialization)
            self.state = _validated(state, config, scores, self.files, self.clock)
            self.save()
        elif stopping or self.clock() - state.saved_at_seconds > 60 * config.run.checkpoint_minutes:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of the run as it stands."""
        now = self.clock()
        self.state = replace(self.state, elapsed_seconds=now, saved_at_seconds=now)
        pair = self.store.pairs("meta-train")[0]
        self.files.save(self.state, self.initialization, self.optimizer, self.tokenizer, pair)

    def survive(self, error: RuntimeError) -> None:
        """Save what the steps before reached when another process has died in this one, and say so.

        The initialisation has not moved yet: it does so only after the gradients of all have arrived.
        """
        if (
            self.ranks.size > 1
            and self.ranks.first
            and self.state.step
            and not isinstance(error, torch.OutOfMemoryError)
        ):
            self.save()
            say(f"A process failed; step {self.state.step} is saved, and meta-train --resume goes on from it.")

    def summary(self) -> dict[str, Any]:
        """Return what the run cost and reached."""
        state, metric_is_loss = self.state, self.state.best_metric == "loss"
        return {
            "run": str(self.files.folder),
            "learner": self.config.outer.learner,
            "processes": self.ranks.size,
            "steps": state.step,
            "target_tokens": state.target_tokens,
            "gradient_computations": state.gradient_computations,
            "elapsed_seconds": round(state.elapsed_seconds, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "skipped_steps": state.skipped_steps,
            "best_step": state.best_step,
            f"best_meta_dev_{state.best_metric}": round(-state.best_value if metric_is_loss else state.best_value, 2),
        }


def phase_of(config: Config, target_tokens: int) -> str:
    """Return the learner in force after `target_tokens`: joint training first, for its share of the cost."""
    joint = config.outer.joint_share * config.outer.max_target_tokens
    return "joint" if target_tokens < joint else config.outer.learner


def _stop_if_diverged(state: RunState, config: Config) -> None:
    """Name the first of some steps that were left out; raise a DivergenceError if they are too many in a row."""
    if state.skipped_in_a_row == 1:
        say(f"step {state.step:,}: its loss or gradient is not finite; the step is skipped.")
    if state.skipped_in_a_row >= config.outer.max_skipped:
        raise DivergenceError(
            f"The loss or its gradient was not finite in {state.skipped_in_a_row} outer steps in a row, up to step "
            f"{state.step:,}.",
            "In a new run, lower outer.learning_rate or inner.learning_rate, raise outer.warmup_steps, or set "
            "run.precision=float32; outer.max_skipped is how many are borne.",
        )


def _validations(state: RunState, config: Config) -> int:
    return config.validation.times * state.target_tokens // config.outer.max_target_tokens


def _validated(state: RunState, config: Config, scores: dict[str, Any], files: Run, clock: _Clock) -> RunState:
    metric = config.validation.metric
    value = scores["value"]
    files.log({"step": state.step, "target_tokens": state.target_tokens, "meta_validation": scores})
    adapted, before = scores["adapted"], scores["zero_shot"]
    say(
        f"step {state.step:,}, {state.target_tokens:,} tokens: meta-dev BLEU {before['bleu']:.1f} -> "
        f"{adapted['bleu']:.1f}, chrF++ {before['chrf']:.1f} -> {adapted['chrf']:.1f} adapted"
    )
    better = state.best_step is None or math.isnan(state.best_value) or value > state.best_value
    return replace(
        state,
        validations=max(_validations(state, config), state.validations + 1),
        best_step=state.step if better else state.best_step,
        best_value=value if better else state.best_value,
        best_metric=metric,
        elapsed_seconds=clock(),
        saved_at_seconds=clock(),
    )


def _metrics(state: RunState, phase: str, rate: float, report: StepReport, ranks: Ranks) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "step": state.step,
        "target_tokens": state.target_tokens,
        "gradient_computations": state.gradient_computations,
        "phase": phase,
        "learning_rate": rate,
        "gradient_norm": float(report.gradient_norm),
        "skipped_steps": state.skipped_steps,
    }
    for name, losses in (("support_loss", report.support_losses), ("query_loss", report.query_losses)):
        if losses:
            metrics[name] = ranks.mean([float(loss) for loss in torch.stack(losses)])
    return metrics


@dataclass
class _Clock:
    """Seconds of work on the run, those before a resume included."""

    before: float

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self) -> float:
        return self.before + time.monotonic() - self._started
