"""An extension under which every second step of a run with roles.overlap=auto overlaps, to its end: overlap.py reads
what either kind took, from one process group and one state of the machine."""

from splitcom_dist.roles import overlap

overlap.TRIAL = 2**62
