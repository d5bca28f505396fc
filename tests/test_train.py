"""train.py as a user runs it: on a tiny made data set, finished, interrupted, killed, resumed."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from made_data import make_rows, write_csv

import data
import distribution
import figures
import model
import options
import report
import runs
import stages
import teachers
import train
from evaluate import score
from model import build_model, load_classifier

ROOT = Path(train.__file__).parent
SCRIPT = ROOT / "train.py"
OPTIONS = ["--data", "fer2013.csv", "--epochs", "8", "--batch-size", "4", "--augmentation", "1", "0.5"]
OPTIONS += ["--self-taught-epochs", "3", "--plain-epochs", "1"]
SMALL_RESNETS = {  # as good for tests
    "resnet": ((32, 2), (16, 2)),
    "resnet-large": ((32, 2), (16, 2), (8, 1)),
    "resnet-huge": ((32, 1), (8, 2)),
}
RUN = f"import sys, model, train; model.RESNETS = {SMALL_RESNETS}; train.leave(train.main(sys.argv[1:]))"


def run_script(folder, *options, code=None, **kwargs):
    """Run train.py, or code that imports it, in a folder of its own; return the finished process."""
    command = [sys.executable, SCRIPT, *options] if code is None else [sys.executable, "-c", code, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=170, **kwargs)


def press_ctrl_c(*args):
    raise KeyboardInterrupt


def full_disk(*args):
    raise OSError(28, "No space left on device")


def train_until_the_second_stage(monkeypatch, *options):
    """Run train.py, and press Ctrl-C where the first batch of the second stage would be made."""
    with monkeypatch.context() as patch:
        stages_of = iter((train.stage_batches, press_ctrl_c))
        patch.setattr(train, "stage_batches", lambda *args: next(stages_of)(*args))
        assert train.main(["--data", "fer2013.csv", *options]) == 130


def chosen(words):
    """The arguments of a new training, with all that was left to choose."""
    args = options.parse_args(words)
    options.choose_optimizer(args)
    stages.choose_stages(args)
    return args


def made_folder(folder):
    write_csv(folder / "fer2013.csv", make_rows((8, 4, 2)))
    return folder


def the_run(folder) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.fixture(autouse=True, scope="module")
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "RESNETS", SMALL_RESNETS)
        yield


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Spare report and pictures after every training but that of `finished`, which is made before this is called."""
    monkeypatch.setattr(train, "make_report", lambda *args: None)
    monkeypatch.setattr(figures, "draw_augmentation", lambda *args: None)
    monkeypatch.setattr(figures, "draw_curves", lambda *args: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_network):
    """A folder in which a training of eight epochs, one of most stages, two of the others, replaced a model there."""
    folder = made_folder(tmp_path_factory.mktemp("finished"))
    (folder / "best_model.keras").write_bytes(b"an older model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main(OPTIONS) == 0
    return folder


def weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def assert_same_training(folder, finished):
    """The same best model, history and scores as the uninterrupted training."""
    pd.testing.assert_frame_equal(
        pd.read_csv(the_run(folder) / "history.csv"), pd.read_csv(the_run(finished) / "history.csv")
    )
    pairs = zip(weights(folder / "best_model.keras"), weights(finished / "best_model.keras"), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_a_finished_training_leaves_a_model_its_description_and_figures(finished):
    run = the_run(finished)
    assert (finished / "best_model.previous.keras").read_bytes() == b"an older model"
    history = pd.read_csv(run / "history.csv")
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    description = json.loads((finished / "best_model.json").read_text())
    public = data.load_fer2013(finished / "fer2013.csv")["PublicTest"]
    scores = score(public.labels, load_classifier(finished / "best_model.keras").probabilities(public.faces))
    assert description["scores"]["accuracy"] == pytest.approx(scores["accuracy"])
    assert description["calibration"]["ece_after"] == pytest.approx(scores["ece"], abs=1e-4)
    assert history["face_pixels"].tolist() == [36, 36, 48, 48, 48, 48, 48, 48]
    assert np.allclose(history["augmentation"], [1, 0.75, 0.5, 1, 0, 1, 0.3, 0])
    assert history["self_taught"].tolist() == [0, 0, 0, 1, 0, 1, 1, 0]
    assert history["plain"].tolist() == [0, 0, 0, 0, 1, 0, 0, 1]
    assert history["taught"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert description["training"]["arguments"]["mixed_precision"] == model.prefers_bfloat16()
    assert description["training"]["best_epoch"] == 8  # the last plain one, however it scored
    for figure in ("curves.png", "confusion_matrix.png", "grad_cam.png", "augmentation.png"):
        assert cv2.imread(str(run / figure)).std() > 5
    assert {path.name for path in run.glob("*.keras")} == {"best_model.keras"}
    assert not list(finished.glob("*partial*"))


def test_batch_normalization_ends_with_the_statistics_of_faces_as_they_are(finished):
    network = load_classifier(finished / "best_model.keras").model
    faces = data.load_fer2013(finished / "fer2013.csv")["Training"].faces
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization))
    seen = keras.Model(network.input, first.input).predict(np.concatenate([faces, faces[:, :, ::-1]]), verbose=0)
    assert np.allclose(first.moving_mean, seen.mean(axis=(0, 1, 2)), atol=0.02 * seen.std())
    assert np.allclose(first.moving_variance, seen.var(axis=(0, 1, 2)), rtol=0.05)


def test_what_the_defaults_train_gives_a_face_and_its_mirror_image_the_same_answer(finished):
    classifier = load_classifier(finished / "best_model.keras")
    faces = data.load_fer2013(finished / "fer2013.csv")["PublicTest"].faces
    probabilities = classifier.probabilities(faces)
    assert np.allclose(classifier.probabilities(faces[:, :, ::-1]), probabilities, atol=1e-5)
    assert not np.allclose(classifier.probabilities(faces[:, ::-1]), probabilities, atol=1e-3)  # upside down


def test_ctrl_c_keeps_the_best_model_and_a_resume_ends_as_if_never_stopped(finished, tmp_path, monkeypatch):
    if sys.platform == "win32":
        pytest.skip("Windows has no SIGINT for one process alone")
    folder = made_folder(tmp_path)
    (folder / "best_model.keras").write_bytes(b"an older model")
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    code = f"import atexit, time; atexit.register(time.sleep, 600)\n{RUN}"  # nothing at Python's end holds it up
    process = subprocess.Popen(
        [sys.executable, "-c", code, *OPTIONS], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("Epoch 7/8"):  # the second of the second time that the network teaches itself
            process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "Go on with" in output
    run = the_run(folder)
    assert (folder / "best_model.keras").read_bytes() == b"an older model"
    load_classifier(run / "best_model.keras")
    assert cv2.imread(str(run / "curves.png")).std() > 5
    assert len(pd.read_csv(run / "history.csv")) in (6, 7)  # the seventh may be over by then
    monkeypatch.chdir(folder)
    assert train.main(["--resume"]) == 0
    assert_same_training(folder, finished)


def test_ctrl_c_waits_for_the_end_of_a_step_and_a_second_one_does_not():
    went_on = []
    with pytest.raises(KeyboardInterrupt), runs.ctrl_c_between_steps() as callback:
        signal.raise_signal(signal.SIGINT)
        went_on.append("the step")
        callback.on_train_batch_end(0)
        went_on.append("the next step")
    with pytest.raises(KeyboardInterrupt), runs.ctrl_c_between_steps():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        went_on.append("after the second")
    assert went_on == ["the step"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_after_the_last_epoch_loses_nothing(finished, tmp_path, monkeypatch, capsys):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(report, "score_splits", press_ctrl_c)
        assert train.main(OPTIONS) == 130
    assert "Go on with" in capsys.readouterr().out
    monkeypatch.setattr(train, "make_report", press_ctrl_c)
    assert train.main(["--resume", "--output", "other.keras"]) == 130
    assert f"--evaluate --model {the_run(folder).relative_to(folder) / 'best_model.keras'}" in capsys.readouterr().out
    pairs = zip(weights(folder / "other.keras"), weights(finished / "best_model.keras"), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    described = [json.loads(path.read_text()) for path in (folder / "other.json", finished / "best_model.json")]
    assert described[0]["calibration"] == described[1]["calibration"]
    assert described[0]["calibration"]["temperature"] != 1


def test_a_resume_takes_the_latest_run_that_is_not_finished(tmp_path, monkeypatch, capsys):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(train, "finish", press_ctrl_c)
        assert train.main(["--data", "fer2013.csv", "--epochs", "1"]) == 130
    unfinished = the_run(folder)
    for _ in range(2):
        assert train.main(["--data", "fer2013.csv", "--epochs", "1", "--output", "my model.keras"]) == 0
        assert f"is ready: {runs.command('main.py', '--model', 'my model.keras')}" in capsys.readouterr().out
    assert "leave --epochs out" in refused(capsys, "--resume", "--epochs", "9")
    (folder / "my model.previous.keras").write_bytes(b"an older model")
    (folder / "runs" / "damaged").mkdir()
    (folder / "runs" / "damaged" / "state.json").write_text("")
    older = shutil.copytree(unfinished, folder / "runs" / "older")
    os.utime(older / "state.json", (1, 1))
    assert train.main(["--resume", "--output", "my model.keras"]) == 0
    assert json.loads((unfinished / "state.json").read_text())["finished"]
    assert not json.loads((older / "state.json").read_text())["finished"]
    shutil.rmtree(older)
    assert (unfinished / "my model.displaced.keras").read_bytes() == b"an older model"  # nothing is lost
    assert "no unfinished run" in refused(capsys, "--resume")


def test_a_full_disk_ends_in_a_sentence_and_a_run_to_go_on_with(finished, tmp_path, monkeypatch, capsys):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    save, saved = keras.Model.save, []

    def full(model, path, *args, **kwargs):
        saved.append(path)
        if len(saved) > 5:
            full_disk()
        save(model, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", full)
        assert train.main(OPTIONS) == 2
    output = capsys.readouterr()
    assert "No space left on device" in output.err and "Go on with" in output.out
    with monkeypatch.context() as patch:
        patch.setattr(report, "score_splits", full_disk)
        assert train.main(["--resume"]) == 2
    output = capsys.readouterr()
    assert "No space left on device" in output.err and "Go on with" in output.out
    assert train.main(["--resume"]) == 0
    assert_same_training(folder, finished)


def test_a_disk_that_fills_up_at_the_very_end_costs_no_older_model(tmp_path, monkeypatch, capsys):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    for name in ("best_model.keras", "best_model.previous.keras", "best_model.previous.json"):
        Path(name).write_bytes(name.encode())
    words, copy = ["--data", "fer2013.csv", "--epochs", "1", "--small-epochs", "0"], runs.copy_whole
    for command, last in ((words, "best_model.displaced.json"), (["--resume"], "best_model.json")):
        with monkeypatch.context() as patch:
            patch.setattr(runs, "copy_whole", lambda a, b, last=last: full_disk() if b.name == last else copy(a, b))
            assert train.main(command) == 2
        assert "Go on with" in capsys.readouterr().out
    assert train.main(["--resume"]) == 0
    run = the_run(folder)
    assert Path("best_model.keras").read_bytes() == (run / "best_model.keras").read_bytes()
    assert Path("best_model.json").read_bytes() == (run / "best_model.json").read_bytes()
    assert Path("best_model.previous.keras").read_bytes() == b"best_model.keras"
    assert not Path("best_model.previous.json").exists()  # it told of another model
    for suffix in (".keras", ".json"):
        assert (run / f"best_model.displaced{suffix}").read_bytes() == f"best_model.previous{suffix}".encode()


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_best_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made_folder(tmp_path))
    rates = iter((1e-3, float("nan")))
    monkeypatch.setattr(train, "learning_rate", lambda epoch, args: next(rates))
    assert "lower --learning-rate" in refused(
        capsys, "--data", "fer2013.csv", "--epochs", "3", "--small-epochs", "0", "--self-taught-epochs", "0"
    )
    answers = load_classifier(the_run(tmp_path) / train.BEST).probabilities(np.zeros((1, 48, 48, 1), np.uint8))
    assert np.isfinite(answers).all()
    assert "no unfinished run" in refused(capsys, "--resume")  # which would come to the same


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
def test_a_full_memory_ends_in_a_sentence(tmp_path, monkeypatch, capsys, error):
    def full(*args):
        raise error

    monkeypatch.chdir(made_folder(tmp_path))
    monkeypatch.setattr(train, "compiled_model", full)
    assert "smaller --batch-size" in refused(capsys, "--data", "fer2013.csv", "--epochs", "1")
    assert not list(Path("runs").iterdir())
    monkeypatch.setattr(train, "compiled_model", lambda *args: 1 / 0)  # a mistake of ours stays one
    with pytest.raises(ZeroDivisionError):
        train.main(["--data", "fer2013.csv", "--epochs", "1"])


def test_a_second_place_to_publish_to_keeps_what_is_there_as_well(tmp_path):
    for name in ("run/best_model.keras", "run/best_model.json", "a.keras", "b.keras", "b.previous.keras"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"old {name}")
    (tmp_path / "run" / "state.json").write_text("{}")
    for name in ("a.keras", "b.keras", "b.keras"):  # the last one is a resume
        runs.publish(tmp_path / "run", tmp_path / name)
        assert (tmp_path / name).read_text() == "old run/best_model.keras"
    assert (tmp_path / "a.previous.keras").read_text() == "old a.keras"
    assert (tmp_path / "b.previous.keras").read_text() == "old b.keras"
    assert (tmp_path / "run" / "b.displaced.keras").read_text() == "old b.previous.keras"


def test_a_run_whose_teachers_answers_are_gone_is_not_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made_folder(tmp_path))
    np.save("soft.npy", nearly_even(data.load_fer2013("fer2013.csv")["Training"].labels))
    train_until_the_second_stage(monkeypatch, "--epochs", "2", "--teacher", "soft.npy")
    (the_run(tmp_path) / train.SOFT_LABELS).unlink()
    assert "are gone" in refused(capsys, "--resume")


def test_the_steps_of_several_models_are_kept_once_and_those_of_one_may_repeat(tmp_path):
    for name, steps in (("a", ["1", "2", "2"]), ("b", ["1", "3"])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"steps": steps}))
    runs.note_steps(tmp_path, [tmp_path / "a.keras", tmp_path / "b.keras"])
    assert json.loads((tmp_path / runs.STEPS).read_text()) == ["1", "2", "2", "3"]


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize("name", ["fer2013 (1).zip", "my $5 model.keras", "it's.keras", "a&b.keras"])
def test_commands_can_be_pasted(name):
    pasted = runs.command("x", name).replace("python", "printf %s\\\\n", 1)
    assert subprocess.run(["sh", "-c", pasted], capture_output=True, text=True).stdout == f"x\n{name}\n"


def test_the_history_that_keras_writes_on_windows_keeps_its_epochs(tmp_path):
    (tmp_path / "history.csv").write_bytes(b"epoch,loss\r\r\n0,3\r\r\n1,2\r\r\n2,1\r\r\n")
    runs.trim_history(tmp_path / "history.csv", 2)
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [0, 1]


def test_a_file_that_is_held_for_a_moment_is_put_in_place_later(tmp_path, monkeypatch):
    replace, tries = Path.replace, []

    def held(self, target):
        tries.append(target)
        if len(tries) < 3:
            raise PermissionError(13, "held")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held)
    runs.write_json(tmp_path / "a.json", {"a": 1})
    assert len(tries) == 3 and json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_a_half_written_model_that_a_kill_left_is_no_best_model(tmp_path):
    keeper = runs.make_run_keeper(tmp_path, None, {}, {}, "")
    keeper.set_model(keras.Sequential())
    (tmp_path / runs.BEST_PARTIAL).write_bytes(b"half a model")
    keeper.on_train_begin()
    assert not list(tmp_path.iterdir())


KILLED_WHILE_SAVING = """
import os, sys
import keras, model, train
model.RESNETS = SMALL_RESNETS
save, saved = keras.Model.save, []
def half_a_save(model, path, *args, **kwargs):
    save(model, path, *args, **kwargs)
    saved.append(os.path.basename(path))
    if sum(name.startswith(NAME) for name in saved) == COUNT:
        with open(path, "r+b") as file:
            file.truncate(4096)
        os._exit(9)
keras.Model.save = half_a_save
sys.exit(train.main(sys.argv[1:]))
"""


# The best epoch so far is saved twice, as it is and as its plain twin. The fourth is the first self-taught one.
@pytest.mark.parametrize(("name", "count"), [("best_model", 3), ("backup", 2), ("backup", 4)])
def test_a_kill_while_saving_loses_the_running_epoch_and_nothing_else(finished, tmp_path, monkeypatch, name, count):
    folder = made_folder(tmp_path)
    code = KILLED_WHILE_SAVING.replace("NAME", repr(name)).replace("COUNT", str(count))
    code = code.replace("SMALL_RESNETS", str(SMALL_RESNETS))
    process = run_script(folder, *OPTIONS, code=code)
    assert process.returncode == 9, process.stderr
    load_classifier(the_run(folder) / "best_model.keras")  # whole
    monkeypatch.chdir(folder)
    assert train.main(["--resume"]) == 0
    assert_same_training(folder, finished)


def test_a_part_of_the_data_leaves_the_model_alone(tmp_path, monkeypatch, capsys):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    options = ["--fraction", "0.5", "--epochs", "1", "--no-augmentation", "--mixed-precision"]
    options += ["--arch", "cnn", "--schedule", "plateau"]
    built, compiled_model = [], train.compiled_model
    monkeypatch.setattr(train, "compiled_model", lambda *args: built.append(compiled_model(*args)) or built[-1])
    assert train.main(["--data", "fer2013.csv", *options]) == 0
    assert "bfloat16" in {layer.compute_dtype for layer in built[0].layers}
    run = the_run(folder)
    all_faces = data.load_fer2013("fer2013.csv")["Training"]
    assert json.loads((run / "best_model.json").read_text())["training"]["faces"] == len(all_faces) / 2
    assert not (folder / "best_model.keras").exists()
    assert f"--model {run.relative_to(folder)}" in capsys.readouterr().out
    saved = keras.saving.load_model(run / "best_model.keras", compile=False)
    assert {layer.compute_dtype for layer in saved.layers} == {"float32"}  # whatever it was trained in


def test_where_the_loss_stands_still_the_rate_is_halved_and_then_the_training_is_over(tmp_path, monkeypatch, capsys):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    options = ["--schedule", "plateau", "--patience", "4", "--epochs", "40", "--learning-rate", "0.1"]  # the loss rises
    assert train.main(["--data", "fer2013.csv", *options]) == 0
    (stop,) = re.findall(r"Epoch (\d+): early stopping", capsys.readouterr().out)
    rates = pd.read_csv(the_run(folder) / "history.csv")["learning_rate"]
    assert len(rates) == int(stop) < 40
    assert rates.iloc[-1] < 0.51 * rates.iloc[0] and set((rates / rates.shift()).dropna().round(3)) == {1.0, 0.5}


def test_a_resume_counts_on_where_the_loss_stands_still(tmp_path, monkeypatch):
    options = ["--schedule", "plateau", "--patience", "5", "--epochs", "20", "--learning-rate", "0.1"]  # the loss rises
    histories, draw_curves = [], figures.draw_curves
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(made_folder(tmp_path / name))
        if name == "cut":
            drawn = iter([draw_curves] * 4 + [press_ctrl_c] + [draw_curves] * 20)  # after the fifth epoch
            monkeypatch.setattr(figures, "draw_curves", lambda *args: next(drawn)(*args))  # noqa: B023
        assert train.main(["--data", "fer2013.csv", *options]) == (130 if name == "cut" else 0)
        assert name == "whole" or train.main(["--resume"]) == 0
        histories.append(pd.read_csv(the_run(tmp_path / name) / "history.csv"))
    assert 5 < len(histories[0]) < 20
    pd.testing.assert_frame_equal(*histories)


def test_ctrl_c_in_the_first_epoch_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made_folder(tmp_path))
    monkeypatch.setattr(train, "stage_batches", press_ctrl_c)
    assert train.main(["--data", "fer2013.csv", "--epochs", "1"]) == 130
    assert "nothing is kept" in capsys.readouterr().out and not list(Path("runs").iterdir())


@pytest.mark.parametrize("plain", [0, 1])  # of plain ones the best of these, however others scored
def test_the_best_epoch_is_kept_and_not_the_last_after_a_resume_too(finished, tmp_path, monkeypatch, plain):
    monkeypatch.chdir(made_folder(tmp_path))
    rates = iter((1e-9, None, 1.0))  # as good as it starts, Ctrl-C, then ruined
    monkeypatch.setattr(train, "learning_rate", lambda *_: next(rates) or press_ctrl_c())
    monkeypatch.setattr(train, "finish", press_ctrl_c)
    options = ["--data", "fer2013.csv", "--epochs", "2", "--plain-epochs", str(plain), "--no-mixed-precision"]
    assert train.main([*options, "--start", str(finished / "best_model.keras")]) == 130
    assert train.main(["--resume"]) == 130
    better, worse = pd.read_csv(the_run(tmp_path) / "history.csv")["val_accuracy"]
    (public,) = made_splits("PublicTest")
    kept = load_classifier(the_run(tmp_path) / train.BEST).probabilities(public.faces)
    assert better > worse and score(public.labels, kept)["accuracy"] == pytest.approx(worse if plain else better)


def test_the_last_epochs_are_self_taught_and_plain_twice(tmp_path, monkeypatch):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    blended, shown, make_batches = [], [], data.make_batches

    def noted(*args, mixup, **others):
        blended.append(mixup)
        shown.append(next(make_batches(*args, **others))[0])
        return make_batches(*args, **others)

    monkeypatch.setattr(data, "make_batches", noted)
    options = ["--epochs", "8", "--small-epochs", "0", "--self-taught-epochs", "4", "--plain-epochs", "1"]
    assert train.main(["--data", "fer2013.csv", *options, "--mixup", "0.2", "--learning-rate", "0.01"]) == 0
    assert blended == [0.2, *[stages.SELF_TAUGHT["mixup"], 0] * 2]
    (training,) = made_splits("Training")
    known = {face.tobytes() for face in np.concatenate([training.faces, training.faces[:, :, ::-1]])}
    plain = [all(face.round().astype(np.uint8).tobytes() in known for face in batch) for batch in shown]
    assert plain == [False, False, True, False, True]
    history = pd.read_csv(the_run(folder) / "history.csv")
    assert np.allclose(history["augmentation"], [1, 1, *[1, 0.3, 0] * 2])
    alone = 0.01 * stages.SELF_TAUGHT_RATE
    rates = history["learning_rate"] / [0.01, 0.01, *[alone, alone, alone / 5] * 2]
    assert np.allclose(rates, [*rates[:2], *[*rates[:2], 0.5] * 2])
    assert rates[0] > 0.8 > 0.2 > rates[1]


def test_the_best_network_so_far_teaches_the_one_that_goes_on(tmp_path, monkeypatch):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    answered, mirrored_mean = [], teachers.mirrored_mean

    def even(classifier, faces):
        """Answer nothing, but keep what a calibrated copy of the best network would have answered."""
        best, _ = train.calibrate(the_run(folder) / "best_model.keras", *made_splits("Training", "PublicTest"))
        answered.append(np.allclose(mirrored_mean(classifier, faces), mirrored_mean(best, faces)))
        return np.full((len(faces), 7), 1 / 7, np.float32)

    monkeypatch.setattr(teachers, "mirrored_mean", even)
    options = ["--epochs", "5", "--small-epochs", "0", "--self-taught-epochs", "2", "--plain-epochs", "1"]
    assert train.main(["--data", "fer2013.csv", *options]) == 0
    assert answered == [True, True]


def test_what_teaches_has_the_share_of_its_stage_in_the_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(made_folder(tmp_path))
    (training,) = made_splits("Training")
    np.save(tmp_path / train.SOFT_LABELS, np.full((len(training), 7), 1 / 7))
    args = chosen(["--batch-size", "8"])
    _, targets = next(train.stage_batches(tmp_path, args, training, [], args.epochs - 1, 1)())  # a plain epoch
    share = stages.SELF_TAUGHT["teacher_weight"]
    assert targets.max(axis=1) == pytest.approx(1 - share + share / 7)
    (tmp_path / train.SOFT_LABELS).unlink()
    args = chosen(["--teacher", "a.keras", "--consistent", "--teacher-weight", "0.9", "--batch-size", "8"])
    _, targets = next(train.stage_batches(tmp_path, args, training, [lambda faces: np.full((8, 7), 1 / 7)], 0, 1)())
    assert targets.max(axis=1) == pytest.approx(0.1 + 0.9 / 7)


def test_a_network_whose_round_was_cut_short_learns_on_from_the_same_answers(tmp_path, monkeypatch):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    options = ["--epochs", "3", "--small-epochs", "0", "--self-taught-epochs", "1", "--plain-epochs", "1"]
    train_until_the_second_stage(monkeypatch, *options)
    run = the_run(folder)
    answered = np.load(run / "soft_labels.npy")
    later = load_classifier(run / "best_model.keras").model
    later.set_weights([2 * weight for weight in later.get_weights()])
    later.save(run / "best_model.keras")  # as if the round's first epoch had been the best, but was not yet backed up
    assert train.main(["--resume"]) == 0
    assert np.array_equal(np.load(run / "soft_labels.npy"), answered)


def made_splits(*names):
    dataset = data.load_fer2013("fer2013.csv")
    return [dataset[name] for name in names]


def nearly_even(labels):
    """Answers (n, 7) that only just name these labels."""
    return (0.99 / 7 + 0.01 * data.one_hot(labels)).astype(np.float32)


def test_a_training_starts_from_a_model_and_learns_from_teachers(finished, tmp_path, monkeypatch):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    first = finished / "best_model.keras"
    soft = nearly_even(data.load_fer2013("fer2013.csv")["Training"].labels)
    np.save("even.npy", soft)
    still = ["--epochs", "2", "--learning-rate", "1e-9", "--start", str(first)]
    assert train.main(["--data", "fer2013.csv", *still, "--teacher", str(first), "even.npy"]) == 0
    run = the_run(folder)
    assert list(pd.read_csv(run / "history.csv")["face_pixels"]) == [48, 48]  # it has learnt from small ones before
    faces = data.load_fer2013("fer2013.csv")["Training"].faces
    classifier = load_classifier(first)
    answers = (classifier.probabilities(faces) + classifier.probabilities(faces[:, :, ::-1])) / 2
    assert np.allclose(np.load(run / "soft_labels.npy"), (answers + soft) / 2, atol=1e-6)
    trained, started = load_classifier(run / "best_model.keras"), classifier
    for a, b in zip(trained.model.layers, started.model.layers, strict=True):
        if a.name.startswith("conv"):  # not so the last one, which the temperature scales
            assert all(np.allclose(x, y, atol=1e-6) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))
    (first_step,), (step_before, step) = (
        json.loads((path / "best_model.json").read_text())["steps"] for path in (finished, folder)
    )
    assert step_before == first_step  # once, though the model is both start and teacher
    taught = runs.command("--teacher", first, "even.npy").removeprefix("python")
    assert step.startswith("python train.py --data PATH ") and f"{taught} " in step


def test_the_teachers_share_of_the_targets_is_theirs(finished, tmp_path, monkeypatch):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    sure = keras.saving.load_model(finished / "best_model.keras", compile=False)
    sure.layers[-1].set_weights([100 * weight for weight in sure.layers[-1].get_weights()])
    sure.save("sure.keras")
    labels = data.load_fer2013("fer2013.csv")["Training"].labels
    np.save("right.npy", data.one_hot(labels))
    np.save("even.npy", nearly_even(labels))
    still = ["--epochs", "1", "--small-epochs", "0", "--learning-rate", "1e-9", "--start", "sure.keras"]
    losses = []
    for teacher, weight in (("right.npy", "0.5"), ("even.npy", "0"), ("even.npy", "0.5"), ("even.npy", "0.9")):
        assert train.main(["--data", "fer2013.csv", *still, "--teacher", teacher, "--teacher-weight", weight]) == 0
        run = max((folder / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
        losses.append(pd.read_csv(run / "history.csv")["loss"][0])
    right, untaught, half, most = losses
    assert right == pytest.approx(untaught, rel=1e-3)
    assert abs(half - untaught) > 0.05
    assert most - untaught == pytest.approx(0.9 / 0.5 * (half - untaught), rel=0.05)  # cross-entropy is linear in them


def test_teachers_are_asked_about_every_batch(finished, tmp_path, monkeypatch):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    even = [
        keras.Input((48, 48, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(7, "softmax", kernel_initializer="zeros"),
    ]
    keras.Sequential(even).save("even.keras")
    options = ["--epochs", "2", "--small-epochs", "1", "--mixup", "0.3", "--start", str(finished / "best_model.keras")]
    options += ["--teacher", "even.keras", "--consistent", "--teacher-weight", "0.99", "--label-smoothing", "0"]
    train_until_the_second_stage(monkeypatch, "--mixed-precision", *options)
    Path("even.keras").write_bytes(b"another model")
    assert train.main(["--resume"]) == 0
    run = the_run(folder)
    assert not (run / "soft_labels.npy").exists() and not list(run.glob("teacher-*"))
    assert np.all(pd.read_csv(run / "history.csv")["loss"] >= np.log(7) - 0.01)


def test_a_teacher_answers_only_for_the_part_of_the_faces_that_it_was_trained_without(tmp_path, monkeypatch, capsys):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    Path("best_model.keras").write_bytes(b"the whole data's")
    once = ["--data", "fer2013.csv", "--epochs", "1", "--small-epochs", "0", "--self-taught-epochs", "0"]
    assert train.main([*once, "--fold", "1", "2"]) == 0
    assert "Trained on a part of the data" in capsys.readouterr().out
    assert Path("best_model.keras").read_bytes() == b"the whole data's"
    faces = data.load_fer2013("fer2013.csv")["Training"].faces
    answers, trained_on = np.zeros((len(faces), 7)), []
    for part in (1, 2):
        assert train.main([*once, "--fold", str(part), "2", "--output", f"{part}.keras"]) == 0
        description = json.loads(Path(f"{part}.json").read_text())
        trained_on.append(description["training"]["faces"])
        assert description["scores"]["training"]["n"] == trained_on[-1]
        rows = data.in_part(faces, part, 2)
        assert rows.sum() == len(faces) - trained_on[-1]
        classify = load_classifier(f"{part}.keras").probabilities
        answers[rows] = (classify(faces[rows]) + classify(faces[rows][:, :, ::-1])) / 2
    assert sum(trained_on) == len(faces) and min(trained_on) > len(faces) / 4
    assert "name those of all parts" in refused(capsys, *once, "--teacher", "1.keras")
    load_classifier("1.keras").model.save("whole.keras")  # without the description that names the part
    for others in ([], ["whole.keras", "--consistent"]):  # they still answer once where others do about every batch
        assert train.main([*once, "--teacher", "1.keras", "2.keras", *others]) == 0
        run = max((folder / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
        assert np.allclose(np.load(run / "soft_labels.npy"), answers, atol=1e-5)


def test_the_teachers_take_turns_with_the_faces_and_their_mirror_images():
    faces, labels = np.random.default_rng(0).uniform(0, 255, (1, 48, 48, 1)).astype(np.float32), np.eye(7)[:1]
    asked = []

    def teacher(emotion: int):
        return lambda pixels: asked.append(pixels) or np.eye(7)[[emotion]]

    batches = list(teachers.taught(lambda: [(faces, labels)] * 5, [teacher(1), teacher(2)], 0.8, 0, 48))
    assert [targets.argmax() for _, targets in batches] == [1, 1, 2, 2, 1]
    assert all(shown is faces and np.isclose(targets[0, 0], 0.2) for shown, targets in batches)
    assert all(np.allclose(pixels[:, :, :: (-1) ** i], faces, atol=0.51) for i, pixels in enumerate(asked))
    resumed = list(teachers.taught(lambda: [(faces, labels)] * 2, [teacher(1), teacher(2)], 0.8, 3, 24))
    assert [targets.argmax() for _, targets in resumed] == [2, 1]
    blocks = faces.reshape(len(faces), 24, 2, 24, 2, 1).mean(axis=(2, 4))
    assert all(np.allclose(shown, blocks, atol=0.01) for shown, _ in resumed) and asked[-1].shape == faces.shape


@pytest.mark.parametrize("arch, askings", [("resnet-symmetric", 1), ("resnet", 2)])
def test_a_face_and_its_mirror_image_are_asked_about_unless_both_get_the_same_answer(arch, askings):
    asked, network = [], build_model(arch)
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    classifier = model.keras_classifier(network, {})
    answers = [classifier.probabilities(seen) for seen in (faces, faces[:, :, ::-1])]
    counted = model.Classifier(lambda seen: asked.append(seen) or classifier.probabilities(seen), {}, network)
    assert np.allclose(teachers.mirrored_mean(counted, faces), np.mean(answers, axis=0), atol=1e-6)
    assert len(asked) == askings


ADAMW, MUON = ("adamw", 128, 2e-3), ("muon", 256, 2.8e-3)


@pytest.mark.parametrize(
    "words, chosen",
    [
        ([], MUON), (["--arch", "resnet"], MUON), (["--teacher", "a.keras"], MUON), (["--start", "a.keras"], ADAMW),
        (["--arch", "cnn"], ADAMW), (["--schedule", "plateau"], ADAMW), (["--optimizer", "adamw"], ADAMW),
        (["--optimizer", "muon", "--start", "a.keras", "--batch-size", "8"], ("muon", 8, 2.8e-3)),
        (["--learning-rate", "1"], ("muon", 256, 1)),
    ],
)  # fmt: skip
def test_the_optimizer_brings_its_batches_and_its_rate_unless_they_are_named(words, chosen):
    args = options.parse_args(words)
    options.choose_optimizer(args)
    assert (args.optimizer, args.batch_size, args.learning_rate) == chosen


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_network_learns_by_the_options_of_its_stage(optimizer):
    args = chosen(["--optimizer", optimizer, "--weight-decay", "0.03", "--label-smoothing", "0.2"])
    alone = stages.SELF_TAUGHT
    for epoch, expected in ((0, (0.03, 0.2)), (args.epochs - 1, (alone["weight_decay"], alone["label_smoothing"]))):
        network = train.compiled_model(stages.options_of(epoch, args), 48)
        assert type(network.optimizer).__name__.lower() == optimizer
        assert (network.optimizer.weight_decay, network.loss.label_smoothing) == expected


def test_the_seed_gives_the_weights_and_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(made_folder(tmp_path))
    shown, kernels = [], []
    for seed in ("0", "1", "1"):
        args = chosen(["--seed", seed, "--small-epochs", "0"])
        shown.append(next(train.stage_batches(tmp_path, args, *made_splits("Training"), [], 0, 1)())[0])
        still = ["--epochs", "1", "--small-epochs", "0", "--learning-rate", "1e-9", "--output", f"{len(shown)}.keras"]
        assert train.main(["--data", "fer2013.csv", "--seed", seed, *still]) == 0
        kernels.append(weights(f"{len(shown)}.keras")[0])
    for first, second, third in (shown, kernels):
        assert not np.allclose(first, second, atol=0.01) and np.allclose(second, third, atol=0.01)


def test_the_teachers_see_filmed_faces_sharp(finished, tmp_path):
    training = data.load_fer2013(finished / "fer2013.csv")["Training"]
    shown, asked = {}, {False: [], True: []}
    for filmed in asked:
        args = chosen(["--teacher", "a.keras", "--consistent", "--small-epochs", "0"])
        args.filmed = filmed
        teacher = lambda faces, filmed=filmed: asked[filmed].append(faces) or np.eye(7)[:1]  # noqa: E731
        shown[filmed], _ = next(train.stage_batches(tmp_path, args, training, [teacher], 0, 1)())
    assert np.array_equal(asked[False], asked[True]) and not np.allclose(shown[False], shown[True], atol=1)


def test_a_training_starts_from_the_first_blocks_of_another_residual_network(tmp_path, monkeypatch):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    started = build_model("resnet")
    started.save("first.keras")
    still = ["--epochs", "1", "--small-epochs", "0", "--learning-rate", "1e-9", "--start", "first.keras"]
    assert train.main(["--data", "fer2013.csv", *still, "--start-blocks", "1", "--arch", "resnet-large"]) == 0
    trained = load_classifier("best_model.keras").model
    ends = [layer for layer in trained.layers if isinstance(layer, keras.layers.Add)]
    assert len(ends) == 2
    kept = trained.layers[: trained.layers.index(ends[0])]
    for a, b in zip(kept, started.layers, strict=False):
        if isinstance(a, keras.layers.Conv2D):
            assert all(np.allclose(x, y, atol=1e-6) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def test_a_training_starts_from_the_mean_of_several_networks(finished, tmp_path, monkeypatch):
    folder = made_folder(tmp_path)
    monkeypatch.chdir(folder)
    first = load_classifier(finished / "best_model.keras").model
    weights = first.get_weights()
    first.set_weights([3 * weight for weight in weights])
    first.save("other.keras")
    still = ["--epochs", "1", "--small-epochs", "0", "--learning-rate", "1e-9", "--weight-decay", "0"]
    starts = [str(finished / "best_model.keras"), "other.keras"]
    assert train.main(["--data", "fer2013.csv", *still, "--start", *starts]) == 0
    first.set_weights(weights)
    trained = load_classifier("best_model.keras").model
    for a, b in zip(trained.layers, first.layers, strict=True):
        if isinstance(a, keras.layers.Conv2D):
            assert all(np.allclose(x, 2 * y, atol=1e-6) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def test_on_several_devices_an_epoch_has_all_of_its_batches(tmp_path, monkeypatch, capsys):
    """56 faces in batches of 5: the twelfth begins with one face and is filled up, so no device goes without."""
    monkeypatch.chdir(made_folder(tmp_path))
    share, counts = distribution.Share(devices=5), []
    of_batches = share.of_batches
    share.of_batches = lambda batches: (counts.append(len(batch[1])) or batch for batch in of_batches(batches))
    monkeypatch.setattr(distribution, "distribute", lambda seed, batch_size: share)
    options = ["--epochs", "1", "--small-epochs", "0", "--batch-size", "5", "--distribute"]
    assert train.main(["--data", "fer2013.csv", *options]) == 0
    assert "12/12" in capsys.readouterr().out and len(counts) >= 12 and set(counts) == {5}


def test_the_words_of_arguments_give_them_back():
    words = ["--data", "a b.csv", "--no-augmentation", "--augmentation", "1", "0.3", "--start", "a.keras", "b.keras"]
    args = chosen([*words, "--no-mixed-precision", "--mixup", "0.4", "--seed", "7", "--filmed"])
    assert options.parse_args(options.words_of(vars(args))) == args


def test_the_steps_of_the_shipped_network_are_trainings():
    steps = json.loads((ROOT / "best_model.json").read_text(encoding="utf-8"))["steps"]
    assert f"| {len(steps)}, shipped |" in (ROOT / "README.md").read_text(encoding="utf-8")
    for step in steps:
        python, script, *words = shlex.split(step)
        args = options.parse_args(words)
        stages.choose_stages(args)
        options.check_options(args)
        assert (python, script, args.data) == ("python", "train.py", Path("PATH"))


def refused(capsys, *options):
    assert train.main([str(option) for option in options]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_what_a_user_can_mend_is_said_before_any_training(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "kaggle.com" in refused(capsys)
    (tmp_path / "runs").touch()
    assert "runs" in refused(capsys, "--data", finished / "fer2013.csv", "--epochs", "1")
    (tmp_path / "runs").unlink()
    assert "no unfinished run" in refused(capsys, "--resume")
    assert "cannot be resumed" in refused(capsys, "--resume", "runs/nothing")
    assert "There is no data" in refused(capsys, "--data", "nowhere.csv")
    csv = finished / "fer2013.csv"
    with monkeypatch.context() as opencv_5:
        opencv_5.delattr(cv2, "CascadeClassifier")
        assert "opencv-python<5" in refused(capsys, "--data", csv)
    assert "must end in .keras" in refused(capsys, "--data", csv, "--output", "model.h5")
    assert "No training face is left" in refused(capsys, "--data", csv, "--fraction", "0.001")
    assert "does not exist" in refused(capsys, "--data", csv, "--output", "nowhere/model.keras")
    (tmp_path / "folder.keras").mkdir()
    assert "cannot be written" in refused(capsys, "--data", csv, "--output", "folder.keras")
    (tmp_path / "folder.keras").rmdir()
    assert "needs a resnet" in refused(capsys, "--data", csv, "--arch", "cnn", "--small-epochs", "1")
    assert "--evaluate and --resume exclude each other" in refused(capsys, "--evaluate", "--resume")
    assert "use --start" in refused(capsys, "--data", csv, "--model", finished / train.BEST)
    assert "self-taught (41) and plain epochs (2 x 2)" in refused(capsys, "--data", csv, "--small-epochs", "30")
    assert "must be fewer than --epochs" in refused(capsys, "--data", csv, "--epochs", "2", "--small-epochs", "2")
    assert "exclude each other" in refused(capsys, "--data", csv, "--self-taught-epochs", "1", "--teacher", "a.keras")
    for stage in ("--plain-epochs", "--self-taught-epochs", "--small-epochs"):
        assert "need --schedule cosine" in refused(capsys, "--data", csv, stage, "2", "--schedule", "plateau")
    (tmp_path / "damaged.keras").write_bytes(b"no model")
    np.save(tmp_path / "short.npy", np.full((5, 7), 1 / 7))
    labels = data.load_fer2013(csv)["Training"].labels
    np.save(tmp_path / "other.npy", data.one_hot((labels + 1) % 7))
    with (tmp_path / "several.npy").open("wb") as file:
        np.savez(file, answers=np.zeros((5, 7)))
    assert "no model at" in refused(capsys, "--data", csv, "--start", "nothing.keras")
    assert "must be a .keras file" in refused(capsys, "--data", csv, "--start", "best_model.tflite")
    assert "Add --arch resnet-symm" in refused(capsys, "--data", csv, "--arch", "cnn", "--start", finished / train.BEST)
    single = finished / "resnet.keras"
    build_model("resnet").save(single)
    start = ["--data", csv, "--start", single, "--start-blocks"]
    assert "do not have the first 2 blocks in common" in refused(capsys, *start, "2", "--arch", "resnet-large")
    # The first of these sees every pixel, where a resnet sees every other; the second has filters of another size.
    for arch in ("resnet-huge", "resnet-symmetric", "cnn"):
        assert "do not have the first 1 blocks in common" in refused(capsys, *start, "1", "--arch", arch)
    assert "damaged.keras" in refused(capsys, "--data", csv, "--teacher", "damaged.keras")
    assert "needs one model as --start" in refused(capsys, "--data", csv, "--start-blocks", "2")
    assert "needs one model as --start" in refused(capsys, *start[:-1], single, "--start-blocks", "2")
    assert "needs a .keras file" in refused(capsys, "--data", csv, "--consistent")
    assert "needs a .keras file" in refused(capsys, "--data", csv, "--consistent", "--teacher", "short.npy")
    for fold in (("3", "2"), ("1", "1")):
        assert "no such part" in refused(capsys, "--data", csv, "--fold", *fold)
    assert "no model at" in refused(capsys, "--data", csv, "--consistent", "--teacher", "nothing.keras")
    assert "--teacher-weight needs --teacher" in refused(capsys, "--data", csv, "--teacher-weight", "0.7")
    assert "cannot be read" in refused(capsys, "--data", csv, "--teacher", "nothing.npy")
    assert "cannot be read" in refused(capsys, "--data", csv, "--teacher", "several.npy")
    assert "seven probabilities" in refused(capsys, "--data", csv, "--teacher", "short.npy")
    assert "only 0% of these faces" in refused(capsys, "--data", csv, "--teacher", "other.npy")
    assert "needs --schedule plateau" in refused(capsys, "--data", csv, "--patience", "3")
    assert "exclude each other" in refused(capsys, "--data", csv, "--no-augmentation", "--augmentation", "1", "0.3")
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.keras", "short.npy", "other.npy", "several.npy"}
    assert "is finished" in refused(capsys, "--resume", the_run(finished))


def test_a_resume_is_refused_on_other_data_without_its_backup_or_under_another_version(
    finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "earlier"
    run.mkdir(parents=True)
    arguments = json.loads((the_run(finished) / "arguments.json").read_text())
    (run / "arguments.json").write_text(json.dumps(arguments))
    state = json.loads((the_run(finished) / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"finished": False, "epochs": 1}))
    other = write_csv(tmp_path / "other.csv", make_rows((8, 4, 2), seed=1))
    assert "is not what" in refused(capsys, "--resume", run, "--data", other)
    assert "cannot be read" in refused(capsys, "--resume", run, "--data", finished / "fer2013.csv")
    del arguments["plain_epochs"]
    (run / "arguments.json").write_text(json.dumps(arguments))
    assert "another version" in refused(capsys, "--resume", run, "--data", finished / "fer2013.csv")


def test_the_cosine_schedule_warms_up_and_falls_to_nearly_nothing():
    rates = [stages.cosine_rate(epoch, 50, 1.0) for epoch in range(50)]
    assert np.allclose(rates[:5], np.arange(1, 6) / 6)
    assert (np.diff(rates[5:]) < 0).all()
    assert max(rates) > 0.99
    assert rates[-1] < 0.001
    assert stages.cosine_rate(0, 1, 1.0) > 0


@pytest.mark.parametrize(
    "options", [["--epochs", "0"], ["--fraction", "2"], ["--mixup", "nan"], ["--teacher-weight", "1"], ["--nonsense"]]
)
def test_impossible_options_end_with_status_2(options):
    with pytest.raises(SystemExit) as stop:
        train.main(options)
    assert stop.value.code == 2


def test_help_imports_nothing_heavy():
    heavy = "{'cv2', 'numpy', 'pandas', 'keras', 'tensorflow'}"
    code = f"import sys, train\ntry: train.main(['--help'])\nexcept SystemExit: print({heavy} & set(sys.modules))"
    process = run_script(ROOT, code=code)
    assert process.stdout.endswith("set()\n")
    assert "--resume" in process.stdout


@pytest.mark.skipif("FER2013" not in os.environ, reason="the environment variable FER2013 names no data set")
def test_the_shipped_model_scores_what_it_says():
    classifier = load_classifier(ROOT / "best_model.keras")
    public = data.load_fer2013(os.environ["FER2013"])["PublicTest"]
    scores = score(public.labels, np.concatenate([
        classifier.probabilities(public.faces[i : i + 256]) for i in range(0, len(public), 256)
    ]))  # fmt: skip
    assert scores["accuracy"] == pytest.approx(classifier.description["scores"]["accuracy"], abs=0.002)
