"""main.py --check: a line for everything, and how to fix what does not work."""

import importlib.metadata
import importlib.util

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY, noise

import main
from live import check as checks
from model import BEST_MODEL


@pytest.fixture
def check(lite_network, cameras, monkeypatch, capsys):
    """Run --check with a camera and a display; return (status, stdout)."""

    class Probe:
        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def error(self):
            return ""

    monkeypatch.setattr(checks, "DisplayProbe", Probe)

    def call(*args, camera=True, model=lite_network):
        cameras(None, noise(50, 120, 160) if camera else None)
        status = main.main(["--check", *map(str, args), "--model", str(model)])
        return status, capsys.readouterr().out

    return call


def line_of(out, name):
    return next(line for line in out.splitlines() if f" {name} " in line)


SHIPPED = BEST_MODEL.with_suffix(".tflite")


def test_check_passes_if_everything_works_or_all_but_a_camera(check):
    status, out = check(camera=False, model=SHIPPED)
    assert status == 0 and "FAIL" not in out and out.splitlines()[-1] == "All checks passed."
    assert line_of(out, "cameras").startswith("none") and "main.py demo" in out and "finds the demo's face" in out


def test_check_suggests_fixes(check, tmp_path):
    status, out = check("--cascade", tmp_path / "none.xml", model=tmp_path / "none.keras")
    failures = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert line_of(out, "cameras").startswith("ok") and "1: 160x120, " in out
    assert status == 2 and len(failures) == 2 and out.splitlines()[-1].startswith("Fix the lines marked FAIL")
    for line, fix in zip(failures, ("--cascade PATH", "python train.py"), strict=True):
        assert fix in line


def test_check_fails_for_a_network_that_knows_too_few_emotions(check):
    status, out = check()
    assert status == 2 and line_of(out, "model").startswith("FAIL") and "in this order: angry, " in out


@pytest.fixture
def packages(check, tmp_path, monkeypatch):
    """Return the line on packages for a model of this name, which does not exist, without the modules `hidden`."""
    installed = importlib.metadata.packages_distributions()

    find_spec = importlib.util.find_spec

    def call(name="none.keras", hidden=(), unknown=(), **others):
        found = {module: names for module, names in (installed | others).items() if module not in (*hidden, *unknown)}
        monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: found)
        monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module in hidden else find_spec(module))
        return line_of(check("--cascade", "none.xml", model=tmp_path / name)[1], "packages")

    return call


def test_check_names_what_is_installed_and_what_is_missing(packages, monkeypatch):
    line = packages()
    assert line.startswith("ok") and f"opencv {cv2.__version__}" in line and "tensorflow" in line
    line = packages(hidden=["tensorflow"])
    assert line.startswith("FAIL") and line.endswith(f"-m pip install -r {REPOSITORY / 'requirements.txt'}")
    assert packages("none.tflite", hidden=["tensorflow", "keras"]).startswith("ok")
    line = packages("none.tflite", hidden=["ai_edge_litert"])
    assert line.startswith("FAIL") and line.endswith(f"-m pip install -r {REPOSITORY / 'requirements-live.txt'}")
    line = packages("none.tflite", unknown=["numpy"])  # as under Python 3.10, whose list lacks it
    assert line.startswith("ok") and f"numpy {np.__version__}" in line
    monkeypatch.setenv("KERAS_BACKEND", "no-such-backend")
    line = packages()
    assert line.startswith("FAIL") and line.endswith("pip install no-such-backend")
