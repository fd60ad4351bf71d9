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
from metanmt.data.tokenizer import Tokenizer, load_tokenizer
from metanmt.errors import DivergenceError
from metanmt.meta.outer import LEARNERS, Learner, StepReport, learning_rate, outer_step
from metanmt.meta.run import Run, RunState
from metanmt.meta.task import Episode, EpisodeSampler, Task, load_tasks
from metanmt.meta.validation import MetaValidation
from metanmt.meta.weights import make_learner
from metanmt.nmt.loss import Loss
from metanmt.nmt.model import make_model, move_only, parameter_count
from metanmt.runlog import Progress, say
from metanmt.runtime import Interruption, device, peak_memory_bytes, seed_torch


def run(config: Config, data: Path, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Meta-train as configured and return what the run cost and reached.

    The best checkpoint by meta-validation is `out/best`, the last one `out/last`; both are Hugging Face folders.

    Args:
        config: the resolved configuration.
        data: a folder that `metanmt prepare` wrote.
        out: the run's folder.
        resume: continue the run that is there; without it an existing run is refused.
    """
    store = TokenStore.open(data)
    tokenizer = load_tokenizer(store.tokenizer_folder)
    tasks = load_tasks(store, config.batch)
    with Run.open(out, config, store.digest, resume=resume) as files:
        state = _train(config, store, tokenizer, tasks, files, resume=resume)
    return _summary(config, out, state)


def _train(
    config: Config, store: TokenStore, tokenizer: Tokenizer, tasks: list[Task], files: Run, *, resume: bool
) -> RunState:
    """Return where the run stands at its end; its cost is spent and its best checkpoint chosen."""
    seed_torch(config.run.seed)
    initialization = make_model(config.model, tokenizer).to(device())
    moving = move_only(initialization, "all")
    fast_model = make_learner(initialization)
    optimizer = torch.optim.AdamW(
        moving,
        lr=config.outer.learning_rate,
        betas=(0.9, config.outer.adam_beta2),
        weight_decay=config.outer.weight_decay,
        foreach=True,
    )
    state = files.load(initialization, optimizer) if resume else RunState()
    sampler = EpisodeSampler(tasks, config.outer, config.batch, tokenizer.pad_id, config.run.seed)
    validate = MetaValidation(store, tokenizer, config)
    loss = Loss(config.outer.label_smoothing, config.run.precision)
    if state.step == 0:
        say(
            f"{config.outer.learner}: {parameter_count(initialization):,} parameters, {len(tasks)} tasks, "
            f"{config.outer.max_target_tokens:,} target tokens, on {device()}"
        )

    clock = _Clock(state.elapsed_seconds)
    with Interruption() as interruption, Progress("meta-train", config.outer.max_target_tokens, "tokens") as progress:
        progress.done = progress.initial = state.target_tokens
        while state.target_tokens < config.outer.max_target_tokens:
            phase = phase_of(config, state.target_tokens)
            learner = LEARNERS[phase]
            seed_torch(config.run.seed, state.step)
            episodes = sampler.meta_batch(state.step, _inner_steps(learner, config), query=learner.query)
            share_done = state.target_tokens / config.outer.max_target_tokens
            rate = learning_rate(config.outer, state.step, share_done)
            for group in optimizer.param_groups:
                group["lr"] = rate
            report = outer_step(initialization, fast_model, episodes, optimizer, learner, config, loss)
            state = _advanced(state, episodes, report, clock())
            if state.step % config.run.log_every == 0:
                metrics = _metrics(state, phase, rate, report)
                files.log(metrics)
                progress.note = f"{phase} loss {metrics.get('query_loss', metrics.get('support_loss', 0)):.3f}"
            progress.advance(sum(episode.target_tokens for episode in episodes))
            _stop_if_diverged(state, config)
            done = state.target_tokens >= config.outer.max_target_tokens
            if _validations(state, config) > state.validations or done:
                state = _validated(state, config, validate(fast_model, initialization), files, clock)
                files.save(state, initialization, optimizer, tokenizer, store.pairs("meta-train")[0])
            elif interruption.requested or clock() - state.saved_at_seconds > 60 * config.run.checkpoint_minutes:
                state = replace(state, elapsed_seconds=clock(), saved_at_seconds=clock())
                files.save(state, initialization, optimizer, tokenizer, store.pairs("meta-train")[0])
            if interruption.requested and not done:
                raise KeyboardInterrupt(
                    f"Stopped at step {state.step}; metanmt meta-train --resume --out {files.folder} goes on."
                )
    return state


def phase_of(config: Config, target_tokens: int) -> str:
    """Return the learner in force after `target_tokens`: joint training first, for its share of the cost."""
    joint = config.outer.joint_share * config.outer.max_target_tokens
    return "joint" if target_tokens < joint else config.outer.learner


def _inner_steps(learner: Learner, config: Config) -> int:
    return config.inner.steps if learner.inner_loop else 0


def _advanced(state: RunState, episodes: list[Episode], report: StepReport, elapsed_seconds: float) -> RunState:
    return replace(
        state,
        step=state.step + 1,
        target_tokens=state.target_tokens + sum(episode.target_tokens for episode in episodes),
        gradient_computations=state.gradient_computations + sum(len(episode.batches) for episode in episodes),
        elapsed_seconds=elapsed_seconds,
        skipped_steps=state.skipped_steps + report.skipped,
        skipped_in_a_row=state.skipped_in_a_row + 1 if report.skipped else 0,
    )


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


def _metrics(state: RunState, phase: str, rate: float, report: StepReport) -> dict[str, Any]:
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
            metrics[name] = float(torch.stack(losses).mean())
    return metrics


def _summary(config: Config, out: Path, state: RunState) -> dict[str, Any]:
    return {
        "run": str(out),
        "learner": config.outer.learner,
        "steps": state.step,
        "target_tokens": state.target_tokens,
        "gradient_computations": state.gradient_computations,
        "elapsed_seconds": round(state.elapsed_seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "skipped_steps": state.skipped_steps,
        "best_step": state.best_step,
        f"best_meta_dev_{state.best_metric}": round(state.best_value, 2),
    }


@dataclass
class _Clock:
    """Seconds of work on the run, those before a resume included."""

    before: float

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self) -> float:
        return self.before + time.monotonic() - self._started
