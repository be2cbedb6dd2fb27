"""The contents of the report, top to bottom: a new section is one more line."""

from collections.abc import Callable, Sequence

from splitcom_dist.analysis.report import Section
from splitcom_dist.analysis.sections.control import control
from splitcom_dist.analysis.sections.events import events
from splitcom_dist.analysis.sections.overview import details, overview
from splitcom_dist.analysis.sections.quality import quality
from splitcom_dist.analysis.sections.redundancy import redundancy
from splitcom_dist.analysis.sections.samples import samples
from splitcom_dist.analysis.sections.similarity import similarity
from splitcom_dist.analysis.sections.time import time
from splitcom_dist.analysis.sections.traffic import traffic
from splitcom_dist.analysis.study import Study

CONTENTS: tuple[Callable[[Sequence[Study]], Section | None], ...] = (
    overview,
    quality,
    traffic,
    similarity,
    samples,
    redundancy,
    control,
    time,
    events,
    details,
)


def sections_of(studies: Sequence[Study]) -> list[Section]:
    """Every section that these runs have something for."""
    return [section for build in CONTENTS if (section := build(studies)) is not None]
