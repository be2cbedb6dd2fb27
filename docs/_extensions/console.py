"""The console blocks of a page: run them in order, compare what they print with what the page shows, or write it there.

    python docs/_extensions/console.py docs/tutorial.md     # runs all commands here, and rewrites their outputs

A command begins with `$ ` and goes on in lines that begin with `> `; what follows is its output, whole.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
# What differs from run to run and from machine to machine: times, speeds, and memory, which ends the line of a rank.
TIME = rf"(?:{NUMBER.pattern} (?:h|min) )*{NUMBER.pattern}(?= (?:h|min|s|ms|tokens/s)\b)|[\d:]+(?= ago)"
VOLATILE = re.compile(rf"{TIME}|(?<= ){NUMBER.pattern}(?= [MG]B$)")
TOLERANCE = 0.2  # of other numbers: another processor rounds differently, and a gate then opens at another sample


@dataclass
class Command:
    text: str
    output: str = ""
    source: str = field(default="", repr=False)  # its lines on the page


def commands(page: str) -> Iterator[Command]:
    """Of all console blocks, in order."""
    for block in BLOCK.finditer(page):
        yield from _commands(block[1])


def run(command: Command, folder: Path, environment: Mapping[str, str], seconds: float) -> str:
    """What it prints, standard error included, without blanks at the ends of lines; `…` stands for the folder.

    Raises RuntimeError if it fails.
    """
    done = subprocess.run(
        ["bash", "-c", command.text],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    if done.returncode:
        raise RuntimeError(f"$ {command.text}\nended with {done.returncode}:\n{done.stdout}")
    printed = done.stdout.replace(str(folder), "…")
    return "\n".join(line.rstrip() for line in printed.splitlines()).strip("\n")


def difference(shown: str, printed: str) -> str:
    """Why the two are not the same output; empty if they are. Words must agree, numbers within the tolerance."""
    pages, prints = ([_stable(line) for line in text.splitlines() if line.strip()] for text in (shown, printed))
    for page, line in zip(pages, prints, strict=False):
        if NUMBER.sub("#", page) != NUMBER.sub("#", line):
            return f"the page shows\n  {page}\nbut printed was\n  {line}"
        for old, new in zip(_numbers(page), _numbers(line), strict=True):
            if abs(old - new) > TOLERANCE * max(abs(old), abs(new)) + 1:
                return f"{old:g} on the page is {new:g} now:\n  {line}"
    return "" if len(pages) == len(prints) else f"the page shows {len(pages)} lines, printed were {len(prints)}"


def rewrite(page: str, outputs: Iterator[str]) -> str:
    """The page with these outputs in the place of its own."""

    def block(match: re.Match[str]) -> str:
        parts = [f"{command.source}\n{output}".rstrip("\n") for command, output in zip(_commands(match[1]), outputs)]  # noqa: B905
        return "```console\n" + "\n".join(parts) + "\n```"

    return BLOCK.sub(block, page)


def _commands(block: str) -> list[Command]:
    found: list[Command] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], source=line))
        elif line.startswith(">") and not found[-1].output:
            found[-1].text += "\n" + line[2:]
            found[-1].source += "\n" + line
        else:
            found[-1].output += line + "\n"
    return found


def _stable(line: str) -> str:
    return " ".join(VOLATILE.sub("?", re.sub(r"\s+", " ", line)).split())


def _numbers(line: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(line)]


if __name__ == "__main__":
    import os

    path = Path(sys.argv[1])
    text = path.read_text()
    told = []
    for each in commands(text):
        print("$", each.text, flush=True)
        told.append(run(each, Path.cwd(), os.environ, 600))
        print(told[-1], flush=True)
    path.write_text(rewrite(text, iter(told)))
