"""Names that are no folder: whether the hub is asked for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import safetensors_conversion

from metanmt.data import hub
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.errors import CheckpointError
from metanmt.nmt.folder import checkpoint_folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*address: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub, "getaddrinfo", unknown)
    hub._say_once.cache_clear()
    hub.fetched.cache_clear()


def test_without_a_network_nothing_is_asked_for(no_network: None, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not there is said at once, instead of after retries for most of a minute."""
    with pytest.raises(CheckpointError, match="There is no folder nothere here"):
        PretrainedTokenizer("nothere", {})
    assert "no network: it is sought among what was fetched before" in capsys.readouterr().err
    assert constants.HF_HUB_OFFLINE


def in_the_cache(cache: Path, **snapshots: list[str]) -> Path:
    """Make the folders of a repository that was fetched before: snapshots, the first of them main, and their files."""
    repository = cache / "models--acme--mt"
    for name, files in snapshots.items():
        (repository / "snapshots" / name).mkdir(parents=True)
        for file in files:
            (repository / "snapshots" / name / file).write_text("{}", encoding="utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(next(iter(snapshots)), encoding="utf-8")
    return repository / "snapshots"


def test_what_was_fetched_before_is_found_without_a_network(
    no_network: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshots = in_the_cache(tmp_path / "cache", old=["config.json", "model.safetensors"])
    assert checkpoint_folder(Path("acme/mt")) == snapshots / "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]


def test_of_weights_that_would_be_unpickled_the_converted_copy_is_taken(
    no_network: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    files = ["config.json", "pytorch_model.bin"]
    snapshots = in_the_cache(tmp_path / "cache", main=files, converted=[*files, "model.safetensors"])
    assert hub.fetched("acme/mt") == snapshots / "converted"
    (snapshots / "converted" / "model.safetensors").unlink()
    hub.fetched.cache_clear()
    asked = []

    def converter(api: object, name: str) -> str:
        asked.append(name)
        (snapshots.parent / "refs" / "refs" / "pr").mkdir(parents=True)
        (snapshots.parent / "refs" / "refs" / "pr" / "7").write_text("converted", encoding="utf-8")
        return "refs/pr/7"

    monkeypatch.setattr(safetensors_conversion, "get_conversion_pr_reference", converter)
    assert hub.fetched("acme/mt") == snapshots / "converted"
    assert asked == ["acme/mt"]


def test_a_folder_beside_others_is_no_name_on_the_hub(no_network: None, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(CheckpointError, match="There is no folder runs/one"):
        checkpoint_folder(Path("runs/one"))


def test_a_proxy_may_know_the_way(
    no_network: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    hub.look_up("nothere")
    assert "it is looked up on the hub" in capsys.readouterr().err
    assert not constants.HF_HUB_OFFLINE
