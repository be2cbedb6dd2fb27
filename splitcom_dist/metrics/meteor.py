"""METEOR, 0..1, over words cut as coco-caption cuts them: the 1.5 jar where it is installed, nltk's otherwise.

Against the METEOR printed by the E2E challenge's script for ten systems on its development set (0.474 to 0.489):
the jar on our own words differs by less than 0.00005, the rounding of the printed figures; nltk's, with the weights
of METEOR 1.5, is lower by 0.015 to 0.021 and ranks the systems almost alike (Spearman 0.96). With nltk's own weights
it would be higher by 0.35 and rank them worse (0.70).
"""

import importlib.util
import shutil
import subprocess
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

from splitcom_dist.metrics.extra import library
from splitcom_dist.metrics.overlap import References, Words

JAR = "1.5 (Java)"
STEMS = "exact+stem (nltk)"


def meteor(outputs: Sequence[Words], references: References) -> tuple[float | None, str]:
    """The figure and which METEOR it is; no figure, and the reason, where the jar is there but gives none."""
    command = jar_command()
    if command is None:
        return stem_meteor(outputs, references), STEMS
    figure = jar_meteor(outputs, references, command)
    return figure, JAR if figure is not None else f"none: {JAR} ended early or ran out of time"


def jar_command() -> list[str] | None:
    """How to start METEOR 1.5 as coco-caption does; None without Java or the package pycocoevalcap (extra `coco`)."""
    java, package = shutil.which("java"), importlib.util.find_spec("pycocoevalcap")
    if java is None or package is None or not package.submodule_search_locations:
        return None
    jar = Path(package.submodule_search_locations[0]) / "meteor" / "meteor-1.5.jar"
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    return [java, "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(jar), *options] if jar.is_file() else None


def jar_meteor(
    outputs: Sequence[Words], references: References, command: Sequence[str], timeout: float = 300.0
) -> float | None:
    """Corpus METEOR from one run of the jar, killed after `timeout` seconds; None where it ends early.

    The jar answers a SCORE line by one line of counts, and an EVAL line, which holds all counts, by one figure for
    every output and a last one for the corpus.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )
    deadline = threading.Timer(timeout, process.kill)
    deadline.start()
    try:
        assert process.stdin is not None and process.stdout is not None
        return _converse(process.stdin, process.stdout, outputs, references)
    except (OSError, ValueError):  # the process is gone, or wrote something other than figures
        return None
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()


def _converse(to: IO[str], answers: IO[str], outputs: Sequence[Words], references: References) -> float:
    counts = []
    for output, several in zip(outputs, references, strict=True):
        sentences = [" ".join(words) for words in (*several, output)]
        print("SCORE", *sentences, sep=" ||| ", file=to, flush=True)
        counts.append(answers.readline().strip())
        if not counts[-1] or counts[-1].startswith("Error"):
            raise ValueError(counts[-1])
    print("EVAL", *counts, sep=" ||| ", file=to, flush=True)
    return [float(answers.readline()) for _ in range(len(outputs) + 1)][-1]


class _NoSynonyms:
    """Stands in for WordNet, which would have to be downloaded."""

    def synsets(self, word: str) -> tuple[()]:
        return ()


ENGLISH = {"alpha": 0.85, "beta": 0.2, "gamma": 0.6}  # METEOR 1.5's for ranking (Denkowski and Lavie 2014, table 3)


def stem_meteor(outputs: Sequence[Words], references: References) -> float:
    """Mean over the outputs of nltk's METEOR with the best reference: equal words and equal Porter stems only.

    It has the weights of METEOR 1.5, but no synonyms, no paraphrases and no lower weight for function words; an
    output equal to its reference stays below 1, since its one chunk is still held against it.
    """
    nltk_meteor = library("nltk.translate.meteor_score")
    options = {"preprocess": str, "stemmer": _stemmer(), "wordnet": _NoSynonyms(), **ENGLISH}
    pairs = zip(outputs, references, strict=True)
    return float(sum(nltk_meteor.meteor_score(several, output, **options) for output, several in pairs)) / len(outputs)


class _Stemmer:
    """nltk's Porter stemmer, with each word stemmed once."""

    def __init__(self) -> None:
        self.stem = lru_cache(maxsize=1 << 16)(library("nltk.stem.porter").PorterStemmer().stem)


@lru_cache(maxsize=1)
def _stemmer() -> _Stemmer:
    return _Stemmer()
