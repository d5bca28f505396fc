"""The layout of docs and code: which folder may import which, and that no imports are circular."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {  # what the modules of a folder may import of this repository, besides their own folder
    "common": set(),
    "model": set(),
    "data": {"common", "model"},
    "emotions": {"common", "model"},
    "live": {"common", "model", "emotions"},
    "evaluation": {"common", "model", "data", "emotions"},
    "training": {"common", "model", "data", "emotions", "evaluation"},
    "main": {"common", "model", "emotions", "live"},
    "train": {"common", "model", "data", "evaluation", "training"},
}
BACKENDS = {"keras", "tensorflow", "jax", "ai_edge_litert"}  # heavy, and optional: imported where they are needed
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for name in ALLOWED
    for path in ([ROOT / f"{name}.py"] if (ROOT / f"{name}.py").exists() else sorted((ROOT / name).glob("*.py")))
}


def imported(node) -> list[str]:
    """The modules that a syntax tree imports, also inside functions."""
    names = []
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            names += [alias.name for alias in part.names]
        elif isinstance(part, ast.ImportFrom):
            submodules = [f"{part.module}.{alias.name}" for alias in part.names]
            names += [name for name in submodules if name in FILES] or [part.module]
    return names


def ours(name: str) -> bool:
    return name.split(".")[0] in ALLOWED


IMPORTS = {name: imported(ast.parse(path.read_text(encoding="utf-8"))) for name, path in FILES.items()}


def test_four_scripts_stand_at_the_top():
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["data.py", "main.py", "model.py", "train.py"]


@pytest.mark.parametrize("module", FILES)
def test_modules_import_only_what_their_folder_may(module):
    folder = module.split(".")[0]
    used = {name.split(".")[0] for name in IMPORTS[module] if ours(name)}
    assert used <= ALLOWED[folder] | {folder}


@pytest.mark.parametrize("module", FILES)
def test_classes_and_functions_can_be_read_at_once(module):
    for part in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(part, ast.ClassDef | ast.FunctionDef):
            lines = part.end_lineno - part.lineno + 1
            assert lines <= (130 if isinstance(part, ast.ClassDef) else 60), part.name


def test_no_imports_are_circular():
    visited, path = set(), []

    def visit(name):
        assert name not in path, f"{' -> '.join([*path[path.index(name) :], name])}"
        if name not in visited:
            path.append(name)
            for other in filter(FILES.__contains__, IMPORTS[name]):
                visit(other)
            path.pop()
            visited.add(name)

    for name in FILES:
        visit(name)


def test_few_imports_are_inside_functions():
    """A reader sees at the top of a file what it uses; only what is heavy and optional is imported later."""
    inside = []
    for name, path in FILES.items():
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.FunctionDef):
                inside += [
                    f"{name}.{part.name}: {module}" for module in imported(part) if module.split(".")[0] not in BACKENDS
                ]
    assert len(inside) <= 20, inside


def constants(paths, pattern: str) -> dict:
    """The numbers that these files give names in capitals."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return {name: float(value) for text in texts for name, value in re.findall(pattern, text, re.MULTILINE)}


def test_the_page_has_the_numbers_of_python():
    number = r"(-?\d[\d.]*)\b"
    web = constants((ROOT / "web").glob("*.js"), rf"^(?:export )?const ([A-Z_]+) = {number};")
    python = {}
    for path in [*(ROOT / "emotions").glob("*.py"), ROOT / "model.py"]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple):
                names = getattr(node.targets[0], "elts", [node.targets[0]])
                values = node.value.elts if len(names) > 1 and isinstance(node.value, ast.Tuple) else [node.value]
                python |= {
                    name.id: value.value
                    for name, value in zip(names, values, strict=False)
                    if isinstance(name, ast.Name) and isinstance(value, ast.Constant)
                }
    shared = web.keys() & python.keys()
    assert len(shared) > 40
    assert {name: web[name] for name in shared} == {name: python[name] for name in shared}


@pytest.mark.parametrize(("script", "page"), [("main", "README.md"), ("train", "docs/training.md")])
def test_every_option_is_in_the_docs_and_no_other(script, page, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(script).parse_args(["--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    options = set(re.findall(r"--[a-z-]+", usage)) - {"--source", "--model", "--split"}  # these are explained elsewhere
    rows = [line.split("|")[1] for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert {option for row in rows for option in re.findall(r"--[a-z-]+", row)} - {"--model"} == options
