"""Code from outside the package that a run loads first: the files and modules that the key `extensions` names.

What they hold registers itself when it is imported (`register_quantizer`, `register_controller`, `register_family`).
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from splitcom_dist.errors import UserError


def load_extensions(names: Sequence[str]) -> list[str]:
    """Import each of them once a process: a `.py` file by its path, anything else as a module by its dotted name.

    Returns the names with paths made absolute, so that a finished run finds its files from any folder. Raises UserError
    naming what cannot be imported, and why.
    """
    resolved = [str(Path(name).resolve()) if name.endswith(".py") else name for name in names]
    for name in resolved:
        try:
            _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        except UserError as error:
            raise UserError(f"extensions: {name}: {error}") from None
        except (Exception, SystemExit) as error:  # whatever that file does when it is imported
            raise UserError(f"extensions: {name}: {type(error).__name__}: {error}".splitlines()[0]) from None
    return resolved


def _load_file(path: Path) -> None:
    name = f"splitcom_extension:{path}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise UserError("no such file; a module is named without .py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
