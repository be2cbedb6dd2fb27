"""`splitcom doctor`: what ranks see of their machines and of each other, and what is wrong with it."""
