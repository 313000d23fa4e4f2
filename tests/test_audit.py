"""`make audit`: what it makes of pip-audit's answers, and what it asks."""

import subprocess
import sys

import audit
import pytest

FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "description": "Reads too far."}],
}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI: c (1)"}


@pytest.mark.parametrize(
    ("packages", "accepted", "status", "said"),
    [
        ([FINE], {}, 0, "audited: 1 packages, nothing known that is not explained"),
        ([FINE, BAD], {}, 1, "VULNERABLE: b 2: PYSEC-1, mended in 3. Reads too far."),
        ([UNKNOWN, BAD], {}, 1, "VULNERABLE: b 2"),
        ([FINE, BAD], {"PYSEC-1": "not called"}, 0, "accepted: PYSEC-1 in b: not called"),
        ([FINE], {"PYSEC-1": "not called"}, 0, "no longer reported, take it out of ACCEPTED: P"),
        ([FINE, UNKNOWN], {}, 2, "not audited: no data, such as: Dependency not found on PyPI: c"),
    ],
)
def test_what_is_known_is_told(monkeypatch, capsys, packages, accepted, status, said):
    monkeypatch.setattr(audit, "audit", lambda: packages)
    monkeypatch.setattr(audit, "ACCEPTED", accepted)
    assert audit.main() == status
    assert said in capsys.readouterr().out
    # CI goes on where the data can't be had, and nowhere else.
    assert audit.main("--go-on") == (0 if status == 2 else status)


def test_no_answer_is_not_a_clean_one(monkeypatch, capsys):
    broken = [sys.executable, "-c", "raise OSError('no route to host')"]
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: run(broken, **options))
    assert audit.main() == 2
    assert "not audited: OSError: no route to host" in capsys.readouterr().out


@pytest.mark.parametrize(("first", "asked"), [(FINE, [1, 3]), (UNKNOWN, [1])])
def test_all_are_asked_about_where_one_was_answered(monkeypatch, tmp_path, first, asked):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# a==0 is older\na==1\n\nb==2\nc==1\n")
    questions = []

    def ask(pins):
        questions.append(len(pins))
        return [first]

    monkeypatch.setattr(audit, "ask", ask)
    assert audit.audit(constraints) == [first]
    assert questions == asked


def test_pip_audit_reads_the_pinned_packages(monkeypatch):
    commands, run = [], subprocess.run

    def dry_run(command, **options):
        done = run([*command, "--dry-run"], **options)
        commands.append(done.stderr)
        return done

    monkeypatch.setattr(subprocess, "run", dry_run)
    with pytest.raises(OSError, match="No known"):
        audit.ask(["a==1", "b.c==2.0"])
    assert "would have audited 2 packages" in commands[0]
