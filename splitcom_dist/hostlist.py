"""Slurm's compressed lists of hosts: `node[01-03,7],gpu-a[1-2]-x`."""

import re
from collections.abc import Iterator
from itertools import product

ENTRY = re.compile(r"(?:[^\[\],]|\[[^\[\]]+\])+")  # up to a comma outside of brackets
RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expand(hostlist: str) -> Iterator[str]:
    """Every host, in the order of the list. Raises ValueError for a list that Slurm would not write."""
    position = 0
    while entry := ENTRY.match(hostlist, position):
        yield from _hosts(entry.group())
        position = entry.end()
        if position == len(hostlist):
            return
        if hostlist[position] != ",":
            break
        position += 1
    raise ValueError(f"{hostlist!r} is not a list of hosts, near character {position + 1}")


def _hosts(entry: str) -> Iterator[str]:
    parts = re.split(r"\[([^\]]+)\]", entry)  # literal, ranges, literal, ranges, ..., literal
    literals, ranges = parts[::2], [list(_numbers(part)) for part in parts[1::2]]
    for numbers in product(*ranges):
        yield literals[0] + "".join(number + literal for number, literal in zip(numbers, literals[1:], strict=True))


def _numbers(ranges: str) -> Iterator[str]:
    for text in ranges.split(","):
        match = RANGE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a range of hosts")
        first, last = match.group(1), match.group(2) or match.group(1)
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}d}"  # 01-03 keeps its zeros
