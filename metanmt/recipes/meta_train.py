"""`metanmt meta-train`: learn one initialisation from the meta-train pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metanmt.config import Config
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import DeviceMemoryError
from metanmt.meta.distributed import Ranks, is_of_a_lost_process, joined_ranks
from metanmt.meta.initialization import make_initialization, words_of_run
from metanmt.meta.joint_phase import JointPhase
from metanmt.meta.learner import Learner
from metanmt.meta.learners import learner_class
from metanmt.meta.outer import StepReport, learning_rate, outer_optimizer, outer_step, set_learning_rate
from metanmt.meta.parent import choose_parent, named_parent
from metanmt.meta.run import Run, check_run
from metanmt.meta.state import (
    Clock,
    RunState,
    beginning,
    first_pairs_alone,
    halved,
    joint_phase_over,
    step_metrics,
    stop_if_diverged,
    validations_due,
)
from metanmt.meta.task import Episode, EpisodeSampler, Task, load_tasks, named_pairs
from metanmt.meta.validation import MetaValidation
from metanmt.nmt.loss import Loss
from metanmt.nmt.model import parameter_count
from metanmt.runlog import Progress, say, warn
from metanmt.runtime import Interruption, peak_memory_bytes


def run(
    config: Config, data: Path, out: Path, *, resume: bool = False, joint_phase: Path | None = None
) -> dict[str, Any]:
    """Meta-train as configured and return what the run cost and reached.

    The best checkpoint by meta-validation is `out/best`, the last one `out/last`; both are Hugging Face folders.
    Under torchrun, the processes share the tasks of each meta-batch; the first one validates, writes and reports.

    Args:
        config: the resolved configuration.
        data: a folder that `metanmt prepare` wrote.
        out: the run's folder.
        resume: continue the run that is there; without it an existing run is refused.
        joint_phase: a run whose joint phase a new one takes over.
    """
    store = TokenStore.open(data)
    with joined_ranks() as ranks:
        ranks.check(config.outer.meta_batch_size)
        with ranks.together():
            if ranks.first:
                check_run(out, config, store.training_digest, resume=resume)
        training = _Training(config, store, ranks)  # before the folder is made: what cannot be run leaves none
        with ranks.together():
            phase = JointPhase(joint_phase, config, store.training_digest) if joint_phase and not resume else None
            files = Run.open(out, config, store.training_digest, resume=resume, data=data) if ranks.first else Run(out)
        with files, Interruption() as interruption:
            with ranks.together():
                if phase is not None and ranks.first:
                    phase.copy_to(files)
            training.start(files, interruption, resume=resume or phase is not None)
            training.until_done()
            if interruption.requested:
                training.stop()
        return training.summary()


class _Training:
    """What a run holds between its steps."""

    files: Run
    saved_step = 0
    """The step of the last checkpoint of this run."""

    trial_start = 0
    """Target tokens spent before the parent that is tried; each is tried alike."""

    def __init__(self, config: Config, store: TokenStore, ranks: Ranks) -> None:
        self.config, self.store, self.ranks = config, store, ranks
        self.tokenizer = load_tokenizer(store.tokenizer_folder)
        self.tasks = load_tasks(store, config.batch, config.outer)
        self.first = named_pairs([task.pair for task in self.tasks], config.outer.first_pairs, "outer.first_pairs")
        self.sampler = EpisodeSampler(self.tasks, config.outer, config.batch, self.tokenizer.pad_id, config.run.seed)
        self.validate = MetaValidation(store, self.tokenizer, config)
        self.initialization = make_initialization(config, store, self.tokenizer)
        self.joint, self.learner = (
            learner_class(name)(self.initialization, config) for name in ("joint", config.outer.learner)
        )
        self.joint.unseen_share = 0.0  # a joint phase meets languages as they are
        self.sampler.check(self.learner.inner_steps + self.learner.query)
        if self.learner.one_task and config.outer.parent != "auto":
            named_parent(self.tasks, config.outer.parent)
        self.optimizer = outer_optimizer(self.initialization, self.learner.own, config.outer)
        self.loss = Loss(config.outer.label_smoothing, config.run.precision)

    def start(self, files: Run, interruption: Interruption, *, resume: bool) -> None:
        """Begin in the run's folder, or go on from its newest whole checkpoint."""
        self.files, self.interruption = files, interruption
        self.state = self.loaded() if resume else RunState()
        self.clock = Clock(self.state.elapsed_seconds)
        self.joint_phase_saved = self.joint_phase_over()
        self.parameters = parameter_count(self.initialization)
        if self.state.step == 0:
            say(beginning(self.config, self.learner.inner_steps, self.parameters, len(self.tasks), self.ranks.size))
        if self.learner.one_task:
            self.find_parent()
        unseen = self.learner.unseen_share > 0
        if self.ranks.first or unseen:
            self.files.counterparts, self.tasks = words_of_run(
                self.initialization, self.sampler.tasks, self.tokenizer, files.folder / "last", unseen, self.asked_alone
            )
            self.validate.meet(self.initialization, self.files.counterparts)

    def find_parent(self) -> None:
        """Keep the one task to learn from; if none is named, train each for a while and go on with the best."""
        name = self.state.parent or self.config.outer.parent
        if name == "auto":
            outer = self.config.outer
            with Progress("try parents", outer.parent_share * outer.max_target_tokens, "target tokens") as progress:
                trial = choose_parent(
                    self.tasks,
                    self.initialization,
                    lambda: outer_optimizer(self.initialization, self.learner.own, outer),
                    lambda task, optimizer: self.tried(task, optimizer, progress),
                    lambda: self.ranks.mean([self.validate.zero_shot_loss(self.initialization)]),
                )
            self.optimizer.load_state_dict(dict(trial.optimizer))
            self.trial_start = 0
            name = str(trial.task.pair)
            self.state = replace(self.state, step=trial.step, skipped_in_a_row=0)
        self.state = replace(self.state, parent=name)
        self.sampler.only(named_parent(self.tasks, name))
        say(f"transfer from {name}")

    def tried(self, task: Task, optimizer: torch.optim.Optimizer, progress: Progress) -> int:
        """Train on one task for its share of the cost of trying all; return the steps made."""
        self.optimizer = optimizer
        self.sampler.only(task)
        self.state, self.trial_start = replace(self.state, step=0, skipped_in_a_row=0), self.state.target_tokens
        outer = self.config.outer
        until = self.trial_start + int(outer.parent_share * outer.max_target_tokens / len(self.tasks))
        while self.state.target_tokens < until:
            if self.ranks.total(self.interruption.requested)[0]:
                raise KeyboardInterrupt("Stopped while trying parents; meta-train --resume begins again.")
            before = self.state.target_tokens
            self.move(self.learner, stop_requested=False)
            stop_if_diverged(self.state, outer)
            progress.advance(self.state.target_tokens - before, str(task.pair))
        return self.state.step

    def loaded(self) -> RunState:
        """Set the run to its newest whole checkpoint; the first process mends the folder before the others read it."""
        learned = self.initialization, self.optimizer, self.learner.own
        with self.ranks.together():
            mended = self.files.load(*learned) if self.ranks.first else None
        state = mended or self.files.load(*learned)
        self.saved_step = state.step
        if 0 < state.micro_tokens < self.config.batch.micro_tokens:
            say(f"Micro-batches of {state.micro_tokens:,} tokens, as memory allowed before.")
            self.cut_smaller(state.micro_tokens)
        return state

    def until_done(self) -> None:
        """Make outer steps until the run's cost is spent; validate and save on the way, in the first process."""
        limit = self.config.outer.max_target_tokens
        with Progress("meta-train", limit, "target tokens", self.state.target_tokens) as progress:
            if self.ranks.first and not self.asked_alone() and self.validations_due() > self.state.validations:
                self.keep(stopping=False)  # the run was stopped there, or trying parents took all of its cost
            while self.state.target_tokens < limit:
                if self.asked_alone():
                    self.stop()
                before = self.state.target_tokens
                stopping = self.step(self.interruption.requested, progress)
                progress.advance(self.state.target_tokens - before)
                if self.ranks.first:
                    self.keep(stopping=stopping or self.asked_alone())
                if stopping:
                    self.stop()

    def asked_alone(self) -> bool:
        """Return whether to stop at once; several processes stop behind a step in which all have heard of it."""
        return self.ranks.size == 1 and self.interruption.requested

    def stop(self) -> None:
        """End the run before its time, or at it, with a checkpoint; say how it goes on."""
        step = self.state.step
        if self.ranks.first and step > self.saved_step:
            self.save()
        done = self.state.target_tokens >= self.config.outer.max_target_tokens
        if done and self.state.validations >= self.validations_due():
            raise KeyboardInterrupt(f"Stopped; the run {self.files.folder} is complete, {step} steps.")
        raise KeyboardInterrupt(f"Stopped at step {step}; it goes on by: {self.resuming()}")

    def resuming(self) -> str:
        """Return the command that goes on with this run."""
        again = "--data", self.store.folder, "--out", self.files.folder, "--resume"
        return self.ranks.command("meta-train", self.files.folder / "config.toml", *again)

    def step(self, stop_requested: bool, progress: Progress) -> bool:
        """Make one outer step and log it; return whether any process was asked to stop."""
        joint_phase = not self.joint_phase_over()
        if not self.learner.one_task:
            alone = first_pairs_alone(self.config, self.state.target_tokens)
            first = (replace(task, unseen=None) for task in self.tasks if task.pair in self.first)
            self.sampler.only(*(first if alone else self.tasks))
        try:
            rate, report, stopping = self.move(self.joint if joint_phase else self.learner, stop_requested)
            if self.state.step % self.config.run.log_every == 0:
                phase = "joint" if joint_phase else self.config.outer.learner
                metrics = step_metrics(self.state, phase, rate, report, self.ranks)
                progress.note = f"{phase} loss {metrics.get('query_loss', metrics.get('support_loss', 0)):.3f}"
                if self.ranks.first:
                    self.files.log(metrics)
        except RuntimeError as error:
            self.survive(error)
            raise
        stop_if_diverged(self.state, self.config.outer)
        return stopping

    def move(self, learner: Learner, stop_requested: bool) -> tuple[float, StepReport, bool]:
        """Make one outer step; return its rate, what it measured, and whether any process was asked to stop."""
        outer, state = self.config.outer, self.state
        share_done = (state.target_tokens - self.trial_start) / outer.max_target_tokens
        rate = learning_rate(outer, state.step, share_done)
        set_learning_rate(self.optimizer, rate)
        learner.advance(share_done)
        episodes = self.episodes(learner)
        costs = [learner.cost(episode) for episode in episodes]
        tokens, computations, stopping = self.ranks.total(
            sum(tokens for tokens, _ in costs), sum(computations for _, computations in costs), stop_requested
        )
        report = self.outer_step(learner, episodes)
        self.state = self.state.moved(tokens, computations, skipped=report.skipped, seconds=self.clock())
        return rate, report, stopping > 0

    def episodes(self, learner: Learner) -> list[Episode]:
        """Return this process' episodes of the step in hand; the same ones whenever asked."""
        return learner.meta_batch(self.sampler, self.state.step, self.ranks)

    def outer_step(self, learner: Learner, episodes: list[Episode]) -> StepReport:
        """Make the outer step; where memory runs out, make it again in micro-batches of half the size."""
        while True:
            try:
                return outer_step(
                    self.initialization, episodes, self.optimizer, learner, self.config.outer, self.loss, self.ranks
                )
            except torch.OutOfMemoryError:
                half = halved(self.config.batch.micro_tokens)
                same = "the result stays the same" + ", but for the draw of dropout" * (self.config.model.dropout > 0)
                warn(f"Out of memory: micro-batches of {half:,} tokens from here on; {same}.")
            learner.release()
            torch.cuda.empty_cache()
            self.cut_smaller(half)
            self.state = replace(self.state, micro_tokens=half)
            episodes = self.episodes(learner)

    def cut_smaller(self, micro_tokens: int) -> None:
        """Cut the batches of this run into micro-batches of so many tokens from here on."""
        self.config = replace(self.config, batch=replace(self.config.batch, micro_tokens=micro_tokens))
        self.sampler.batch = self.config.batch
        self.validate.config = self.config

    def keep(self, *, stopping: bool) -> None:
        """Validate when it is time to, and save a checkpoint then, at intervals, and before stopping.

        A validation that is due when the run stops is made when it goes on.
        """
        state, config = self.state, self.config
        due = self.validations_due()
        if due > state.validations and not stopping and (value := self.meta_validated()) is not None:
            self.state = state.validated(value, config.validation.metric, due=due, seconds=self.clock())
            self.save()
        elif (
            stopping
            or self.asked_alone()
            or self.joint_phase_over() > self.joint_phase_saved
            or self.clock() - state.saved_at_seconds > 60 * config.run.checkpoint_minutes
        ):
            self.save()

    def joint_phase_over(self) -> bool:
        """Return whether a joint phase, if there is one, has been gone through."""
        return self.learner.one_task or joint_phase_over(self.config, self.state.target_tokens)

    def validations_due(self) -> int:
        """Return how many meta-validations there should have been by now."""
        return validations_due(self.state.target_tokens, self.config)

    def meta_validated(self) -> float | None:
        """Adapt to the meta-dev pairs, log the scores, return the one to choose a checkpoint by; None if stopped."""
        self.optimizer.zero_grad()
        try:
            scores = self.validate(self.learner.fast_model, self.initialization, stop=self.asked_alone)
        except (torch.OutOfMemoryError, DeviceMemoryError):
            self.save()
            raise DeviceMemoryError(
                f"The memory of the device is too small for a meta-validation; step {self.state.step} is saved.",
                "Resume on a larger device, or start anew with a smaller model.size or max_sentence_tokens.",
            ) from None
        if scores is None:
            return None
        self.files.log({"step": self.state.step, "target_tokens": self.state.target_tokens, "meta_validation": scores})
        adapted, before = scores["adapted"], scores["zero_shot"]
        say(
            f"step {self.state.step:,}, {self.state.target_tokens:,} tokens: meta-dev BLEU {before['bleu']:.1f} -> "
            f"{adapted['bleu']:.1f}, chrF++ {before['chrf']:.1f} -> {adapted['chrf']:.1f} adapted"
        )
        return float(scores["value"])

    def save(self) -> None:
        """Write a checkpoint of the run as it stands."""
        now, self.saved_step = self.clock(), self.state.step
        self.state = replace(self.state, elapsed_seconds=now, saved_at_seconds=now)
        ends_joint = self.joint_phase_over() > self.joint_phase_saved
        trained = self.initialization, self.optimizer, self.tokenizer, self.tasks[0].pair, self.learner.own
        self.files.save(self.state, *trained, ends_joint=ends_joint)
        self.joint_phase_saved |= ends_joint

    def survive(self, error: RuntimeError) -> None:
        """Save what the steps before reached when another process has died in this one, and say so.

        The initialisation has not moved yet: it does so only after the gradients of all have arrived.
        """
        elsewhere = self.ranks.size > 1 and not isinstance(error, torch.OutOfMemoryError)
        if elsewhere and self.ranks.first and self.state.step:
            self.save()
            say(f"A process failed; step {self.state.step} is saved; it goes on by: {self.resuming()}")
        if elsewhere and is_of_a_lost_process(error):  # that one says why, or was killed
            raise SystemExit(1) from None

    def summary(self) -> dict[str, Any]:
        """Return what the run cost and reached."""
        return {
            "run": str(self.files.folder),
            "learner": self.config.outer.learner,
            "parameters": self.parameters,
            "processes": self.ranks.size,
            "peak_memory_bytes": peak_memory_bytes(),
            **self.state.summary(),
        }
