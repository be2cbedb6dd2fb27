import gzip
import json
import math
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from splitcom_dist.errors import UserError
from splitcom_dist.metrics import meteor
from splitcom_dist.metrics.nlg import score
from splitcom_dist.metrics.overlap import cider, nist, rouge_l
from splitcom_dist.metrics.words import coco_words, mteval_words

pytest.importorskip("sacrebleu", reason="generation metrics are an extra")
pytest.importorskip("nltk", reason="generation metrics are an extra")

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SYSTEMS = DATA / "e2e_metrics_check" / "ukp_dev_outputs.jsonl.gz"
REFERENCES = DATA / "e2e_raw" / "valid_refs.jsonl.gz"


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "jar_command", lambda: None)


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _words(*sentences: str) -> list[tuple[str, ...]]:
    return [tuple(sentence.split()) for sentence in sentences]


@pytest.mark.skipif(not (SYSTEMS.is_file() and REFERENCES.is_file()), reason=f"needs {SYSTEMS} and {REFERENCES}")
def test_ten_systems_get_the_figures_of_the_official_script(no_java: None) -> None:
    references = [row["references"] for row in _rows(REFERENCES)]
    systems = _rows(SYSTEMS)
    assert len(systems) == 10
    for system in systems:
        scores = score(system["outputs"], references)
        ours = (scores.bleu / 100, scores.nist, scores.rouge_l, scores.cider)
        official = (system["bleu"], system["nist"], system["rouge_l"], system["cider"])
        assert ours == pytest.approx(official, rel=0, abs=6e-5), system["system"]  # they are printed to four decimals
        assert scores.meteor is not None and 0.015 < system["meteor"] - scores.meteor < 0.021


def test_bleu_clips_repeated_words_and_takes_the_closest_length(no_java: None) -> None:
    # n-grams of the output found in a reference: "d" counts once, so 4/5, 3/4, 2/3, 1/2, whose product is 1/5.
    # The closest reference has 6 words for the output's 5: brevity exp(1 - 6/5).
    scores = score(["A b c d d"], [["a b c d e f", "a b c d e f g h"]])
    assert scores.bleu == pytest.approx(100 * math.exp(-0.2) * 0.2**0.25)


def test_bleu_takes_different_numbers_of_references(no_java: None) -> None:
    # First source: all 4 words, 3 pairs, 2 triples, 1 quadruple in its second reference. Second source, one
    # reference: 4 of 5 words, 3 of 4, 2 of 3, 1 of 2. Together 8/9, 6/7, 4/5, 2/3; 9 words against 4 + 5.
    scores = score(["a b c d", "e f g h z"], [["x", "a b c d"], ["e f g h i"]])
    assert scores.bleu == pytest.approx(100 * (8 / 9 * 6 / 7 * 4 / 5 * 2 / 3) ** 0.25)


def test_nist_weighs_by_information_over_all_references() -> None:
    # Reference words: a b a d c d, six: a 2, b 1, c 1, d 2. Bits: a log2(6/2), b and c log2(6/1).
    # Words shared: a, b and a, c (from different references): 2 log2(3) + 2 log2(6) over 4 places = log2(18) / 2.
    # Pairs shared: "a b", once after 2 a: log2(2/1) = 1 over 2 places. Longer: no places. Lengths equal: no penalty.
    figure = nist(_words("a b", "a c"), [_words("a b"), _words("a d", "c d")])
    assert figure == pytest.approx(math.log2(18) / 2 + 1 / 2)


def test_nist_halves_at_two_thirds_of_the_mean_reference_length() -> None:
    # a and b carry log2(3) bits each: mean log2(3). "a b" after one a: log2(1/1) = 0. Two words for three: one half.
    assert nist(_words("a b"), [_words("a b c")]) == pytest.approx(math.log2(3) / 2)


def test_nist_counts_a_repeated_word_as_often_as_one_reference_has_it() -> None:
    # a carries log2(2/1) = 1 bit and counts once over two places; "a a" is in no reference.
    assert nist(_words("a a"), [_words("a b")]) == pytest.approx(0.5)


def test_rouge_l_takes_best_precision_and_best_recall_apart() -> None:
    # With "a b" 2 in common: precision 2/4, recall 2/2. With "a x c y d z" 3: precision 3/4, recall 3/6.
    figure = rouge_l(_words("a b c d"), [_words("a b", "a x c y d z")])
    assert figure == pytest.approx((1 + 1.44) * 0.75 * 1.0 / (1.0 + 1.44 * 0.75))


def test_rouge_l_keeps_the_order() -> None:
    # "a c" is the longest common subsequence of "a b c" and "b a c" (or "b c"): 2 of 3 both ways, so F = 2/3; no
    # word of the second: 0. The third has one "a" for four: precision 1, recall 1/4.
    figure = rouge_l(_words("a b c", "q", "a"), [_words("b a c"), _words("r"), _words("a a a a")])
    assert figure == pytest.approx((2 / 3 + 0 + 2.44 * 0.25 / (0.25 + 1.44)) / 3)


def test_cider_is_ten_times_the_mean_cosine_of_rare_ngrams() -> None:
    # All n-grams occur for one source of two, so all weigh log 2. Cosines for n = 1, 2, 3, 4:
    # "a b" with "a b": 1, 1, 0, 0; with "a c": 1/2, 0, 0, 0; mean over 4 orders and 2 references: 2.5 / 8.
    # "x y" with "x z": 1/2, 0, 0, 0: 0.5 / 4. Mean of both, times 10.
    figure = cider(_words("a b", "x y"), [_words("a b", "a c"), _words("x z")])
    assert figure == pytest.approx(10 * (2.5 / 8 + 0.5 / 4) / 2)


def test_cider_clips_repetition_and_discounts_length() -> None:
    # "a a a" with "a": min(3, 1) * 1 over the norms 3 * 1 = 1/3, and two pairs more: exp(-2^2 / (2 * 6^2)).
    figure = cider(_words("a a a", "q"), [_words("a"), _words("q")])
    assert figure == pytest.approx(10 * (math.exp(-4 / 72) / 3 / 4 + 1 / 4) / 2)


def test_cider_gives_nothing_for_words_of_every_source() -> None:
    assert cider(_words("the", "the"), [_words("the"), _words("the")]) == 0.0


def test_stem_meteor_matches_stems_and_holds_chunks_against_the_output() -> None:
    # the, cats ~ cat, sat: precision 3/3, recall 3/4; harmonic mean with alpha 0.85: 0.75 / (0.85 + 0.15 * 0.75).
    # One chunk of three matches: 1 - 0.6 * (1/3)^0.2. The other reference shares nothing.
    figure = meteor.stem_meteor(_words("the cats sat"), [_words("dogs bark", "the cat sat here")])
    assert figure == pytest.approx((1 - 0.6 * (1 / 3) ** 0.2) * 0.75 / (0.85 + 0.15 * 0.75))


JAR = """
    import sys
    for line in sys.stdin:
        command, *fields = [field.strip() for field in line.split("|||")]
        if command == "SCORE":  # references, then the output
            print(len(fields) - 1 + 10 * len(fields[-1].split()), flush=True)
        else:
            print(*fields, sum(map(int, fields)), sep="\\n", flush=True)
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    processes: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        processes.append(real(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return processes


def _command(program: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(program)]


def test_the_jar_is_given_all_references_and_its_last_figure_is_the_corpus(
    monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[str]]
) -> None:
    monkeypatch.setattr(meteor, "jar_command", lambda: _command(JAR))
    # 2 references and an output of 3 words: 32; 1 and an empty one: 1.
    assert meteor.meteor(_words("a b c", ""), [_words("a", "b"), _words("a")]) == (33.0, "1.5 (Java)")
    assert len(started) == 1 and started[0].returncode is not None


@pytest.mark.parametrize(
    "program", ["raise SystemExit", "print('Error: memory', flush=True)\nimport sys; sys.stdin.read()"]
)
def test_a_jar_that_fails_gives_no_figure(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "jar_command", lambda: _command(program))
    figure, variant = meteor.meteor(_words("a"), [_words("a")])
    assert figure is None and variant.startswith("none: ")


def test_a_jar_that_hangs_is_ended_and_reaped(started: list[subprocess.Popen[str]]) -> None:
    assert meteor.jar_meteor(_words("a"), [_words("a")], _command("import time; time.sleep(200)"), timeout=0.5) is None
    assert started[0].returncode == -signal.SIGKILL  # known only once it has been waited for


def test_perfect_outputs_get_the_best_scores(no_java: None) -> None:
    texts = ["The Eagle is a cheap pub near Burger King.", "Aromi serves Italian food, but not to families."]
    scores = score(texts, [["Something else entirely.", texts[0]], [texts[1]]])
    assert scores.bleu == pytest.approx(100)
    assert scores.rouge_l == pytest.approx(1)
    assert score(texts, [[text] for text in texts]).cider == pytest.approx(10)
    worse = score([texts[0], "Aromi serves food."], [[text] for text in texts])
    assert worse.nist < scores.nist and worse.meteor is not None and scores.meteor is not None
    assert worse.meteor < scores.meteor and scores.meteor_variant == "exact+stem (nltk)"


def test_empty_outputs_count_as_nothing_right(no_java: None) -> None:
    scores = score(["", "  "], [["A pub."], ["A cheap pub.", ""]])
    assert (scores.bleu, scores.nist, scores.meteor, scores.rouge_l, scores.cider) == (0, 0, 0, 0, 0)
    half = score(["", "a cheap pub by the river"], [["A pub."], ["A cheap pub by the river"]])
    assert half.rouge_l == pytest.approx(0.5) and 0 < half.bleu < 100


@pytest.mark.parametrize(
    ("outputs", "references", "message"),
    [
        (["a", "b"], [["a"]], "2 outputs but references for 1"),
        ([], [], "no outputs"),
        (["a"], [[]], r"references\[0\] is empty"),
        (["a"], ["a"], r"references\[0\] is one text"),
    ],
)
def test_lists_that_do_not_fit_are_refused(outputs: list[str], references: Sequence[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        score(outputs, references)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["sacrebleu.metrics", "nltk.translate.meteor_score"])
def test_a_missing_library_is_named_with_its_extra(
    missing: str, no_java: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf'{missing.partition(".")[0]}: pip install "splitcom-dist\[metrics\]"$'):
        score(["a"], [["a reference no other test has"]])


def test_mteval_words_cut_punctuation_but_not_numbers() -> None:
    text = "Kids-friendly: £20.50, in 5-star (or 1,000) &quot;pubs&quot;."
    assert " ".join(mteval_words(text)) == 'kids-friendly : £20.50 , in 5 - star ( or 1,000 ) " pubs " .'


@pytest.mark.parametrize(
    ("text", "words"),  # as printed by Stanford's PTBTokenizer 3.4.1, less coco-caption's punctuation
    [
        ("It isn't, they'll say; I\u2019d, can't, cannot.", "it is n't they 'll say i 'd ca n't can not"),
        (
            "The Dogs' bar and Zizzi's 'Eagle' serve hors d'oeuvres",
            "the dogs bar and zizzi 's eagle serve hors d'oeuvres",
        ),
        ("A 5-star, family-friendly -- so-so - café-style pub", "a 5-star family-friendly so-so café-style pub"),
        ("£20-25, £20-£25, 20£-25, 20 -25 or £20--25.", "# 20-25 # 20 # 25 20 # -25 20 -25 or # 20 25"),
        ("It (the pub) [is] {nice}.", "it -lrb- the pub -rrb- -lsb- is -rsb- -lcb- nice -rcb-"),
        ("$5.50, €30 & 5% 3/5 .6 30+", "$ 5.50 $ 30 & 5 % 3/5 .6 30 +"),
        ("Near St. John's, Chesterton Rd. at 5 p.m. etc.", "near st. john 's chesterton rd. at 5 p.m. etc."),
        ("in the city center., rated low.It's 5and 20gbp", "in the city center. rated low.it 's 5and 20gbp"),
        ("What?! No... really? Yes!", "what ?! no really yes"),
        ("Fast food,low-priced", "fast food,low-priced"),
        ("", ""),
    ],
)
def test_coco_words_are_those_of_the_stanford_tokenizer(text: str, words: str) -> None:
    assert " ".join(coco_words(text)) == words
