"""Docstrings here are plain English with code between single backticks: this is what they are to autodoc.

Nothing else in them is markup: |x| is an absolute value and 2*d a product, where reStructuredText would see a
substitution and emphasis.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import splitcom_dist

PACKAGE = Path(splitcom_dist.__file__).parent
MARKUP = re.compile(r"([*|_\\])")


def as_restructured_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what is no markup, double the backticks; an indented block is code."""
    lines[:] = [escaped(line) for line in _with_code_marked(lines)]


def escaped(line: str) -> str:
    parts = line.split("`")
    if line.startswith("   ") or len(parts) % 2 == 0:  # code as it is, or a backtick without its second
        return line if line.startswith("   ") else MARKUP.sub(r"\\\1", line).replace("`", r"\`")
    return "".join(f"``{part}``" if index % 2 else MARKUP.sub(r"\\\1", part) for index, part in enumerate(parts))


def _with_code_marked(lines: list[str]) -> list[str]:
    marked: list[str] = []
    for line in lines:
        begins = line.startswith("    ") and not (marked and marked[-1].startswith("    "))
        if begins and not (marked and marked[-1].startswith("   ")):
            marked += ["", "::", ""]
        marked.append(line)
    return marked


class Room(SphinxDirective):
    """`.. room:: codec`: every module of a folder of the package under its own title, with its public names."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = PACKAGE / self.arguments[0]
        return _modules(self, [path for path in sorted(folder.rglob("*.py")) if path.stem != "__init__"])


class ModulePage(SphinxDirective):
    """`.. module-page:: state links`: the same of these modules."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        return _modules(self, [PACKAGE / f"{name.replace('.', '/')}.py" for name in self.arguments[0].split()])


def _modules(directive: SphinxDirective, paths: list[Path]) -> list[nodes.Node]:
    text: list[str] = []
    for path in paths:
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        text += [module, "-" * len(module), "", f".. automodule:: {module}", "   :members:", ""]
    return directive.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("room", Room)
    app.add_directive("module-page", ModulePage)
    app.connect("autodoc-process-docstring", as_restructured_text)
    return {"parallel_read_safe": True}
