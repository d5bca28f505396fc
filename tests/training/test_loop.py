"""The training loop: what each phase trains on and with, where it starts, when it stops, what is kept."""

import itertools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from made_data import make_rows, write_csv
from made_training import (
    ONE_EPOCH,
    SMALL_AND_EAGER,
    description_of,
    history_of,
    press_ctrl_c,
    press_ctrl_c_after,
    same,
    splits_of,
    the_run,
    weights_of,
)

import train
from model import build_model, keras_classifier, load_classifier
from training import checkpoints, distillation, finish, loop, schedule
from training.checkpoints import Run
from training.options import TrainingOptions, complete
from training.schedule import phases

pytest_plugins = ["training_fixtures"]
pytestmark = SMALL_AND_EAGER


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_network_is_compiled_as_its_phase_wants(optimizer):
    options = complete(TrainingOptions(optimizer=optimizer, mixed_precision=False))
    for phase in (phases(options)[0], phases(options)[-1]):
        network = loop.compiled_model(options, phase)
        assert type(network.optimizer).__name__.lower() == optimizer
        assert network.optimizer.weight_decay == phase.weight_decay
        assert network.loss.label_smoothing == phase.label_smoothing
        assert network.input_shape == (None, phase.image_size, phase.image_size, 1)


def test_the_next_phase_goes_on_with_weights_optimizer_and_dropout_of_the_one_before():
    options = complete(TrainingOptions(mixed_precision=False))
    small, large = (loop.compiled_model(options, phase) for phase in phases(options)[:2])
    faces = np.random.default_rng(0).uniform(0, 255, (4, 36, 36, 1)).astype(np.float32)
    small.train_on_batch(faces, np.eye(7)[:4])
    checkpoints.hand_over(small, large)
    assert same(small.get_weights(), large.get_weights())
    assert int(large.optimizer.iterations) == 1
    values = [[keras.ops.convert_to_numpy(v) for v in model.optimizer.variables] for model in (small, large)]
    assert same(*values)
    seeds = [[keras.ops.convert_to_numpy(v) for v in checkpoints.dropout_seeds(model)] for model in (small, large)]
    assert same(*seeds) and len(seeds[0]) > 0


def test_options_reach_the_batches():
    options = complete(TrainingOptions(camera_noise=True, mixup=0.3, seed=5, batch_size=8, augmentation=0.5))
    first, last = (loop.batch_settings(options, phases(options)[i], []) for i in (0, -1))
    assert (first.batch_size, first.seed, first.image_size, first.mixup, first.camera_noise) == (8, 5, 36, 0.3, True)
    assert (last.image_size, last.mixup) == (48, 0)  # fine-tuning
    assert first.strength(0) == 0.5 and first.augmentation and not first.teacher
    plain = complete(TrainingOptions(augmentation=0.0))
    assert loop.batch_settings(plain, phases(plain)[0], []).augmentation is None


@pytest.fixture
def started(monkeypatch):
    """A list: every training stops before its first step and leaves its network there."""
    networks = []

    def stop(run, phase, model, *_):
        networks.append(model)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "fit_phase", stop)
    return networks


def test_the_seed_determines_the_first_weights(folder, started):
    for seed in ("0", "1", "1"):
        assert train.main([*ONE_EPOCH, "--seed", seed]) == 130
    first, second, third = (network.get_weights()[0] for network in started)
    assert not np.allclose(first, second, atol=0.01) and np.array_equal(second, third)


def test_a_training_starts_from_the_mean_of_several_networks(folder, started):
    network = build_model()
    network.save("a.keras")
    first = network.get_weights()
    network.set_weights([3 * weight for weight in first])
    network.save("b.keras")
    assert train.main([*ONE_EPOCH, "--init-from", "a.keras", "b.keras"]) == 130
    assert all(np.allclose(a, 2 * b) for a, b in zip(started[0].get_weights(), first, strict=True))


def test_a_validation_split_that_the_first_network_may_know_is_told(folder, capsys):
    words = ["--epochs", "1", "--small-image-epochs", "0", "--self-distillation-rounds", "0", "--batch-size", "56"]
    write_csv(folder / "train.csv", make_rows((20, 0, 0)), ("emotion", "pixels"))
    assert train.main([*words, "--data", "train.csv", "--output", "first.keras"]) == 0
    assert "learned from these faces" not in capsys.readouterr().out
    assert train.main([*words, "--data", "train.csv", "--init-from", "first.keras"]) == 0
    assert "learned from these faces" in capsys.readouterr().out


def test_the_plain_cnn_trains_in_bfloat16_and_is_saved_in_float32(folder, monkeypatch):
    built, compiled_model = [], loop.compiled_model
    monkeypatch.setattr(loop, "compiled_model", lambda *args: built.append(compiled_model(*args)) or built[-1])
    monkeypatch.setattr("model.CNN_BLOCKS", ((8, 1), (8, 2)))
    words = ["--arch", "cnn", "--schedule", "plateau", "--mixed-precision", "--augmentation", "0", "--fraction", "0.5"]
    assert train.main([*ONE_EPOCH, *words]) == 0
    assert "bfloat16" in {layer.compute_dtype for layer in built[0].layers}
    saved = load_classifier(the_run(folder) / "best_model.keras").model
    assert {layer.compute_dtype for layer in saved.layers} == {"float32"}
    assert description_of(the_run(folder) / "best_model.keras")["training"]["faces"] == 28


def test_the_callbacks_of_the_plain_cnn_wait_as_the_docs_say(tmp_path):
    run = Run(complete(TrainingOptions(arch="cnn", schedule="plateau")), tmp_path)
    waits = {type(each).__name__: each.patience for each in loop.make_callbacks(run, "") if hasattr(each, "patience")}
    assert waits == {"EarlyStopping": 10, "ReduceLROnPlateau": 3}


def test_soft_labels_and_teachers_have_the_weights_that_the_docs_say():
    targets, probabilities = np.eye(7, dtype=np.float32)[:1], np.full((1, 1, 7), 1 / 7, np.float32)
    teacher = SimpleNamespace(all_probabilities=lambda faces: probabilities)
    (blended,) = distillation.online_teacher([teacher])(np.zeros((1, 48, 48, 1), np.float32), targets, 0)
    assert blended[0] == pytest.approx(0.5 + 0.5 / 7)
    (blended,) = distillation.distilled(targets, probabilities, schedule.SOFT_LABEL_WEIGHT)
    assert blended[0] == pytest.approx(0.4 + 0.6 / 7)


def test_when_the_loss_stalls_the_rate_is_halved_and_then_the_training_stops_after_a_resume_too(
    folder, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "PATIENCE", 4)
    words = ["--data", "fer2013.csv", "--schedule", "plateau", "--epochs", "20", "--batch-size", "56"]
    words += ["--learning-rate", "3"]  # the loss rises
    assert train.main(words) == 0
    assert "early stopping" in capsys.readouterr().out
    whole = history_of(the_run(folder))
    rates = whole["learning_rate"]
    assert 5 <= len(whole) < 20
    assert rates.iloc[-1] < 0.51 * rates.iloc[0] and set((rates / rates.shift()).dropna().round(3)) == {1.0, 0.5}
    assert set(whole["self_distillation"]) == {0}
    press_ctrl_c_after(4, monkeypatch)
    assert train.main(words) == 130
    assert train.main(["--resume"]) == 0
    pd.testing.assert_frame_equal(whole, history_of(the_run(folder)), check_exact=True)


@pytest.mark.parametrize("fine_tuning", [0, 1])  # of fine-tuning epochs the best of these, whatever others scored
def test_the_best_epoch_is_kept_and_not_the_last_after_a_resume_too(folder, monkeypatch, fine_tuning):
    accuracies, rates = iter((0.9, 0.5)), iter((1e-3, None, 1e-3))  # None: Ctrl-C
    monkeypatch.setattr(keras.Model, "evaluate", lambda *args, **options: {"loss": 1.0, "accuracy": next(accuracies)})
    monkeypatch.setattr(loop, "learning_rate", lambda *args: next(rates) or press_ctrl_c())
    monkeypatch.setattr(finish, "score_splits", press_ctrl_c)
    words = ["--epochs", "2", "--small-image-epochs", "0", "--self-distillation-rounds", "0", "--no-mixed-precision"]
    words += ["--fine-tuning-epochs", str(fine_tuning), "--batch-size", "56"]
    assert train.main(["--data", "fer2013.csv", *words]) == 130
    assert train.main(["--resume"]) == 130
    run = the_run(folder)
    assert history_of(run)["val_accuracy"].tolist() == [0.9, 0.5]
    assert same(weights_of(run / "best_model.keras"), weights_of(run / "backup-002.keras")) == bool(fine_tuning)


def test_after_the_first_epoch_it_tells_how_long_the_training_takes(folder, monkeypatch, capsys):
    """An epoch on 36 pixels took ten minutes, so the two on 48 take 16/9 of that each."""
    clock = itertools.count(600, 600)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    words = ["--epochs", "3", "--small-image-epochs", "1", "--self-distillation-rounds", "0"]
    assert train.main(["--data", "fer2013.csv", *words, "--fine-tuning-epochs", "0"]) == 0
    assert re.findall(r"takes about (.*) more", capsys.readouterr().out) == ["0 h 36 min"]


def test_a_loss_that_is_not_a_number_ends_the_training_and_keeps_the_best_model(folder, monkeypatch, refused):
    rates = iter((1e-3, float("nan")))
    monkeypatch.setattr(loop, "learning_rate", lambda epoch, options: next(rates))
    words = ["--data", "fer2013.csv", "--epochs", "3", "--small-image-epochs", "0", "--self-distillation-rounds", "0"]
    assert "lower --learning-rate" in refused(*words)
    assert all(np.isfinite(weight).all() for weight in weights_of(the_run(folder) / "best_model.keras"))
    assert "no unfinished run" in refused("--resume")  # which would come to the same
    assert not list(the_run(folder).glob("backup-*"))
    shutil.rmtree("runs")
    monkeypatch.setattr(loop, "learning_rate", lambda epoch, options: float("nan"))
    assert "lower --learning-rate" in refused(*words)
    assert not list(Path("runs").iterdir())  # nothing to keep


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried ..."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
    ids=["TensorFlow and JAX", "PyTorch", "PyTorch on a CPU", "NumPy"],
)
def test_a_full_memory_is_explained(folder, monkeypatch, refused, error):
    def full(*args):
        raise error

    monkeypatch.setattr(loop, "compiled_model", full)
    assert "smaller --batch-size" in refused(*ONE_EPOCH)
    assert not list(Path("runs").iterdir())
    monkeypatch.setattr(loop, "compiled_model", lambda *args: 1 / 0)  # a mistake of ours stays one
    with pytest.raises(ZeroDivisionError):
        train.main(ONE_EPOCH)


def test_a_finish_stopped_before_any_file_is_in_place_gives_the_same_pair(folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(finish, "calibrate", press_ctrl_c)
        assert train.main([*ONE_EPOCH, "--output", "out.keras"]) == 130
    shutil.copytree("runs", "before")
    replace, described = Path.replace, []
    for count in itertools.count():
        shutil.rmtree("runs")
        shutil.copytree("before", "runs")
        for path in Path().glob("out.*"):
            path.unlink()
        left = iter(range(count))

        def stopped(old, new, left=left):
            return press_ctrl_c() if next(left, None) is None else replace(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stopped)
            status = train.main(["--resume"])
        if status == 130 and not json.loads((the_run(folder) / "state.json").read_text())["finished"]:
            assert train.main(["--resume"]) == 0
        assert load_classifier("out.keras").description  # whole, and of this network
        described.append(description_of(Path("out.keras")) | {"sha256": None})
        if status == 0:
            break
    assert len(described) == 7 and all(one == described[0] for one in described)
    assert not list(Path().rglob("*.partial.*"))


# --- self-distillation and teachers


def test_a_round_learns_from_the_best_network_before_it_calibrated(folder, monkeypatch):
    predicted, soft_labels = [], loop.soft_labels

    def even(classifier, faces):
        """Predict nothing, but note whether it is a calibrated copy of the best network that would have predicted."""
        best = load_classifier(the_run(folder) / "best_model.keras")
        best, _ = finish.calibrate(best, *splits_of(folder, "Training", "PublicTest"))
        predicted.append(np.allclose(soft_labels(classifier, faces), soft_labels(best, faces), atol=1e-6))
        return np.full((len(faces), 1, 7), 1 / 7, np.float32)

    monkeypatch.setattr(loop, "soft_labels", even)
    words = ["--epochs", "4", "--small-image-epochs", "0", "--batch-size", "56"]
    assert train.main(["--data", "fer2013.csv", *words]) == 0
    assert predicted == [True, True]


def test_soft_labels_have_their_weight_stay_for_a_resume_and_are_missed(folder):
    training, validation = splits_of(folder, "Training", "PublicTest")
    options = complete(TrainingOptions())
    run, phase = Run(options, folder, {"epochs": 66}), phases(options)[-1]
    with pytest.raises(loop.UserError, match="soft_labels-2"):
        loop.phase_targets(run, phase, training, validation)
    np.save(folder / "soft_labels-2.npy", np.full((len(training), 1, 7), 1 / 7, np.float32))
    targets = loop.phase_targets(run, phase, training, validation)
    weight = schedule.SOFT_LABEL_WEIGHT
    assert targets.max(axis=1) == pytest.approx(1 - weight + weight / 7) and targets.dtype == np.float32
    assert set(np.unique(loop.phase_targets(run, phases(options)[0], training, validation))) == {0, 1}


def test_teachers_see_every_batch_and_a_resume_keeps_them(folder, monkeypatch, refused):
    layers = [keras.layers.Flatten(), keras.layers.Dense(7, "softmax", kernel_initializer="zeros")]
    keras.Sequential([keras.Input((48, 48, 1)), *layers]).save("even.keras")
    monkeypatch.setattr(distillation, "TEACHER_WEIGHT", 0.99)
    words = ["--data", "fer2013.csv", "--epochs", "2", "--small-image-epochs", "1", "--mixup", "0.3"]
    words += ["--teacher", "even.keras", "--mixed-precision"]
    with monkeypatch.context() as patch:
        fit = iter((keras.Model.fit, press_ctrl_c))
        patch.setattr(keras.Model, "fit", lambda *args, **options: next(fit)(*args, **options))
        assert train.main([*words, "--batch-size", "28"]) == 130
    run = the_run(folder)
    Path("even.keras").write_bytes(b"another model")
    copy = (run / "teacher-00.keras").rename("kept")
    assert "teachers are gone" in refused("--resume")
    copy.rename(run / "teacher-00.keras")
    assert train.main(["--resume"]) == 0
    assert not list(run.glob("teacher-*"))
    assert np.all(history_of(run)["loss"] >= np.log(7) - 0.01)
    assert set(history_of(run)["distilled"]) == {1}


def test_the_teachers_take_turns_with_the_faces_and_their_mirror_images(monkeypatch):
    monkeypatch.setattr(distillation, "TEACHER_WEIGHT", 0.8)
    faces, labels = np.random.default_rng(0).uniform(0, 255, (1, 48, 48, 1)).astype(np.float32), np.eye(7)[:1]
    seen = []

    def teacher(emotion: int):
        return SimpleNamespace(all_probabilities=lambda pixels: seen.append(pixels) or np.eye(7)[[[emotion]]])

    blend = distillation.online_teacher([teacher(1), teacher(2)])
    blended = [blend(faces, labels, step) for step in range(5)]
    assert [targets.argmax() for targets in blended] == [1, 1, 2, 2, 1]
    assert all(np.isclose(targets[0, 0], 0.2) for targets in blended)
    assert all(np.allclose(pixels[:, :, :: (-1) ** i], faces, atol=0.51) for i, pixels in enumerate(seen))
    assert {pixels.dtype for pixels in seen} == {np.dtype(np.uint8)}
    assert [blend(faces, labels, step).argmax() for step in (3, 4)] == [2, 1]  # after a resume


@pytest.mark.parametrize(("arch", "calls"), [("resnet-equivariant", 1), ("resnet", 2)])
def test_soft_labels_are_the_mean_of_a_face_and_its_mirror_image(arch, calls):
    counted, network = [], build_model(arch)
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    classifier = keras_classifier(network, {})
    expected = np.mean([classifier.all_probabilities(seen) for seen in (faces, faces[:, :, ::-1])], axis=0)
    probabilities = classifier.all_probabilities
    classifier.all_probabilities = lambda seen: counted.append(seen) or probabilities(seen)
    assert np.allclose(distillation.soft_labels(classifier, faces), expected, atol=1e-6)
    assert len(counted) == calls


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="known of TensorFlow alone")
@pytest.mark.parametrize("vendor, flags, gpus, preferred", [
    ("GenuineIntel", "avx2 amx_bf16 amx_tile", [], True),
    ("GenuineIntel", "avx2 amx_bf16 amx_tile", ["GPU"], False),
    ("GenuineIntel", "avx2 avx512_bf16", [], False),
    ("AuthenticAMD", "avx2 avx512_bf16", [], True),
    ("AuthenticAMD", "avx2", [], False),
])  # fmt: skip
def test_bfloat16_is_preferred_where_it_is_faster(tmp_path, monkeypatch, vendor, flags, gpus, preferred):
    information = tmp_path / "cpuinfo"
    information.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} clflush\n")
    monkeypatch.setattr(loop, "CPU_INFORMATION", information)
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: gpus)
    assert loop.prefers_bfloat16() is preferred
    information.unlink()
    assert not loop.prefers_bfloat16()
