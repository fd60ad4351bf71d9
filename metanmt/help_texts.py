"""What `--help` says: a summary and examples for every command, and the settings from the configuration's own docs."""

from __future__ import annotations

import errno

from metanmt.config import Config
from metanmt.sections import describe

TOP = """\
Low-resource neural machine translation by meta-learning: meta-train one model on many language pairs, adapt it to a
pair that has almost no text, measure BLEU.

  metanmt demo                                                      all of it, on the embedded corpus
  metanmt prepare corpora/cldr.toml --out data                      text to token store
  metanmt meta-train tiny --data data --out run                     learn the initialisation
  metanmt fine-tune --init run --data data --pair fi-en --budget 4000 --out tuned
  metanmt evaluate --model tuned --data data --pair fi-en           BLEU with its signature
  metanmt translate --model tuned --pair fi-en < in.fi > out.en
  metanmt compare cldr --out comparison                             learners at equal cost, with intervals
  metanmt report comparison --out report.html                       the same as one HTML page to send
  metanmt curve comparison                                          what a point of BLEU costs in sentence pairs
  metanmt vectors data                                              vectors that --lexicon universal needs
  metanmt analyze --init run --model tuned --data data --pair fi-en     what an adaptation moved
  metanmt export --model adapter --out merged                       an adapter and its base as one checkpoint
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "prepare": (
        "Turn text into clean splits, a tokenizer and a token store.",
        """\
examples:
  metanmt prepare corpora/cldr.toml --out data
  metanmt prepare corpora/cldr.toml --languages is,ka,sw --out data-mine     other unseen languages
  metanmt prepare corpora/cldr.toml --both-directions --out data-both          for runs that translate both ways
  metanmt prepare corpora/europe.toml --root ~/text/europe --out data-europe
  metanmt prepare corpora/lowres.toml --root ~/text/lowres --tokenizer run --out data-new    to fine-tune a run on
""",
    ),
    "vectors": (
        "Make vectors of pieces in one space for all languages of a data folder: what --lexicon universal needs.",
        """\
examples:
  metanmt vectors data                                                       learned from the data's own train sets
  metanmt vectors data --vec en=wiki.en.align.vec --vec fi=wiki.fi.align.vec     aligned files, where there are any
  metanmt meta-train tiny --data data --out run --lexicon universal          then

Learning and reading take gensim: pip install 'metanmt[lexicon]'. The table shows the size of each seed dictionary and
the precision of retrieval on entries that were held out.
""",
    ),
    "meta-train": (
        "Learn one initialisation from the meta-train pairs.",
        """\
examples:
  metanmt meta-train tiny --data data --out run
  metanmt meta-train tiny --data data --out run --resume                     after Ctrl-C or a crash
  metanmt meta-train tiny --data data --out run-joint --learner joint        the baseline at the same cost
  metanmt meta-train tiny --data data --out run-fomaml --learner fomaml --joint-phase run-joint     the rest of it
  metanmt meta-train maml++ --data data --out run-maml++                     every learner has a configuration
  metanmt meta-train tiny --data data --out run-pt --learner transfer --parent pt-en     from one parent pair
  metanmt meta-train tiny --data data --out run-ngrams --lexicon ngrams       pieces share their character n-grams
  metanmt meta-train fomaml --data data --out run-lexicon --lexicon universal    after `metanmt vectors data`
  metanmt meta-train my.toml --data data --out run-2 --learner fomaml --set inner.steps=4 --set inner.learning_rate=0.01
  metanmt meta-train reptile --data data --out run-3 --set model.checkpoint=run/best --set model.update=adapters
  torchrun --standalone --nproc-per-node 8 -m metanmt meta-train base --data data --out run    eight GPUs

settings:
"""
        + describe(Config, ["model", "adapter", "inner", "outer", "batch", "validation", "run"]),
    ),
    "fine-tune": (
        "Adapt an initialisation to one pair, from a prepared data folder or from your own files.",
        """\
examples:
  metanmt fine-tune --init run --data data --pair fi-en --budget 4000 --out tuned
  metanmt fine-tune --init run --replay data --pair xx-en --train my.xx my.en --dev dev.xx dev.en --out tuned
  metanmt fine-tune --init run --pair xx-en --train my.tsv --out tuned       dev: a tenth, 10 to 300 pairs
  metanmt fine-tune --init run --pair xx-en --train my.tsv --new-pieces 2000 --out tuned    a script new to the run
  metanmt fine-tune --init run --pair xx-en --train my.tsv --set fine_tune.soup=3 --out tuned    three runs averaged
  metanmt fine-tune --init run --replay data --pair en-xx --train my.en my.xx --out into    into a language: a new tag
  metanmt fine-tune --init run --replay data --pair en-xx --train my.en my.xx --mono more.xx --back tuned --out into
  metanmt fine-tune --init run --replay data --pair xx-en --train my.tsv --back into --out from    the run's English too
  metanmt fine-tune --init run --replay data --pair xx-en --train my.tsv --back init --out from    and from-back
  metanmt fine-tune --init none --data data --pair fi-en --out scratch       from scratch
  metanmt fine-tune --init run --data data --pair fi-en --update adapters --out fi    a patch; the model stays as it is
  metanmt fine-tune --init run --data data --pair fi-en --update head --set model.head='["decoder"]' --out tuned

settings:
"""
        + describe(Config, ["fine_tune", "adapter"])
        + "\n  model.head, run.precision, and for a model from scratch model.size, as in `metanmt meta-train --help`",
    ),
    "translate": (
        "Translate the lines of standard input to standard output.",
        """\
examples:
  metanmt translate --model tuned --pair fi-en < in.fi > out.en
  echo "3 tuntia sitten" | metanmt translate --model tuned --pair fi-en --beam 1
  metanmt translate --model tuned --pair fi-en --engine ctranslate2 --quantization int8 < in.fi > out.en

On a CPU, ctranslate2 is taken where it is installed (pip install 'metanmt[fast]'): the same search, some times faster.
It converts a checkpoint once, into the folder ctranslate2-float32 in it, and again when the weights have changed.
""",
    ),
    "evaluate": (
        "Translate a test set and score it: BLEU, chrF++ and TER with signatures and confidence intervals.",
        """\
examples:
  metanmt evaluate --model tuned --data data --pair fi-en --split test
  metanmt evaluate --model tuned --pair fi-en --source test.fi --reference test.en --json
  metanmt evaluate --model tuned --pair fi-en --source test.tsv
  metanmt evaluate --model tuned --data data --pair fi-en --engine transformers     without ctranslate2

BLEU counts words as sacreBLEU's tokenizer 13a parts them; into Chinese as its tokenizer zh does, and into Japanese,
Thai, Khmer, Lao and Burmese it counts characters (char). The signature shows which; figures of two do not compare.
""",
    ),
    "compare": (
        "Compare initialisations at equal cost on unseen pairs: one table, with intervals, of everything it took.",
        """\
examples:
  metanmt compare cldr --out comparison                                      four learners on the embedded corpus
  metanmt compare cldr --out comparison --dry-run                            what would be run, and its cost
  metanmt compare cldr --out comparison --jobs 4                             at most four processes
  metanmt compare europe --root ~/text/europe --out europe                   real text, which is not shipped
  metanmt compare evidence --root ~/text/europe --out evidence                     for a GPU; then, with the same runs:
  metanmt compare evidence-bible --data evidence/data --runs evidence/runs --out evidence-bible
  metanmt compare my.toml --data data --out comparison --json > comparison.json

The same command goes on after any interruption and skips what is done; it writes comparison.md, .csv and .json.
Paths in a comparison file start where the command is called; that of what it extends, beside the file.
Meta-trainings and adaptations run in --jobs processes, which share the CPU's cores and the GPUs; OMP_NUM_THREADS limits
the threads of each. The results depend on the number of threads in their last digits, not on the number of processes.

a comparison file (TOML):
  data = "data-europe"                     a prepared folder; or corpus = "cldr", a manifest to prepare
  config = "tiny"                          configuration of all arms
  set = ["outer.max_target_tokens=2_000_000"]
  pairs = ["fi-en", "ro-en"]               default: every meta-test pair
  budgets = [0, 4_000]                     target words to adapt on; 0 is zero-shot
  draws = [1, 2, 3]
  updates = ["all", "adapters"]            which parameters move; default: as fine_tune.update says
  train_set = "train-bible"                budgets are drawn from it; default: train
  dev_set = "dev-bible"                    chooses the weights in adapting; default: dev, or a tenth of the draw
  test_sets = ["test", "test-news"]        every pair has the first; the others are scored where a pair has them
  baseline = "joint"                       the others are compared with it
  beam = 5                                 name, root and confidence = 0.95 may be given too
  [arms.none]
  learner = "none"                         from scratch
  [arms.joint]
  learner = "joint"
  [arms.mine]
  learner = "fomaml"
  set = ["inner.steps=4"]
  [arms.published]
  checkpoint = "runs/best"                 a run or checkpoint that is there already
""",
    ),
    "analyze": (
        "Show which layers an adaptation moved and which representations it left alone: learning, or reuse.",
        """\
examples:
  metanmt analyze --init run --model tuned --data data --pair fi-en
  metanmt analyze --init run-joint --model tuned-joint --data data --pair fi-en --split test --json
""",
    ),
    "export": (
        "Write a model as an ordinary checkpoint that needs nothing beside it: an adapter merged into its base.",
        """\
examples:
  metanmt export --model fi --pair fi-en --out fi-merged                     an adapter of fine-tune --update adapters
  metanmt export --model run --out initialisation                            the best checkpoint of a run
""",
    ),
    "curve": (
        "Show the score against the budget, and how many more sentence pairs a point of BLEU costs.",
        """\
examples:
  metanmt curve comparison
  metanmt curve comparison --charts curves --json > curves.json

The comparison's budgets are the points: budgets = [0, 4_000, 16_000, 40_000, 160_000].
""",
    ),
    "report": (
        "Write comparisons as one HTML page that needs nothing beside it: tables, curves, translations, costs.",
        """\
examples:
  metanmt report comparison --out report.html
  metanmt report comparison-1 comparison-2 --out both.html                   several on one page
  metanmt report comparison --budget 500 --sentences 20                      other translations side by side
""",
    ),
    "demo": (
        "Run the whole road on the embedded corpus and end in a table; it says by which commands the same is done.",
        """\
examples:
  metanmt demo
  metanmt demo --languages is,ka,sw --out my-demo                            languages of your choice
  metanmt demo --tokens 3000000                                              more meta-training
  metanmt demo --jobs 1                                                      one after another, with all cores
""",
    ),
}

TOO_MANY_FILES = "Raise the limit on open files (ulimit -n 4096), then run the command again."
FREE_SPACE = (
    "Free some space, then run the command again (meta-train with --resume); nothing half-written is left behind."
)


def remedy_for(error: OSError) -> str:
    """Return what to do about an error of the operating system."""
    return {
        errno.ENOSPC: FREE_SPACE,
        errno.EDQUOT: FREE_SPACE,
        errno.EFBIG: "Raise the limit on the size of a file (ulimit -f), then run the command again.",
        errno.EMFILE: TOO_MANY_FILES,
        errno.ENFILE: TOO_MANY_FILES,
        errno.EACCES: "Check its permissions, or give another path.",
        errno.EPERM: "Check its permissions, or give another path.",
        errno.EIO: "The disk or its connection fails: check it, and copy what is there.",
        errno.ENOENT: "Check the path.",
        errno.EROFS: "Give a path that can be written to.",
    }.get(error.errno or 0, "Check the path; --debug shows the traceback.")
