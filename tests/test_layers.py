"""The architecture as a test: imports go down the layers, models see the public operators, Torch stays in csrc/torch.

Reads the sources with `ast`; nothing is imported, so a broken layer is reported even where it happens to run.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Top to bottom: a module may import from its own layer and from those after it. Every other module of the package is a
# helper below them all: any layer may use it, and it uses other helpers alone.
LAYERS = (
    {"__init__"},
    {"nn", "config", "preparation", "estimator", "memory"},
    {"seeding"},
    {"functional"},
    {"instances", "packing"},
    {"validate"},
    {"dispatch"},
    {"autograd"},
    {"backends"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def rank_of(module: str) -> int:
    """The layer of a dotted module name inside rpe_ops, "" standing for the package itself."""
    return RANK.get(module.split(".")[0] or "__init__", len(LAYERS))


def python_files(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imported_modules(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that one file imports, relative imports resolved to absolute ones.

    `from a import b` gives `a.b`, because b may be a module; a layer is decided by the name's beginning.
    """
    folder = (package.name, *path.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(folder[: len(folder) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for name in node.names:
                yield node.lineno, f"{module}.{name.name}"


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(package: Path, dotted: str) -> bool:
    return bool(dotted) and ((package / dotted.replace(".", "/")).is_dir() or is_file(package, dotted))


def is_file(package: Path, dotted: str) -> bool:
    return (package / f"{dotted.replace('.', '/')}.py").is_file()


def inside(package: Path, name: str) -> str | None:
    """The module inside `package` that an imported name reaches ("" for the package itself), or None for others."""
    parts = name.split(".")
    if parts[0] != package.name:
        return None
    parts = parts[1:]
    while parts and not is_module(package, ".".join(parts)):
        parts.pop()
    return ".".join(parts)


OPERATORS = ROOT / "rpe_ops"
MODELS = ROOT / "python" / "rpe"


def test_imports_go_down_the_layers():
    wrong = []
    for path in python_files(OPERATORS):
        own = rank_of(module_name(path, OPERATORS))
        for line, name in imported_modules(path, OPERATORS):
            target = inside(OPERATORS, name)
            if target is not None and rank_of(target) < own:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {name}, which is above it")
    assert not wrong, "\n".join(wrong)


def test_a_backend_does_not_import_another_backend():
    wrong = []
    for path in python_files(OPERATORS / "backends"):
        own = module_name(path, OPERATORS).split(".")
        if not (OPERATORS / "/".join(own[:2])).is_dir():
            continue
        for line, name in imported_modules(path, OPERATORS):
            target = (inside(OPERATORS, name) or "").split(".")
            other = target[:2]
            if (
                other[0] == "backends"
                and other != own[:2]
                and (OPERATORS / "/".join(other)).is_dir()
                and other[1:]
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {name}")
    assert not wrong, "\n".join(wrong)


def public_operators() -> set[str]:
    """`rpe_ops.__all__`, read from the source."""
    for node in ast.walk(ast.parse((OPERATORS / "__init__.py").read_text(encoding="utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return set(ast.literal_eval(node.value))
    raise AssertionError("rpe_ops/__init__.py assigns no __all__")


def test_the_operators_do_not_know_the_models():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in python_files(OPERATORS)
        for line, name in imported_modules(path, OPERATORS)
        if name.split(".")[0] == "rpe"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_models_use_public_operators_only():
    public = public_operators() | {"__version__"}
    wrong = []
    for path in python_files(MODELS):
        for line, name in imported_modules(path, MODELS):
            parts = name.split(".")
            if parts[0] == "rpe_ops" and parts[1:] and parts[1] not in public:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {name}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if is_attribute and node.value.id == "rpe_ops" and node.attr not in public:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: uses rpe_ops.{node.attr}")
    assert not wrong, f"not in rpe_ops.__all__ {sorted(public)}:\n" + "\n".join(wrong)


# Folder of csrc -> the folders of csrc whose headers it may include.
NATIVE_LAYERS = {
    "math": {"math"},
    "launch": {"math", "launch"},
    "cpu": {"math", "launch", "cpu"},
    "cuda": {"math", "launch", "cuda"},
    "torch": {"math", "launch", "torch"},
    "torch/cuda": {"math", "launch", "torch", "cuda"},
}


@pytest.mark.parametrize("folder", sorted(NATIVE_LAYERS))
def test_native_includes_go_down_the_layers(folder):
    wrong = []
    for path in sorted((ROOT / "csrc" / folder).glob("*")):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
            if not found:
                continue
            where = f"{path.relative_to(ROOT)}:{number}: includes {found[2]}"
            parts = found[2].split("/")
            if (
                found[1] == "<"
                and not folder.startswith("torch")
                and parts[0] in {"torch", "ATen", "c10", "pybind11"}
            ):
                wrong.append(where)
            neighbours = [part for part in parts[:-1] if part in NATIVE_LAYERS]
            if found[1] == '"' and neighbours and neighbours[-1] not in NATIVE_LAYERS[folder]:
                wrong.append(where)
    assert not wrong, "\n".join(wrong)
