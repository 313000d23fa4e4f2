"""Look up every pinned package among the known vulnerabilities.

    make audit

Asks PyPI, through pip-audit, about exactly the versions in constraints.txt. Exit status 0: nothing
is known, or what is known is explained in `ACCEPTED`. 1: something is. 2: not audited, as the data
could not be had for all of them; with --go-on that is said and the status is 0.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"

#: Vulnerabilities that don't touch probekit: id (as pip-audit gives it), and why it does not.
ACCEPTED = {}


def audit(constraints=CONSTRAINTS):
    """What pip-audit says of each pinned package.

    Returns
    -------
    list of dict
        With ``name`` and either ``vulns`` (list of dict) or ``skip_reason``.

    Raises
    ------
    OSError
        If there is no answer, such as without a network.
    """
    pins = [
        line for line in constraints.read_text().splitlines() if "==" in line and line[0] != "#"
    ]
    # A single one first: where the data can't be had, all of them would take an hour to fail.
    first = ask(pins[:1])
    return first if "skip_reason" in first[0] else ask(pins)


def ask(pins):
    """pip-audit's answer about packages ``name==version``, without asking pip what they need."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "asked.txt"), Path(folder, "answer.json")
        asked.write_text("\n".join(pins))
        # Its exit status is 1 both where something was found and where it broke down.
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", f"--requirement={asked}", "--no-deps",
             "--disable-pip", "--progress-spinner=off", "--format=json", f"--output={answer}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = json.loads(answer.read_text())["dependencies"] if answer.exists() else []
        if len(found) == len(pins):
            return found
        *_, last = done.stderr.strip().splitlines() or ["pip-audit said nothing"]
        raise OSError(last)


def main(*options):
    """Audit, say what was found, and return the exit status."""
    try:
        packages = audit()
    except OSError as error:
        return _not_audited(error, options)
    found = [(p, v) for p in packages for v in p.get("vulns", [])]
    for package, known in found:
        if known["id"] in ACCEPTED:
            print(f"accepted: {known['id']} in {package['name']}: {ACCEPTED[known['id']]}")
        else:
            mended = ", ".join(known.get("fix_versions", [])) or "no version yet"
            print(
                f"VULNERABLE: {package['name']} {package['version']}: {known['id']}, mended in "
                f"{mended}. {known.get('description', '')}"
            )
    for vulnerability in sorted(set(ACCEPTED) - {known["id"] for _, known in found}):
        print(f"no longer reported, take it out of ACCEPTED: {vulnerability}")
    if any(known["id"] not in ACCEPTED for _, known in found):
        return 1
    # pip-audit calls these skipped, and says that nothing is known of them.
    unknown = [package for package in packages if "skip_reason" in package]
    if unknown:
        return _not_audited(f"no data, such as: {unknown[0]['skip_reason']}", options)
    print(f"audited: {len(packages)} packages, nothing known that is not explained")
    return 0


def _not_audited(reason, options):
    print(f"not audited: {reason}")
    return 0 if "--go-on" in options else 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
