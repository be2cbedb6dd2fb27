"""Directives that write reference pages from the code, `configuration-keys` and `presets`, and a role `key`.

{key}`train.lr` is a link to that key's row; one that the schema does not have is a warning.
"""

import re
from collections.abc import Sequence
from typing import Any

from docutils import nodes
from schema_keys import Group, groups
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.nodes import make_refnode

from splitcom_dist.config.files import GROUPS, preset_folder
from splitcom_dist.links import LINKS

PAGE = "configuration"  # where the keys are


class ConfigurationKeys(SphinxDirective):
    """A section a group of the schema, with a table of its keys; `key-train-lr` is the target of train.lr."""

    def run(self) -> list[nodes.Node]:
        return [_group_section(self, group) for group in groups()]


class Presets(SphinxDirective):
    """A section a group of presets, and what each one's first comment says of it."""

    def run(self) -> list[nodes.Node]:
        made: list[nodes.Node] = []
        for group in (*GROUPS, "experiment"):
            title = f"{group}=NAME" if group in GROUPS else "configs/experiment"
            section = _section(self, title, f"presets-{group}")
            rows = [
                [nodes.literal(text=path.stem), nodes.inline(text=_first_comment(path.read_text()))]
                for path in sorted((preset_folder() / group).glob("*.yaml"))
            ]
            section += _table(["preset", "what it is"], rows, [1, 4])
            made.append(section)
        return made


class KeyRole(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        target = f"key-{_identifier(re.sub('|'.join(LINKS), '<link>', self.text))}"
        link = addnodes.pending_xref(reftype="key", reftarget=target, refdoc=self.env.docname, refwarn=True)
        link += nodes.literal(text=self.text, classes=["xref"])
        self.set_source_info(link)
        return [link], []


def resolve_key(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """A link to the row of a key; None for one that the schema has not."""
    if node["reftype"] != "key":  # most are of other kinds
        return None
    known = {f"key-{_identifier(key.name)}" for group in groups() for key in group.keys}
    if node["reftarget"] not in known:
        return None
    return make_refnode(app.builder, node["refdoc"], PAGE, node["reftarget"], content)


def _group_section(directive: SphinxDirective, group: Group) -> nodes.section:
    section = _section(directive, group.name or "top level", f"group-{_identifier(group.name or 'top')}")
    if group.summary:
        section += nodes.paragraph(text=group.summary)
    rows = []
    for key in group.keys:
        target = f"key-{_identifier(key.name)}"
        name = nodes.literal(text=key.name.rpartition(".")[2], ids=[target])
        meaning = nodes.paragraph(text=key.meaning)
        ranges = key.range if key.range.startswith("at least") else f"one of {key.range}"
        parts = ([meaning] if key.meaning else []) + ([nodes.paragraph(text=ranges)] if key.range else [])
        rows.append([name, nodes.inline(text=key.type), nodes.literal(text=key.default), parts])
    section += _table(["key", "type", "default", "meaning"], rows, [2, 2, 2, 6])
    return section


def _section(directive: SphinxDirective, title: str, identifier: str) -> nodes.section:
    section = nodes.section(ids=[identifier], names=[identifier])
    section += nodes.title(text=title)
    directive.state.document.note_explicit_target(section)
    return section


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]], widths: Sequence[int]) -> nodes.table:
    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=width) for width in widths]
    head = nodes.thead()
    head += _row([nodes.inline(text=text) for text in heads])
    body = nodes.tbody()
    body += [_row(row) for row in rows]
    group += [head, body]
    table = nodes.table(classes=["reference-table"])
    table += group
    return table


def _row(cells: Sequence[Any]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += cell if isinstance(cell, list) else [_paragraph(cell)]
        row += entry
    return row


def _paragraph(inline: nodes.Node) -> nodes.paragraph:
    paragraph = nodes.paragraph()
    paragraph += inline
    return paragraph


def _identifier(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _first_comment(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("configuration-keys", ConfigurationKeys)
    app.add_directive("presets", Presets)
    app.add_role("key", KeyRole())
    app.connect("missing-reference", resolve_key)
    return {"parallel_read_safe": True}
