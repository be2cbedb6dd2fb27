"""An extension under which the steps of a run with roles.overlap=auto take its schedules in turn, to its end.

overlap.py reads what each took, from one process group and one state of the machine.
"""

from splitcom_dist.roles import overlap

overlap.TRIAL = 2**62
