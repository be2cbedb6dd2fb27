"""Every pair meets once, and the order cannot deadlock."""

from itertools import combinations

import pytest

from splitcom_dist.doctor.tournament import rounds


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8, 13, 32])
def test_every_pair_meets_once_and_no_rank_twice_in_a_round(world_size: int) -> None:
    tournament = rounds(world_size)
    matches = [match for matches in tournament for match in matches]
    assert sorted(matches) == list(combinations(range(world_size), 2))
    for together in tournament:
        ranks = [rank for match in together for rank in match]
        assert len(ranks) == len(set(ranks))


@pytest.mark.parametrize("world_size", [2, 3, 6, 9, 16])
def test_ranks_that_block_in_every_match_all_come_to_the_end(world_size: int) -> None:
    todo = {
        rank: [match for matches in rounds(world_size) for match in matches if rank in match]
        for rank in range(world_size)
    }
    while any(todo.values()):
        heads = [matches[0] for matches in todo.values() if matches]
        ready = {match for match in heads if heads.count(match) == 2}  # both sides are in it
        assert ready, f"all wait: {heads}"
        for first, second in ready:
            del todo[first][0], todo[second][0]
