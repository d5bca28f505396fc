"""train.py --distribute: what each process gets, and trainings on two devices and in two processes."""

import importlib.util
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPOSITORY
from made_data import make_rows, write_csv
from made_training import ONE_EPOCH

import train
from data import BatchSettings, load_fer2013, make_batches
from model import UserError, load_classifier
from training import distribution
from training.distribution import Share, distribute

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("small_and_quiet")
OPTIONS = ["--data", "fer2013.csv", "--batch-size", "8", "--augmentation", "0", "--distribute", "--output", "out.keras"]
ONE_PHASE = ["--epochs", "1", "--small-image-epochs", "0"]
TINY = """
import sys
import model, train
from training import distribution, finish, loop
model.RESNETS = {"resnet": ((8, 2),)}  # the first convolution and the dense layer
finish.report = lambda *args, **options: None
"""
TWO_CPUS = """
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
compiled_model = loop.compiled_model
def counted(*args):
    print(tf.distribute.get_strategy().num_replicas_in_sync, "devices at work")
    return compiled_model(*args)
loop.compiled_model = counted
"""
KEEP_WHAT_WAS_SEEN = """
import numpy as np
seen, models = [], []
of, leave, compiled_model = distribution.Share.of, distribution.leave, loop.compiled_model
def seen_of(share, faces, labels):
    seen.append(of(share, faces, labels))
    return seen[-1]
def kept_model(*args):
    models.append(compiled_model(*args))
    return models[-1]
def kept_leave(share):
    weights = {f"weights{i}": values for i, values in enumerate(models[-1].get_weights())}
    batches = np.stack([faces for faces, _ in seen[1:4]])
    np.savez(f"seen{share.process}", validation=seen[0][0], batches=batches, **weights)
    leave(share)
distribution.Share.of, distribution.leave, loop.compiled_model = seen_of, kept_leave, kept_model
"""


def start(folder, code, *options, **environment):
    """Start train.py on a tiny network in a folder of its own, after some code."""
    folder.mkdir(exist_ok=True)
    write_csv(folder / "fer2013.csv", make_rows((7, 3, 1)))  # 49 faces: the last batch of an epoch is filled up
    code = TINY + code + "sys.exit(train.main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *OPTIONS, *options], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
    )  # fmt: skip


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


@pytest.mark.parametrize(("count", "processes", "devices"), [(8, 1, 1), (9, 1, 2), (9, 2, 2), (11, 2, 4), (3, 2, 4)])
def test_the_shares_of_a_batch_make_up_the_batch_but_for_a_rest(count, processes, devices):
    faces, labels = np.arange(count), np.arange(count) + 100
    parts = [Share(process, processes, devices).of(faces, labels) for process in range(processes)]
    assert len({len(part[0]) for part in parts}) == 1
    assert np.array_equal(np.concatenate([part[0] for part in parts]), faces[: count - count % devices])
    assert np.array_equal(np.concatenate([part[1] for part in parts]), labels[: count - count % devices])


def test_what_cannot_be_distributed_is_refused(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "torch")
    with pytest.raises(UserError, match="does not work on torch"):
        distribute(0, 8)
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "10.0.0.1:1234")
    with pytest.raises(UserError, match="several processes does not work on tensorflow"):
        distribute(0, 8)


def test_a_batch_size_that_the_devices_cannot_divide_is_refused(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: [SimpleNamespace(name=kind)] * 3)
    monkeypatch.setattr("tensorflow.distribute.MirroredStrategy", lambda devices: SimpleNamespace(scope=None))
    with pytest.raises(UserError, match="cannot be divided among 3 devices"):
        distribute(0, 8)


def test_on_several_devices_an_epoch_has_all_of_its_batches(folder, monkeypatch, capsys):
    """56 faces in batches of 5: the twelfth begins with one face and is filled up, so no device goes without."""
    share, counts = Share(devices=5), []
    of_batches = share.of_batches
    share.of_batches = lambda batches: (counts.append(len(batch[1])) or batch for batch in of_batches(batches))
    monkeypatch.setattr(distribution, "distribute", lambda seed, batch_size: share)
    assert train.main([*ONE_EPOCH, "--batch-size", "5", "--distribute"]) == 0
    assert "12/12" in capsys.readouterr().out and len(counts) >= 12 and set(counts) == {5}


@needs("tensorflow")
def test_tensorflow_trains_on_two_devices(tmp_path):
    process = start(tmp_path, TWO_CPUS, *ONE_PHASE, "--optimizer", "adamw", KERAS_BACKEND="tensorflow")
    output, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    assert "2 devices at work" in output and "out.keras is new" in output
    probabilities = load_classifier(tmp_path / "out.keras").probabilities(np.zeros((1, 48, 48, 1), np.uint8))
    assert np.allclose(probabilities.sum(), 1, atol=1e-5)


@needs("jax")
@pytest.mark.skipif(sys.platform == "win32", reason="JAX has no gloo on Windows")
def test_jax_trains_in_two_processes_and_each_sees_half_of_every_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # the compiler takes longer than the training
        "XLA_FLAGS": "",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    folders = [tmp_path / "first", tmp_path / "second"]
    processes = [
        start(folder, KEEP_WHAT_WAS_SEEN, *ONE_PHASE, KERAS_DISTRIBUTION_PROCESS_ID=str(number), **environment)
        for number, folder in enumerate(folders)
    ]
    try:
        outputs = [process.communicate(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "out.keras is new" in outputs[0][0] and "Epoch" not in outputs[1][0]
    assert {path.name for path in folders[1].iterdir()} == {"fer2013.csv", "seen1.npz"}

    first, second = (np.load(folder / f"seen{number}.npz") for number, folder in enumerate(folders))
    names = [name for name in first.files if name.startswith("weights")]
    assert names and all(np.array_equal(first[name], second[name]) for name in names)
    probabilities = load_classifier(folders[0] / "out.keras").probabilities(np.zeros((1, 48, 48, 1), np.uint8))
    assert np.allclose(probabilities.sum(), 1, atol=1e-5)  # on TensorFlow, too
    dataset = load_fer2013(folders[0] / "fer2013.csv")
    batches = make_batches(dataset["Training"], BatchSettings(batch_size=8, augmentation=None))
    for half, other_half, (faces, _) in zip(first["batches"], second["batches"], batches, strict=False):
        assert np.array_equal(np.concatenate([half, other_half]), faces)
    assert len(first["validation"]) == len(second["validation"]) == len(dataset["PublicTest"]) // 2
