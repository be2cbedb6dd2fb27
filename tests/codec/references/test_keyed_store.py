"""Two keyed stores of equal histories are equal bit for bit, in memory as on disk, whatever is put, lost or evicted."""

import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec.references.eviction import EvictionOrder
from splitcom_dist.codec.references.keyed_store import DTYPES, KeyedStore
from splitcom_dist.codec.references.row_format import RowFormat, splitmix64
from splitcom_dist.codec.references.rows import FileRows, MemoryRows, Rows
from splitcom_dist.errors import UserError, WireError

WIDTH = 11  # rows end within a word
KINDS = list(itertools.product(DTYPES, ("ram", "disk")))
EXTREMES = [0.0, -0.0, 1.0, -3.25, 1e30, -1e30, 1e-30, 1e-40, -1e-45]


@contextlib.contextmanager
def stores(
    count: int, dtype: str, where: str = "ram", limit: int = 0, width: int = WIDTH
) -> Iterator[list[KeyedStore]]:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as closing:
        folders = [Path(scratch) / str(end) if where == "disk" else None for end in range(count)]
        made = [KeyedStore(width, dtype, folder, limit) for folder in folders]
        for store in made:
            closing.callback(store.close)
        yield made
        assert where == "ram" or all(list(folder.iterdir()) for folder in folders if folder)
        closing.close()
        assert not [path for path in Path(scratch).rglob("*") if path.is_file()]


def keyed(*keys: int) -> Tensor:
    return torch.tensor(keys, dtype=torch.int64)


KEY_LISTS = st.lists(st.integers(0, 30), max_size=12, unique=True)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, list[int], int]]:
    """Calls: what, with which keys, and the seed of the rows put."""
    calls = st.sampled_from(["put", "evict"] * 4 + ["touch", "touch", "drop", "clear", "resume"])
    return draw(st.lists(st.tuples(calls, KEY_LISTS, st.integers(0, 9)), min_size=15, max_size=40))


def random_rows(count: int, seed: int, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=generator)
    kind = torch.randint(len(EXTREMES) + 2, (count, width), generator=generator)
    return torch.where(kind < len(EXTREMES), torch.tensor(EXTREMES)[kind % len(EXTREMES)], rows)


class Model:
    """The store as a dictionary: key -> (row, last visit)."""

    def __init__(self, limit: int) -> None:
        self.limit, self.now = limit, 0
        self.rows: dict[int, tuple[Tensor, int]] = {}

    def evict(self) -> int:
        surplus = max(0, len(self.rows) - self.limit) if self.limit else 0
        for key in sorted(self.rows, key=lambda key: (self.rows[key][1], key))[:surplus]:
            del self.rows[key]
        self.now += 1
        return surplus


def play(store: KeyedStore, model: Model, call: str, keys: list[int], seed: int, other: KeyedStore) -> KeyedStore:
    """One call on the store and on the model of it; a resumed store goes on in `other`."""
    if call == "put":
        kept = store.put(keyed(*keys), random_rows(len(keys), seed))
        model.rows |= {key: (row, model.now) for key, row in zip(keys, kept, strict=True)}
    elif call == "touch":
        store.touch(keyed(*keys))
        model.rows |= {key: (model.rows[key][0], model.now) for key in keys if key in model.rows}
    elif call == "drop":
        store.drop(keyed(*keys, *keys))
        model.rows = {key: held for key, held in model.rows.items() if key not in keys}
    elif call == "evict":
        assert store.evict() == model.evict()
    elif call == "clear":
        store.clear()
        model.rows, model.now = {}, 0
    else:
        other.load(store.state())
        return other
    return store


def assert_same_as_model(store: KeyedStore, model: Model) -> None:
    assert store.known(torch.arange(40)).nonzero().squeeze(1).tolist() == sorted(model.rows)
    assert len(store) == len(model.rows) and store.nbytes == len(model.rows) * store._format.row_bytes
    got = store.get(keyed(*model.rows))
    assert all(bits_equal(row, held) for row, (held, _) in zip(got, model.rows.values(), strict=True))


def bits_equal(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.int32), right.contiguous().view(torch.int32))


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize(("dtype", "where"), KINDS)
@given(history=histories(), limit=st.sampled_from([0, 1, 4, 9]))
def test_any_history_gives_what_a_dictionary_gives_and_equal_digests(
    dtype: str, where: str, history: list[tuple[str, list[int], int]], limit: int
) -> None:
    with stores(2, dtype, where, limit) as (first, spare), stores(1, dtype, "ram", limit) as (peer,):
        store, model, peer_model = first, Model(limit), Model(limit)
        for call, keys, seed in history:
            other = spare if store is first else first
            store = play(store, model, call, keys, seed, other)
            if call != "resume":
                play(peer, peer_model, call, keys, seed, peer)
            assert store.digest == peer.digest and 0 <= store.digest < 2**63
            assert (store.digest == 0) == (len(store) == 0)
            assert_same_as_model(store, model)
        assert_same_as_model(peer, model)


@pytest.mark.parametrize("dtype", DTYPES)
@given(order=st.permutations(range(8)), cuts=st.lists(st.integers(0, 8), max_size=3), stale=st.booleans())
@settings(max_examples=25, deadline=None)
def test_digest_depends_on_what_is_held_and_not_on_how_it_came(
    dtype: str, order: list[int], cuts: list[int], stale: bool
) -> None:
    rows = random_rows(8, seed=1)
    with stores(2, dtype) as (whole, pieces):
        whole.put(torch.arange(8), rows)
        if stale:
            pieces.put(keyed(9, 3), random_rows(2, seed=2))
            pieces.drop(keyed(9))
        for part in np.split(np.array(order), sorted(cuts)):
            pieces.put(torch.from_numpy(part), rows[part])
        assert whole.digest == pieces.digest


@pytest.mark.parametrize("dtype", DTYPES)
def test_digest_sees_every_single_bit_every_swap_and_every_key(dtype: str) -> None:
    layout = RowFormat(WIDTH, DTYPES[dtype])
    words = layout.pack(random_rows(2, seed=4))[:1]
    bits = 8 * layout.row_bytes
    flipped = words.repeat(bits, 1)
    packed = flipped.view(torch.uint8)
    packed[torch.arange(bits), torch.arange(bits) // 8] ^= (1 << (torch.arange(bits) % 8)).to(torch.uint8)
    # Also every pair of top bits, which a product with whole words would not tell apart.
    tops = [flipped.new_zeros(layout.words) for _ in range(layout.words)]
    for index, top in enumerate(tops):
        top[index] = -(2**63)
    pairs = torch.stack([words[0] ^ left ^ right for left, right in itertools.combinations(tops, 2)])
    everything = torch.cat([words, flipped, pairs])
    marks = layout.hashes(torch.full((len(everything),), 5), everything)
    assert len(marks.unique()) == len(everything) and int(marks.min()) > 0
    assert len(layout.hashes(torch.arange(1000), words.repeat(1000, 1)).unique()) == 1000
    with stores(2, dtype) as (one, swapped):
        rows = random_rows(2, seed=5)
        one.put(keyed(0, 1), rows)
        swapped.put(keyed(1, 0), rows)
        assert one.digest != swapped.digest


@pytest.mark.parametrize(
    ("dtype", "digest"),
    [("bfloat16", 5408909480821791248), ("float32", 3819876660042512661), ("int8", 2459674064290904859)],
)
def test_digest_is_the_same_on_every_machine_and_what_plain_integers_give(dtype: str, digest: int) -> None:
    def mix(number: int) -> int:
        number = (number + 0x9E3779B97F4A7C15) % 2**64
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
        return number ^ number >> 31

    with stores(1, dtype) as (store,):
        store.put(torch.arange(50), (torch.arange(50 * WIDTH).view(50, WIDTH) - 300) / 7)
        total = 0
        for key, row in enumerate(store.state()["rows"]):
            halves = row.view(torch.uint8).numpy().tobytes()
            parts = [int.from_bytes(halves[at : at + 4], "little") for at in range(0, len(halves), 4)]
            dot = sum(part * (mix(index) | 1) for index, part in enumerate(parts))
            total += mix(dot % 2**64 ^ mix(key)) >> 1
        assert store.digest == total % 2**63 == digest


def test_splitmix64_gives_the_published_sequence() -> None:
    # The generator seeded with 1234567: its state advances by the golden gamma, which splitmix64 adds itself.
    states = np.array([(1234567 + step * 0x9E3779B97F4A7C15) % 2**64 for step in range(3)], dtype=np.uint64)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e30, 1.0, 1e-30, 1e-37, 1e-41, 0.0])
def test_what_is_kept_lies_within_the_rounding_of_the_dtype(dtype: str, size: float) -> None:
    rows = size * torch.randn(64, 96, generator=torch.Generator().manual_seed(6))
    rows[3] = 0
    with stores(1, dtype, width=96) as (store,):
        kept = store.put(torch.arange(64), rows)
        assert bits_equal(kept, store.get(torch.arange(64))) and bool((kept[3] == 0).all())
        error, peak = (kept.double() - rows.double()).abs(), rows.abs().amax(dim=1, keepdim=True).double()
        if dtype == "float32":
            assert bool((error == 0).all())
        elif dtype == "bfloat16":
            assert bool((error <= rows.double().abs() * 2**-8 + 2**-133).all())
        else:  # Int8's own bound; a scale below the smallest normal number may lose the row
            assert bool((error <= peak / 127 * (0.5 + 2**-7) + 127 * 2**-126).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_and_keys_that_cannot_be_are_refused(dtype: str, value: float) -> None:
    with stores(1, dtype, limit=3) as (store,):
        store.put(keyed(1, 2), random_rows(2, seed=7))
        before = store.state()
        rows = random_rows(2, seed=8)
        rows[1, 4] = value
        with pytest.raises(WireError, match="finite"):
            store.put(keyed(2, 3), rows)
        for keys, reason in [((3, 3), "twice"), ((-1, 2), "outside"), ((0, 2**31), "outside")]:
            with pytest.raises(WireError, match=reason):
                store.put(keyed(*keys), random_rows(2, seed=9))
        with pytest.raises(WireError, match="7 has no reference"):
            store.get(keyed(1, 7))
        assert all(torch.equal(part, before[name]) for name, part in store.state().items())


def test_a_long_run_evicts_alike_with_short_and_long_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    def history(store: KeyedStore) -> list[Tensor]:
        generator = torch.Generator().manual_seed(10)
        held, fresh = [], 0
        for _ in range(80):
            keys = torch.arange(fresh, fresh + 9)
            fresh += 9
            store.put(keys, random_rows(9, seed=fresh, width=1000))
            store.touch(torch.randint(fresh, (15,), generator=generator).unique())
            store.evict()
            held.append(store.known(torch.arange(720)))
        return held

    for block in (1, 4, 1 << 16):
        monkeypatch.setattr("splitcom_dist.codec.references.eviction.BLOCK", block)
        with stores(1, "int8", limit=50, width=1000) as (store,):
            held = history(store)
            if block == 1:
                expected, digest = held, store.digest
            assert store.digest == digest and len(store) == 50
            assert all(torch.equal(now, then) for now, then in zip(held, expected, strict=True))
            assert store.resident_bytes < 100 * 1002  # of 720 rows ever put: slots are used again


def test_an_entry_of_the_queue_visited_since_is_not_evicted() -> None:
    order = EvictionOrder(MemoryRows(1))
    order.places.reserve(4)
    order.place(torch.arange(4), torch.arange(4), keyed(1, 1, 1, 2))
    assert order.oldest(1, end=4).tolist() == [0]
    order.touch(keyed(1), now=3)
    assert order.oldest(2, end=4).tolist() == [2]


def test_a_checkpoint_of_another_form_or_damaged_is_refused() -> None:
    with stores(1, "int8") as (store,), stores(1, "bfloat16") as (other,):
        store.put(torch.arange(5), random_rows(5, seed=11))
        state = store.state()
        with pytest.raises(UserError, match="store_dtype=bfloat16: the checkpoint's references are 11 x int8"):
            other.load(state)
        state["rows"][2, 1] ^= 1 << 17
        with pytest.raises(UserError, match="damaged"):
            store.load(state)
        assert len(store) == store.digest == 0


@settings(max_examples=50, deadline=None)
@given(
    writes=st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=20, unique=True), max_size=8),
    words=st.integers(1, 5),
)
def test_memory_and_file_hold_the_same_rows_and_zeros_elsewhere(writes: list[list[int]], words: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        memory, file = MemoryRows(words), FileRows(words, Path(scratch) / "rows.bin")
        both: tuple[Rows, Rows] = (memory, file)
        expected = torch.zeros(400, words, dtype=torch.int64)
        for turn, numbers in enumerate(writes):
            rows = torch.randint(-(2**62), 2**62, (len(numbers), words), generator=torch.Generator().manual_seed(turn))
            expected[numbers] = rows
            for held in both:
                held.reserve(max(numbers) + 1)
                held.write(torch.tensor(numbers), rows)
                assert torch.equal(held.read(torch.arange(400)), expected)
                assert torch.equal(held.read(torch.tensor(numbers).flip(0)), expected[numbers].flip(0))
        for held in both:
            held.clear()
            held.reserve(300)
            assert not held.read(torch.arange(400)).any()
            held.close()


def test_no_memory_for_references_is_a_clear_error_and_changes_nothing() -> None:
    with stores(1, "float32", width=65536) as (store,):
        store.put(keyed(0), torch.ones(1, 65536))
        digest = store.digest
        with pytest.raises(UserError, match="store=disk"):
            store.put(keyed(0, 2**31 - 1), torch.zeros(2, 65536))  # 512 TiB
        assert store.digest == digest and bool((store.get(keyed(0)) == 1).all())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.strip()}")
    yield folder
    # Lazily: a test that failed has its files still open.
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("limit", [0, 10**6])
def test_a_full_disk_is_a_clear_error_and_earlier_rows_stay(small_disk: Path, limit: int) -> None:
    store, peer = KeyedStore(768, "int8", small_disk / "link", limit), KeyedStore(768, "int8", None, limit)
    with pytest.raises(UserError) as failure:
        for begin in range(0, 10**5, 53):
            keys, rows = torch.arange(begin, begin + 53), random_rows(53, begin, width=768)
            store.put(keys, rows)
            peer.put(keys, rows)
    assert 0.85 * 2**20 < len(store) * 776 < 2**20
    assert str(failure.value).startswith(f"{small_disk / 'link'}: disk full while storing references (needs ")
    assert "codec.<link>.store=ram / store_dtype=int8" in str(failure.value)
    assert store.digest == peer.digest and len(store) == len(peer)
    assert torch.equal(store.get(torch.arange(len(store))), peer.get(torch.arange(len(peer))))
    # What is there can still be replaced, and what is freed be filled.
    for end in (store, peer):
        end.put(torch.arange(99), random_rows(99, seed=12, width=768))
    assert store.digest == peer.digest
    store.close()
    assert not list((small_disk / "link").iterdir())


def test_a_reservation_that_fails_halfway_gives_its_part_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, allocate = FileRows(4, tmp_path / "rows.bin"), os.posix_fallocate
    rows.reserve(10)

    def halfway(file: int, offset: int, size: int) -> None:
        allocate(file, offset, size // 2)
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", halfway)
        with pytest.raises(UserError, match=r"needs 2,880 bytes more"):
            rows.reserve(100)
    assert rows.path.stat().st_size == 10 * 4 * 8
    rows.close()


@pytest.mark.parametrize(("fault", "reason"), [(28, "disk full"), (122, "disk full"), (5, "Input/output error")])
def test_a_failing_write_is_a_clear_error_and_new_rows_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, reason: str
) -> None:
    store = KeyedStore(WIDTH, "int8", tmp_path)
    kept = store.put(torch.arange(5), random_rows(5, seed=13))
    digest = store.digest

    def fail(*_: object) -> int:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        patch.setattr("os.pwritev", fail)
        with pytest.raises(UserError, match=reason):
            store.put(torch.arange(5, 9), random_rows(4, seed=14))
    assert store.digest == digest and not store.known(torch.arange(5, 9)).any()
    assert bits_equal(store.get(torch.arange(5)), kept)
    store.close()


def test_writes_and_reads_that_the_kernel_cuts_short_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = os.pwritev, os.preadv
    monkeypatch.setattr("os.pwritev", lambda file, parts, offset: write(file, [parts[0][:13]], offset))
    monkeypatch.setattr("os.preadv", lambda file, parts, offset: read(file, [parts[0][:17]], offset))
    store = KeyedStore(WIDTH, "bfloat16", tmp_path)
    kept = store.put(torch.arange(40), random_rows(40, seed=15))
    assert bits_equal(store.get(torch.arange(40)), kept)
    store.close()


def test_files_left_by_a_crash_are_begun_anew(tmp_path: Path) -> None:
    KeyedStore(WIDTH, "int8", tmp_path).put(torch.arange(9), random_rows(9, seed=16))  # and is never closed
    store = KeyedStore(WIDTH, "int8", tmp_path)
    assert len(store) == 0 and not store.known(torch.arange(9)).any()
    store.put(keyed(8), random_rows(1, seed=17))
    assert store.known(torch.arange(9)).tolist() == [False] * 8 + [True]
    store.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot keep references here"):
        KeyedStore(WIDTH, "int8", tmp_path / "file")
