"""A loop that frees and takes the same memory again and again soon has all its pages."""

import subprocess
import sys

import pytest

from splitcom_dist.heap import keep_freed_memory

LOOP = """
import resource, sys
import torch
from splitcom_dist.heap import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def step():
    kept = [torch.ones(size) for size in (1_000_000, 3_000_000, 20_000_000)]  # 4, 12 and 80 MB

for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", LOOP, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_freed_memory_is_there_for_the_next_step() -> None:
    if not keep_freed_memory():
        pytest.skip("this C library's malloc is not glibc's")
    assert faults("keep") < 0.2 * faults("leave"), "until it has found its places, the heap may grow"
