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
