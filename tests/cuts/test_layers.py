"""Who trains which block when clients are cut at different depths."""

import pytest

from splitcom_dist.config.files import load_config
from splitcom_dist.cuts.layers import Cuts, client_cuts

CUTS = Cuts((3, 1, 4, 1))


def test_blocks_between_the_shallowest_and_the_deepest_cut_are_shared() -> None:
    assert (CUTS.shallowest, CUTS.deepest, CUTS.shared, CUTS.are_mixed) == (1, 4, range(1, 4), True)
    assert (CUTS.deepest_of([0, 1]), CUTS.deepest_of([1, 3]), CUTS.deepest_of([2])) == (3, 1, 4)
    assert [CUTS.shared_by(client) for client in range(4)] == [2, 0, 3, 0]
    assert not Cuts((2, 2)).are_mixed and not Cuts((2, 2)).shared


def test_every_target_is_trained_once_in_every_shared_block() -> None:
    targets = {0: 7, 1: 11, 2: 13, 3: 17}
    by_servers = CUTS.trained_by_servers(targets)
    assert by_servers == [28, 28, 35], "of block 1, 2 and 3"
    by_clients = [sum(count for client, count in targets.items() if block < CUTS.of(client)) for block in CUTS.shared]
    assert [sum(pair) for pair in zip(by_servers, by_clients, strict=True)] == [48] * 3
    assert CUTS.trained_by_servers({2: 5}) == [0, 0, 0], "a deep client leaves its server none of them"


@pytest.mark.parametrize(("given", "cuts"), [([], (5, 5, 5)), (["fed.cut_layers=[1,5,2]"], (1, 5, 2))])
def test_the_configuration_gives_one_cut_to_all_or_to_each_its_own(given: list[str], cuts: tuple[int, ...]) -> None:
    assert client_cuts(load_config([], ["model.cut_layer=5", *given])).of_clients == cuts
