"""DESIGN: imports run downward only, and nothing ships code in its data. Read off the syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "unnoise"
FLOORS = [  # lowest first; rooms on one floor do not import each other
    {"core", "networks"}, {"samplers", "modalities"}, {"control"}, {"checkpoints"}, {"model"}, {"loading"}, {"training"},
    {"evaluation"}, {"distillation", "serving"}, {"recipes"}, {"cli"}, {"", "__main__"},
]  # fmt: skip
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
LAZY = {"cli", "", "__main__"}  # stay fast to import: the command line and the package's own front
FILES = sorted(ROOT.rglob("*.py"))
TRAINING_MAY = {
    "unnoise.core.random",
    "unnoise.core.errors",
    "unnoise.core.state",
    "unnoise.core.files",
}  # no diffusion mathematics in training


def room(module: str) -> str:
    """unnoise.core.random -> core; unnoise -> the empty name."""
    return [*module.split("."), ""][1]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module, and whether it is imported inside a function."""
    out = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            out.extend((a.name, inside) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module, node.names[0].name) != ("unnoise", "__version__"):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            whole = node.module or ""
            submodules = [f"{whole}.{a.name}" for a in node.names]
            found = [m for m in submodules if (ROOT.parent / m.replace(".", "/")).with_suffix(".py").exists()]
            out.extend((m, inside) for m in (found or [whole]))
        for child in ast.iter_child_nodes(node):
            visit(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text()), False)
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path):
    here = room(module_of(path))
    assert here in FLOOR, f"{here} is no room of DESIGN's"
    for name, inside in imports(path):
        assert name.split(".")[0] not in {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, f"{name}: saved things are data"
        if name.split(".")[0] != "unnoise":
            continue
        there = room(name)
        assert there == here or FLOOR[there] < FLOOR[here], f"{here} imports {name}, which is not below it"
        assert not inside or here in LAZY, f"{name} is imported inside a function"
        if here == "training" != there:
            assert name in TRAINING_MAY, f"training imports {name}: it knows no diffusion mathematics"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, f"line {node.lineno}"
