"""`splitcom profile`: the ranks of a launch measure how fast they compute a run's batch, and the links between them."""
