"""Where a run stands: its counters, its clock, and what its log says of a step."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from metanmt.config import Config, InnerConfig, OuterConfig
from metanmt.errors import DeviceMemoryError, DivergenceError
from metanmt.meta.distributed import Ranks
from metanmt.meta.outer import StepReport
from metanmt.runlog import warn
from metanmt.runtime import device

SMALLEST_MICRO_TOKENS = 64


@dataclass(frozen=True)
class RunState:
    """Where a run stands. With (seed, step) as the only source of randomness, this and the weights are all there is."""

    step: int = 0
    target_tokens: int = 0
    gradient_computations: int = 0
    elapsed_seconds: float = 0.0
    saved_at_seconds: float = 0.0
    validations: int = 0
    best_step: int | None = None
    best_value: float = 0.0
    best_metric: str = "chrf"
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    parent: str = ""
    micro_tokens: int = 0
    """The largest micro-batch that fitted in memory where the configured one did not; 0 if it did."""

    def moved(self, tokens: int, computations: int, *, skipped: bool, seconds: float) -> RunState:
        """Return the state after one more outer step at this cost."""
        return replace(
            self,
            step=self.step + 1,
            target_tokens=self.target_tokens + tokens,
            gradient_computations=self.gradient_computations + computations,
            elapsed_seconds=seconds,
            skipped_steps=self.skipped_steps + skipped,
            skipped_in_a_row=self.skipped_in_a_row + 1 if skipped else 0,
        )

    def validated(self, value: float, metric: str, *, due: int, seconds: float) -> RunState:
        """Return the state after a meta-validation, of equal ones the latest the best; `due` is how many were due."""
        better = self.best_step is None or math.isnan(self.best_value) or value >= self.best_value
        return replace(
            self,
            validations=max(due, self.validations + 1),
            best_step=self.step if better else self.best_step,
            best_value=value if better else self.best_value,
            best_metric=metric,
            elapsed_seconds=seconds,
            saved_at_seconds=seconds,
        )

    def summary(self) -> dict[str, Any]:
        """Return what the run has cost and reached up to here."""
        best = -self.best_value if self.best_metric == "loss" else self.best_value
        return {
            "steps": self.step,
            "target_tokens": self.target_tokens,
            "gradient_computations": self.gradient_computations,
            "elapsed_seconds": round(self.elapsed_seconds, 1),
            "skipped_steps": self.skipped_steps,
            "best_step": self.best_step,
            f"best_meta_dev_{self.best_metric}": round(best, 2) if math.isfinite(best) else None,
        }


def beginning(config: Config, inner_steps: int, parameters: int, tasks: int, processes: int) -> str:
    """Return what is said of a run when it begins."""
    outer, rate = config.outer, config.inner.learning_rate
    inner = f"{inner_steps} inner step{'s' * (inner_steps > 1)} at {rate:g}, " if inner_steps else ""
    unseen = f"{outer.unseen_share:.0%} of episodes in new languages, " if outer.unseen_share else ""
    among = f" in {processes} processes" if processes > 1 else ""
    cost = f"{outer.max_target_tokens:,} target tokens"
    unused = "" if inner_steps or config.inner == InnerConfig() else ". It has no inner loop: [inner] is not used"
    size = f"{parameters:,} parameters, {tasks} tasks, {cost}, on {device()}{among}"
    return f"{outer.learner}: {inner}{unseen}{size}{unused}"


def step_metrics(state: RunState, phase: str, rate: float, report: StepReport, ranks: Ranks) -> dict[str, Any]:
    """Return the line of metrics.jsonl for an outer step; losses are the means over all ranks."""
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


def validations_due(target_tokens: int, config: Config) -> int:
    """Return how many meta-validations there should have been after `target_tokens`; at the end one at least."""
    limit = config.outer.max_target_tokens
    return max(config.validation.times * target_tokens // limit, int(target_tokens >= limit))


def joint_phase_over(config: Config, target_tokens: int) -> bool:
    """Return whether the share of the cost that is joint training in any case has been spent."""
    return target_tokens >= config.outer.joint_share * config.outer.max_target_tokens


def first_pairs_alone(config: Config, target_tokens: int) -> bool:
    """Return whether only those pairs are learned from that a run learns from first; no language is new meanwhile."""
    outer = config.outer
    return bool(outer.first_pairs) and target_tokens < outer.first_share * outer.max_target_tokens


def stop_if_diverged(state: RunState, outer: OuterConfig) -> None:
    """Name the first of some steps that were left out; raise a DivergenceError if they are too many in a row."""
    if state.skipped_in_a_row == 1:
        warn(f"step {state.step:,}: its loss or gradient is not finite; the step is skipped.")
    if state.skipped_in_a_row >= outer.max_skipped:
        raise DivergenceError(
            f"The loss or its gradient was not finite in {state.skipped_in_a_row} outer steps in a row, up to step "
            f"{state.step:,}.",
            "In a new run, lower outer.learning_rate or inner.learning_rate, raise outer.warmup_steps, or set "
            "run.precision=float32; outer.max_skipped is how many are borne.",
        )


def halved(micro_tokens: int) -> int:
    """Return the size of micro-batches after one that memory is too small for, or raise a DeviceMemoryError."""
    if micro_tokens < 2 * SMALLEST_MICRO_TOKENS:
        raise DeviceMemoryError(
            f"The memory of the device is too small, even in micro-batches of {micro_tokens} tokens.",
            "Choose a smaller model.size, or lower batch.max_sentence_tokens; exact learners hold all of an inner "
            "loop: for them lower inner.steps or batch.max_tokens.",
        ) from None
    return micro_tokens // 2


@dataclass
class Clock:
    """Seconds of work on the run, those before a resume included."""

    before: float

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self) -> float:
        """Return the seconds up to now."""
        return self.before + time.monotonic() - self._started
