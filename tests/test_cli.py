"""The command line: exit codes, one line of cause and one of remedy, results on stdout."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from metanmt import help_texts
from metanmt.cli import main
from metanmt.commands import adapting, using

COMMANDS = ("prepare", "meta-train", "fine-tune", "translate", "evaluate", "demo", "report")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"metanmt {command}" in text.split("examples:")[1]


def test_help_has_a_line_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    examples = capsys.readouterr().out.partition("commands:")[0]
    named = re.findall(r"^  metanmt (\S+)", examples, flags=re.MULTILINE)
    assert sorted(named) == sorted(help_texts.COMMANDS)


def test_settings_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["meta-train", "--help"])
    assert "inner.learning_rate = " in capsys.readouterr().out


MISTAKES = {
    "no data folder": (
        ["meta-train", "tiny", "--data", "{tmp}/no", "--out", "{tmp}/r"],
        "not a prepared data",
        "prepare",
    ),
    "no config": (["meta-train", "tinny.toml", "--data", "d", "--out", "{tmp}/r"], "No configuration", "tiny"),
    "unknown key": (
        ["meta-train", "tiny", "--data", "d", "--out", "{tmp}/r", "--set", "inner.step=3"],
        "Unknown key 'step'",
        "Did you mean 'steps'?",
    ),
    "unknown section": (
        ["meta-train", "tiny", "--data", "d", "--out", "{tmp}/r", "--set", "iner.steps=3"],
        "Unknown key 'iner'",
        "Did you mean 'inner'?",
    ),
    "not an override": (
        ["meta-train", "tiny", "--data", "d", "--out", "{tmp}/r", "--set", "steps"],
        "not an override",
        "section.key=value",
    ),
    "wrong type": (
        ["meta-train", "tiny", "--data", "d", "--out", "{tmp}/r", "--set", "inner.steps=many"],
        "not of type int",
        "value of that type",
    ),
    "no manifest": (["prepare", "no.toml", "--out", "{tmp}/d"], "No manifest", "cldr"),
    "missing corpus": (["prepare", "europe", "--root", "{tmp}", "--out", "{tmp}/d"], "No file", "--root"),
    "no model": (
        ["evaluate", "--model", "{tmp}/no", "--data", "{tmp}", "--pair", "fi-en"],
        "not a prepared",
        "prepare",
    ),
    "a start that is no start": (
        ["fine-tune", "--init", "none", "--pair", "fi-en", "--out", "{tmp}/o", "--set", "model.checkpoint=x"],
        "is for meta-train",
        "--init",
    ),
    "a setting of another command": (
        ["fine-tune", "--init", "none", "--pair", "fi-en", "--out", "{tmp}/o", "--set", "model.dropout=0.9"],
        "--set model.dropout=0.9 is for meta-train",
        "fine_tune.dropout",
    ),
    "an adapter's setting without one": (
        ["fine-tune", "--init", "run", "--pair", "fi-en", "--out", "{tmp}/o", "--set", "adapter.rank=16"],
        "--set adapter.rank=16 is for a new adapter",
        "--update adapters",
    ),
    "a head that does not move": (
        ["fine-tune", "--init", "run", "--pair", "fi-en", "--out", "{tmp}/o", "--set", 'model.head=["shared"]'],
        "--set model.head says what update = head moves",
        "--update head",
    ),
    "a head that nothing moves": (
        ["meta-train", "tiny", "--data", "d", "--out", "{tmp}/o", "--set", 'model.head=["shared"]'],
        "model.head says what update = head moves, and nothing has that here",
        "inner.update=head",
    ),
    "the shape of no adapter": (
        ["meta-train", "tiny", "--data", "d", "--out", "{tmp}/o", "--set", "adapter.rank=16"],
        "--set adapter.rank=16 is for adapters",
        "model.update=adapters",
    ),
    "no checkpoint": (["translate", "--model", "{tmp}/no", "--pair", "fi-en"], "no folder", "meta-train"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_exit_with_2_and_one_line_each(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, cause, remedy = MISTAKES[name]
    assert main([part.format(tmp=tmp_path) for part in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.rstrip("\n").split("\n")
    assert len(lines) == 2
    assert cause in lines[0]
    assert remedy in lines[1]
    assert list(tmp_path.iterdir()) == []


def test_what_torch_is_not_needed_for_is_said_without(tmp_path: Path) -> None:
    """Importing it takes seconds."""
    (tmp_path / "there").mkdir()
    for name in ("xx", "en", "there/file"):
        (tmp_path / name).write_text("a\n", encoding="utf-8")
    tuning = ["fine-tune", "--init", "none", "--train", "xx", "en", "--pair"]
    mistakes = {
        "'xxen' is not a language pair": [*tuning, "xxen", "--out", "o"],
        "there exists already": [*tuning, "xx-en", "--out", "there"],
        "No file dev": [*tuning, "xx-en", "--out", "o", "--dev", "dev"],
        "There is no folder nowhere": ["translate", "--model", "nowhere", "--pair", "xx-en"],
        "No file no.en": ["evaluate", "--model", "m", "--pair", "xx-en", "--source", "xx", "--reference", "no.en"],
        "There is no folder run": ["analyze", "--init", "run", "--model", "m", "--data", "data", "--pair", "xx-en"],
        "there is not a checkpoint": ["export", "--model", "there", "--out", "o"],
        "d is not a prepared data folder": ["meta-train", "tiny", "--data", "d", "--out", "o"],
    }
    (tmp_path / "data").mkdir()
    pairs = {"xx-en": {"role": "meta-test", "sets": {}}}
    (tmp_path / "data" / "data.json").write_text(json.dumps({"format": 1, "tokenizer_digest": "x", "pairs": pairs}))
    program = (
        "import json, sys\n"
        "from metanmt.cli import main\n"
        "codes = [main(arguments) for arguments in json.loads(sys.argv[1])]\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else codes != [2] * len(codes))\n"
    )
    command = [sys.executable, "-c", program, json.dumps(list(mistakes.values()))]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    causes = [line for line in result.stderr.splitlines() if line.startswith("metanmt: ")]
    assert len(causes) == len(mistakes)
    assert all(cause in line for cause, line in zip(mistakes, causes, strict=True)), causes


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--bootstrap", "1"], "0 for none, or 2 or more"),
        (["--length-penalty", "nan"], "nan is not a number of 0 or more"),
        (["--length-penalty", "-1"], "-1 is not a number of 0 or more"),
        (["--length-penalty", "inf"], "inf is not a number of 0 or more"),
    ],
)
def test_values_that_mean_nothing(option: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--model", "m", "--data", "d", "--pair", "fi-en", *option])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    from metanmt.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["prepare", "no.toml", "--out", "d", "--debug"])


def test_an_error_of_the_operating_system_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["prepare", "cldr", "--out", str(tmp_path / "file" / "data")]) == 2
    assert "file" in capsys.readouterr().err


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from metanmt.recipes import prepare

    def interrupted(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "run", interrupted)
    assert main(["prepare", "cldr", "--out", "never"]) == 130
    assert "Stopped" in capsys.readouterr().err


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("length", [2, 200_000])
def test_nobody_reads_on(length: int) -> None:
    """As in `metanmt ... | head -1`: no traceback, and the exit code of other programs."""
    program = (
        "import sys\n"
        "from metanmt import cli\n"
        "from metanmt.pages import curve\n"
        f"curve.run = lambda *arguments: {{'line': 'x' * {length}}}\n"
        "sys.exit(cli.main(['curve', 'folder', '--json']))\n"
    )
    assert unread([sys.executable, "-c", program]) == (141, b"")
    assert unread([sys.executable, "-m", "metanmt", "--help"]) == (141, b"")


def unread(command: list[str]) -> tuple[int, bytes]:
    """Return the exit code and the messages of a command whose output nobody reads."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=BUFFERED)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    return process.wait(), process.stderr.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_the_output_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "metanmt", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=BUFFERED, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("metanmt: standard output: No space left on device.\n")
    assert done.stderr.count("\n") == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_an_end_that_is_closed(tmp_path: Path, closed: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    command = f"{shlex.quote(sys.executable)} -m metanmt translate --model {tmp_path} --pair fi-en {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("metanmt: Standard input or output is closed.\n")


@pytest.mark.parametrize(
    ("init", "more", "said"),
    [
        ("run", {"best": 7, "updates": 10}, ", at update 7 of 10, "),
        ("run", {"best": 30, "updates": 30, "soup": 3}, ", average of 3 runs, "),
        ("run", {"updates": 10}, ", no update of 10 was better: the model is --init's, unchanged, "),
        ("run", {"updates": 10, "new_target": "sv"}, ": the model is --init's, with a tag for the target, "),
        ("run", {"updates": 10, "aligned_pieces": 9}, ": the model is --init's, with new pieces or aligned ones, "),
        ("none", {"updates": 10}, ", no update of 10 was better: the model is untrained, as it began, "),
        ("run", {}, ", at update 0 of 0, "),
    ],
)
def test_which_weights_fine_tune_kept_is_said(
    init: str,
    more: dict[str, int],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from metanmt.recipes import fine_tune

    scores = {"update": more.get("best", 0), "chrf": 60.4, "bleu": 50.0}
    facts = {"updates": 0, "soup": 0, **more, "init": init, "history": [scores], "best": scores, "interrupted": False}
    sizes = {"sentences": 90, "train_words": 500, "elapsed_seconds": 3.0, "weights_bytes": 10**6}
    monkeypatch.setattr(adapting, "check_at_once", lambda *arguments, **more: None)
    monkeypatch.setattr(fine_tune, "run", lambda *arguments, **more: facts | sizes)
    assert main(["fine-tune", "--init", init, "--data", "d", "--pair", "fi-en", "--out", "o"]) == 0
    assert said in capsys.readouterr().out


def test_what_is_printed_is_utf8_whatever_the_locale() -> None:
    program = (
        "import os, sys\n"
        "from metanmt import cli\n"
        "from metanmt.pages import curve\n"
        "curve.run = lambda *arguments: {'line': 'é → ' + os.fsdecode(b'\\xe9')}\n"
        "sys.exit(cli.main(['curve', 'folder', '--json']))\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.decode("utf-8")) == {"line": "é → \udce9"}


def test_json_on_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from metanmt.recipes import evaluate

    monkeypatch.setattr(using, "check_at_once", lambda *arguments, **more: None)
    monkeypatch.setattr(evaluate, "run", lambda **arguments: {"pair": arguments["pair"], "split": arguments["split"]})
    assert main(["evaluate", "--model", "m", "--data", "d", "--pair", "fi-en", "--split", "test-news", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pair": "fi-en", "split": "test-news"}
