"""Files that are whole or not there, names that are nobody's, links, and locks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from common.files import atomic_path, copy_together, lock, why_not_writable


def test_a_new_file_takes_its_place_whole_and_leaves_nothing_else(tmp_path):
    path = tmp_path / f"{'long' * 60}.keras"  # as long as a name may be
    mine = {name: name for name in ("out.partial.keras", ".out.partial.keras", "partial.out.keras")}
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".keras" and not path.exists()
        with atomic_path(path) as other:
            assert other != temporary
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == mine | {path.name: "new"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("old.json", "new.json"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "old.json").write_text("old")
    for name in ("old.json", "new.json"):
        assert not why_not_writable(tmp_path / name) and (tmp_path / name).is_symlink()
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text("written")
        assert (tmp_path / name).is_symlink() and (tmp_path / "elsewhere" / name).read_text() == "written"
    assert len(list(tmp_path.rglob("*.json"))) == 4 == len(list(tmp_path.rglob("*"))) - 1


@pytest.mark.skipif(os.name == "nt", reason="it has no pipes in folders")
def test_a_pipe_and_a_folder_are_no_outputs(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in why_not_writable(tmp_path / "pipe") and "not a file" in why_not_writable(tmp_path)


def test_a_file_that_another_program_holds_for_a_moment_is_replaced_all_the_same(tmp_path, monkeypatch):
    replace, failures = Path.replace, iter([PermissionError("held")] * 2)

    def held(path, target):
        if error := next(failures, None):
            raise error
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", held)
    with atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.json").read_text() == "new" and next(failures, None) is None


def test_files_are_replaced_together_or_not_at_all(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).write_text(name)
    with pytest.raises(OSError, match="missing"):
        copy_together([(tmp_path / "a", tmp_path / "c"), (tmp_path / "missing", tmp_path / "d")])
    assert (tmp_path / "c").read_text() == "c"
    copy_together([(tmp_path / "a", tmp_path / "c"), (tmp_path / "b", tmp_path / "d")])
    assert [(tmp_path / name).read_text() for name in "abcd"] == ["a", "b", "a", "b"]


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    path = tmp_path / "file"
    path.write_text("content")
    code = f"import os; from common.files import lock; print(lock(open({str(path)!r}, 'rb+')), flush=True); os.abort()"
    with path.open("rb+") as file:
        assert lock(file) and path.read_text() == "content"
        with path.open("rb+") as other:
            assert not lock(other)
    for held in (False, True):  # a process that crashes with it
        done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.stdout == "True\n" and done.returncode != 0, held
    with path.open("rb+") as file:
        assert lock(file)
