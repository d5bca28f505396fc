"""A made FER-2013: noise faces in every layout the real one is handed out in."""

import zipfile
from pathlib import Path

import cv2
import numpy as np

from model import EMOTIONS

SPLITS = ("Training", "PublicTest", "PrivateTest")


def make_rows(per_class=(10, 2, 2), seed=0) -> list[tuple[int, np.ndarray, str]]:
    """Return (label, face uint8 (48, 48), usage), so many a class for each split; every class has its own gray."""
    generator = np.random.default_rng(seed)
    rows = []
    for usage, count in zip(SPLITS, per_class, strict=True):
        for label in range(len(EMOTIONS)):
            for _ in range(count):
                rows.append((label, np.uint8(generator.integers(0, 60, (48, 48)) + 25 * label), usage))
    return rows


def write_csv(path: Path, rows, columns=("emotion", "pixels", "Usage"), separator=",", header=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header or separator.join(columns)]
    for label, face, usage in rows:
        cells = {"emotion": str(label), "pixels": " ".join(map(str, face.ravel())), "Usage": usage}
        lines.append(",".join(cells[name] for name in columns))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_folders(root: Path, rows, names=EMOTIONS, prefixes=True, splits=("train", "test", "test")) -> Path:
    for i, (label, face, usage) in enumerate(rows):
        folder = root / splits[SPLITS.index(usage)] / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / (f"{usage}_{i:05d}.png" if prefixes else f"{i:05d}.png")), face)
    return root


def zip_up(path: Path, root: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


def write_votes(path: Path, rows, votes=None) -> Path:
    """Write FER+'s table for rows: nine of ten people agree with the label, or `votes` (n, 10) in FER+'s order."""
    columns = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
    place = (4, 5, 6, 1, 3, 2, 0)  # of Kaggle's codes among the columns
    lines = [",".join(("Usage", "Image name", *columns))]
    for i, (label, _, usage) in enumerate(rows):
        cells = [9 * (column == place[label]) + (column == 8) for column in range(10)] if votes is None else votes[i]
        lines.append(",".join([usage, f"fer{i:07}.png", *map(str, cells)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
