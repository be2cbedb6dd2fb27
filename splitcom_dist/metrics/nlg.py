"""Generation metrics of a corpus against several references: the five figures of the E2E NLG challenge.

The yardstick is that challenge's script (github.com/tuetschek/e2e-metrics). For the outputs of ten systems on its
development set BLEU, NIST, ROUGE-L and CIDEr equal the published figures in all four decimals, without Java.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from splitcom_dist.errors import UserError
from splitcom_dist.metrics.extra import library
from splitcom_dist.metrics.meteor import meteor
from splitcom_dist.metrics.overlap import cider, nist, rouge_l
from splitcom_dist.metrics.words import coco_words, mteval_words


@dataclass(frozen=True)
class Scores:
    bleu: float  # percent, 0..100
    nist: float  # bits
    meteor: float | None  # 0..1; None where its process gave no figure
    rouge_l: float  # 0..1
    cider: float  # 0..10
    meteor_variant: str  # which METEOR; the variants do not compare with each other


def score(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """All metrics; `references[i]` holds the reference texts of `outputs[i]`, as many as there are.

    Raises UserError where lengths differ, where there is nothing to compare, or where a library is missing.
    """
    if len(outputs) != len(references):
        raise UserError(f"{len(outputs)} outputs but references for {len(references)}: give one list for each output")
    if not outputs:
        raise UserError("no outputs to score")
    for place, several in enumerate(references):
        if isinstance(several, str):
            raise UserError(f"references[{place}] is one text: give a list of texts for each output")
        if not several:
            raise UserError(f"references[{place}] is empty: every output needs a reference")
    mteval_references = [[mteval_words(text) for text in several] for several in references]
    coco_outputs = [coco_words(text) for text in outputs]
    coco_references = [[coco_words(text) for text in several] for several in references]
    figure, variant = meteor(coco_outputs, coco_references)
    return Scores(
        bleu=_bleu(outputs, references),
        nist=nist([mteval_words(text) for text in outputs], mteval_references),
        meteor=figure,
        rouge_l=rouge_l(coco_outputs, coco_references),
        cider=cider(coco_outputs, coco_references),
        meteor_variant=variant,
    )


def _bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return float(_bleu_against(tuple(map(tuple, references))).corpus_score(list(outputs), None).score)


@lru_cache(maxsize=2)  # the references are cut and counted once
def _bleu_against(references: tuple[tuple[str, ...], ...]) -> Any:
    """sacrebleu's corpus BLEU on mteval-13a words in lower case, unsmoothed, closest reference length."""
    most = max(map(len, references))
    streams = [[several[rank] if rank < len(several) else None for several in references] for rank in range(most)]
    options = {"lowercase": True, "tokenize": "13a", "smooth_method": "none", "force": True}  # force: no advice
    return library("sacrebleu.metrics").BLEU(**options, references=streams)
