"""The configuration of a run: typed sections, each default and its meaning written once.

A configuration file is TOML; every key has a default, so an empty file is a valid one. `--set section.key=value`
overrides a key. The help texts of the command line are made from the `setting` docs below.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

from metanmt.errors import ConfigError
from metanmt.limits import COUNT, NOT_NEGATIVE, PIECES, POSITIVE, PROBABILITY, SHARE, check_ranges
from metanmt.sections import setting

Update = Literal["none", "embeddings", "embeddings+encoder", "decoder", "head", "all", "adapters"]
LearnerName = Literal[
    "joint",
    "aligned",
    "fomaml",
    "reptile",
    "maml",
    "anil",
    "meta-sgd",
    "maml++",
    "lstm",
    "learned-optimizer",
    "transfer",
]
Precision = Literal["auto", "float32", "bfloat16"]
Metric = Literal["chrf", "bleu", "loss"]
OptimizerName = Literal["adamw", "muon"]


@dataclass(frozen=True)
class ModelConfig:
    """The Transformer."""

    size: Literal["tiny", "small", "base", "gu2018"] = setting("tiny", "dimensions of a model made from scratch")
    checkpoint: str = setting("", "a checkpoint to start from, instead of `size`: a folder, a run, a name on the hub")
    dropout: float = setting(0.1, "dropout probability while meta-training", PROBABILITY)
    update: Literal["all", "adapters"] = setting(
        "all", "what meta-training moves; adapters: new ones on the frozen `checkpoint`, which they are stored without"
    )
    head: tuple[str, ...] = setting(
        (),
        'what update = "head" moves, as parts of parameter names such as "decoder.layers.5"; default: the last layer '
        "of the decoder, its final norm, and the output projection unless that is the embedding matrix",
    )
    lexicon: Literal["plain", "ngrams", "universal"] = setting(
        "plain",
        "embeddings: a table; one whose pieces share what is learned of their character n-grams; or in its place, for "
        "sources, mixtures of universal ones (Gu et al. 2018b; needs metanmt vectors)",
    )
    ngram_characters: int = setting(4, "characters of an n-gram that pieces share, at most")
    universal_entries: int = setting(1_000, "universal embeddings at most, of the pivot's commonest pieces")
    lexicon_temperature: float = setting(
        0.05, "of their mixture; the smaller, the fewer a piece takes part in", POSITIVE
    )


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank adapters (LoRA, Hu et al. 2021): what update = "adapters" adds to a model and moves."""

    rank: int = setting(8, "rank r of the product of two matrices that is added to a weight; their size follows it")
    alpha: float = setting(16.0, "the product is multiplied by alpha / rank", POSITIVE)
    targets: tuple[str, ...] = setting((), "projections that get one, such as q_proj (default: all but the output's)")


@dataclass(frozen=True)
class InnerConfig:
    """The inner loop: how a learner adapts to a task within an episode."""

    steps: int = setting(1, "updates on the support set; joint and aligned make none")
    optimizer: Literal["sgd", "sign", "adam", "muon"] = setting(
        "sgd",
        "sgd; sign, every step the first of a freshly made Adam (Gu et al. 2018); for fomaml and reptile also "
        "adam, without a first moment (Nichol et al. 2018), and muon, both made afresh for every episode",
    )
    learning_rate: float = setting(0.02, "inner learning rate; the setting that matters most")
    update: Update = setting("all", "which parameters are fast weights")
    first_order_share: float = setting(
        0.0,
        "maml, anil, meta-sgd, maml++: share of the run with first-order gradients, before exact ones; 1 for never",
        SHARE,
    )
    multi_step_share: float = setting(
        0.3,
        "maml++: share of the run in which the query loss of every inner step counts, the earlier ones less and less",
        SHARE,
    )
    hidden: int = setting(20, "lstm, learned-optimizer: hidden units for each coordinate")


@dataclass(frozen=True)
class OuterConfig:
    """The outer loop: how the initialisation is learned."""

    learner: LearnerName = setting("fomaml", "the learner")
    max_target_tokens: int = setting(
        900_000, "cost of the whole run: target tokens in forward-backward passes, support and query alike"
    )
    joint_share: float = setting(0.6, "share of that cost spent in joint training before the learner takes over", SHARE)
    unseen_share: float = setting(
        0.0,
        "share of the learner's episodes that meet their language as fine-tuning meets a new one: pieces of its "
        "own, which begin as counterparts in the other languages",
        SHARE,
    )
    parent: str = setting("auto", 'transfer: the parent pair, such as "pt-en"; auto tries every meta-train pair')
    parent_share: float = setting(0.2, "transfer: share of the cost spent on trying them, evenly", SHARE)
    meta_batch_size: int = setting(4, "tasks an outer step")
    optimizer: OptimizerName = setting("adamw", "adamw; muon for the matrices of layers, and adamw for the rest")
    learning_rate: float = setting(1e-3, "peak outer learning rate", POSITIVE)
    own_rate_scale: float = setting(
        1.0, "outer rate of what a learner learns beside the initialisation, as a multiple of learning_rate"
    )
    warmup_steps: int = setting(100, "outer steps of linear warm-up", NOT_NEGATIVE)
    schedule: Literal["linear", "cosine", "inverse-sqrt", "constant"] = setting("linear", "decay after the warm-up")
    weight_decay: float = setting(0.01, "decoupled weight decay")
    adam_beta2: float = setting(0.98, "decay of AdamW's second moment; its first is 0.9", PROBABILITY)
    clip_norm: float = setting(1.0, "largest norm of the outer gradient; 0 for no clipping")
    max_skipped: int = setting(
        10, "outer steps in a row without a finite loss and gradient, each left out, before the run stops"
    )
    label_smoothing: float = setting(0.1, "label smoothing of the training loss", SHARE)
    pairs: tuple[str, ...] = setting((), "meta-train pairs to learn from (default: all of the data)")
    train_sets: tuple[str, ...] = setting(
        (), 'training sets of them to learn from, such as "train-bible"; each set of a pair is a task (default: all)'
    )
    first_pairs: tuple[str, ...] = setting((), "of the pairs, those to learn from first, alone (default: none)")
    first_share: float = setting(0.15, "share of the cost for which that goes on", SHARE)
    task_sampling: Literal["uniform", "temperature"] = setting("uniform", "how tasks are drawn")
    temperature: float = setting(5.0, "a task of n sentences is drawn in proportion to n to the 1/temperature", COUNT)


@dataclass(frozen=True)
class BatchConfig:
    """Batches, by target tokens."""

    max_tokens: int = setting(
        600, "target tokens of a task in an outer step: one batch, or all of an episode's, support and query, together"
    )
    micro_tokens: int = setting(
        1_000, "padded tokens of one forward-backward pass; of memory, not of the result but for dropout's draw"
    )
    window: int = setting(16, "an episode is drawn from one in this many parts by length; more means less padding")
    pass_tokens: int = setting(
        160, "padded tokens that one more pass must save; of speed, not of the result, likewise", NOT_NEGATIVE
    )
    max_sentence_tokens: int = setting(200, "longer sentences are not trained on")


@dataclass(frozen=True)
class ValidationConfig:
    """Meta-validation: adapt to the meta-dev pair as a user would, then score."""

    times: int = setting(4, "meta-validations in a run, evenly over its cost, the last at its end")
    budget: int = setting(4_000, "target words of the meta-dev pair to adapt on")
    updates: int = setting(30, "updates of the adaptation")
    sentences: int = setting(200, "sentences of the dev set to score")
    metric: Metric = setting("chrf", "the score after adaptation that chooses the checkpoint")


@dataclass(frozen=True)
class RunConfig:
    """The run as a whole."""

    seed: int = setting(1, "everything random follows from it", NOT_NEGATIVE)
    precision: Precision = setting("auto", "auto: bfloat16 on a GPU or CPU that multiplies in it, else float32")
    log_every: int = setting(10, "outer steps between two lines of metrics.jsonl")
    checkpoint_minutes: float = setting(10.0, "minutes between two checkpoints, beside those at meta-validations")
    keep: int = setting(2, "newest checkpoints to keep, beside the best one; more than one outlive a damaged one")


@dataclass(frozen=True)
class FineTuneConfig:
    """Adaptation to one pair with low-resource defaults."""

    update: Update = setting("all", "which parameters move")
    new_pieces: int = setting(
        -1,
        "pieces of the new language's own, at most, that its text adds to the vocabulary; 0: none; -1: 1,000 where "
        "they can be aligned, or where it hardly knows the script",
        PIECES,
    )
    align: bool = setting(True, "pieces that the run hardly saw begin as their translations' counterparts elsewhere")
    optimizer: OptimizerName = setting("muon", "muon for the matrices of layers, adamw for the rest; or adamw for all")
    learning_rate: float = setting(
        0.0, "peak rate; 0: 1e-3, or 2e-3 beside other text, then a third if nothing was gained; 4e-3 from scratch"
    )
    replay: float = setting(
        1.0, "target tokens of meta-train text learned beside each one of the pair's, where all weights move; 0: none"
    )
    synthetic: float = setting(1.0, "target tokens of text translated back (--mono) learned beside each of the pair's")
    max_tokens: int = setting(1_000, "target tokens of a batch; a smaller corpus takes smaller ones")
    max_epochs: int = setting(30, "epochs at most; early stopping ends before")
    min_updates: int = setting(60, "updates at least, however small the corpus", NOT_NEGATIVE)
    max_updates: int = setting(20_000, "updates at most, however large the corpus")
    warmup_share: float = setting(0.1, "share of the updates in linear warm-up; linear decay follows", SHARE)
    average_share: float = setting(
        0.2, "share of the updates so far, the last of them, whose weights are averaged, then scored; 0: none", SHARE
    )
    soup: int = setting(1, "runs whose weights are averaged: a little better, for so many times the time")
    dropout: float = setting(
        -1.0,
        "dropout probability; -1: 0.2, or 0.1 where other text is learned beside",
        replace(PROBABILITY, special=-1),
    )
    label_smoothing: float = setting(0.1, "label smoothing of the training loss", SHARE)
    weight_decay: float = setting(0.01, "decoupled weight decay")
    clip_norm: float = setting(1.0, "largest norm of the gradient; 0 for no clipping")
    metric: Metric = setting("chrf", "the dev score that chooses the weights; the unadapted model is a candidate")
    evaluations: int = setting(12, "dev evaluations over the whole adaptation")
    patience: int = setting(4, "evaluations without improvement before it stops early")
    dev_sentences: int = setting(300, "dev sentences scored at most")

    @property
    def replays(self) -> bool:
        """Whether text of meta-training is learned beside: where all moves, and may forget all."""
        return bool(self.replay) and self.update == "all"

    def resolved(self, *, from_scratch: bool = False, beside: bool = False) -> FineTuneConfig:
        """Return these settings with the learning rate that 0 stands for, and the dropout that -1 does."""
        held = beside and self.update == "all" and not from_scratch  # by other text, where all weights may move
        rate, dropout = 4e-3 if from_scratch else 2e-3 if held else 1e-3, 0.1 if held else 0.2
        chosen = self.dropout if self.dropout >= 0 else dropout
        return replace(self, learning_rate=self.learning_rate or rate, dropout=chosen)


LEARNERS_OWN = {
    "inner": tuple(item.name for item in fields(InnerConfig)),
    "outer": ("joint_share", "unseen_share", "own_rate_scale"),
}
"""Settings by section of which each learner has its own, in the shipped configuration of its name."""

LOGGING = ("run.keep", "run.log_every", "run.checkpoint_minutes")  # what is logged and kept, and when
FREE = ("batch.micro_tokens", *LOGGING)  # how a run is computed and logged, not what
_CHOOSING = ("metric", "max_epochs", "min_updates", "max_updates", "evaluations", "patience", "dev_sentences")
OF_FINE_TUNING_ALONE = tuple(
    f"fine_tune.{name}" for name in (*_CHOOSING, "soup", "new_pieces", "align", "replay", "synthetic")
)
"""Settings that meta-validation, which fine-tunes too, has of its own: a meta-training does not depend on these."""

FREE_IN_A_RUN = (*FREE, *OF_FINE_TUNING_ALONE)
"""Settings that may change in the middle of a meta-training, which is the same run after as before."""


@dataclass(frozen=True)
class Config:
    """A meta-training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    inner: InnerConfig = field(default_factory=InnerConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        outer = self.outer
        if self.model.lexicon == "universal" and outer.learner == "reptile" and not outer.joint_share:
            raise ConfigError(
                "Reptile learns what its inner loop moves, and that is not the table of a universal lexicon.",
                "Set outer.joint_share above 0, so that joint training learns it before; or choose another learner.",
            )
        if self.model.lexicon == "ngrams" and self.model.update == "adapters":
            raise ConfigError(
                "Adapters leave the embeddings as they are: there is nothing for n-grams to share.",
                "Set model.lexicon=plain, or model.update=all.",
            )
        if self.inner.optimizer in ("adam", "muon") and outer.learner not in ("joint", "aligned", "fomaml", "reptile"):
            cause = f"The inner loop of {outer.learner} has no {self.inner.optimizer.capitalize()}."
            raise ConfigError(cause, "Set inner.optimizer to sgd or sign, or take fomaml.")
        check_ranges(self)
        if outer.parent != "auto" and outer.learner != "transfer":
            raise ConfigError(f"Learner {outer.learner} has no parent.", "Set outer.learner=transfer, or no parent.")
        if outer.unseen_share and outer.learner == "transfer":
            raise ConfigError(
                "Learner transfer has one language, and meets it as a new one by what others know: there are none.",
                "Set outer.unseen_share=0, or choose another learner.",
            )
        if outer.first_pairs and outer.learner == "transfer":
            raise ConfigError("Learner transfer learns from one pair all the time.", "Name it by outer.parent=PAIR.")
        if self.inner.update == "none":
            raise ConfigError("inner.update is none: an inner loop that moves nothing.", "Set outer.learner=joint.")
        if self.model.update == "adapters" and not self.model.checkpoint:
            cause = "model.update is adapters, but there is no base to add them to."
            raise ConfigError(cause, "Name one by model.checkpoint=FOLDER.")
