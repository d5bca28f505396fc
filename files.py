"""Files: which of them are pictures, and how to write them so that they are whole or not there."""

import contextlib
import os
import shutil
import time
from pathlib import Path

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".avif", ".tif", ".tiff")


def why_not_writable(path: Path) -> str:
    """Return why no file can be written there and what to do, "" where one can; nothing of the trial stays."""
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist. Make it, or choose another place for {path.name}."
    existed = path.exists()
    try:  # to ask is not enough: Windows calls any folder writable
        path.open("ab").close()
    except OSError as error:
        return f"{path} cannot be written ({error.strerror}). Choose another place."
    if not existed:
        path.unlink(missing_ok=True)  # of two processes that try at once, one has removed it
    return ""


@contextlib.contextmanager
def written_whole(path: Path):
    """Give a place beside a path to write to, and then move what was written there in one step, or remove it."""
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        put_in_place(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def put_in_place(partial: Path, path: Path) -> None:
    """Move a written file to where an older one may be, in one step.

    On Windows a virus scanner may hold a new file for a moment, and a viewer an old one: it is tried a few times.
    """
    flush(partial)
    for wait_seconds in (0.1, 0.3, 0.9):
        with contextlib.suppress(PermissionError):
            partial.replace(path)
            return
        time.sleep(wait_seconds)
    partial.replace(path)


def flush(path: Path) -> None:
    """Wait until a file is on the disk: only then may it take the place of one that is, or a power cut loses both."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file to a place where an older one may be, in one step."""
    with written_whole(path) as partial:
        shutil.copyfile(source, partial)
