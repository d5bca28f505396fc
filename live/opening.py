"""What the user names -> sources: cameras, streams, videos, images, folders, patterns, demo."""

import glob
import itertools
from collections import Counter
from pathlib import Path

from common.cli import warn
from common.files import IMAGE_SUFFIXES
from live.cameras import Camera
from live.sources import Demo, Images, Source, SourceError, utf8
from live.videos import VideoFile

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".vob")
VIDEO_SUFFIXES += (".wmv", ".flv", ".3gp", ".ogv", ".dv", ".gif")  # that are taken from folders
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
KINDS = "Give a camera number, a video, an image, a folder, a pattern, a URL or demo."
HEIC_FIX = "OpenCV cannot read HEIC. Export as JPEG, or let an iPhone take JPEGs: Settings, Camera, Formats."


def find_sources(addresses) -> list:
    """Return what to open, in order: an address (str), or the `Images` that follow each other (list of paths).

    Addresses are camera numbers, URLs, "demo", files, folders and patterns. Raises `SourceError`.
    """
    entries = [entry for address in addresses for entry in _expand(str(address))]
    groups = itertools.groupby(entries, lambda each: isinstance(each, Path) and each.suffix.lower() in IMAGE_SUFFIXES)
    return [entry for images, group in groups for entry in ([list(group)] if images else group)]


def repeated_names(entries) -> set[str]:
    """Return the names that several files among the entries of `find_sources` have."""
    files = [file for entry in entries for file in (entry if isinstance(entry, list) else [entry])]
    return {name for name, count in Counter(Path(file).name for file in files).items() if count > 1}


def open_entry(entry, repeated=frozenset()) -> Source:
    """Open an entry of `find_sources`. Frames have their file's name, or its path if the name is a repeated one.

    Raises `SourceError`.
    """
    if isinstance(entry, list):
        return Images(entry, str(entry[0] if len(entry) == 1 else entry[0].parent), repeated)
    if isinstance(entry, Path):
        return VideoFile(str(entry), repeated)
    if entry == "demo":
        return Demo()
    source = Camera(int(entry) if is_camera(entry) else entry)
    if source.ends and not is_camera(entry):
        source.close()
        return VideoFile(entry)
    return source


def is_camera(address) -> bool:
    """Return whether an address is a camera number; a longer one is too large for OpenCV."""
    return isinstance(address, str) and address.isdecimal() and len(address) < 10


def _expand(text: str) -> list:
    """Return one address as it is, or the files it stands for."""
    if not text:
        raise SourceError(f"The source is empty. {KINDS}")
    if text.startswith("file:"):
        raise SourceError(f"{text} is a file on this machine. Give its path, without file://.")
    if text == "demo" or is_camera(text) or "://" in text:
        return [utf8(text)]
    path = Path(text)
    matches = [] if path.exists() else sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (of an absolute one, too)
    return _expand_matches(matches) if matches else _files_at(path)


def _expand_matches(matches: list[str]) -> list:
    """Return the files that a pattern's matches stand for, each once; one that is no source is named on stderr."""
    entries, errors = [], []
    for match in matches:
        try:
            entries += _files_at(Path(match))
        except SourceError as error:
            errors.append(error)
    if not entries:
        raise errors[0]
    for error in errors:
        warn(error)
    return list(dict.fromkeys(entries))


def _files_at(path: Path) -> list[Path]:
    """Return a file, or the images and videos of a folder."""
    if path.is_dir():
        return _files_of(path)
    if not path.exists():
        raise SourceError(f"There is no file {path}. {KINDS}")
    if path.suffix.lower() in HEIC_SUFFIXES:
        raise SourceError(f"{path}: {HEIC_FIX}")
    if not path.is_file():  # a pipe would be waited for
        raise SourceError(f"{path} is a pipe or a device. Give a file, or a camera's number.")
    return [path]


def _files_of(folder: Path) -> list[Path]:
    """Return the images and videos of a folder, by name; count the rest on stderr."""
    files = sorted(child for child in folder.iterdir() if child.is_file() and not child.name.startswith("."))
    used = [file for file in files if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
    heic = sum(file.suffix.lower() in HEIC_SUFFIXES for file in files)
    note = f"{heic} are HEIC: {HEIC_FIX}" if heic else ""
    if not used:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise SourceError(f"The folder {folder} contains no images ({kinds}) and no videos. {note}".rstrip())
    if others := len(files) - len(used):
        skipped = f"{others} of {len(files)} files in {folder} are skipped: no images or videos, by their names. {note}"
        warn(skipped.rstrip())
    return used
