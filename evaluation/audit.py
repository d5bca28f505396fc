"""The data set's own errors: constant images, copies within and across splits, copies with different labels."""

import numpy as np
import pandas as pd

from data import is_constant

COPY_LEVELS = 8  # gray levels by which no pixel of a copy differs


def is_copy(faces: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which faces (n,) are copies of the nearest of `others` (m >= 1): no pixel differs by over `COPY_LEVELS`.

    Copies that are not exact come from saving a photo as JPEG again. The nearest is found on means of 4 x 4 pixels.
    """
    small, known = (_block_means(each) for each in (faces, others))
    lengths = (known**2).sum(axis=1)
    rows = np.array_split(np.arange(len(faces)), len(faces) // 256 + 1)
    nearest = np.concatenate([(lengths - 2 * small[some] @ known.T).argmin(axis=1) for some in rows])
    return np.abs(faces.astype(int) - others[nearest]).max(axis=(1, 2, 3)) <= COPY_LEVELS


def _block_means(faces: np.ndarray) -> np.ndarray:
    """Return the means of 4 x 4 pixels, float32 (n, 144)."""
    size = faces.shape[1] // 4
    return faces.reshape(-1, size, 4, size, 4).mean(axis=(2, 4), dtype=np.float32).reshape(-1, size * size)


def audit(splits: dict) -> dict:
    """Count what is irregular in splits (name -> `data.Split`).

    `constant` and `copies_within` (beyond the first) count faces by split; `groups` counts the groups of identical
    faces over all splits, `conflicts` those with different labels.
    """
    parts = [
        pd.DataFrame({"split": name, "face": [face.tobytes() for face in split.faces], "label": split.labels})
        for name, split in splits.items()
    ]
    faces = pd.concat(parts)
    groups = faces.groupby("face")["label"].agg(["size", "nunique"])
    return {
        "constant": {name: int(is_constant(split.faces).sum()) for name, split in splits.items()},
        "copies_within": faces.duplicated(["split", "face"]).groupby(faces["split"], sort=False).sum().to_dict(),
        "groups": int((groups["size"] > 1).sum()),
        "conflicts": int((groups["nunique"] > 1).sum()),
    }
