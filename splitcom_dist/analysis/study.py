"""Everything the report says of one run, read from its logs in one pass over each large table."""

from dataclasses import dataclass

from splitcom_dist.analysis import similarity, traffic
from splitcom_dist.analysis.course import Course, course_of
from splitcom_dist.analysis.logs import Run, chunks
from splitcom_dist.analysis.similarity import Similarity
from splitcom_dist.analysis.timing import Timing
from splitcom_dist.analysis.totals import Totals, totals_of
from splitcom_dist.analysis.traffic import Traffic


@dataclass(frozen=True)
class Study:
    """`run` is there for sections that read tables of their own."""

    run: Run
    totals: Totals
    traffic: Traffic
    similarity: Similarity
    timing: Timing
    course: Course


def study_of(run: Run) -> Study:
    totals = totals_of(run)
    crossed, moved, timing = Traffic(run), Similarity(), Timing(run, totals.steps)
    for rank, rows in chunks(run, "traffic", traffic.COLUMNS):
        crossed.add(rank, rows)
        timing.add_traffic(rank, rows)
    for rank, rows in chunks(run, "train", ("step", "client", "seconds", "wait")):
        timing.add_training(rank, rows)
    for rank, rows in chunks(run, "similarity", similarity.COLUMNS):
        moved.add(rank, rows)
    return Study(run, totals, crossed, moved, timing, course_of(run))
