"""Libraries that only the generation metrics need."""

import importlib
from types import ModuleType

from splitcom_dist.errors import UserError


def library(name: str) -> ModuleType:
    """The module of that name, imported when first needed; UserError names the extra to install without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(f'generation metrics need {package}: pip install "splitcom-dist[metrics]"') from error
