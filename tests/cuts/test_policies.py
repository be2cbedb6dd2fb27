"""Where policies move cuts, given what was measured."""

from collections.abc import Mapping
from itertools import product

import pytest

from splitcom_dist.cuts.balance_time import BalanceTime
from splitcom_dist.cuts.layers import Cuts
from splitcom_dist.cuts.measured import Measured, Measures, joined
from splitcom_dist.cuts.policy import Move, decide
from splitcom_dist.cuts.splitft import SplitFT
from splitcom_dist.cuts.work import TurnTime, Work
from splitcom_dist.layout import Layout

WORK = Work(blocks=12, beside=5.0, at_client=False)


def measured(cuts: Cuts, speeds: list[float], block: float = 0.01, sending: float = 0.0) -> dict[int, Measured]:
    """Ten turns of clients of these speeds, where a block takes so many seconds at the server."""
    return {
        client: Measured(
            turns=10,
            computing=10 * block * WORK.of_client(cuts.of(client)) / speed,
            sending=10 * sending,
            serving=10 * block * WORK.of_server(cuts.of(client)),
            loss=40.0,
            targets=10,
        )
        for client, speed in enumerate(speeds)
    }


def balance(clients: int, gain: float = 0.05) -> BalanceTime:
    return BalanceTime(gain, WORK, Layout(clients, 1, clients))


def settled(policy: BalanceTime, cuts: Cuts, speeds: list[float], sending: float = 0.0) -> Cuts:
    """Where the cuts come to rest."""
    for _ in range(5):
        moves = decide(policy, cuts, measured(cuts, speeds, sending=sending))
        if not moves:
            return cuts
        cuts.move({move.client: move.new for move in moves})
    raise AssertionError("cuts never rest")


def test_slow_clients_train_fewer_blocks_and_the_step_is_nearly_the_shortest_there_is() -> None:
    speeds, policy = [1.0, 0.25, 0.5], balance(3)
    cuts = settled(policy, Cuts([2, 2, 2], 1, 8), speeds)
    assert cuts.of(1) < cuts.of(2) <= cuts.of(0)
    times = {client: TurnTime.measured(WORK, each, cuts.of(client)) for client, each in measured(cuts, speeds).items()}

    def seconds(choice: Mapping[int, int]) -> float:
        return policy.step_seconds(choice, times)

    found = seconds(dict(enumerate(cuts.of_clients)))
    shortest = min(seconds(dict(enumerate(choice))) for choice in product(range(1, 9), repeat=3))
    equal = min(seconds(dict.fromkeys(range(3), cut)) for cut in range(1, 9))
    assert found <= 1.05 * shortest and found < 0.95 * equal


def test_equal_clients_are_cut_alike_and_a_slow_link_changes_no_cut_of_its_own() -> None:
    assert len(set(settled(balance(3), Cuts([1, 4, 8], 1, 8), [1.0, 1.0, 1.0]).of_clients)) == 1
    near, far = (settled(balance(2), Cuts([2, 2], 1, 8), [1.0, 1.0], sending) for sending in (0.0, 0.0001))
    assert near.of_clients == far.of_clients


def test_a_step_that_would_hardly_be_shorter_moves_nothing() -> None:
    cuts, speeds = Cuts([2, 2], 1, 8), [1.0, 0.5]
    assert decide(balance(2), cuts, measured(cuts, speeds)) and not decide(
        balance(2, 0.9), cuts, measured(cuts, speeds)
    )


def test_clients_without_a_turn_are_judged_by_their_last() -> None:
    cuts, policy = Cuts([2, 2], 1, 8), balance(2)
    both = measured(cuts, [1.0, 0.2])
    assert not decide(policy, cuts, {})
    moves = decide(policy, cuts, both)
    cuts.move({move.client: move.new for move in moves})
    again = balance(2)
    again.load(policy.state())
    del both[1]
    fresh = {0: measured(cuts, [1.0])[0]}
    assert decide(policy, cuts, fresh) == decide(again, cuts, fresh)


def test_splitft_moves_by_time_and_loss_at_the_speed_of_gamma() -> None:
    def cuts_after(rounds: int, gamma: float, seconds: list[float], losses: list[float]) -> tuple[int, ...]:
        cuts, policy = Cuts([4] * 3, 1, 8), SplitFT(gamma)
        for _ in range(rounds):
            told = {
                client: Measured(turns=1, computing=second, loss=loss, targets=1)
                for client, (second, loss) in enumerate(zip(seconds, losses, strict=True))
            }
            cuts.move({move.client: move.new for move in decide(policy, cuts, told)})
        return cuts.of_clients

    assert cuts_after(1, 1, [1, 1, 1], [2, 2, 2]) == (4, 4, 4)
    assert cuts_after(1, 2, [0.5, 1, 1.5], [2, 2, 2]) == (5, 4, 3), "a fast client takes more layers"
    assert cuts_after(1, 2, [1, 1, 1], [1, 2, 3]) == (5, 4, 3), "and so does one that does better than the mean"
    assert cuts_after(1, 2, [0.5, 1, 1.5], [3, 2, 1]) == (4, 4, 4), "one may outweigh the other"
    assert cuts_after(3, 0.5, [0.5, 1, 1.5], [2, 2, 2]) == (5, 4, 3), "slowly, with a small gamma"
    assert cuts_after(9, 9, [0.1, 1, 9], [2, 2, 2]) == (8, 8, 1), "within the bounds"
    assert SplitFT(1).decide(Cuts([2], 1, 3), {}) == {}


def test_both_ends_measures_of_a_client_are_joined() -> None:
    client, server = Measures(), Measures()
    for _ in range(2):
        client.add(3, Measured(turns=1, computing=0.5, sending=0.25))
        server.add(3, Measured(serving=2.0, answering=0.125, loss=6.0, targets=4))
    server.add(5, Measured(serving=1.0, loss=1.0, targets=1))
    told = [{str(number): values for number, values in each.take().items()} for each in (client, server)]
    assert joined(told) == {3: Measured(2, 1.0, 0.5, 4.0, 0.25, 12.0, 8)}, "without turns there is nothing to go by"
    assert not client.take()


@pytest.mark.parametrize(("old", "new", "blocks"), [(1, 3, range(1, 3)), (4, 2, range(2, 4))])
def test_a_move_names_the_blocks_that_change_hands(old: int, new: int, blocks: range) -> None:
    assert Move(0, old, new, "").blocks == blocks
