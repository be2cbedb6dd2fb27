"""Client and server give the same keys, by one definition: equal exactly where samples have the same prefix."""

import itertools
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom_dist.codec.manifest import NO_PARENT, PATH_FOLLOWS, max_manifest_bytes, pack_manifest, parse_manifest
from splitcom_dist.codec.prefix import KeyBook, News, PrefixTree, first_occurrence
from splitcom_dist.errors import UserError, WireError
from splitcom_dist.state import State

# Two letters and short texts: most prefixes are shared, some texts are equal, some are the beginning of another.
TEXTS = st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=7), min_size=1, max_size=9)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[np.ndarray], list[list[int]]]:
    """Texts, and batches of distinct samples in any order; an empty batch means that the server loses its book."""
    texts = [np.array(text, np.int32) for text in draw(TEXTS)]
    batch = st.lists(st.integers(0, len(texts) - 1), max_size=4, unique=True)
    return texts, draw(st.lists(batch, min_size=1, max_size=10))


def tell(tree: PrefixTree, book: KeyBook, texts: list[np.ndarray], batch: list[int]) -> list[np.ndarray]:
    """One batch through the wire: the client's paths, once the server's are found to be the same."""
    paths = tree.paths(batch, [texts[sample] for sample in batch])
    manifest = pack_manifest(batch, [len(path) for path in paths], tree.news())
    assert manifest.nbytes <= max_manifest_bytes(len(batch))
    samples, lengths, news = parse_manifest(manifest.tobytes(), len(batch))
    assert samples == batch
    for path, learnt in zip(paths, book.paths(samples, lengths, news), strict=True):
        assert path.dtype == learnt.dtype == np.int64
        assert np.array_equal(path, learnt)
    return paths


def through_a_file(state: State) -> State:
    return safetensors.torch.load(safetensors.torch.save(dict(state)))


@settings(max_examples=300)
@pytest.mark.parametrize("sharing", [True, False])
@given(history=histories())
def test_keys_are_equal_exactly_where_prefixes_are(
    sharing: bool, history: tuple[list[np.ndarray], list[list[int]]]
) -> None:
    texts, batches = history
    tree, book = PrefixTree(sharing), KeyBook()
    prefix_of: dict[int, tuple[int, ...]] = {}
    path_of: dict[int, np.ndarray] = {}
    for batch in batches:
        if not batch:
            tree.clear()
            book.clear()
            prefix_of, path_of = {}, {}
        for sample, path in zip(batch, tell(tree, book, texts, batch), strict=True):
            assert len(path) == len(texts[sample]) - 1
            assert np.array_equal(path_of.setdefault(sample, path.copy()), path), "a sample keeps its keys"
            for position, key in enumerate(path.tolist()):
                owner = () if sharing else (sample, -1)
                prefix = (*owner, *texts[sample][: position + 1].tolist())
                assert prefix_of.setdefault(key, prefix) == prefix
        assert len(set(prefix_of.values())) == len(prefix_of), "a prefix has one key"
        assert sorted(prefix_of) == list(range(len(prefix_of))), "keys are consecutive"
        assert book.samples == sorted(path_of)
    for sample in range(len(texts)):
        assert book.knows(sample) == (sample in path_of)
        if sample in path_of:
            assert np.array_equal(book.path(sample), path_of[sample])


@settings(max_examples=100)
@pytest.mark.parametrize("sharing", [True, False])
@given(history=histories(), cut=st.integers(0, 10))
def test_resumed_ends_assign_what_uninterrupted_ones_would(
    sharing: bool, history: tuple[list[np.ndarray], list[list[int]]], cut: int
) -> None:
    texts, batches = history
    tree, book = PrefixTree(sharing), KeyBook()
    for batch in batches[:cut]:
        tell(tree, book, texts, batch)
    resumed_tree, resumed_book = PrefixTree(sharing), KeyBook()
    tell(resumed_tree, resumed_book, [np.array([5, 6, 7])], [0])  # to be forgotten
    resumed_tree.load(through_a_file(tree.state()))
    resumed_book.load(through_a_file(book.state()))
    for batch in [*batches[cut:], list(range(len(texts)))]:
        paths = tell(tree, book, texts, batch)
        resumed = tell(resumed_tree, resumed_book, texts, batch)
        assert all(np.array_equal(left, right) for left, right in zip(paths, resumed, strict=True))
    for name, tensor in tree.state().items():
        assert tensor.equal(resumed_tree.state()[name])


def test_a_checkpoint_between_keys_and_packet_still_tells_them() -> None:
    texts = [np.array(text) for text in ([1, 2, 3], [1, 2, 4], [1, 5, 6])]
    tree, book = PrefixTree(), KeyBook()
    tell(tree, book, texts, [0])
    tree.paths([1, 2], texts[1:])
    resumed = PrefixTree()
    resumed.load(tree.state())
    assert tree.news() == resumed.news() == {1: (0, 2), 2: (0, 1)}


def test_a_cleared_tree_has_nothing_to_tell_and_tells_all_anew() -> None:
    text = np.array([1, 2, 3])
    tree = PrefixTree()
    tree.paths([0, 1], [text, text])
    tree.clear()
    assert tree.news() == {}
    tree.paths([1], [text])
    assert tree.news() == {1: (None, 0)}


def test_clients_do_not_mix_and_each_has_a_counter_of_its_own() -> None:
    ends = [(PrefixTree(), KeyBook()) for _ in range(2)]
    texts = [np.array([1, 2, 3, 4]), np.array([1, 2, 5, 6])]
    for tree, book in ends:
        assert [path.tolist() for path in tell(tree, book, texts, [1, 0])] == [[0, 1, 2], [0, 1, 3]]


def test_without_sharing_the_manifest_names_no_parent() -> None:
    """What an observer of the manifest learns of the text: with sharing which prefixes are equal, without nothing."""
    texts = [np.array([1, 1, 1, 1])] * 5
    paths = {}
    for sharing in (True, False):
        tree = PrefixTree(sharing)
        paths[sharing] = tree.paths(list(range(5)), texts)
        raw = pack_manifest(list(range(5)), [3] * 5, tree.news()).tobytes()
        _, _, news = parse_manifest(raw, 5)
        assert set(news.values()) == ({(None, 0), (0, 3)} if sharing else {(None, 0)})
        assert ("tokens" in tree.state()) and (len(tree.state()["tokens"]) == (3 if sharing else 0))
    assert len(set(np.concatenate(paths[False]).tolist())) == 15
    assert np.concatenate(paths[True]).tolist() == [0, 1, 2] * 5


def test_a_tree_refuses_the_state_of_the_other_setting() -> None:
    with pytest.raises(UserError, match="prefix_sharing=False"):
        PrefixTree(sharing=False).load(PrefixTree().state())


@pytest.mark.parametrize("tokens", [[], [1], [1, 2, 3]])
def test_a_sample_needs_a_position_and_keeps_its_length(tokens: list[int]) -> None:
    tree = PrefixTree()
    tree.paths([7], [np.array([1, 2])])
    with pytest.raises(ValueError, match="sample 7 has"):
        tree.paths([3, 7], [np.array([4, 5]), np.array(tokens)])
    assert list(tree.news()) == [7], "nothing of a refused batch is added"


def test_a_path_cannot_be_changed_from_outside() -> None:
    path = PrefixTree().paths([0], [np.array([1, 2, 3])])[0]
    with pytest.raises(ValueError, match="read-only"):
        path[0] = 9


def book_of_two() -> KeyBook:
    book = KeyBook()
    assert book.learn(4, 3, None, 0).tolist() == [0, 1, 2]
    assert book.learn(5, 4, 4, 2).tolist() == [0, 1, 3, 4]
    return book


@pytest.mark.parametrize(
    ("length", "parent", "shared", "message"),
    [
        (4, 9, 2, "unknown parent 9"),
        (4, 6, 2, "unknown parent 6"),  # itself
        (9, 4, 4, "shares 4 of 3"),
        (2, 4, 3, "shares 3 of 3"),
        (9, 4, -1, "shares -1 of 3"),
        (4, 4, 0, "parent 4 and shares 0"),
        (4, None, 2, "parent None and shares 2"),
        (0, None, 0, "length 0"),
    ],
)
def test_an_impossible_path_leaves_the_book_as_it_was(
    length: int, parent: int | None, shared: int, message: str
) -> None:
    book = book_of_two()
    with pytest.raises(WireError, match=message):
        book.learn(6, length, parent, shared)
    assert book.samples == [4, 5]
    assert book.learn(6, 1, None, 0).tolist() == [5], "no key was used up"


@pytest.mark.parametrize("other", [(3, 4, 2), (4, 4, 1), (4, None, 0)])
def test_a_known_sample_is_learnt_again_only_by_the_same_path(other: tuple[int, int | None, int]) -> None:
    book = book_of_two()
    assert book.learn(5, 4, 4, 2).tolist() == [0, 1, 3, 4]
    with pytest.raises(WireError, match="sample 5 is known by another path"):
        book.learn(5, *other)
    assert book.learn(6, 1, None, 0).tolist() == [5]


@pytest.mark.parametrize(
    ("samples", "lengths", "news", "message"),
    [
        ([6, 7], [4, 2], {6: (4, 1)}, "sample 7 came without a path"),
        ([6, 5], [4, 3], {6: (4, 1)}, "sample 5 has length 3, not 4"),
        ([6, 7], [4, 4], {6: (7, 1), 7: (None, 0)}, "unknown parent 7"),  # later in the batch
        ([6, 7], [4, 4], {6: (5, 4), 7: (6, 5)}, "shares 5 of 4"),
    ],
)
def test_a_bad_batch_is_learnt_not_even_in_part(
    samples: list[int], lengths: list[int], news: News, message: str
) -> None:
    book = book_of_two()
    with pytest.raises(WireError, match=message):
        book.paths(samples, lengths, news)
    assert book.samples == [4, 5]
    assert book.learn(6, 1, None, 0).tolist() == [5]


def test_unknown_samples_have_no_path() -> None:
    with pytest.raises(KeyError):
        KeyBook().path(0)


IDS = st.integers(0, NO_PARENT - 1)


@given(data=st.data(), samples=st.lists(IDS, max_size=9, unique=True))
def test_a_manifest_comes_back_as_it_was(data: st.DataObject, samples: list[int]) -> None:
    lengths = [data.draw(st.integers(1, PATH_FOLLOWS - 1)) for _ in samples]
    told = data.draw(st.lists(st.sampled_from(samples), unique=True)) if samples else []
    origin = st.tuples(st.none() | IDS, st.integers(0, 2**16 - 1))
    news = {sample: data.draw(origin) for sample in told}
    packed = pack_manifest(samples, lengths, news)
    assert packed.dtype == np.uint8 and len(packed) == 6 * (len(samples) + len(news))
    assert parse_manifest(packed.tobytes(), len(samples)) == (samples, lengths, news)


def test_the_layout_is_little_endian_records_then_paths() -> None:
    raw = struct.pack("<IH IH IH IH", 1, 3 | 0x8000, 2, 4, 9, 1 | 0x8000, 0xFFFFFFFF, 0) + struct.pack("<IH", 2, 1)
    assert pack_manifest([1, 2, 9], [3, 4, 1], {9: (2, 1), 1: (None, 0)}).tobytes() == raw


@settings(max_examples=300)
@given(raw=st.binary(max_size=60), count=st.integers(0, 6))
def test_any_bytes_are_a_manifest_or_a_wire_error(raw: bytes, count: int) -> None:
    try:
        samples, lengths, news = parse_manifest(raw, count)
    except WireError:
        return
    assert len(samples) == len(lengths) == count
    assert pack_manifest(samples, lengths, news).tobytes() == raw, "one manifest has one form"


@settings(max_examples=300)
@given(
    records=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.booleans()), max_size=5),
    origins=st.lists(st.tuples(st.sampled_from([0, 1, 4, NO_PARENT]), st.integers(0, 5)), max_size=5),
)
def test_a_book_survives_any_manifest(records: list[tuple[int, int, bool]], origins: list[tuple[int, int]]) -> None:
    """Near-true manifests, of few ids and small lengths: learnt as a whole or not at all."""
    heads = [struct.pack("<IH", sample, length | PATH_FOLLOWS * new) for sample, length, new in records]
    raw = b"".join(heads + [struct.pack("<IH", *origin) for origin in origins])
    book = book_of_two()
    before = book.state()
    try:
        samples, lengths, news = parse_manifest(raw, len(records))
        paths = book.paths(samples, lengths, news)
    except WireError:
        assert all(np.array_equal(book.state()[name], array) for name, array in before.items())
        assert book.learn(99, 1, None, 0).tolist() == [5]
    else:
        assert [len(path) for path in paths] == lengths
        assert set(samples) <= set(book.samples) == {4, 5, *samples}


@pytest.mark.parametrize(
    ("raw", "count", "message"),
    [
        (struct.pack("<IH", 1, 2), 2, "6 bytes for 2 samples"),
        (struct.pack("<IHB", 1, 2, 0), 1, "7 bytes for 1 samples"),
        (struct.pack("<IHIH", 1, 2, 3, 4), 1, "1 paths for 0 new samples"),
        (struct.pack("<IH", 1, 2 | PATH_FOLLOWS), 1, "0 paths for 1 new samples"),
        (struct.pack("<IHIH", 1, 2, 1, 2), 2, "distinct"),
        (struct.pack("<IH", NO_PARENT, 2), 1, "have an id"),
        (struct.pack("<IH", 8, 0), 1, "sample 8 has no positions"),
    ],
)
def test_a_malformed_manifest_is_named(raw: bytes, count: int, message: str) -> None:
    with pytest.raises(WireError, match=f"^manifest: .*{message}"):
        parse_manifest(raw, count)


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.max_length: a sample has 32768 positions"):
        pack_manifest([0], [PATH_FOLLOWS], {})
    for samples, news in (([1, 1], {}), ([1, 2], {3: (None, 0)}), ([1, -1], {}), ([1, NO_PARENT], {})):
        with pytest.raises(ValueError, match="sample"):
            pack_manifest(samples, [1, 1], news)  # type: ignore[arg-type]


@given(keys=st.lists(st.integers(-3, 5), max_size=30))
def test_first_occurrence_keeps_the_order_of_first_appearance(keys: list[int]) -> None:
    distinct = list(dict.fromkeys(keys))
    array = np.array(keys, np.int64)
    rows, inverse = first_occurrence(array)
    assert rows.dtype == inverse.dtype == np.int64
    assert rows.tolist() == [keys.index(key) for key in distinct]
    assert inverse.tolist() == [distinct.index(key) for key in keys]
    torch_rows, torch_inverse = first_occurrence(torch.tensor(keys, dtype=torch.int64))
    assert torch_rows.tolist() == rows.tolist() and torch_inverse.tolist() == inverse.tolist()


def test_long_shared_runs_are_found_across_many_branches() -> None:
    """All binary texts of one length: every walk crosses as many runs as its text has ones."""
    texts = [np.array([*text, 0]) for text in itertools.product([0, 1], repeat=8)]
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    tree, book = PrefixTree(), KeyBook()
    paths = tell(tree, book, texts, order)
    assert len(np.unique(np.concatenate(paths))) == sum(2**depth for depth in range(1, 9))
