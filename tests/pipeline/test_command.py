"""The command itself: what it says of itself, and what it hands out."""

import pytest

import probekit
from probekit.__main__ import main


def test_without_arguments_it_says_what_there_is(capsys):
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("usage: probekit")
    for command in ("run",):
        assert f"\n    {command} " in said.out


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"probekit {probekit.__version__}\n"


def test_a_command_that_is_not_there_is_a_mistake(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["ran"])
    assert stopped.value.code == 2
    assert "'ran'" in capsys.readouterr().err
