"""Files that are either whole or not there, and which files are images."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")


def why_not_writable(path: Path) -> str:
    """Return why no file can be written there and what to do, "" if one can. Leaves nothing behind."""
    target = written_through(path)
    if not target.parent.is_dir():
        return f"The folder {target.parent} does not exist. Create it, or choose another place for {path.name}."
    existed = target.exists()
    if existed and not target.is_file():  # a folder; a pipe would be waited for
        return f"{path} cannot be written (it is not a file). Choose another place."
    try:  # permission bits are not enough: Windows calls any folder writable
        target.open("ab").close()
        beside = target.with_name(f".{secrets.token_hex(8)}.partial")  # where it will be written
        beside.touch(exist_ok=False)
        beside.unlink()
    except OSError as error:
        return f"{path} cannot be written ({error.strerror}). Choose another place."
    if not existed:
        target.unlink(missing_ok=True)  # another process that tried at the same time may have removed it
    return ""


def written_through(path: Path) -> Path:
    """Return where a symbolic link leads, so that its target is written and the link stays; other paths as they are."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def atomic_path(path: Path, keep: bool = False):
    """Yield a new, hidden file beside `path`; move it into place on success, remove it on an error.

    If the older file cannot be replaced, as on Windows while another program has it open, `keep` leaves the new one
    under another name, which the `PermissionError` says.
    """
    path = written_through(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial{path.suffix}")
    temporary.touch(exist_ok=False)  # nobody else's
    try:
        yield temporary
        try:
            move_into_place(temporary, path)
        except PermissionError as error:
            if not keep:
                raise
            kept = path.with_name(f"{path.stem} {time.strftime('%H-%M-%S')}{path.suffix}")
            temporary.replace(kept)
            reason = f"it may be open in another program; the new file is {kept.name}"
            raise PermissionError(error.errno, reason, str(path)) from error
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


def copy_together(pairs) -> None:
    """Copy files, (source, path) each: every copy is complete before the first replaces an older file."""
    with contextlib.ExitStack() as stack:
        for source, path in pairs:
            shutil.copyfile(source, stack.enter_context(atomic_path(path)))


def lock(file) -> bool:
    """Lock an open file until it is closed or the process ends; return False if another process holds it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(2**30)  # beyond the end: a locked byte cannot be read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:  # other errors: a file system without locks
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True
