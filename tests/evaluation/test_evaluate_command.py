"""`train.py --evaluate`: what it writes, that it changes nothing, and what it refuses."""

import json
import shutil
from pathlib import Path

from made_data import make_rows, write_csv

import train
from data import load_fer2013
from evaluation import robustness
from training import finish


def refused(capsys, *options):
    assert train.main([str(option) for option in options]) == 2
    return capsys.readouterr().err


def test_evaluation_writes_a_report_and_leaves_the_model_alone(tmp_path, monkeypatch, network, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_csv(tmp_path / "fer2013.csv", make_rows((2, 1, 1)))
    model = Path(shutil.copy(network, tmp_path))
    model.with_name("history.csv").write_text("epoch,loss\n0,1\n")  # of another program
    monkeypatch.setattr(robustness, "CONDITIONS", {"clean": robustness.CONDITIONS["clean"]})
    before = model.read_bytes()
    assert train.main(["--data", str(data), "--evaluate", "--model", str(model), "--split", "PrivateTest"]) == 0
    assert model.read_bytes() == before
    (run,) = (tmp_path / "runs").iterdir()
    card = json.loads((run / "scorecard.json").read_text())
    assert (card["split"], card["n"]) == ("PrivateTest", 7)
    assert "temperature" not in card["calibration"]  # nobody fitted one
    assert "curves.png" not in (run / "report.md").read_text(encoding="utf-8")
    assert str(run.relative_to(tmp_path)) in capsys.readouterr().out


def test_evaluation_refuses_what_it_cannot_score(tmp_path, monkeypatch, network, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_csv(tmp_path / "data" / "fer2013.csv", make_rows((2, 1, 0)))
    options = ("--data", data, "--evaluate", "--model")
    training = write_csv(tmp_path / "train.csv", make_rows((20, 0, 0)))
    assert "has no PublicTest" in refused(capsys, "--data", training, "--evaluate", "--model", network)
    own, sha256 = Path(shutil.copy(network, tmp_path / "own.keras")), load_fer2013(training).sha256()
    own.with_suffix(".json").write_text(json.dumps({"training": {"data_sha256": sha256}}))
    with monkeypatch.context() as patch:
        patch.setattr(finish, "report", lambda *args, **options: None)
        assert train.main(["--data", str(training), "--evaluate", "--model", str(own)]) == 0
    shutil.rmtree("runs")
    assert "no PrivateTest" in refused(capsys, *options, network, "--split", "PrivateTest")
    assert "There is no model" in refused(capsys, *options, tmp_path / "none.keras")
    assert "not a .keras file" in refused(capsys, *options, data)
    shutil.copy(network, tmp_path / "data" / "a.keras")  # as in the folder of its training, damaged
    (tmp_path / "data" / "arguments.json").write_text("{}")
    for content in (b"", b"epoch,loss\n0,1\n", b"\xff\xfe\x00", b'"'):
        (tmp_path / "data" / "history.csv").write_bytes(content)
        assert "history.csv is damaged" in refused(capsys, *options, tmp_path / "data" / "a.keras")
    assert not (tmp_path / "runs").exists()
