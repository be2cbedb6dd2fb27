"""Who measures with whom, and when."""


def rounds(world_size: int) -> list[list[tuple[int, int]]]:
    """A round-robin tournament (circle method): every pair meets once, and no rank has two matches in a round.

    Every rank plays its matches in the order of the rounds. None can wait in a circle: of all unplayed matches, both
    sides of one in the earliest round have nothing to play before it.
    """
    size = world_size + world_size % 2  # with an odd count, whoever meets the last place rests
    circle = list(range(1, size))
    tournament = []
    for _ in range(size - 1):
        seats = [0, *circle]
        matches = [(seats[place], seats[size - 1 - place]) for place in range(size // 2)]
        tournament.append([(min(match), max(match)) for match in matches if max(match) < world_size])
        circle = circle[-1:] + circle[:-1]
    return tournament
