"""The page in a real browser: no error, no overflow on a phone, and sorting by a few lines of script."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: apt-get install chromium")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
FRAME = """<!DOCTYPE html><title>waiting</title>
<script>addEventListener("message", (event) => {{ document.title = event.data; }});</script>
<iframe src="{name}" style="border:0;width:{width}px;height:2000px"></iframe>"""
MEASURE = """<script>
document.querySelectorAll("details").forEach((item) => { item.open = true; });
const root = document.documentElement;
parent.postMessage(`${root.clientWidth} ${root.scrollWidth} ${document.body.scrollWidth}`, "*");
</script>"""
SORT = """<script>
const select = document.querySelector(".tools select");
select.value = "s2 up";
select.dispatchEvent(new Event("change"));
const list = document.getElementById(select.closest(".tools").dataset.list);
document.title = [...list.children].map((item) => item.dataset.s2).join(" ");
</script>"""


PRINT = """<script>
const open = () => document.querySelectorAll("details[open]").length;
const before = open();
dispatchEvent(new Event("beforeprint"));
const printed = open();
dispatchEvent(new Event("afterprint"));
document.title = `${before} ${printed} ${open()} ${document.querySelectorAll("details").length}`;
</script>"""


def browse(path: Path, tmp_path: Path) -> tuple[str, str]:
    """Return the document as the browser has it, and what its console said."""
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=3000",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.split("\n") if "CONSOLE" in line)


def title(document: str) -> str:
    found = re.search(r"<title>([^<]*)</title>", document)
    assert found
    return found[1]


def test_it_opens_without_a_word_on_the_console(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    document, console = browse(path, tmp_path)
    assert console == ""
    assert document.count("<table") == page.count("<table")
    assert '<div class="tools" data-list="c1-fi-en">' in document  # shown by the script, which its policy lets run


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_overflows_sideways(page: str, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(
        POLICY.sub("", page).replace("</body>", f"{MEASURE}</body>"), encoding="utf-8"
    )
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(name="report.html", width=width), encoding="utf-8")
    document, _ = browse(frame, tmp_path)
    visible, wide, body = map(int, title(document).split())
    assert visible <= width
    assert wide <= visible
    assert body <= visible


def test_sentences_are_sorted_by_an_arms_score(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(POLICY.sub("", page).replace("</body>", f"{SORT}</body>"), encoding="utf-8")
    scores = [float(score) for score in title(browse(path, tmp_path)[0]).split()]
    assert len(scores) == 60
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


def test_nothing_stays_closed_on_paper(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(POLICY.sub("", page).replace("</body>", f"{PRINT}</body>"), encoding="utf-8")
    before, printed, after, all_of_them = map(int, title(browse(path, tmp_path)[0]).split())
    assert before == after == 1
    assert printed == all_of_them > 1
