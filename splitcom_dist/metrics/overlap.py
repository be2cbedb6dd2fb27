"""NIST, ROUGE-L and CIDEr over cut sentences, each with several references.

Every function takes `outputs` (sentences as tuples of words) and `references` (for each output its reference
sentences) and returns one figure for the corpus. They repeat the arithmetic of the E2E challenge's script
(github.com/tuetschek/e2e-metrics): pymteval for NIST, coco-caption for the other two.
What is counted in references is kept for the next outputs scored against them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, reduce
from operator import or_

Words = tuple[str, ...]
References = Sequence[Sequence[Words]]


def _ngrams(words: Words, longest: int) -> Counter[Words]:
    return Counter(words[i : i + length] for length in range(1, longest + 1) for i in range(len(words) - length + 1))


def nist(outputs: Sequence[Words], references: References, longest: int = 5) -> float:
    """NIST (Doddington 2002): mean information, in bits, of the n-grams shared with any reference, times brevity.

    An n-gram's information is log2(count of its first n-1 words / its count) over all references.
    The penalty is 1/2 where the outputs have 2/3 of the mean reference length.
    """
    counts, most = _counted(tuple(map(tuple, references)), longest)
    information = [0.0] * (longest + 1)
    for output, allowed in zip(outputs, most, strict=True):
        for ngram, times in _ngrams(output, longest).items():
            if hits := min(times, allowed[ngram]):
                information[len(ngram)] += hits * math.log2(counts[ngram[:-1]] / counts[ngram])
    # pymteval counts a negative number of n-grams in an output shorter than n - 1 words, and so does this
    places = [sum(len(output) - length + 1 for output in outputs) for length in range(longest + 1)]
    total = sum(information[length] / places[length] for length in range(1, longest + 1) if places[length] > 0)
    mean_length = sum(sum(map(len, several)) / len(several) for several in references)
    shortness = min(places[1] / mean_length, 1.0) if mean_length else 1.0
    return total * math.exp(math.log(0.5) * (math.log(shortness) / math.log(1.5)) ** 2) if total else 0.0


@lru_cache(maxsize=2)
def _counted(references: tuple[tuple[Words, ...], ...], longest: int) -> tuple[Counter[Words], list[Counter[Words]]]:
    """Counts over all references, that of () being the number of words; and each source's most in one reference."""
    counts: Counter[Words] = Counter()
    most = []
    for several in references:
        each = [_ngrams(reference, longest) for reference in several]
        for reference, counted in zip(several, each, strict=True):
            counts.update(counted)
            counts[()] += len(reference)
        most.append(reduce(or_, each))
    return counts, most


def rouge_l(outputs: Sequence[Words], references: References, beta: float = 1.2) -> float:
    """Mean F-measure of the longest common subsequence (Lin 2004), 0..1, as coco-caption takes it.

    The best precision and the best recall may come from different references; recall weighs beta^2 times precision.
    """
    total = 0.0
    for output, several in zip(outputs, references, strict=True):
        shared = [_common_subsequence(output, reference) for reference in several]
        precision = max(shared) / max(len(output), 1)
        recall = max(length / max(len(reference), 1) for length, reference in zip(shared, several, strict=True))
        if precision and recall:
            total += (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return total / len(outputs)


def _common_subsequence(first: Words, second: Words) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = row[place]
            row[place] = diagonal + 1 if word == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]


def cider(outputs: Sequence[Words], references: References, longest: int = 4, sigma: float = 6.0) -> float:
    """CIDEr (Vedantam 2015) as coco-caption's class `Cider` computes it: ten times the mean tf-idf cosine, n = 1..4.

    That class clips the output's weights at the reference's and discounts a difference of length by a Gaussian of
    width `sigma` words. An n-gram's document frequency is the number of sources with it in any reference.
    """
    frequency, vectors = _weighed(tuple(map(tuple, references)), longest)
    total = 0.0
    for output, several in zip(outputs, vectors, strict=True):
        ours = _Vector(output, frequency, len(references), longest)
        total += sum(_similarity(ours, theirs, sigma) for theirs in several) / (longest * len(several))
    return 10 * total / len(outputs)


class _Vector:
    """The n-grams of a sentence, n = 1..`longest`, each count times log(sources / sources that have it)."""

    def __init__(self, words: Words, frequency: Counter[Words], sources: int, longest: int) -> None:
        counted = _ngrams(words, longest)
        self.weights = {ngram: times * math.log(sources / (frequency[ngram] or 1)) for ngram, times in counted.items()}
        self.squares = [0.0] * (longest + 1)  # by length of n-gram
        for ngram, weight in self.weights.items():
            self.squares[len(ngram)] += weight**2
        self.bigrams = max(len(words) - 1, 0)  # the class measures length so


@lru_cache(maxsize=2)
def _weighed(references: tuple[tuple[Words, ...], ...], longest: int) -> tuple[Counter[Words], list[list[_Vector]]]:
    frequency = Counter(
        ngram for several in references for ngram in {ngram for words in several for ngram in _ngrams(words, longest)}
    )
    sources = len(references)
    return frequency, [[_Vector(words, frequency, sources, longest) for words in several] for several in references]


def _similarity(ours: _Vector, theirs: _Vector, sigma: float) -> float:
    """The sum over n of the clipped cosines, discounted for the difference of length."""
    products = [0.0] * len(ours.squares)
    for ngram, weight in ours.weights.items():
        other = theirs.weights.get(ngram, 0.0)
        products[len(ngram)] += min(weight, other) * other
    norms = [math.sqrt(mine * other) for mine, other in zip(ours.squares, theirs.squares, strict=True)]
    cosines = sum(product / norm for product, norm in zip(products, norms, strict=True) if norm)
    return cosines * math.exp(-((ours.bigrams - theirs.bigrams) ** 2) / (2 * sigma**2))
