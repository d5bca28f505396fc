"""The data set's own errors: constant images, copies within and across splits, copies with different labels."""

import numpy as np

COPY_LEVELS = 8  # gray levels by which no pixel of a copy differs
MOST_COPIED = 10  # groups of copies that the audit lists


def is_constant(faces: np.ndarray) -> np.ndarray:
    """Return which faces (n,) have a single gray value."""
    pixels = faces.reshape(len(faces), -1)
    return pixels.min(axis=1) == pixels.max(axis=1)


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


def copy_groups(splits: dict) -> list[list[tuple[str, int, int]]]:
    """Return the groups of identical faces over all splits, each a list of (split, row, label) of two or more."""
    groups = {}
    for name, split in splits.items():
        for row, (face, label) in enumerate(zip(split.faces, split.labels, strict=True)):
            groups.setdefault(face.tobytes(), []).append((name, row, int(label)))
    return [group for group in groups.values() if len(group) > 1]


def audit(splits: dict) -> dict:
    """Return what is irregular in splits (name -> object with `faces` and `labels`).

    `constant` and `copies_within` (beyond the first) count faces by split, `groups` counts the groups of identical
    faces, `most_copied` lists the largest of them and `conflicts` those with different labels.
    """
    groups = copy_groups(splits)
    within = {name: sum(max(sum(f[0] == name for f in group) - 1, 0) for group in groups) for name in splits}
    return {
        "constant": {name: int(is_constant(split.faces).sum()) for name, split in splits.items()},
        "groups": len(groups),
        "copies_within": within,
        "most_copied": sorted(groups, key=len, reverse=True)[:MOST_COPIED],
        "conflicts": [group for group in groups if len({face[2] for face in group}) > 1],
    }
