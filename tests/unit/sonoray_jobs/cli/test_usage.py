"""What the command line says of command lines that it cannot read."""

import pytest

from sonoray_jobs.cli.main import main

LONG = "word " * 1000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ingest", "missing argument 'source'; run: sonoray ingest --help"),
        ("ask", "missing option '--question'; run: sonoray ask --help"),
        ("trainn", "no such command 'trainn'. Did you mean 'train'? Run: sonoray --help"),
        ("train --epochs 3", "no such option: --epochs; run: sonoray train --help"),
        (
            "train --datset x",
            "no such option: --datset (Possible options: --dataset, --set); "
            "run: sonoray train --help",
        ),
        ("train more", "got unexpected extra argument(s) (more); run: sonoray train --help"),
        ("train --json=3", "option '--json' does not take a value; run: sonoray train --help"),
        (
            "--verbose evaluate --split",
            "option '--split' requires an argument; run: sonoray evaluate --help",
        ),
        (
            "quarantine lst busbra",
            "no such command 'lst'. Did you mean 'list'? Run: sonoray quarantine --help",
        ),
        (
            "serve --port 0",
            "invalid value for '--port': Input should be greater than or equal to 1, not '0'; "
            "run: sonoray serve --help",
        ),
        (
            "quarantine list busbra --config tiny",
            "no such option: --config; run: sonoray quarantine list --help",
        ),
        (
            "quarantine retry busbra --set",
            "option '--set' requires an argument; run: sonoray quarantine retry --help",
        ),
        ("--zzz", "no such option: --zzz; run: sonoray --help"),
        ("--verbose", "missing command; run: sonoray --help"),
    ],
)
def test_a_line_that_cannot_be_read_is_one_line_with_the_value_and_the_help(capsys, line, said):
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err) == (2, "", f"error: {said}\n")


@pytest.mark.parametrize(
    ("line", "begin", "end"),
    [
        ([LONG], "no such command 'word word ", "word '; run: sonoray --help"),
        (["serve", "--port", LONG], "invalid value for '--port': Input ", "sonoray serve --help"),
        (["train", LONG], "got unexpected extra argument(s) (word ", "run: sonoray train --help"),
    ],
)
def test_a_very_long_value_is_cut_in_the_middle(capsys, line, begin, end):
    with pytest.raises(SystemExit):
        main(line)
    err = capsys.readouterr().err.removeprefix("error: ").removesuffix("\n")
    assert err.startswith(begin)
    assert err.endswith(end)
    assert " ... " in err
    assert len(err) < 300
    assert "\n" not in err


def test_the_command_alone_shows_its_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    alone = capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--help"])
    assert caught.value.code == 2
    assert alone == capsys.readouterr()
    assert "Usage: sonoray" in alone.out
