"""The options of train.py: defaults that fit each other, recipes, and what is refused."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY

import train
from model import ARCHITECTURES
from training import options as options_module
from training.options import TrainingOptions, command_words, complete, parse_args, shell_command

pytest_plugins = ["training_fixtures"]
ADAMW, MUON = ("adamw", 128, 2e-3), ("muon", 256, 2.8e-3)
RECIPES = sorted((REPOSITORY / "recipes").glob("*.txt"))


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, MUON),
        ({"arch": "resnet"}, MUON),
        ({"teacher": ("a.keras",)}, MUON),
        ({"init_from": ("a.keras",)}, ADAMW),
        ({"arch": "cnn"}, ADAMW),
        ({"schedule": "plateau"}, ADAMW),
        ({"optimizer": "adamw"}, ADAMW),
        ({"optimizer": "muon", "init_from": ("a.keras",), "batch_size": 8}, ("muon", 8, 2.8e-3)),
        ({"learning_rate": 1.0}, ("muon", 256, 1.0)),
        ({"learning_rate": 0.0}, ("muon", 256, 0.0)),
    ],
)
def test_the_optimizer_brings_its_batch_size_and_rate_unless_they_are_given(given, chosen):
    options = complete(TrainingOptions(**given))
    assert (options.optimizer, options.batch_size, options.learning_rate) == chosen


def test_the_command_of_options_gives_them_back():
    words = ["--data", "a b.csv", "--augmentation", "0.3", "--init-from", "a.keras", "b.keras", "--camera-noise"]
    words += ["--no-mixed-precision", "--mixup", "0.4", "--seed", "7", "--fine-tuning-epochs", "2"]
    options = parse_args(words).options
    assert options.init_from == [Path("a.keras"), Path("b.keras")] and options.mixed_precision is False
    assert parse_args(command_words(options)).options == options
    assert "--epochs" not in command_words(options)  # as by default


def test_a_training_has_at_most_22_options_of_which_all_are_named_as_their_fields():
    names = vars(parse_args(["--data", "x"]))
    assert set(vars(TrainingOptions())) <= set(names) and len(vars(TrainingOptions())) + 1 <= 22  # and --resume
    assert options_module.ARCHITECTURES == ARCHITECTURES


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_can_be_trained(recipe):
    assert parse_args([f"@{recipe}", "--data", "x"]).options


def test_a_clock_before_1980_is_said_before_a_training(monkeypatch, capsys):
    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0)))
    with pytest.raises(SystemExit):
        parse_args(["--data", "x"])
    assert "1970" in capsys.readouterr().err


def test_a_name_that_is_too_long_is_one_sentence(refused):
    error = refused("--data", "x", "--output", f"{'a' * 300}.keras")
    assert "too long" in error and error.count("\n") == 1


def test_a_recipe_is_a_file_of_options_with_comments(tmp_path):
    assert len(RECIPES) >= 2
    (tmp_path / "mine.txt").write_text("# a comment\n--epochs 3 --mixup 0.2  # why\n\n--arch cnn\n", encoding="utf-8")
    options = parse_args([f"@{tmp_path / 'mine.txt'}", "--epochs", "4", "--data", "x"]).options
    assert (options.epochs, options.mixup, options.arch) == (4, 0.2, "cnn")  # what comes later wins


@pytest.mark.parametrize(
    "content", ["--epochs 3".encode("utf-16"), "--epochs 3 # für mich".encode("latin-1"), b"@r.txt"]
)
def test_a_recipe_that_is_no_text_or_names_itself_is_refused(tmp_path, monkeypatch, refused, content):
    monkeypatch.chdir(tmp_path)
    Path("r.txt").write_bytes(content)
    error = refused("@r.txt", "--data", "x.csv")
    assert "not text in UTF-8, names itself" in error and error.count("\n") == 1


def test_the_recipe_of_the_plain_cnn_is_that_of_the_design_document():
    options = parse_args([f"@{REPOSITORY / 'recipes' / 'cnn.txt'}", "--data", "x"]).options
    assert (options.arch, options.epochs, options.schedule) == ("cnn", 50, "plateau")
    assert (options.learning_rate, options.batch_size) == (0.001, 64)


@pytest.mark.parametrize(
    "words",
    [
        ["--epochs", "0"],
        ["--fraction", "2"],
        ["--mixup", "nan"],
        ["--augmentation", "2"],
        ["--nonsense"],
        ["@nowhere"],
        [""],
        ["=x"],
    ],
)
def test_impossible_options_end_with_status_2_and_one_line(words, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Errno" not in line


def test_without_data_it_says_where_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train.main([])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and sum(line.strip().startswith("https://www.kaggle.com/") for line in lines) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output", "model.h5"], "must end in .keras"),
        (["--output", "nowhere/model.keras"], "does not exist"),
        (["--output", "folder.keras"], "cannot be written"),
        (["--arch", "cnn", "--small-image-epochs", "1"], "needs a resnet"),
        (["--evaluate", "--resume"], "--evaluate and --resume exclude each other"),
        (["--resume", "--init-from", "a.keras"], "--init-from has no effect with --resume"),
        (["--model", "a.keras"], "use --init-from"),
        (["--split", "PrivateTest"], "belongs to --evaluate"),
        (["--resume", "--split", "PrivateTest"], "belongs to --evaluate"),
        (["--export", "--split", "PrivateTest"], "belongs to --evaluate"),
        (["--resume", "--epochs", "9"], "--epochs has no effect with --resume"),
        (["--resume", "--epochs", "68"], "--epochs has no effect with --resume"),  # the default
        (["more.csv"], "write --data more.csv"),
        (["@quote.txt"], "lacks a"),
        (["--export", "--output", "mine.keras"], "--output has no effect with --export"),
        (["--evaluate", "--init-from", "mine.keras"], "--init-from has no effect with --evaluate"),
        (["--export", "--model", ""], "There is no model at"),
        (["--epochs", "2", "--small-image-epochs", "2"], "too few"),
        (["--epochs", "6", "--fine-tuning-epochs", "2"], "too few"),
        (["--epochs", "3", "--self-distillation-rounds", "3"], "too few"),
        (
            ["--epochs", "3", "--self-distillation-rounds", "0", "--fine-tuning-epochs", "3"],
            "too few for 3 fine-tuning epochs. Use",
        ),
        (["--self-distillation-rounds", "1", "--teacher", "a.keras"], "exclude each other"),
        (["--schedule", "plateau", "--fine-tuning-epochs", "2"], "need --schedule cosine"),
        (["--schedule", "plateau", "--self-distillation-rounds", "2"], "need --schedule cosine"),
        (["--schedule", "plateau", "--small-image-epochs", "2"], "need --schedule cosine"),
        (["--init-from", "best_model.tflite"], "must be a .keras file"),
        (["--teacher", "answers.npy"], "must be a .keras file"),
        (["--export", "phone.onnx"], "must end in .tflite"),
        (["--export", "nowhere/x.tflite"], "does not exist"),
        (["--export", "x.int8.tflite"], "names the int8 file"),
        (["--export", "--model", "x.tflite"], "is an export"),
        (["--evaluate", "--model", "x.tflite"], "is an export"),
    ],
)
def test_options_that_do_not_go_together_are_explained(words, sentence, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "quote.txt").write_text('--data "my data')
    assert sentence in refused("--data", "fer2013.csv", *words)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.keras", "quote.txt"}


def test_a_recipe_has_comments_and_paths_with_spaces_on_every_system(tmp_path):
    recipe = tmp_path / "a.txt"
    recipe.write_text('# mine\n--data "my data\\fer2013.csv"  # Windows\n--epochs 9 --seed 3\n', encoding="utf-8-sig")
    options = parse_args([f"@{recipe}"]).options
    assert (str(options.data), options.epochs, options.seed) == ("my data\\fer2013.csv", 9, 3)


def test_data_is_found_in_its_usual_folders(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--evaluate"], ["--export"]):
        assert "kaggle.com" in refused(*words)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".gitkeep").touch()
    assert "kaggle.com" in refused()  # nothing is in it
    (tmp_path / "data" / "fer2013.csv").touch()
    assert parse_args([]).options.data == Path("data")


def test_options_survive_json_and_those_of_another_version_are_refused():
    options = replace(complete(TrainingOptions(init_from=[Path("a.keras")])), output=Path("b.keras"))
    saved = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    saved["init_from"] = ["a.keras"]
    assert TrainingOptions.from_json(saved) == options
    with pytest.raises(KeyError):
        TrainingOptions.from_json(saved | {"fold": None})


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize("name", ["fer2013 (1).zip", "my $5 model.keras", "it's.keras", "a&b.keras"])
def test_commands_can_be_pasted(name):
    pasted = shell_command("x", name).replace("python", "printf %s\\\\n", 1)
    assert subprocess.run(["sh", "-c", pasted], capture_output=True, text=True).stdout == f"x\n{name}\n"


def test_help_imports_nothing_heavy():
    heavy = "{'cv2', 'numpy', 'pandas', 'keras', 'tensorflow'}"
    code = f"import sys, train\ntry: train.main(['--help'])\nexcept SystemExit: print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.endswith("set()\n") and "--resume" in done.stdout


def test_an_export_is_named_after_its_model():
    assert parse_args(["--data", "x", "--model", "mine.keras", "--export"]).export == Path("mine.tflite")
    assert parse_args(["--data", "x", "--export"]).export == Path("best_model.tflite")


def test_a_run_that_does_not_exist_is_named(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert "There is no run NOPE" in refused("--resume", "NOPE", "--data", "x")
