"""Whether a comparison can be run at all: everything that would go wrong is said before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from metanmt.comparison.plan import SCRATCH, Arm, CompareConfig, Plan, checkpoint_cost, make_plan
from metanmt.config import FREE_IN_A_RUN, ModelConfig
from metanmt.config_file import differences, load_config
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, TokenStore
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from metanmt.data.vectors import data_vectors
from metanmt.errors import CheckpointError, ConfigError, did_you_mean
from metanmt.meta.run import data_digest
from metanmt.meta.task import chosen_sets
from metanmt.meta.validation import MetaValidation, check_updates
from metanmt.nmt.adapter import add_adapter, targets
from metanmt.nmt.checkpoint import check_tokenizer, checkpoint_tokenizer, outline
from metanmt.nmt.folder import checkpoint_folder
from metanmt.nmt.lexicon import LEXICON_FILE
from metanmt.nmt.model import update_weights
from metanmt.nmt.tuning import SMALLEST_DEV
from metanmt.nmt.vocabulary import obstacle
from metanmt.runlog import say


def checked_plan(compare: CompareConfig, store: TokenStore) -> Plan:
    """Return everything that is to be run, checked against the data.

    Raises:
        MetanmtError: a pair without a test set, a budget that cannot be drawn, a checkpoint of another tokenizer.
    """
    plan = make_plan(compare, store)
    _check_unseen(plan, store)
    _check_replayed(plan, store)
    _check_back_translation(plan, store)
    _check_sets(compare, {name: store.sets(Pair.parse(name)) for name in plan.pairs})
    if not compare.draws or len(set(compare.draws)) < len(compare.draws):
        raise ConfigError(f"The draws are {list(compare.draws)}.", "Give each seed once: draws = [1, 2, 3].")
    if min(compare.draws) < 0:
        raise ConfigError(f"A draw is {min(compare.draws)}.", "Give seeds of 0 or more: draws = [1, 2, 3].")
    if len(set(compare.updates)) < len(compare.updates):
        raise ConfigError(f"The updates are {list(compare.updates)}.", 'Give each once: updates = ["all", "adapters"].')
    if compare.beam < 1:
        raise ConfigError(f"The beam is {compare.beam}.", "Give 1 for greedy search, or more.")
    for name in plan.pairs:
        if compare.dev_set not in store.sets(Pair.parse(name)):
            _check_held_out(compare, name, store.bitext(Pair.parse(name), compare.train_set))
    tokenizer = load_tokenizer(store.tokenizer_folder)
    for arm in plan.arms:
        new_targets = {Pair.parse(name).source for name in plan.pairs} if compare.back_translation else set()
        _check_updates(arm, compare.updates or (arm.config.fine_tune.update,), tokenizer, new_targets)
        if arm.trained:
            MetaValidation(store, tokenizer, arm.config)
            chosen_sets(store, arm.config.outer)
        if arm.universal:
            data_vectors(store.folder, store.digest)
        if arm.checkpoint:
            folder = checkpoint_folder(Path(arm.checkpoint))
            check_tokenizer(checkpoint_tokenizer(folder), tokenizer.digest(), arm.checkpoint, store.folder)
    _say_costs(plan.arms)
    _say_not_compared(plan)
    sizes = {arm.name: arm.config.model.size for arm in plan.arms if arm.trained and not arm.config.model.checkpoint}
    if len({*sizes.values()}) > 1:
        said = ", ".join(f"{name} {size}" for name, size in sizes.items())
        say(f"Note: the models differ in size, of which the cost in target tokens knows nothing: {said}.")
    return plan


def _check_replayed(plan: Plan, store: TokenStore) -> None:
    """Raise a ConfigError if the text to replay is cut by another tokenizer, or there is none."""
    if not plan.compare.replay:
        return
    other = TokenStore.open(Path(plan.compare.replay))
    known = {str(pair) for pair in other.pairs("meta-train")}
    if other.digest != store.digest or any(known <= {name} for name in plan.pairs):
        raise ConfigError(
            f"{other.folder} has no meta-train text cut by the tokenizer of {store.folder}: nothing to replay.",
            "Name the data that the checkpoints learned from, and prepare this one by it: prepare ... --tokenizer RUN.",
        )


def _check_back_translation(plan: Plan, store: TokenStore) -> None:
    """Raise a ConfigError if an arm has no text of the target language to translate back, or learns nothing of it."""
    if not plan.compare.back_translation:
        return
    for arm in plan.arms:
        tuning = arm.config.fine_tune
        if not tuning.synthetic:
            raise ConfigError(
                f"Arm {arm.name} learns nothing of what is translated back: fine_tune.synthetic is 0.",
                "Leave back_translation out, or fine_tune.synthetic.",
            )
        replayed = bool(plan.compare.replay) and arm.learner != SCRATCH and tuning.replays
        data = TokenStore.open(Path(plan.compare.replay)) if replayed else store
        known = [pair for pair in data.pairs("meta-train") if str(pair) in (arm.config.outer.pairs or [str(pair)])]
        for name in plan.pairs:
            if not any(pair.target == Pair.parse(name).target and str(pair) != name for pair in known):
                raise ConfigError(
                    f"{data.folder} has no meta-train text in the target language of {name}, to be translated back.",
                    f"Leave back_translation out, or that pair, or arm {arm.name}.",
                )


def _check_unseen(plan: Plan, store: TokenStore) -> None:
    """Raise a ConfigError for a pair that an arm is trained on; say so of one that chooses checkpoints."""
    for pair in plan.pairs:
        role = next((role for role in ("meta-train", "meta-dev") if Pair.parse(pair) in store.pairs(role)), "")
        learned = [arm.name for arm in plan.arms if arm.trained and pair in (arm.config.outer.pairs or [pair])]
        if role == "meta-train" and learned:
            raise ConfigError(
                f"{pair} is a meta-train pair, which arm {learned[0]} learns from: it is not unseen.",
                f"Unseen are {', '.join(map(str, store.pairs('meta-test')))}; or leave it out of outer.pairs.",
            )
        if role == "meta-train":
            say(f"Note: {pair} is a meta-train pair: is it unseen by every arm?")
        if role == "meta-dev":
            say(f"Note: {pair} is the meta-dev pair, which checkpoints are chosen by: its scores are no fair test.")


def _say_not_compared(plan: Plan) -> None:
    """Say which arms are adapted as the baseline is not, so that they have no lead over it."""
    updates = {
        arm.name: {cell.update for cell in plan.cells if cell.arm == arm.name and cell.budget} for arm in plan.arms
    }
    baseline = plan.compare.baseline
    for name, own in updates.items():
        if others := sorted(own - updates[baseline]):
            say(
                f"Note: arm {name} adapts {', '.join(others)}, as the baseline {baseline} does not, and so is not "
                "compared with it: `updates` at the top of the file has all arms adapt alike."
            )


def _say_costs(arms: Sequence[Arm]) -> None:
    """Say what is not known, or not equal, of the cost of checkpoints that are there already."""
    costs = {arm.name: checkpoint_cost(arm) for arm in arms if arm.checkpoint}
    for name in (name for name, cost in costs.items() if cost is None):
        say(f"Note: arm {name}: what its checkpoint cost is not known.")
    known = {name: cost for name, cost in costs.items() if cost is not None}
    if len({*known.values()}) > 1:
        said = ", ".join(f"{name} {cost:,}" for name, cost in known.items())
        say(f"Note: the meta-trainings of these checkpoints cost unequally, in target tokens: {said}.")


def _check_sets(compare: CompareConfig, sets_of: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
    """Raise a ConfigError if there is not the text to adapt on, to choose by or to score."""
    if not compare.test_sets or len(set(compare.test_sets)) < len(compare.test_sets):
        raise ConfigError(f"The test sets are {list(compare.test_sets)}.", 'Give each once: test_sets = ["test"].')
    uses = [compare.train_set, compare.dev_set, *compare.test_sets]
    if repeated := [name for name in uses if uses.count(name) > 1]:
        raise ConfigError(
            f"The set {repeated[0]!r} is used twice, as train_set, dev_set or one of test_sets.",
            "What is adapted on, chosen by and scored must differ.",
        )
    for name, sets in sets_of.items():
        chosen = (compare.dev_set,) if compare.dev_set != CompareConfig.dev_set else ()  # or else a part of train
        for needed in (compare.train_set, *chosen, compare.test_sets[0]):
            if needed not in sets:
                raise ConfigError(f"{name} has no set {needed!r}.", did_you_mean(needed, sets))
        for test_set in compare.test_sets:
            if sets.get(test_set, {}).get("sentences", 2) < 2:
                raise ConfigError(
                    f"{name} {test_set} is one sentence.", "No difference can be told on it: leave it out."
                )
        for budget in compare.budgets:
            _check_budget(name, budget, sets[compare.train_set])
    known = dict.fromkeys(name for sets in sets_of.values() for name in sets)
    for wanted in compare.test_sets[1:]:
        if wanted not in known:
            raise ConfigError(f"None of {', '.join(sets_of)} has a set {wanted!r}.", did_you_mean(wanted, known))


def _check_updates(arm: Arm, updates: Sequence[str], tokenizer: Tokenizer, targets_too: Set[str]) -> None:
    """Raise a ConfigError if an update strategy can move nothing in the model of an arm, or learn no new target."""
    if arm.learner == SCRATCH and (vain := {"none", "adapters"} & set(updates)):
        raise ConfigError(
            f"Arm {arm.name} is trained from scratch: update = {min(vain)} leaves it without having learned anything.",
            "Leave out the arm, or that strategy.",
        )
    if arm.learner == SCRATCH and arm.config.model.lexicon != ModelConfig.lexicon:
        raise ConfigError(
            f"Arm {arm.name} is trained from scratch: it has no languages to share a lexicon.",
            "Set model.lexicon for the arms that are meta-trained.",
        )
    if "adapters" in updates and (arm.universal or _has_lexicon(arm)):
        raise ConfigError(
            f"Arm {arm.name} has a universal lexicon, which differs from language to language: no base of adapters.",
            "Leave out the arm, or that strategy.",
        )
    network = outline(arm.config.model, tokenizer, arm.checkpoint)
    for update in updates:
        if update == "adapters":
            targets(network, arm.config.adapter)
        else:
            update_weights(network, update)
        cannot = obstacle(network, tokenizer, update, lexicon=arm.universal or _has_lexicon(arm))
        if cannot and arm.config.fine_tune.new_pieces > 0:
            raise cannot
        known = tokenizer.targets if isinstance(tokenizer, SentencePieceTokenizer) else targets_too
        if cannot and arm.learner != SCRATCH and not targets_too <= {*known}:
            raise ConfigError(
                f"Arm {arm.name} cannot learn the other direction, to translate back. {cannot}",
                "Leave back_translation out, or that arm or update.",
            )
    if arm.trained:
        if arm.config.model.update == "adapters":
            add_adapter(network, arm.config.adapter, None)
        check_updates(network, arm.config)


def _has_lexicon(arm: Arm) -> bool:
    return bool(arm.checkpoint) and (checkpoint_folder(Path(arm.checkpoint)) / LEXICON_FILE).is_file()


def _check_budget(pair: str, budget: int, train: Mapping[str, int]) -> None:
    words, sentences = train["target_words"], train["sentences"]
    if budget > words:
        raise ConfigError(f"A budget of {budget:,} words is larger than {pair}'s {words:,}.", "Give a smaller one.")
    if budget < 0 or 0 < budget < 2 * words / sentences:
        raise ConfigError(
            f"A budget of {budget} words is too small for {pair}: a sentence has {words / sentences:.0f} on average.",
            "Give 0 for zero-shot, or a few sentences' worth.",
        )


def _check_held_out(compare: CompareConfig, pair: str, train: Bitext) -> None:
    """Raise a ConfigError if a budget is too small for a pair without a dev set, of which a part is held out."""
    for budget in filter(None, compare.budgets):
        drawn = min(len(train.draw(budget, draw, pair)) for draw in compare.draws)
        if drawn < 2 * SMALLEST_DEV:
            raise ConfigError(
                f"{pair} has no set {compare.dev_set!r}; {budget} words, {drawn} sentences, leave none to hold out.",
                f"Give a larger budget, of {2 * SMALLEST_DEV} sentences at least, or the pair a dev set.",
            )


def check_runs(plan: Plan, store: TokenStore, out: Path) -> None:
    """Raise a CheckpointError if a run that is there already was made with another configuration or from other data."""
    for arm in plan.arms:
        run = plan.run(arm, out)
        if not arm.trained or not (run / "config.toml").exists():
            continue
        remedy = f'Give another --out (and --runs), remove that run, or take it as it is: checkpoint = "{run}".'
        there = differences(arm.config, load_config(run / "config.toml"))
        if found := {name: words for name, words in there.items() if name not in FREE_IN_A_RUN}:
            raise CheckpointError(
                f"{run} was meta-trained with another configuration than arm {arm.name} has now: "
                f"{', '.join(found.values())}.",
                remedy,
            )
        if data_digest(run) not in (None, store.training_digest):
            raise CheckpointError(f"{run} was meta-trained on other data than {store.folder}.", remedy)
