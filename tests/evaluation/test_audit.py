"""The audit on splits with known copies and conflicts."""

import numpy as np

from data import Split
from evaluation.audit import audit, is_copy


def test_audit_counts_constant_images_copies_and_conflicting_labels():
    faces = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 1), np.uint8)
    training = faces[[0, 1, 1, 2, 3, 3]]
    public = np.concatenate([faces[[1, 4, 2, 1]], np.full((1, 48, 48, 1), 9, np.uint8)])
    found = audit({
        "Training": Split(training, np.array([0, 1, 1, 2, 3, 4])),
        "PublicTest": Split(public, np.array([1, 2, 3, 1, 4])),
    })  # fmt: skip
    assert found["constant"] == {"Training": 0, "PublicTest": 1}
    assert found["groups"] == 3
    assert found["copies_within"] == {"Training": 2, "PublicTest": 1}
    assert found["conflicts"] == 2


def test_copies_may_differ_by_a_few_gray_levels():
    faces = np.random.default_rng(0).integers(0, 240, (600, 48, 48, 1), np.uint8)
    near, far, other = faces[5] + np.uint8(8), faces[6] + np.uint8(9), 255 - faces[7]
    assert is_copy(np.stack([faces[599], near, far, other]), faces).tolist() == [True, True, False, False]
