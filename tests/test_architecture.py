"""The files of the package import one another in one direction only (docs/architecture.md); read from the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastlangevin"
GROUND = {"errors", "extras", "validation", "files", "transfer", "version"}
LEAVES = {"energies", "models"}
BELOW_SAMPLERS = GROUND | LEAVES | {"distributed", "network", "kernels", "noise", "score", "chains"}
BELOW_RUNS = BELOW_SAMPLERS | {"samplers", "data", "display"}
# What the files of each subpackage, or single files of the package, may import besides their own subpackage.
MAY_IMPORT = {
    **dict.fromkeys((*GROUND, *LEAVES), GROUND),
    "distributed": GROUND,
    "network": GROUND | {"distributed"},
    "kernels": GROUND | {"network"},
    "noise": GROUND | {"kernels"},
    "score": GROUND | LEAVES | {"network", "kernels", "noise"},
    "chains": GROUND | LEAVES | {"network", "kernels", "noise", "score"},
    "samplers": BELOW_SAMPLERS,
    "diagnostics": BELOW_SAMPLERS | {"samplers"},
    "data": GROUND | {"distributed"},
    "display": GROUND | {"data"},
    "runs": BELOW_RUNS,
    "recipes": GROUND | {"runs"},  # where the settings are declared
    "training": BELOW_RUNS | {"runs", "recipes"},
    "evaluation": BELOW_RUNS | {"runs"},
    "reproduction": BELOW_RUNS | {"runs", "recipes", "training", "evaluation"},
    "cli": BELOW_RUNS | {"diagnostics", "runs", "recipes", "training", "evaluation", "reproduction", ""},
    "adapters": BELOW_RUNS | {"runs", "training"},
    "__main__": {"cli"},
}

FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """The files that a file imports, anywhere in it: `from .a import b` is a.b where that is a file, else a."""
    path, found = FILES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{source}.{a.name}" if f"{source}.{a.name}" in FILES else source for a in node.names)
    return {name for name in found if name in FILES and name != module}


IMPORTS = {module: imports(module) for module in FILES}


def room(module: str) -> str:
    return (*module.split("."), "")[1]


@pytest.mark.parametrize("module", [m for m in FILES if m != "fastlangevin"])
def test_imports_go_one_way(module):
    allowed = MAY_IMPORT[room(module)] | {room(module)}
    upward = sorted(name for name in IMPORTS[module] if room(name) not in allowed)
    assert not upward, f"{module} imports {', '.join(upward)}"


def test_no_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(IMPORTS[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


def test_the_rule_sees_imports():
    """Checks files whose imports are known, so that the tests above can fail."""
    assert "fastlangevin.samplers.base" in IMPORTS["fastlangevin.samplers.langevin"]
    assert "fastlangevin.kernels" in IMPORTS["fastlangevin.noise"]
    assert "fastlangevin" in IMPORTS["fastlangevin.cli.info"]
    assert {room(module) for module in FILES} == {"", *MAY_IMPORT}
