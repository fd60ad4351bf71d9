"""What a data folder is made from, as one digest: equal when preparing it again would change nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metanmt.data.manifest import Manifest
from metanmt.data.pretrained_tokenizer import FACTS_FILE
from metanmt.data.sources import Source
from metanmt.data.store import FORMAT
from metanmt.data.tokenizer import load_tokenizer

MADE_BY = 2  # since then targets are cut as they are written
PACKAGES = ("metanmt", "sentencepiece", "tokenizers", "transformers", "numpy")


def fingerprint(manifest: Manifest) -> str:
    """Return the SHA-256 over the manifest with its paths resolved, the versions, and every source.

    A local file counts by path, size and time of change in nanoseconds, not by what is in it: a file that is rewritten
    within its size and given its old time again passes for unchanged. A hub data set or a tokenizer of the hub counts
    by its name, config and split: what its owner changes behind them is not seen. The embedded corpus counts by the
    version of Babel. A change of this package that changes its output must raise `MADE_BY` or its version, and one of
    the layout `FORMAT`.
    """
    sources = [source for item in manifest.pairs for sources in item.sets.values() for source in sources]
    settings = asdict(manifest)
    if manifest.tokenizer.source_form == "written":
        del settings["tokenizer"]["source_form"]  # so that folders from before it was a choice are up to date
    packages = [*PACKAGES]
    packages += ["babel"] if any(source.kind == "embedded" for source in sources) else []
    packages += ["datasets"] if any(source.kind == "hub" for source in sources) else []
    facts = {
        "format": FORMAT,
        "made_by": MADE_BY,
        "versions": {name: version(name) for name in packages},
        "manifest": settings,
        "sources": [[_state(path) for path in _files(source)] for source in sources],
        "tokenizer": _tokenizer(manifest.tokenizer.pretrained),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=_plain).encode()).hexdigest()


def _tokenizer(name: str) -> Any:
    """Return the digest of a tokenizer of this package, whatever else is in its folder; the files of another's."""
    folder = Path(name)
    if name and (folder / FACTS_FILE).is_file():
        return load_tokenizer(folder).digest()
    return [_state(path) for path in sorted(folder.iterdir()) if path.is_file()] if name and folder.is_dir() else []


def _files(source: Source) -> list[Path]:
    return [*source.paths, *(_below(source.name) if source.kind == "hub" else [])]


def _below(name: str) -> list[Path]:
    """Return the files below a local folder, sorted; none if it is the name of something else."""
    folder = Path(name)
    return sorted(path for path in folder.rglob("*") if path.is_file()) if name and folder.is_dir() else []


def _state(path: Path) -> list[Any]:
    """Return path, size and time of change; an absent file is a state of its own, since it may be optional."""
    if not path.exists():
        return [str(path.resolve()), None, None]
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _plain(value: Any) -> Any:
    return str(value.resolve()) if isinstance(value, Path) else dict(value)
