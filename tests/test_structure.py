"""The shape of the program: imports run one way, files and functions stay short, help answers at once."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "metanmt"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the outermost layer to the innermost. A module imports its own layer and those after it, nothing before it.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"demo"},
    {"pages"},
    {"comparison"},
    {"recipes"},
    {"meta"},
    {"nmt"},
    {"data"},
    {
        "config",
        "config_file",
        "limits",
        "sections",
        "files",
        "runtime",
        "runlog",
        "errors",
        "report",
        "help_texts",
        "__init__",
    },
)
COMMANDS = (
    "prepare",
    "vectors",
    "meta-train",
    "fine-tune",
    "translate",
    "evaluate",
    "demo",
    "compare",
    "analyze",
    "export",
    "report",
    "curve",
)
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "sentencepiece",
    "tokenizers",
    "numpy",
    "babel",
    "ctranslate2",
    "jinja2",
    "peft",
    "gensim",
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer_of(part: str) -> int:
    """Return the layer of a first-level module or package of metanmt."""
    for rank, names in enumerate(LAYERS):
        if part in names:
            return rank
    raise AssertionError(f"metanmt.{part} has no layer; give it one in tests/test_structure.py")


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names below metanmt that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("metanmt.") for name in found if name.startswith("metanmt.")}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] == "__version__":
            continue
        assert layer_of(parts[0]) >= layer_of(own[0]), f"{name_of(path)} imports metanmt.{module}"
        if own[0] == parts[0] == "recipes":
            raise AssertionError(f"{name_of(path)} imports another recipe: metanmt.{module}")


def test_the_innermost_modules_import_no_package() -> None:
    for path in PACKAGE.glob("*.py"):
        if layer_of(path.stem) == len(LAYERS) - 1:
            packages = {module.split(".")[0] for module in imported_modules(path)} & {"recipes", "meta", "nmt", "data"}
            assert not packages, f"{name_of(path)} imports {packages}"


@pytest.mark.parametrize(
    "path",
    [*FILES, *(path for folder in ("tests", "scripts") for path in sorted((ROOT / folder).rglob("*.py")))],
    ids=name_of,
)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 350, f"{name_of(path)} is over 350 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 80, f"{name_of(path)}: {node.name} has {length} lines"


def test_nothing_is_ever_unpickled() -> None:
    """A checkpoint or data folder from a stranger must not run code."""
    picklers = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in [*FILES, *sorted((ROOT / "scripts").rglob("*.py"))]:
        names = {module.split(".")[0] for module in all_imports(path)}
        assert not names & picklers, f"{name_of(path)} imports {names & picklers}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in {"torch.load", "torch.jit.load", "torch.hub.load"}, where
                assert node.attr not in {"read_pickle", "load_state_dict_from_url"}, where
            if isinstance(node, ast.keyword):
                value = ast.unparse(node.value)
                assert (node.arg, value) not in {("allow_pickle", "True"), ("weights_only", "False")}, where
                assert node.arg != "use_safetensors" or value == "True", where
                assert (node.arg, value) != ("trust_remote_code", "True"), where
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                tokenizer = "Tokenizer" in ast.unparse(node.func)
                assert tokenizer or any(word.arg == "use_safetensors" for word in node.keywords), where


def all_imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports; of `from torch import load`, torch.load."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert "torch.load" not in found, f"{name_of(path)} imports torch.load"
    return found


def test_every_file_says_what_it_is_for() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name_of(path)} has no docstring"
        assert path.name not in {"utils.py", "helpers.py", "common.py", "misc.py"}


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)], ids=lambda words: " ".join(words))
def test_help_answers_at_once(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from metanmt.cli import main\n"
        "try:\n"
        "    code = main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    code = stop.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'help imported {heavy}' if heavy else code)\n"
    )
    command = [sys.executable, "-c", program, *arguments, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()


def test_every_package_is_shipped() -> None:
    """An installed metanmt has the same packages, configurations and collections as this folder."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent for kind in ("__init__.py", "*.toml") for path in PACKAGE.rglob(kind)}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(settings["packages"]) == found | set(settings["package-dir"])
    assert settings["package-dir"] == {"metanmt.corpora": "corpora"}
