"""Files that are either whole or not there, and which files are images."""

import contextlib
import os
import shutil
import time
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".avif", ".tif", ".tiff")


def why_not_writable(path: Path) -> str:
    """Return why no file can be written there and what to do, "" if one can. Leaves nothing behind."""
    if not path.parent.is_dir():
        return f"The folder {path.parent} does not exist. Create it, or choose another place for {path.name}."
    existed = path.exists()
    try:  # permission bits are not enough: Windows calls any folder writable
        path.open("ab").close()
    except OSError as error:
        return f"{path} cannot be written ({error.strerror}). Choose another place."
    if not existed:
        path.unlink(missing_ok=True)  # another process that tried at the same time may have removed it
    return ""


@contextlib.contextmanager
def atomic_path(path: Path):
    """Yield a temporary path beside `path`; move it into place on success, remove it on an error."""
    temporary = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def move_into_place(temporary: Path, path: Path) -> None:
    """Replace a file by a finished one in a single step.

    On Windows a virus scanner may hold the new file for a moment, or a viewer the old one, so it tries a few times.
    """
    sync(temporary)
    for wait_seconds in (0.1, 0.3, 0.9):
        with contextlib.suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(wait_seconds)
    temporary.replace(path)


def sync(path: Path) -> None:
    """Wait until a file is on the disk; renamed earlier, a power cut could lose both the old and the new one."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file over an older one in a single step."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)
