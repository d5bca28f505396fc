"""FER-2013 on disk -> checked arrays -> augmented batches.

`load_fer2013` reads every layout in which the data set is distributed; `make_batches` is the one way from the arrays to
the network: shuffle, augment, mixup, teacher, resize, camera noise.
"""

import contextlib
import csv
import functools
import gzip
import hashlib
import itertools
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from common.cli import printable
from common.files import IMAGE_SUFFIXES
from model import EMOTIONS, IMAGE_SIZE, OUTPUTS, UserError

TRAINING, PUBLIC_TEST, PRIVATE_TEST = SPLITS = ("Training", "PublicTest", "PrivateTest")
PIXELS = IMAGE_SIZE * IMAGE_SIZE
VALIDATION_SHARE = 0.1  # of Training, if the data has no validation split
VALIDATION_SEED = 2013
# Folder names as they occur, lower case. Labels come from these names and never from their order: sorted by name,
# neutral, sad and surprise would trade places.
EMOTION_FOLDERS = {
    **{name: code for code, name in enumerate(EMOTIONS)},
    "anger": 0, "disgusted": 1, "fearful": 2, "happiness": 3, "sadness": 4, "surprised": 5,
}  # fmt: skip
SPLIT_FOLDERS = {
    "train": TRAINING, "training": TRAINING,
    "validation": PUBLIC_TEST, "valid": PUBLIC_TEST, "val": PUBLIC_TEST,
    "test": PUBLIC_TEST,  # PRIVATE_TEST beside a folder for validation
    "publictest": PUBLIC_TEST, "privatetest": PRIVATE_TEST,
}  # fmt: skip
VOTES_FILE = "fer2013new.csv"
# FER+'s columns in its own order: ten people's votes, the last three for none of the seven emotions.
VOTE_COLUMNS = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "nf",
)  # fmt: skip
VOTE_ORDER = [4, 5, 6, 1, 3, 2, 0]  # the columns of Kaggle's codes 0..6
MIN_VOTE_AGREEMENT = 0.4  # with FER-2013's labels; 0.65 in the original order, 0.2 in any other
LINE_BYTES, IMAGE_BYTES = 2**18, 2**24  # of one face in a table or an image file, at most
MAX_FACES = 200_000  # rows, or files in an archive; FER-2013 has 35,887
MAX_BLUR = 2.5  # standard deviation of a camera's blur, in pixels of 48
MAX_NOISE = 20.0  # standard deviation of its noise, in gray levels


class DataError(UserError):
    """A data set that cannot be used; the message names the file, the row or image, and what is wrong."""


@dataclass
class Split:
    """Faces uint8 (n, 48, 48, 1), 0..255, their labels uint8 (n,), Kaggle's codes 0..6, and FER+'s votes uint8 (n, 10).

    The votes are in the order of `VOTE_COLUMNS`; None if they are not at hand.
    """

    faces: np.ndarray
    labels: np.ndarray
    votes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> "Split":
        return Split(self.faces[rows], self.labels[rows], None if self.votes is None else self.votes[rows])

    def targets(self) -> np.ndarray:
        """Return what a network learns: the labels one-hot, float32 (n, 7), or with votes both, (n, 2, 7)."""
        labels = one_hot(self.labels)
        return labels if self.votes is None else np.stack([labels, vote_targets(self.votes)], axis=1)


@dataclass
class Dataset:
    """The splits by name ("PrivateTest" may be absent) and notes from reading, a sentence each."""

    source: str
    splits: dict[str, Split]
    notes: list[str] = field(default_factory=list)
    drawn: bool = False  # PublicTest was drawn from Training, so another network may have learned from it

    def __getitem__(self, name: str) -> Split:
        return self.splits[name]

    def counts(self) -> pd.DataFrame:
        """Return the number of faces by split (rows) and emotion (columns), with their sum."""
        rows = {name: np.bincount(split.labels, minlength=len(EMOTIONS)) for name, split in self.splits.items()}
        table = pd.DataFrame(rows, index=list(EMOTIONS)).T
        return table.assign(all=table.sum(axis=1))

    def summary(self) -> str:
        """Return the counts and the notes as text to print."""
        return "\n".join([printable(self.source), self.counts().to_string(), *map(printable, self.notes)])

    def sha256(self) -> str:
        """Return the hash of all faces, labels and votes, which identifies the data of a run."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            digest.update(name.encode() + split.labels.tobytes())
            digest.update(np.ascontiguousarray(split.faces))
            if split.votes is not None:
                digest.update(np.ascontiguousarray(split.votes))
        return digest.hexdigest()


def load_fer2013(path, votes=None) -> Dataset:
    """Read FER-2013 from a CSV file (also .gz), a folder, or a .zip of either, and check every face of it.

    Understood by content: `fer2013.csv` (emotion, pixels, Usage, in any order), the competition's `train.csv`
    (emotion, pixels), image folders `train/<emotion>/` and `test/<emotion>/`, and a folder or archive that holds
    one of these, also one level down. Where there is no validation part, a stratified tenth of Training serves.
    `votes` is FER+'s `fer2013new.csv`, by default the file of that name beside the CSV or its .zip.
    Raises `DataError` that names the first error, where it is, and how many more there are.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"There is no data at {path}. Give the FER-2013 file or folder with --data PATH.")
    try:
        root = _open_zip(path) if path.suffix.lower() == ".zip" and path.is_file() else path
        found = _find(root)
        splits, notes = (_read_csv if found.is_file() else _read_folders)(found)
        notes += _add_votes(splits, root, found, votes)
    except DataError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, OverflowError, zipfile.BadZipFile, zlib.error) as error:
        # of a damaged or encrypted archive
        raise DataError(f"{path} cannot be read ({error}). Download or unpack it again.") from error
    return _checked(Dataset(str(found), splits, notes))


def _open_zip(path: Path) -> zipfile.Path:
    """Return an archive's root. Raises `DataError` where zipfile would loop for ever, or cannot unpack it."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises many kinds for damage
        raise DataError(f"{path} cannot be read ({error}). Download it again.") from error
    members = archive.infolist()
    if len(members) > MAX_FACES:
        raise DataError(f"{path} holds {len(members):,} files, where FER-2013 has 35,887. Unpack what belongs to it.")
    for member in members:  # zipfile looks for the folder above "//" for ever
        usual = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
        if member.filename.startswith("/") or "//" in member.filename or not usual:
            raise DataError(
                f"{path} has {member.filename!r} in a form that is not read here. Unpack it, give the folder."
            )
    return zipfile.Path(archive)


def _find(root):
    """Return the CSV file, or the folder above the splits, looking one level down as well."""
    if root.is_file():
        if _csv_columns(root) is None:
            if root.name.lower().endswith((".tar.gz", ".tgz", ".tar", ".rar", ".7z")):
                raise DataError(f"{root} is an archive of another kind. Unpack it and give its folder.")
            raise DataError(
                f"{root} is not FER-2013: expected a CSV with the columns emotion and pixels, a folder, or a .zip."
            )
        return root
    children, errors = _children(root), []  # of what may be something else, or be meant and damaged
    for folder in [root, *(child for child in children if child.is_dir())]:
        tables = []
        for file in (child for child in _children(folder) if child.is_file()):
            try:
                if columns := _csv_columns(file):
                    tables.append((file, columns))
            except (OSError, EOFError, zlib.error) as error:
                errors.append(error)
        if tables:  # a table that names its splits is preferred to train.csv beside it
            return max(tables, key=lambda table: "usage" in table[1])[0]
        if any(SPLIT_FOLDERS.get(child.name.lower()) == TRAINING for child in _children(folder) if child.is_dir()):
            return folder
    for child in children:
        if child.name.lower().endswith(".zip") and isinstance(child, Path) and child.is_file():
            try:
                return _find(_open_zip(child))
            except DataError as error:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise DataError(
        f"Nothing of FER-2013 was found in {root}: expected fer2013.csv, icml_face_data.csv, train.csv, "
        "or folders train/<emotion>/ and test/<emotion>/."
    )


def _children(folder) -> list:
    """Return what a folder holds, sorted by name, without hidden files and macOS's shadows of archives."""
    children = (child for child in folder.iterdir() if not child.name.startswith((".", "__")))
    return sorted(children, key=lambda child: child.name)


def _csv_columns(file) -> list[str] | None:
    """Return the lower-case column names where a file is a table with emotion and pixels, else None."""
    if not file.name.lower().endswith((".csv", ".csv.gz")):
        return None
    with contextlib.suppress(DataError, gzip.BadGzipFile):
        columns = _columns(_rows(file))
        once = columns.count("emotion") == columns.count("pixels") == 1 and columns.count("usage") <= 1
        return columns if once else None


def _rows(file):
    """Yield the number of every row of a table, as an editor counts, and its cells as text; the header comes first."""
    with _open(file) as stream:
        table = csv.reader(_lines(stream, file), skipinitialspace=True)
        try:
            for cells in table:
                if table.line_num > MAX_FACES:
                    raise DataError(f"{file} has more than {MAX_FACES:,} rows, where FER-2013 has 35,887.")
                yield table.line_num, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise DataError(f"{file}, row {table.line_num}: {error}. Download the data set again.") from error


def _lines(stream, file):
    """Yield lines as text. Raises `DataError` at one longer than a face, which an archive can unpack to any size."""
    while line := stream.readline(LINE_BYTES):
        if len(line) == LINE_BYTES:
            raise DataError(f"{file} has a line of more than {LINE_BYTES:,} bytes. Download the data set again.")
        yield line.decode("utf-8-sig", "replace")


def _columns(rows) -> list[str]:
    """Consume the header of a table's rows; return the column names in lower case."""
    return [name.lower() for name in next(rows, (1, []))[1]]


@contextlib.contextmanager
def _open(file):
    """Open a file of a folder or an archive as bytes, unpacking .gz on the way."""
    if not file.is_file():  # a pipe would be waited for, and a device has no end
        raise FileNotFoundError(f"there is no file {file}")
    with file.open("rb") as stream:
        yield gzip.GzipFile(fileobj=stream) if file.name.lower().endswith(".gz") else stream


def _raise_if_any(errors: list[str], source) -> None:
    """Raise `DataError` that names the first error of rows or images and counts them."""
    if errors:
        rest = f" {len(errors)} errors in all." if len(errors) > 1 else ""
        raise DataError(f"{source}, {errors[0]}.{rest} Download the data set again or correct it.")


def _counted(faces):
    """Yield faces and count them on stderr: reading FER-2013 takes some seconds."""
    count = 0
    for count, face in enumerate(faces, 1):
        if count % 2000 == 0:
            print(f"\rReading faces: {count:,}", end="", file=sys.stderr, flush=True)
        yield face
    if count >= 2000:
        print(f"\rReading faces: {count:,}", file=sys.stderr)


def _read_csv(file) -> tuple[dict[str, Split], list[str]]:
    errors, read = [], []
    rows = _rows(file)
    columns = _columns(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # NumPy's for text instead of numbers
        for row, cells in _counted(rows):
            if not any(cells):
                continue
            try:
                if any(cells[len(columns) :]):
                    raise ValueError(f"{len(cells)} cells instead of {len(columns)}")
                cells = dict(itertools.zip_longest(columns, cells, fillvalue=""))
                read.append(_parse_row(cells["emotion"], cells["pixels"], cells.get("usage", TRAINING)))
            except ValueError as error:
                errors.append(f"row {row}: {error}")
    _raise_if_any(errors, file)
    return _split(read), []


def _parse_row(emotion: str, pixels: str, usage: str) -> tuple[np.ndarray, int, str]:
    """Return the face uint8 (48, 48, 1), its label and its split. Raises `ValueError`."""
    if usage not in SPLITS:
        raise ValueError(f"Usage is {usage[:20]!r}, not one of {', '.join(SPLITS)}")
    if emotion not in ("0", "1", "2", "3", "4", "5", "6"):
        raise ValueError(f"emotion is {emotion[:20]!r}, not a whole number from 0 to 6")
    try:
        face = np.fromstring(pixels, dtype=np.int64, sep=" ")  # parsed wide: as uint8, 300 would become 44
    except (DeprecationWarning, ValueError) as error:
        raise ValueError("pixels holds something that is not a whole number") from error
    if len(face) != PIXELS:
        raise ValueError(f"{len(face)} pixels instead of {PIXELS}")
    if face.min() < 0 or face.max() > 255:
        raise ValueError(f"a pixel is {face.min() if face.min() < 0 else face.max()}, outside 0 to 255")
    return face.astype(np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 1), int(emotion), usage


def _read_folders(root) -> tuple[dict[str, Split], list[str]]:
    errors, read, notes, cut = [], [], [], 0
    for usage, label, file in _counted(_image_files(root, notes)):
        face, is_cut = _read_image(file)
        if face is None:
            errors.append(f"image {file.parent.parent.name}/{file.parent.name}/{file.name}: cannot be decoded")
            continue
        read.append((face, label, usage))
        cut += is_cut
    _raise_if_any(errors, root)
    if cut:
        notes.append(f"Images that are not square, of which only the square in the middle is used: {cut:,}.")
    return _split(read), notes


def _image_files(root, notes: list[str]):
    """Yield the split by its folder's name, the label and the file of every image; note what is left out."""
    folders, others = [(child.name.lower(), child) for child in _children(root) if child.is_dir()], 0
    has_validation = any(SPLIT_FOLDERS.get(name) == PUBLIC_TEST for name, _ in folders if name != "test")
    for name, split_folder in folders:
        usage = PRIVATE_TEST if name == "test" and has_validation else SPLIT_FOLDERS.get(name)
        if usage is None:
            if any(child.name.lower() in EMOTION_FOLDERS for child in _children(split_folder)):
                notes.append(f"The folder {split_folder.name} is left out: it is none of {', '.join(SPLIT_FOLDERS)}.")
            continue
        # Image releases mix both official halves in test/; the file names still tell them apart.
        halves = SPLITS[1:] if name == "test" and not has_validation else ()
        for folder in _children(split_folder):
            if not folder.is_dir():
                others += 1
                continue
            label = EMOTION_FOLDERS.get(folder.name.lower())
            if label is None:
                raise DataError(
                    f"{root}: the folder {split_folder.name}/{folder.name} is none of the seven emotions "
                    f"({', '.join(EMOTIONS)}). Rename or remove it."
                )
            for file in _children(folder):
                if not file.name.lower().endswith(IMAGE_SUFFIXES):
                    others += 1
                    continue
                yield next((half for half in halves if file.name.startswith(half + "_")), usage), label, file
    if others:
        notes.append(f"Files left out, as they are not images or not in the folder of an emotion: {others:,}.")


def _read_image(file) -> tuple[np.ndarray | None, bool]:
    """Return the middle square of an image file as uint8 (48, 48, 1), None where it is none, and if it was cut."""
    if not file.is_file():  # a pipe would be waited for, and a device has no end
        return None, False
    with file.open("rb") as stream:
        content = stream.read(IMAGE_BYTES + 1)
    if len(content) > IMAGE_BYTES:
        return None, False
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # it is empty, or claims to be larger than OpenCV takes
        image = None
    if image is None:
        return None, False
    (height, width), side = image.shape, min(image.shape)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side != IMAGE_SIZE:
        square = cv2.resize(square, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
    return square[:, :, None], height != width


def _split(read: list) -> dict[str, Split]:
    """Return the splits of what was read: a face, its label and the name of its split each."""
    faces, labels, usages = zip(*read, strict=True) if read else ((), (), ())
    everything = Split(np.array(faces, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 1), np.array(labels, np.uint8))
    usages = np.array(usages)
    return {name: everything[usages == name] for name in SPLITS if (usages == name).any()}


# --- FER+ -------------------------------------------------------------------------------------------------------


def _add_votes(splits: dict[str, Split], root, found, path) -> list[str]:
    """Give every split its votes from FER+'s file, if there is one beside the faces or in the root; return notes.

    Row i of the file belongs to row i of fer2013.csv, so the votes of a split follow its faces in order.
    """
    beside = found.parent if found.is_file() else found
    places = [beside, *([root] if root.is_dir() else [])]
    places += [Path(found.root.filename).parent] if isinstance(found, zipfile.Path) else []
    near = (child for place in places for child in _children(place) if child.name == VOTES_FILE)
    file = Path(path) if path else next(near, None)
    if file is None:
        return []
    if not file.is_file():
        raise DataError(f"There are no votes at {file}. Give FER+'s {VOTES_FILE} with --votes.")
    if beside is found:
        why = f"{file} belongs to the rows of fer2013.csv, and image folders have no row order"
        if path:
            raise DataError(f"{why}. Download the CSV of FER-2013 and give it with --data.")
        return [f"{why}: it is not used."]
    table = _read_votes(file)
    for name, split in splits.items():
        rows = table[table["usage"] == name]
        if len(rows) == 0:
            continue
        if len(rows) != len(split):
            raise DataError(
                f"{file} has {len(rows):,} rows of {name}, but {found} has {len(split):,}. Use whole files, or move "
                "the votes elsewhere to train without them."
            )
        split.votes = rows[list(VOTE_COLUMNS)].to_numpy(np.uint8)
        known = most_voted(split.votes) >= 0
        agreement = (most_voted(split.votes) == split.labels)[known].mean() if known.any() else 0.0
        if agreement < MIN_VOTE_AGREEMENT:
            raise DataError(
                f"{file} does not belong to these faces: its votes agree with {agreement:.0%} of the labels of {name}, "
                "where 65 % are usual. Use the rows of fer2013.csv in their original order."
            )
    without = [name for name, split in splits.items() if split.votes is None]
    if TRAINING in without:
        raise DataError(f"{file} has no rows of {TRAINING}. Use the whole file.")
    used = sum((vote_targets(split.votes).any(axis=1)).sum() for split in splits.values() if split.votes is not None)
    notes = [f"{file.name}: votes of ten people on {used:,} faces."]
    return notes + [f"{file.name} has no votes on {name}." for name in without]


def _read_votes(file) -> pd.DataFrame:
    """Return FER+'s table with the columns usage and `VOTE_COLUMNS`."""
    rows = _rows(file)
    columns = _columns(rows)
    missing = [name for name in ("usage", *VOTE_COLUMNS) if columns.count(name) != 1]
    if missing:
        raise DataError(f"{file} is not FER+'s fer2013new.csv: it has no column {', '.join(missing)}, or two of them.")
    cells = {row: dict(zip(columns, cells, strict=False)) for row, cells in rows if cells}
    table = pd.DataFrame.from_dict(cells, orient="index", columns=columns)
    votes = table[list(VOTE_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    wrong = np.flatnonzero(~(votes.ge(0) & votes.le(100) & (votes % 1 == 0)).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{file}, row {table.index[wrong[0]]}: votes must be whole numbers from 0 to 100. Download it again."
        )
    return votes.assign(usage=table["usage"])


def vote_targets(votes: np.ndarray) -> np.ndarray:
    """Return the shares of the seven emotions among votes (n, 10), float32 (n, 7), as a network learns them.

    Single votes count as noise (Barsoum et al. 2016, arXiv:1608.01041). Rows are zero if the most votes are for
    contempt, unknown or no face.
    """
    kept = np.where(votes > 1, votes, 0).astype(np.float32)
    emotions = kept[:, VOTE_ORDER]
    usable = (emotions.max(axis=1) > 0) & (emotions.max(axis=1) >= kept.max(axis=1))
    return np.where(usable[:, None], emotions / np.maximum(emotions.sum(axis=1, keepdims=True), 1), 0)


def most_voted(votes: np.ndarray) -> np.ndarray:
    """Return Kaggle's code of the emotion with the most votes (n, 10) as int (n,); -1 for a tie or another answer."""
    ordered = np.sort(votes, axis=1)
    emotions = votes[:, VOTE_ORDER]
    clear = (ordered[:, -1] > ordered[:, -2]) & (emotions.max(axis=1) == ordered[:, -1])
    return np.where(clear, emotions.argmax(axis=1), -1)


def _checked(dataset: Dataset) -> Dataset:
    """Leave constant training images out, see that every split and class is there, count copies across splits."""
    if TRAINING not in dataset.splits:
        raise DataError(f"{dataset.source} has no training faces. Use the whole data set.")
    training = dataset[TRAINING]
    constant = is_constant(training.faces)
    if constant.any():
        dataset.splits[TRAINING] = training = training[~constant]
        dataset.notes.append(f"Constant images left out of Training: {constant.sum()}.")
    missing = [EMOTIONS[code] for code in range(len(EMOTIONS)) if not (training.labels == code).any()]
    if missing:
        raise DataError(f"{dataset.source} has no training face of: {', '.join(missing)}. Use the whole data set.")
    if PUBLIC_TEST not in dataset.splits:
        chosen = stratified(training.labels, VALIDATION_SHARE, VALIDATION_SEED)
        if len(chosen) == 0:
            raise DataError(f"{dataset.source} has too few faces to set a tenth aside for validation.")
        rest = np.setdiff1d(np.arange(len(training)), chosen)
        parts = dataset.splits | {TRAINING: training[rest], PUBLIC_TEST: training[chosen]}
        dataset.splits, dataset.drawn = {name: parts[name] for name in SPLITS if name in parts}, True
        dataset.notes.append(
            f"No validation split: a stratified tenth of Training ({len(chosen):,} faces) serves as PublicTest."
        )
    dataset.notes += _copies(dataset)
    return dataset


def is_constant(faces: np.ndarray) -> np.ndarray:
    """Return which faces (n,) have a single gray value."""
    return np.ptp(faces, axis=(1, 2, 3)) == 0


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the sorted rows of a seeded sample that holds `share` (0..1) of every class, at most all but one."""
    generator = np.random.default_rng(seed)
    rows = []
    for code in np.unique(labels):
        of_class = np.flatnonzero(labels == code)
        count = min(round(share * len(of_class)), len(of_class) - 1)
        rows.append(generator.choice(of_class, count, replace=False))
    return np.sort(np.concatenate(rows))


def _copies(dataset: Dataset) -> list[str]:
    """Return a sentence for each pair of splits that share faces, byte by byte."""
    faces = {name: {face.tobytes() for face in split.faces} for name, split in dataset.splits.items()}
    notes = []
    for first, second in itertools.combinations(dataset.splits, 2):
        count = sum(face.tobytes() in faces[first] for face in dataset[second].faces)
        if count:
            notes.append(f"Faces of {second} that are exact copies of faces in {first}: {count}.")
    return notes


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a training face; small changes are drawn more often than large ones."""

    rotation_degrees: float = 30.0  # from minus to plus
    zoom: float = 0.2  # up to this share larger or smaller
    shift: float = 0.1  # of the width and of the height
    flip: bool = True  # mirrors half of the faces
    brightness: float = 0.3  # of the range from black to white, added or subtracted
    contrast: float = 0.3  # up to this share more or less
    erase: float = 0.5  # share of the faces that lose a rectangle (Zhong et al. 2017)

    def scaled(self, strength: float) -> "Augmentation":
        """Return weaker ranges, strength 0..1; half of the faces are mirrored at any strength."""
        return replace(self, **{name: strength * value for name, value in vars(self).items() if name != "flip"})


@dataclass(frozen=True)
class BatchSettings:
    """How batches are made from faces and their targets."""

    batch_size: int = 256
    seed: int = 0  # with the epoch's number it determines order and augmentation
    image_size: int = IMAGE_SIZE  # pixels, at most 48
    augmentation: Augmentation | None = Augmentation()
    strength: Callable[[int], float] = lambda epoch: 1.0  # of the augmentation in an epoch, 0..1
    mixup: float = 0.0  # alpha of Beta(alpha, alpha) (Zhang et al. 2017); 0: none
    camera_noise: bool = False  # blurs half of the faces and adds noise to half
    teacher: Callable | None = None  # (faces float32 (B, 48, 48, 1), targets (B, 7), step) -> targets (B, 7)


def make_batches(split: Split, settings: BatchSettings, first_epoch: int = 0, targets: np.ndarray | None = None):
    """Yield batches (faces float32 (B, size, size, 1), 0..255, targets) for ever.

    `targets` belong to the faces of the split, float32 (len(split), 7) or (len(split), 2, 7); None: its `targets()`.
    They come out as float32 (B, 7), or for two outputs as a dict of these by `model.OUTPUTS`. Every epoch has a
    new order and ceil(len(split) / batch_size) batches; the last is filled up with the first faces, for a smaller one
    would be as large a step, and JAX compiles every size. Everything random follows from the seed and the epoch alone,
    so a resumed training sees the batches of an uninterrupted one.
    """
    targets = split.targets() if targets is None else targets
    batch_size = min(settings.batch_size, len(split))
    steps = -(-len(split) // batch_size)
    moved_size = IMAGE_SIZE if settings.teacher else settings.image_size  # a teacher needs 48 pixels
    for epoch in itertools.count(first_epoch):
        generator = np.random.default_rng((settings.seed, epoch))
        order = np.resize(generator.permutation(len(split)), steps * batch_size)
        ranges = settings.augmentation and settings.augmentation.scaled(settings.strength(epoch))
        for step, rows in enumerate(np.split(order, steps), epoch * steps):
            faces, wanted = split.faces[rows], targets[rows]  # uint8 (B, 48, 48, 1), float32 (B, 7) or (B, 2, 7)
            if ranges:
                faces = augment(faces, generator, ranges, moved_size)  # float32 (B, moved_size, moved_size, 1)
            if settings.mixup:
                faces, wanted = mix_up(faces, wanted, settings.mixup, generator)
            if settings.teacher:
                wanted = settings.teacher(faces, wanted, step)
            faces = resize_faces(faces, settings.image_size).astype(np.float32, copy=False)
            if settings.camera_noise:
                faces = add_camera_noise(faces, np.random.default_rng((settings.seed, step, 1)))
            yield faces, by_output(wanted)


def augment(faces: np.ndarray, generator: np.random.Generator, ranges: Augmentation, size: int = IMAGE_SIZE):
    """Return the faces (B, 48, 48, 1), changed at random, as float32 (B, size, size, 1), 0..255; size is at most 48.

    Random numbers come from NumPy, so that a seed means the same on every Keras backend; the pixels are moved by
    `keras.ops` in one call a batch, bilinear, the border continued outwards.
    """
    from keras import ops

    n = len(faces)
    # -1..1, most often near 0: most faces in front of a camera are upright and well placed.
    rotation, zoom, right, down, brightness, contrast = generator.triangular(-1, 0, 1, (6, n))
    angle, zoom = np.deg2rad(ranges.rotation_degrees * rotation), 1 + ranges.zoom * zoom
    shift_x, shift_y = ranges.shift * right * IMAGE_SIZE, ranges.shift * down * IMAGE_SIZE
    mirror = np.where(generator.random(n) < 0.5, -1, 1) if ranges.flip else np.ones(n)
    # From an output pixel back to its place in the input: about the centre, mirrored, turned, scaled, then shifted.
    scale, centre, centre_out = IMAGE_SIZE / size / zoom, (IMAGE_SIZE - 1) / 2, (size - 1) / 2
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    a0, a1, b0, b1 = mirror * cosine, -sine, mirror * sine, cosine
    a2 = centre + shift_x - (a0 + a1) * centre_out
    b2 = centre + shift_y - (b0 + b1) * centre_out
    transforms = np.stack([a0, a1, a2, b0, b1, b2, np.zeros(n), np.zeros(n)], axis=1).astype(np.float32)  # (B, 8)
    gain, offset = 1 + ranges.contrast * contrast, 255 * ranges.brightness * brightness
    gain, offset = (values.astype(np.float32)[:, None, None, None] for values in (gain, offset))
    erased, gray = _rectangles(n, size, ranges.erase, generator)
    return ops.convert_to_numpy(_compiled(_transform)(faces.astype(np.float32), transforms, gain, offset, erased, gray))


def _transform(faces, transforms, gain, offset, erased, gray):
    """Return faces moved by transforms (B, 8), lit by gain and offset, and gray where erased (B, size, size, 1)."""
    from keras import ops

    size = erased.shape[1]
    moved = ops.image.affine_transform(
        faces, transforms, interpolation="bilinear", fill_mode="nearest", data_format="channels_last"
    )[:, :size, :size]
    lit = ops.clip((moved - 127.5) * gain + 127.5 + offset, 0, 255)
    return ops.where(erased, gray, lit)


@functools.cache
def _compiled(function):
    """Return a function of NumPy arrays as the backend runs it best: JAX would run its operations one at a time."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return lambda *arrays: function(*map(keras.ops.convert_to_tensor, arrays))


def _rectangles(n: int, size: int, share: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels of n images are erased, bool (n, size, size, 1), and their gray, float32 (n, 1, 1, 1).

    A rectangle's sides are a fifth to a half of the image's; `share` of the images have one.
    """
    sides = generator.uniform(0.2, 0.5, (2, n)) * (generator.random(n) < share)
    starts = generator.random((2, n)) * (1 - sides)
    place = (np.arange(size) + 0.5) / size
    rows, columns = (place >= starts[..., None]) & (place < (starts + sides)[..., None])  # (n, size) each
    gray = generator.uniform(0, 255, (n, 1, 1, 1)).astype(np.float32)
    return (rows[:, :, None] & columns[:, None, :])[..., None], gray


def mix_up(faces, targets, alpha: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return faces (B, ...) and targets (B, 7), row i blended with row B - 1 - i.

    The shares come from Beta(alpha, alpha) (Zhang et al. 2017, "mixup").
    """
    share = generator.beta(alpha, alpha, len(targets)).astype(np.float32)
    face_share, target_share = share[:, None, None, None], share.reshape(-1, *[1] * (targets.ndim - 1))
    faces = np.asarray(faces, np.float32)
    mixed = face_share * faces + (1 - face_share) * faces[::-1]
    return mixed, target_share * targets + (1 - target_share) * targets[::-1]


def resize_faces(faces: np.ndarray, size: int) -> np.ndarray:
    """Return faces (n, s, s, 1), uint8 or float32, as (n, size, size, 1), each pixel the mean of what it covers."""
    if faces.shape[1] == size:
        return faces
    return np.stack([cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA) for face in faces])[..., None]


def add_camera_noise(faces: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return faces, float32 (B, size, size, 1), 0..255, half of them blurred and half with noise, as cameras do.

    Weak blur and noise are drawn more often than strong ones. The blur is Gaussian.
    """
    from keras import ops

    n, size = faces.shape[:2]
    blur, noise = np.maximum(generator.triangular(-1, 0, 1, (2, n, 1, 1)), 0).astype(np.float32)
    sigma = np.maximum(MAX_BLUR * size / IMAGE_SIZE * blur, 0.1)  # pixels; 0.1 changes nothing
    grain = MAX_NOISE * noise * generator.standard_normal((n, size, size), np.float32)
    return ops.convert_to_numpy(_compiled(_blur_and_add)(faces, sigma, grain))


def _blur_and_add(faces, sigma, grain):
    """Return faces (B, size, size, 1) blurred by a Gaussian's sigma (B, 1, 1), with grain (B, size, size) added."""
    from keras import ops

    place = ops.arange(faces.shape[1], dtype="float32")
    weights = ops.exp(-(((place[:, None] - place) / sigma) ** 2) / 2)  # (B, size, size)
    weights = weights / ops.sum(weights, axis=2, keepdims=True)
    blurred = ops.matmul(ops.matmul(weights, faces[..., 0]), ops.transpose(weights, (0, 2, 1)))
    return ops.clip(blurred + grain, 0, 255)[..., None]


def by_output(targets: np.ndarray):
    """Return targets (B, 7) as they are, and targets (B, 2, 7) as a dict of (B, 7) by the names of the outputs."""
    return targets if targets.ndim == 2 else {name: targets[:, i] for i, name in enumerate(OUTPUTS)}


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Return float32 (n, 7) for Kaggle's codes (n,)."""
    return np.eye(len(EMOTIONS), dtype=np.float32)[labels]
