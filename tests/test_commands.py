"""python -m diagnose: its commands, from any folder, and how their errors begin."""

import json
import subprocess
import sys

import conftest
import pytest

from diagnose import __main__ as commands

COMMANDS = ("record", "watch", "compare", "dataset", "labels", "predictions")


def run(folder, *words):
    done = subprocess.run([sys.executable, *words], cwd=folder, text=True, capture_output=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [["-m", "diagnose"], [str(conftest.ROOT / "diagnose")]])
def test_the_commands_are_listed(words, tmp_path):
    folder = conftest.ROOT if words[0] == "-m" else tmp_path
    code, printed, errors = run(folder, *words)
    assert (code, errors) == (0, "")
    listed = [line.split()[0] for line in printed.splitlines() if line.startswith("    ")]
    assert listed == ["python", "python", *COMMANDS] and tuple(commands.COMMANDS) == COMMANDS
    assert run(folder, *words, "--help") == (0, printed, "")
    code, _, errors = run(folder, *words, "judge")
    assert code == 2 and errors.startswith("diagnose: error: judge: not a command; it is one of ")


@pytest.mark.parametrize("command", COMMANDS)
def test_errors_begin_with_the_command(command, tmp_path):
    code, printed, errors = run(tmp_path, str(conftest.ROOT / "diagnose"), command)
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"diagnose {command}: error: "), errors


def test_a_command_works_from_any_folder(demo, tmp_path):
    lists = sorted((demo / "train_val").glob("*_pairlist.txt"))
    text = "".join(path.read_text() for path in lists[:2])
    (tmp_path / "mine.txt").write_text(text)
    words = [str(conftest.ROOT / "diagnose"), "labels", "mine.txt", "--data", str(demo)]
    code, printed, errors = run(tmp_path, *words)
    assert (code, errors) == (0, "") and printed.startswith("VERDICT equal\n")
    code, printed, _ = run(tmp_path, *words, "--json")
    assert json.loads(printed)["verdict"] == "equal" and code == 0


def test_debug_keeps_the_traceback_of_what_nobody_foresaw(tmp_path, monkeypatch, capsys):
    from diagnose import dataset

    def fail(root):
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(dataset, "audit_dataset", fail)
    with pytest.raises(SystemExit) as ended:
        dataset.main(["--data", str(tmp_path)])
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line == "diagnose dataset: error: not foreseen: KeyError: 'nobody foresaw this'\n"
    with pytest.raises(KeyError, match="nobody foresaw this"):
        dataset.main(["--data", str(tmp_path), "--debug"])
