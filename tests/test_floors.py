"""Data flows one way: which rooms may know which, and no circles."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "splitcom_dist"


def imports() -> dict[str, set[str]]:
    """Every module of the package -> the modules of the package that it imports, at whatever depth."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("splitcom_dist"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in modules else node.module for name in names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names if alias.name.startswith("splitcom_dist")}
        graph[module] = found - {module}
    return graph


GRAPH = imports()


@pytest.mark.parametrize("room", ["codec", "control", "data", "metrics", "plan"])
@pytest.mark.parametrize("forbidden", ["comm", "roles", "world", "telemetry"])
def test_pure_rooms_know_nothing_of_ranks(room: str, forbidden: str) -> None:
    for module, imported in GRAPH.items():
        if module.startswith(f"splitcom_dist.{room}."):
            bad = [name for name in imported if name.startswith(f"splitcom_dist.{forbidden}")]
            assert not bad, f"{module} imports {bad}"


def test_only_the_runner_and_its_end_know_the_roles() -> None:
    roles = "splitcom_dist.roles"
    outside = {module: imported for module, imported in GRAPH.items() if not module.startswith(roles)}
    knowing = {module for module, imported in outside.items() if any(name.startswith(roles) for name in imported)}
    assert knowing == {"splitcom_dist.runner", "splitcom_dist.settle"}


def test_the_wire_never_touches_torch_distributed_and_nothing_is_pickled() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if "torch.distributed" in text:
            assert path.parent.name in ("comm", "splitcom_dist"), path
        for word in ("import pickle", "allow_pickle=True", "object_list(", "trust_remote_code=True"):
            assert word not in text, f"{path}: {word}"


def test_no_module_is_part_of_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for imported in GRAPH.get(module, ()):
                visit(imported, (*above, module))
            done.add(module)

    for module in GRAPH:
        visit(module, ())


def test_rooms_stay_small_enough_to_see_whole() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path
