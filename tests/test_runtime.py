"""The machine: memory that is freed stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEP = """
import torch
{first}
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
held = [torch.ones(2_000_000) for _ in range(10)]  # 80 MB
del held
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", STEP.format(first=first)], capture_output=True, check=True).stdout)
        for first in ("from metanmt.runtime import keep_freed_memory; keep_freed_memory()", "")
    )
    assert returned < 40e6 < kept


def test_as_many_files_as_may_be_open_can_be() -> None:
    """Of a hundred languages there are more than the usual limit allows."""
    program = (
        "import resource, sys\n"
        "from metanmt.cli import main\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))\n"
        "main(['report', 'nowhere'])\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 65_536))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
