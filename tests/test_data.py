"""FER-2013 in every layout, every way it can be damaged, and what augmentation does to it."""

import dataclasses
import gzip
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_data import SPLITS, make_rows, write_csv, write_folders, write_votes, zip_up

import data
from common.files import IMAGE_SUFFIXES
from data import Augmentation, BatchSettings, DataError, augment, load_fer2013, make_batches
from model import EMOTIONS

ROWS = make_rows()


def gzipped(path):
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def with_commas(path):
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row + "," for row in rows)]))
    return path


LAYOUTS = {
    "fer2013.csv": lambda tmp: write_csv(tmp / "fer2013.csv", ROWS),
    "fer2013.csv.gz": lambda tmp: gzipped(write_csv(tmp / "fer2013.csv", ROWS)),
    "icml_face_data.csv": lambda tmp: write_csv(tmp / "icml_face_data.csv", ROWS, ("emotion", "Usage", "pixels"), ", "),
    "a comma at the end of rows": lambda tmp: with_commas(write_csv(tmp / "fer2013.csv", ROWS)),
    "quoted names": lambda tmp: write_csv(tmp / "a.csv", ROWS, header='"emotion","pixels","Usage"'),
    "a folder with the csv": lambda tmp: write_csv(tmp / "any name.csv", ROWS).parent,
    "the csv one level down": lambda tmp: write_csv(tmp / "archive" / "fer2013.csv", ROWS).parent.parent,
    "image folders": lambda tmp: write_folders(tmp / "images", ROWS),
    "image folders one level down": lambda tmp: write_folders(tmp / "images", ROWS).parent,
    "other names": lambda tmp: write_folders(
        tmp, ROWS, ("Anger", "DISGUST", "Fear", "happiness", "Sadness", "surprised", "Neutral"),
    ),
    "a folder a split": lambda tmp: write_folders(tmp, ROWS, splits=SPLITS, prefixes=False),
    "zip of the csv": lambda tmp: zip_up(tmp / "a.zip", write_csv(tmp / "in" / "fer2013.csv", ROWS).parent),
    "a folder with the zip": lambda tmp: zip_up(tmp / "a.zip", write_csv(tmp / "in" / "x.csv", ROWS).parent).parent,
    "zip of the folders": lambda tmp: zip_up(tmp / "a.zip", write_folders(tmp / "in", ROWS)),
    "zip of a folder of folders": lambda tmp: zip_up(
        tmp / "a.zip", write_folders(tmp / "in" / "fer2013", ROWS).parent
    ),
}  # fmt: skip


def sorted_faces(faces, labels):
    return sorted((int(label), face.tobytes()) for face, label in zip(faces, labels, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_every_layout(layout, tmp_path):
    path = LAYOUTS[layout](tmp_path)
    if (tmp_path / "in").exists():
        shutil.rmtree(tmp_path / "in")
    files = sorted(tmp_path.rglob("*"))
    dataset = load_fer2013(path)
    for usage in SPLITS:
        expected = [(label, face) for label, face, name in ROWS if name == usage]
        split = dataset[usage]
        assert split.faces.shape == (len(expected), 48, 48, 1)
        assert split.faces.dtype == np.uint8
        labels, faces = zip(*expected, strict=True)
        assert sorted_faces(split.faces, split.labels) == sorted_faces(faces, labels)
    assert sorted(tmp_path.rglob("*")) == files  # nothing unpacked beside it


def test_ignores_other_tables_in_the_folder(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\r1,2\r")
    (tmp_path / "b.csv").write_bytes(b"a\0,b\n")
    write_csv(tmp_path / "c.csv", ROWS, header='emotion, "pixels", Usage')
    assert len(load_fer2013(tmp_path)["Training"]) == 70


def test_finds_the_data_among_other_archives_and_damaged_tables(tmp_path):
    (tmp_path / "all").mkdir()
    zip_up(tmp_path / "all" / "b.zip", write_csv(tmp_path / "in" / "fer2013.csv", ROWS).parent)
    zip_up(tmp_path / "all" / "a.zip", write_csv(tmp_path / "other" / "x.csv", [], ("a", "b")).parent)
    (tmp_path / "all" / "a.csv.gz").write_bytes(gzip.compress(b"emotion,pixels")[:-12] + bytes(12))
    assert set(load_fer2013(tmp_path / "all").splits) == set(SPLITS)


def test_prefers_the_table_that_names_its_splits(tmp_path):
    write_csv(tmp_path / "a.csv", ROWS[:70], ("emotion", "pixels"))
    write_csv(tmp_path / "icml_face_data.csv", ROWS, ("emotion", "Usage", "pixels"), ", ")
    (tmp_path / "test.csv").write_text("pixels\n1 2 3\n", encoding="utf-8")
    assert set(load_fer2013(tmp_path).splits) == set(SPLITS)


def test_train_csv_alone_gives_a_stratified_tenth_for_validation(tmp_path):
    path = write_csv(tmp_path / "train.csv", make_rows((20, 0, 0)), ("emotion", "pixels"))
    dataset = load_fer2013(path)
    assert np.bincount(dataset["PublicTest"].labels).tolist() == [2] * 7
    assert np.bincount(dataset["Training"].labels).tolist() == [18] * 7
    assert "stratified tenth" in dataset.summary()
    again = load_fer2013(path)
    assert np.array_equal(again["PublicTest"].faces, dataset["PublicTest"].faces)


def test_folder_test_is_public_test_unless_there_is_a_validation_folder(tmp_path):
    dataset = load_fer2013(write_folders(tmp_path, ROWS, prefixes=False))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"Training": 70, "PublicTest": 28}
    for name in ("Validation", "valid"):
        shutil.copytree(tmp_path / "train", tmp_path / name)
        dataset = load_fer2013(tmp_path)
        counts = {"Training": 70, "PublicTest": 70, "PrivateTest": 28}
        assert {name: len(split) for name, split in dataset.splits.items()} == counts
        shutil.rmtree(tmp_path / name)


def test_names_of_kaggle_s_test_faces_count_only_in_a_test_folder_without_validation_beside_it(tmp_path):
    write_folders(tmp_path, ROWS, splits=("train", "test", "test"))
    write_folders(tmp_path, make_rows((0, 1, 0), seed=1), splits=("train", "val", "test"))
    (tmp_path / "train" / "happy" / "PublicTest_mine.png").write_bytes(next(tmp_path.glob("val/*/*")).read_bytes())
    counts = load_fer2013(tmp_path).counts()["all"]
    assert counts.to_dict() == {"Training": 71, "PublicTest": 7, "PrivateTest": 28}


def test_names_what_is_no_image_among_the_faces(tmp_path):
    write_folders(tmp_path, ROWS)
    (tmp_path / "train" / "happy" / "more").mkdir()
    (tmp_path / "train" / "sad" / "a.heic").touch()
    (tmp_path / "test" / "loose.png").touch()
    assert "not in the folder of an emotion: 3." in load_fer2013(tmp_path).summary()


def test_names_a_folder_of_faces_that_is_left_out(tmp_path):
    write_folders(tmp_path, ROWS)
    shutil.copytree(tmp_path / "train", tmp_path / "holdout")
    (tmp_path / "pictures").mkdir()
    dataset = load_fer2013(tmp_path)
    assert len(dataset["Training"]) == 70
    assert [note for note in dataset.notes if "left out" in note] == [
        "The folder holdout is left out: it is none of train, training, validation, valid, val, test, publictest, "
        "privatetest."
    ]


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_images_of_any_size_and_colour_become_48_pixels_gray(tmp_path, suffix):
    write_folders(tmp_path, ROWS)
    image = np.full((96, 80, 3), 90, np.uint8)
    image[:48] = 200
    kind = ".jpg" if suffix in (".jfif", ".avif") else suffix  # not all builds write .avif
    written = cv2.imencode(kind, image[..., :1] if suffix == ".pgm" else image)[1]
    (tmp_path / "train" / "sad" / f"big{suffix}").write_bytes(written.tobytes())
    dataset = load_fer2013(tmp_path)
    assert "not square, of which only the square in the middle is used: 1." in dataset.summary()
    sad = dataset["Training"]
    face = next(face for face in sad.faces if face[0, 0, 0] > 195 and face[-1, -1, 0] < 95 and np.ptp(face[0]) < 5)
    assert abs(int(face[5].mean()) - 200) < 3
    assert abs(int(face[-5].mean()) - 90) < 3


def test_drops_constant_training_faces_and_counts_copies(tmp_path):
    constant = np.full((48, 48), 7, np.uint8)
    extra = [(0, constant, "Training"), (1, constant, "PublicTest"), (2, ROWS[0][1], "PublicTest")]
    dataset = load_fer2013(write_csv(tmp_path / "fer2013.csv", ROWS + extra))
    assert len(dataset["Training"]) == 70
    assert len(dataset["PublicTest"]) == 16
    assert "Constant images left out of Training: 1." in dataset.summary()
    assert "Faces of PublicTest that are exact copies of faces in Training: 1." in dataset.summary()


def replace_cell(column, value, row=3):
    def damage(tmp):
        path = write_csv(tmp / "fer2013.csv", ROWS)
        lines = path.read_text().split("\n")
        cells = lines[row - 1].split(",")
        cells[column] = value
        path.write_text("\n".join([*lines[: row - 1], ",".join(cells), *lines[row:]]))
        return path

    return damage


def pixels(first="0", count=2304):
    return " ".join([first] + ["0"] * (count - 1))


# The header of a bitmap 50,000 pixels wide and high, and nothing more.
GIANT = b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0)


def blank_lines(tmp):
    path = replace_cell(0, "7")(tmp)
    path.write_text(path.read_text().replace("\n", "\n\n\n", 1))
    return path


def with_file(name, content=b"no image", make=lambda tmp: write_folders(tmp, ROWS)):
    def damage(tmp):
        make(tmp)
        (tmp / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp / name).write_bytes(content)
        return tmp

    return damage


def two_wrong_rows(tmp):
    rows = [ROWS[0], (9, ROWS[1][1], "Training"), (8, ROWS[2][1], "Training"), *ROWS[3:]]
    return write_csv(tmp / "fer2013.csv", rows)


def damaged_zip(tmp):
    """An archive in which the name of a file, in UTF-8, is damaged where it is stored a second time."""
    path = zip_up(tmp / "a.zip", write_csv(tmp / "in" / "Gesichter für alle.csv", ROWS).parent)
    path.write_bytes(path.read_bytes().replace("für".encode(), b"f\xffr!", 1))
    return path


def damaged_gzip(tmp):
    path = gzipped(write_csv(tmp / "fer2013.csv", ROWS))
    content = bytearray(path.read_bytes())
    content[30:60] = bytes(30)
    path.write_bytes(content)
    return path


def truncated_gzip(tmp):
    path = gzipped(write_csv(tmp / "fer2013.csv", ROWS))
    path.write_bytes(path.read_bytes()[:-20000])
    return path


DAMAGES = {
    "missing": (lambda tmp: tmp / "nowhere.csv", "There is no data at"),
    "empty folder": (lambda tmp: tmp, "Nothing of FER-2013 was found"),
    "a tar": (lambda tmp: shutil.move(write_csv(tmp / "a.csv", ROWS), tmp / "fer2013.tar.gz"), "Unpack it"),
    "row long": (replace_cell(slice(3, None), ["x", "y"]), "row 3: 5 cells instead of 3"),
    "another table": (with_file("x.csv", b"a,b\n1,2\n", lambda tmp: None), "Nothing of FER-2013"),
    "too bright": (replace_cell(1, pixels("300")), "row 3: a pixel is 300, outside 0 to 255"),
    "wraps at 32 bits": (replace_cell(1, pixels("4294967303")), "row 3: a pixel is 4294967303"),
    "negative": (replace_cell(1, pixels("-1")), "row 3: a pixel is -1"),
    "a fraction": (replace_cell(1, pixels("1.5")), "row 3: pixels holds something that is not a whole number"),
    "a word": (replace_cell(1, pixels("x")), "row 3: pixels holds something"),
    "too few": (replace_cell(1, pixels(count=2303)), "row 3: 2303 pixels instead of 2304"),
    "no pixels": (replace_cell(1, ""), "row 3"),
    "label 7": (replace_cell(0, "7"), "row 3: emotion is '7'"),
    "blank lines": (blank_lines, "row 5: emotion is '7'"),
    "label nothing": (replace_cell(0, ""), "row 3: emotion is ''"),
    "usage": (replace_cell(2, "Test"), "row 3: Usage is 'Test'"),
    "row short": (replace_cell(slice(1, None), []), "row 3"),
    "several": (two_wrong_rows, "row 3: emotion is '9', not a whole number from 0 to 6. 2 errors in all"),
    "broken image": (with_file("train/happy/a.png"), "image train/happy/a.png: cannot be decoded"),
    "giant image": (with_file("train/happy/a.bmp", GIANT), "image train/happy/a.bmp: cannot be decoded"),
    "empty image": (with_file("train/happy/a.jpg", b""), "image train/happy/a.jpg: cannot be decoded"),
    "unknown emotion": (with_file("train/contempt/a.png"), "train/contempt is none of the seven emotions"),
    "no training": (lambda tmp: write_csv(tmp / "a.csv", make_rows((0, 2, 2))), "has no training faces"),
    "a class missing": (
        lambda tmp: write_csv(tmp / "a.csv", [row for row in ROWS if row[0] != 3]), "no training face of: happy",
    ),
    "header only": (lambda tmp: write_csv(tmp / "a.csv", []), "no training faces"),
    "truncated gz": (truncated_gzip, "Download"),
    "damaged gz": (damaged_gzip, "Download"),
    "damaged zip": (damaged_zip, "Download"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_refuses_damaged_data_and_names_the_place(damage, tmp_path):
    make, message = DAMAGES[damage]
    path = make(tmp_path)
    with pytest.raises(DataError) as error:
        load_fer2013(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_refuses_a_file_that_is_no_zip(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK no")
    with pytest.raises(DataError, match="cannot be read"):
        load_fer2013(tmp_path / "a.zip")


def packed(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def bomb(start=b"emotion,pixels\n", unit=b" ", count=2**28):
    """Content that a few hundred kilobytes unpack to."""
    return start + unit * count


def damaged_lzma(tmp):
    path = packed(tmp / "a.zip", [("fer2013.csv", b"emotion,pixels\n" * 1000)], zipfile.ZIP_LZMA)
    content = bytearray(path.read_bytes())
    content[60:70] = bytes(10)
    path.write_bytes(content)
    return path


def large_image(tmp):
    image = cv2.imencode(".png", np.zeros((48, 48), np.uint8))[1].tobytes()
    return packed(tmp / "a.zip", [("train/happy/a.png", image + bytes(2**24))])


def gzip_bomb(tmp):
    with gzip.open(tmp / "a.csv.gz", "wb", 1) as file:
        file.write(bomb(count=2**26))
    return tmp


def beside(make):
    """A special file where an image should be."""

    def place(tmp):
        write_folders(tmp, ROWS)
        make(tmp / "train" / "happy" / "a.png")
        return tmp

    return place


HOSTILE = {
    "a long line": (lambda tmp: packed(tmp / "a.zip", [("a.csv", bomb(count=2**26))]), "has a line of more than"),
    "gzip": (gzip_bomb, "has a line of more than"),
    "blank lines": (lambda tmp: packed(tmp / "a.zip", [("a.csv", bomb(unit=b"\n", count=2**20))]), "rows, where FER"),
    "no name": (lambda tmp: packed(tmp / "a.zip", [("//train", b"")]), "in a form that is not read here"),
    "no name within": (lambda tmp: packed(tmp / "a.zip", [("a//train/b", b"")]), "in a form that is not read here"),
    "LZMA": (damaged_lzma, "in a form that is not read here"),
    "image": (large_image, "image train/happy/a.png: cannot be decoded"),
    "pipe": (beside(lambda path: os.mkfifo(path)), "image train/happy/a.png: cannot be decoded"),
    "endless": (beside(lambda path: path.symlink_to("/dev/zero")), "image train/happy/a.png: cannot be decoded"),
    "link to itself": (beside(lambda path: path.symlink_to(path)), "image train/happy/a.png: cannot be decoded"),
    "a pipe": (lambda tmp: os.mkfifo(tmp / "a.csv") or tmp / "a.csv", "cannot be read"),
    "a zip that is a pipe": (lambda tmp: os.mkfifo(tmp / "a.zip") or tmp, "Nothing of FER-2013"),
    "votes": (lambda tmp: os.mkfifo(tmp / "fer2013new.csv") or write_csv(tmp / "a.csv", ROWS), "There are no votes at"),
}


@pytest.mark.skipif(os.name == "nt", reason="it has no pipes in folders")
@pytest.mark.parametrize("kind", HOSTILE)
def test_refuses_hostile_data_within_seconds_and_little_memory(kind, tmp_path, monkeypatch):
    make, message = HOSTILE[kind]
    path = make(tmp_path)
    if kind == "blank lines":  # reading 200,000 of them takes long
        monkeypatch.setattr("data.MAX_FACES", 2000)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as error:
            load_fer2013(path)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data.MAX_FACES", 100)
    path = packed(tmp_path / "a.zip", ((f"{i}", b"") for i in range(101)))
    with pytest.raises(DataError, match="holds 101 files"):
        load_fer2013(path)


def test_damage_anywhere_in_an_archive_is_refused_or_harmless(tmp_path):
    generator = np.random.default_rng(0)
    write_csv(tmp_path / "in" / "fer2013.csv", make_rows((2, 1, 1)))
    content = zip_up(tmp_path / "a.zip", tmp_path / "in").read_bytes()
    for i in range(60):
        damaged = bytearray(content[: generator.integers(len(content))] if i % 3 == 0 else content)
        for place in generator.integers(len(damaged), size=3):
            damaged[-(place % 200) if i % 3 == 1 else place] ^= 1 << int(generator.integers(8))
        (tmp_path / "bad.zip").write_bytes(damaged)
        try:
            load_fer2013(tmp_path / "bad.zip")
        except DataError as error:
            assert "\n" not in str(error), i


def test_refuses_an_encrypted_zip(tmp_path):
    path = zip_up(tmp_path / "a.zip", write_csv(tmp_path / "in" / "fer2013.csv", ROWS).parent)
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\1\2") + 8] |= 1  # the flag in the archive's directory
    content[content.find(b"PK\3\4") + 6] |= 1  # and in front of the file
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        load_fer2013(path)


FACES = np.stack([face for _, face, _ in ROWS[:70]])[..., None]


def augmented(faces=FACES, seed=1, size=48, **settings):
    still = {field.name: 0 for field in dataclasses.fields(Augmentation)}
    return np.asarray(augment(faces, np.random.default_rng(seed), Augmentation(**still | settings), size))


def test_augmentation_with_zero_ranges_changes_nothing():
    assert np.array_equal(augmented(), FACES)


def test_flip_mirrors_about_half_and_leaves_the_rest():
    result = augmented(flip=True)
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(result, FACES, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(result, FACES, strict=True)])
    assert (mirrored ^ same).all()
    assert 20 < mirrored.sum() < 50


@pytest.mark.parametrize("strength", [{"rotation_degrees": 30}, {"zoom": 0.2}, {"shift": 0.1}])
def test_augmentation_continues_the_border(strength):
    bright = np.full_like(FACES, 200)
    assert np.allclose(augmented(bright, **strength), 200)
    assert not np.array_equal(augmented(**strength), FACES)


def leans(bars):
    """How far each upright bar leans, degrees."""
    points = [np.nonzero(face[..., 0] > 128) for face in bars]
    return np.degrees(np.arctan([np.polyfit(y, x, 1)[0] for y, x in points]))


def test_augmentation_uses_its_whole_ranges():
    """A vertical bar off the centre, measured afterwards: how far it moved and turned, over many draws."""
    bar = np.zeros((2000, 48, 48, 1), np.uint8)
    bar[:, 4:44, 22:26] = 255
    columns = np.arange(48)
    moved = [float((face.sum(axis=0)[:, 0] * columns).sum() / face.sum()) - 23.5 for face in augmented(bar, shift=0.1)]
    assert 4.6 < max(np.abs(moved)) <= 4.9
    assert np.mean(np.abs(moved)) == pytest.approx(0.1 * 48 / 3, rel=0.05)  # a triangle's mean: small ones most often
    turned = leans(augmented(bar, rotation_degrees=30))
    assert 28 < max(turned) < 31
    assert -31 < min(turned) < -28
    widths = augmented(bar, zoom=0.2)[:, 24, :, 0].sum(axis=1) / 255
    assert 3.15 < widths.min() < 3.4
    assert 4.6 < widths.max() < 4.85


@pytest.mark.parametrize("flip", [False, True])
def test_a_face_is_turned_as_a_whole(flip):
    """A cross, bar by bar: both turn by the same angle, so that they stay upright on each other."""
    bar = np.zeros((100, 48, 48, 1), np.uint8)
    bar[:, 4:44, 22:26] = 255
    upright = leans(augmented(bar, rotation_degrees=30, flip=flip))
    level = leans(augmented(bar.swapaxes(1, 2), rotation_degrees=30, flip=flip).swapaxes(1, 2))
    assert np.ptp(upright) > 30
    assert np.allclose(level, -upright, atol=1)  # rows are columns here: the turn is the other way around


def test_brightness_and_contrast_stay_in_range():
    gray = np.full((2000, 48, 48, 1), 100, np.uint8)
    levels = augmented(gray, brightness=0.3)[:, 0, 0, 0]
    assert 100 - 0.3 * 255 <= levels.min() < 30
    assert 170 < levels.max() <= 100 + 0.3 * 255
    halves = gray.copy()
    halves[:, 24:] = 155
    contrasted = augmented(halves, contrast=0.3)
    assert np.allclose(contrasted.mean(axis=(1, 2, 3)), (100 + 155) / 2)  # the middle of the range stays where it is
    steps = np.ptp(contrasted, axis=(1, 2, 3))
    assert 0.7 * 55 - 0.01 <= steps.min() < 41
    assert 69 < steps.max() <= 1.3 * 55 + 0.01
    extreme = augmented(np.full((50, 48, 48, 1), 250, np.uint8), brightness=0.3)
    assert extreme.max() == 255


def test_erases_one_rectangle_from_half_of_the_faces():
    shares = []
    faces = augmented(np.full((400, 48, 48, 1), 77, np.uint8), erase=0.5)[..., 0]
    for changed in faces != 77:
        rows, columns = changed.any(axis=1), changed.any(axis=0)
        assert np.array_equal(changed, rows[:, None] & columns[None])
        shares.append(changed.mean())
    shares = np.array(shares)
    assert 0.4 < (shares > 0).mean() < 0.6
    assert shares[shares > 0].min() > 0.03
    assert shares.max() < 0.27
    grays = np.array([face[face != 77].mean() for face in faces[shares > 0]])
    assert grays.std() == pytest.approx(255 / np.sqrt(12), rel=0.1)  # any gray is as likely as another


def test_a_smaller_size_shows_the_same_face():
    ramp = np.broadcast_to(np.linspace(0, 235, 48).astype(np.uint8)[None, None, :, None], (3, 48, 48, 1))
    small = augmented(ramp, size=36)
    assert small.shape == (3, 36, 36, 1)
    assert np.allclose(small, data.resize_faces(ramp, 36), atol=2)
    assert not np.array_equal(augmented(seed=1, size=36, flip=True), augmented(seed=2, size=36, flip=True))


def test_batches_follow_from_seed_and_epoch():
    split = data.Split(FACES, np.repeat(np.arange(7, dtype=np.uint8), 10))

    def take(count, seed, first_epoch=0):
        batches = make_batches(split, BatchSettings(32, seed, augmentation=None), first_epoch)
        return [next(batches) for _ in range(count)]

    first = take(6, seed=3)
    assert [len(faces) for faces, _ in first] == [32] * 6
    labels = np.concatenate([labels for _, labels in first[:3]]).argmax(axis=1)
    faces = np.concatenate([faces for faces, _ in first[:3]]).astype(np.uint8)
    assert sorted_faces(faces[:70], labels[:70]) == sorted_faces(split.faces, split.labels)
    assert np.array_equal(faces[70:], faces[:26]) and np.array_equal(labels[70:], labels[:26])  # filled up
    resumed = take(3, seed=3, first_epoch=1)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(resumed, first[3:], strict=True))
    assert not np.array_equal(first[0][0], first[3][0])
    assert not np.array_equal(first[0][0], take(1, seed=4)[0][0])


def test_fewer_faces_than_a_batch_takes_are_one_batch():
    split = data.Split(FACES[:5], np.arange(5, dtype=np.uint8))
    batches = make_batches(split, BatchSettings(32, augmentation=None))
    assert [len(next(batches)[0]) for _ in range(2)] == [5, 5]


def test_mixup_blends_faces_and_targets_alike():
    """Faces of one gray value, which stands for their target: it has to tell the target of every blend."""
    gray = np.linspace(0, 252, 7).astype(np.uint8)
    split = data.Split(np.broadcast_to(gray[:, None, None, None], (7, 48, 48, 1)), np.arange(7, dtype=np.uint8))
    targets = np.eye(7, dtype=np.float32) * 0.8 + 0.2 / 7
    faces, mixed = next(make_batches(split, BatchSettings(7, augmentation=None, mixup=1.0), targets=targets))
    assert mixed.sum(axis=1) == pytest.approx(1)
    share = (mixed - 0.2 / 7) / 0.8  # of each face in the blend
    assert np.allclose(faces[:, 0, 0, 0], share @ gray, atol=0.01)
    assert ((share > 0.01).sum(axis=1) == 2).sum() >= 4  # the middle one meets itself
    _, plain = next(make_batches(split, BatchSettings(7, augmentation=None), targets=targets))
    assert sorted(plain.max(axis=1)) == pytest.approx([0.8 + 0.2 / 7] * 7)


def test_augmentation_strength_follows_the_epoch():
    split = data.Split(FACES, np.repeat(np.arange(7, dtype=np.uint8), 10))
    batches = make_batches(split, BatchSettings(35, strength=lambda epoch: 1 - epoch, mixup=1e-9))
    originals = {face.tobytes() for face in np.concatenate([FACES, FACES[:, :, ::-1]])}

    def unchanged():  # of an epoch's faces, mirrored ones counted in
        faces = np.concatenate([next(batches)[0] for _ in range(2)])
        return np.mean([face.round().astype(np.uint8).tobytes() in originals for face in faces])

    assert unchanged() == 0
    assert unchanged() == 1


def test_emotion_codes_are_kaggles():
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def test_scaled_augmentation_is_weaker_but_still_mirrors():
    generator = np.random.default_rng(0)
    face = np.full((1, 48, 48, 1), 90, np.uint8)
    face[:, 16:32, 8:20] = 200
    faces = np.repeat(face, 200, axis=0)

    def moved(share):  # how far the bright block's middle, mirrored back to the left, goes from its place, pixels
        changed = np.asarray(augment(faces, generator, Augmentation(erase=0).scaled(share)))[..., 0]
        bright = changed > (changed.min((1, 2)) + changed.max((1, 2)))[:, None, None] / 2
        columns = (bright * np.arange(48)).sum((1, 2)) / bright.sum((1, 2))
        assert 60 < (columns > 24).sum() < 140
        return np.abs(np.minimum(columns, 47 - columns) - 13.5).mean()

    whole, third, hardly = moved(1.0), moved(0.33), moved(1e-6)
    assert hardly < 0.01 < third < 0.5 * whole


ON_JAX = """
import sys
import zipfile
import numpy as np
import data
faces = np.load(sys.argv[1])
generator = np.random.default_rng(5)
changed = np.asarray(data.augment(faces, generator, data.Augmentation(), 36))
np.savez(sys.argv[2], changed=changed, noisy=data.add_camera_noise(changed, generator))
"""


def test_a_seed_gives_the_same_augmentation_on_jax(tmp_path):
    pytest.importorskip("jax")
    np.save(tmp_path / "faces.npy", FACES)
    folder = str(Path(data.__file__).parent)
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": folder}
    command = [sys.executable, "-c", ON_JAX, tmp_path / "faces.npy", tmp_path / "jax.npz"]
    subprocess.run(command, env=environment, check=True, timeout=300)
    on_jax = np.load(tmp_path / "jax.npz")
    generator = np.random.default_rng(5)
    changed = np.asarray(augment(FACES, generator, Augmentation(), 36))
    assert np.allclose(on_jax["changed"], changed, atol=0.1)
    assert np.allclose(on_jax["noisy"], data.add_camera_noise(changed, generator), atol=0.1)


def test_camera_noise_reaches_half_of_the_faces():
    noise = data.add_camera_noise(np.full((600, 48, 48, 1), 128, np.float32), np.random.default_rng(0)).std(
        axis=(1, 2, 3)
    )
    assert 0.4 < (noise > 0.01).mean() < 0.6
    assert np.median(noise[noise > 0.01]) < 0.5 * data.MAX_NOISE and 0.8 < noise.max() / data.MAX_NOISE < 1.05


@pytest.mark.parametrize("size", [48, 36])
def test_camera_blur_is_gaussian_and_reaches_half_of_the_faces(monkeypatch, size):
    monkeypatch.setattr(data, "MAX_NOISE", 0)
    point = np.zeros((600, size, size, 1), np.float32)
    point[:, size // 2, size // 2] = 255
    noisy = data.add_camera_noise(point, np.random.default_rng(0))
    blurred = noisy[:, size // 2, size // 2, 0] < 254
    assert 0.3 < blurred.mean() < 0.6 and np.allclose(noisy[~blurred], point[~blurred], atol=1)
    assert np.allclose(noisy.sum(axis=(1, 2, 3)), 255, rtol=1e-3)
    squares = (np.arange(size) - size // 2) ** 2
    sigma = np.sqrt((noisy[..., 0].sum(axis=2) @ squares) / 255)  # the spread along the rows
    assert 0.85 < sigma.max() * 48 / size / data.MAX_BLUR < 1.01


def test_camera_noise_follows_from_seed_and_step():
    split = data.Split(FACES, np.repeat(np.arange(7, dtype=np.uint8), 10))

    def take(count, first_epoch=0):
        batches = make_batches(split, BatchSettings(35, 1, camera_noise=True, augmentation=None), first_epoch)
        return [next(batches)[0] for _ in range(count)]

    whole, resumed = take(4), take(2, first_epoch=1)
    assert all(np.array_equal(a, b) for a, b in zip(whole[2:], resumed, strict=True))
    assert whole[0].dtype == np.float32 and whole[0].min() >= 0 and whole[0].max() <= 255


def test_the_teacher_sees_the_augmented_blended_faces_before_camera_noise():
    split = data.Split(FACES, np.repeat(np.arange(7, dtype=np.uint8), 10))
    calls = []

    def teacher(faces, targets, step):
        calls.append((faces, step))
        return np.full_like(targets, 1 / 7)

    settings = BatchSettings(35, 0, 36, mixup=0.4, camera_noise=True, teacher=teacher)
    batches = make_batches(split, settings, first_epoch=2)
    faces, targets = next(batches)
    next(batches)
    assert [step for _, step in calls] == [4, 5] and calls[0][0].shape == (35, 48, 48, 1)
    assert faces.shape == (35, 36, 36, 1) and np.allclose(targets, 1 / 7)
    without = next(make_batches(split, BatchSettings(35, 0, mixup=0.4), first_epoch=2))
    assert np.array_equal(calls[0][0], without[0])


# --- FER+ -------------------------------------------------------------------------------------------------------

VOTES = np.array([  # in FER+'s order: neutral happiness surprise sadness anger disgust fear contempt unknown NF
    [6, 3, 0, 0, 0, 0, 1, 0, 0, 0],
    [0, 0, 0, 0, 5, 5, 0, 0, 0, 0],
    [2, 0, 0, 0, 0, 0, 0, 8, 0, 0],
    [0, 0, 0, 4, 0, 0, 0, 0, 0, 6],
])  # fmt: skip


def test_votes_beside_the_csv_belong_to_its_rows(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv", ROWS)
    assert load_fer2013(path)["Training"].votes is None
    write_votes(tmp_path / "fer2013new.csv", ROWS)
    dataset = load_fer2013(path)
    for split in dataset.splits.values():
        assert np.array_equal(data.most_voted(split.votes), split.labels)
        assert split.targets().shape == (len(split), 2, 7)
    assert "votes of ten people" in dataset.summary()
    assert dataset.sha256() != load_fer2013(write_csv(tmp_path / "alone" / "fer2013.csv", ROWS)).sha256()


def test_votes_beside_an_archive_belong_to_the_csv_in_it(tmp_path):
    archive = zip_up(tmp_path / "a.zip", write_csv(tmp_path / "in" / "fer2013.csv", ROWS).parent)
    write_votes(tmp_path / "fer2013new.csv", ROWS)
    assert load_fer2013(archive)["Training"].votes is not None


def test_a_name_that_a_terminal_would_obey_is_printed_with_escapes(tmp_path):
    dataset = load_fer2013(write_csv(tmp_path / "fer2013.csv", ROWS))
    dataset.source = "fer\x1b[31m\n2013.csv"
    assert dataset.summary().startswith("fer\\x1b[31m\\n2013.csv\n")


def test_votes_become_shares_without_single_votes_and_other_answers():
    targets = data.vote_targets(VOTES)
    expected = np.zeros((4, 7))
    expected[0, EMOTIONS.index("neutral")], expected[0, EMOTIONS.index("happy")] = 6 / 9, 3 / 9
    expected[1, EMOTIONS.index("angry")] = expected[1, EMOTIONS.index("disgust")] = 0.5
    assert np.allclose(targets, expected)
    assert data.most_voted(VOTES).tolist() == [EMOTIONS.index("neutral"), -1, -1, -1]


def test_votes_without_private_test_serve_the_other_splits(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv", ROWS)
    votes = write_votes(tmp_path / "votes.csv", [row for row in ROWS if row[2] != "PrivateTest"])
    dataset = load_fer2013(path, votes)
    assert dataset["PrivateTest"].votes is None and dataset["PublicTest"].votes is not None
    assert "no votes on PrivateTest" in dataset.summary()


def test_batches_with_votes_have_targets_for_two_outputs():
    votes = np.zeros((70, 10), np.uint8)
    votes[:, 1] = 10  # everybody sees happiness
    split = data.Split(FACES, np.repeat(np.arange(7, dtype=np.uint8), 10), votes)
    _, targets = next(make_batches(split, BatchSettings(35, mixup=0.4)))
    assert list(targets) == ["fer2013", "ferplus"] and targets["fer2013"].shape == (35, 7)
    assert np.allclose(targets["ferplus"][:, EMOTIONS.index("happy")], 1)


TWO_COLUMNS = b"Usage,usage,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"


def blank_line_in_votes(tmp):
    path = write_votes(tmp / "v.csv", ROWS)
    header, first, second, *others = path.read_text().splitlines()
    path.write_text("\n".join([header, first, "", second.rpartition(",")[0] + ",x", *others]))
    return path


VOTE_ERRORS = {
    "another order": (lambda tmp: write_votes(tmp / "v.csv", ROWS, votes_of(ROWS[::-1])), "does not belong to these"),
    "rows missing": (lambda tmp: write_votes(tmp / "v.csv", ROWS[1:]), "69 rows of Training"),
    "a split missing": (lambda tmp: write_votes(tmp / "v.csv", ROWS[70:]), "no rows of Training"),
    "negative": (lambda tmp: write_votes(tmp / "v.csv", ROWS, [[-1] * 10] * len(ROWS)), "row 2: votes must be"),
    "text": (lambda tmp: write_votes(tmp / "v.csv", ROWS, [["x"] * 10] * len(ROWS)), "row 2: votes must be"),
    "another table": (lambda tmp: write_csv(tmp / "v.csv", ROWS), "has no column"),
    "two columns": (lambda tmp: with_file("v.csv", TWO_COLUMNS, lambda tmp: None)(tmp) / "v.csv", "or two of them"),
    "missing": (lambda tmp: tmp / "nowhere.csv", "There are no votes at .*nowhere.csv"),
    "blank lines": (blank_line_in_votes, "row 4: votes must be"),
    "empty": (lambda tmp: with_file("v.csv", b"", lambda tmp: None)(tmp) / "v.csv", "has no column"),
    "damaged": (
        lambda tmp: with_file("v.csv", b"\xff\xfe\0", lambda tmp: None)(tmp) / "v.csv",
        "cannot be read|column",
    ),
}


def votes_of(rows):
    return [[10 * (column == (4, 5, 6, 1, 3, 2, 0)[label]) for column in range(10)] for label, _, _ in rows]


@pytest.mark.parametrize("error", VOTE_ERRORS)
def test_refuses_votes_that_do_not_fit(error, tmp_path):
    make, message = VOTE_ERRORS[error]
    path, votes = write_csv(tmp_path / "data" / "fer2013.csv", ROWS), make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_fer2013(path, votes)
    assert "\n" not in str(caught.value)


def test_votes_are_found_in_the_folder_that_is_given_too(tmp_path):
    write_csv(tmp_path / "one" / "fer2013" / "fer2013.csv", ROWS)
    write_votes(tmp_path / "one" / "fer2013new.csv", ROWS)
    assert load_fer2013(tmp_path / "one")["Training"].votes is not None
    assert load_fer2013(zip_up(tmp_path / "a.zip", tmp_path / "one"))["Training"].votes is not None


def test_image_folders_have_no_row_order_for_votes(tmp_path):
    folders = write_folders(tmp_path / "images", ROWS)
    votes = write_votes(folders / "fer2013new.csv", ROWS)
    assert "it is not used" in load_fer2013(folders).summary()
    with pytest.raises(DataError, match="Download the CSV"):
        load_fer2013(folders, votes)
