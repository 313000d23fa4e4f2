"""Feed what reads other people's texts and files with inputs that a fuzzer makes up.

    make fuzz                     each area for a minute (make fuzz ARGS=300: for five)
    make fuzz ARGS="60 spans"     one of them
    python tests/fuzz/fuzz.py AREA FILE              an input that failed, once more

The fuzzer (atheris, which is libFuzzer) sees which branches of probekit an input takes and changes
those that take new ones. What it has found so far lies in .hypothesis/fuzz and is where the next
run begins; an input that fails is written there too. At the end tests/test_wrong_arguments.py looks
at more of what may be given to the public functions than it does among the tests.
"""

import json
import logging
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOUND = REPOSITORY / ".hypothesis" / "fuzz"
#: What a user's mistake may raise.
MISTAKES = (ValueError, TypeError, FileNotFoundError)

#: Of each area inputs to begin with; see its function for how they are read.
BEGIN = {
    "questions": [
        b'\0\xef\xbb\xbfid,question,answers,candidates\r\n1,"W, ""o""?",Ada|A,countries\r\n',
        b'\1{"question": "Who?", "answers": {"value": "Ada", "aliases": ["A"]}}\n{"question": 1}\n',
        b'\1[{"id": 1, "question": "\\u00e9?", "answers": "[\\"a\\", \\"b\\"]"}]',
        b"\3name,aliases,decoys\nIndia,Bharat|Indian,Indian Ocean\n*,,near {}\n{number},,\n",
        b"\4limit: 200\nsite: [mlp_out, resid_post]\n",
    ],
    "grading": [
        "Łódź is in Poland.\nPoland\nIn which country is Łódź?".encode(),
        b"It is not Japan; it is China.\nChina|Japan\nWhere?",
        b"The product is 1,000.50, or fifty-six.\n1000.5\nWhat is 7 x 8?",
        b"I don't know.\nUS\n",
    ],
    "spans": [
        b"near Egypt, in Libya, not South China Sea\nWhere is it?\nLibya\nLibyan Arab\nnear {}",
        "in the UK (Great Britain), مصر\nGeorgia?\nمصر\nEgypt|UAR\nEgypt Air".encode(),
    ],
    "positions": [
        b"\0\3The\xff city\xff is in\xff It\xffaly\xff.",
        b"\2\1\xe4\xb8\xff\xad\xe5\xff\x9b\xbd\xff \xf0\x9f\xff\x87\xaf",
    ],
    "manifests": [
        kind
        + json.dumps(
            {
                "stage": stage,
                "parameters": {"seed": 0},
                "inputs": {"/q.csv": "00"},
                "outputs": {"answers.parquet": {"bytes": 1, "sha256": "00"}},
                "results": {"sites": ["mlp_out"], "splits": ["random"]},
                "left_out": ["activations.zarr"],
            }
        ).encode()
        for kind, stage in ((b"\0", "extract"), (b"\1", "probe"))
    ],
}
#: What to put into texts: scripts, marks, emoji, numbers and words that are read in a way of their
#: own.
WORDS = [
    "مِصْر", "\u200f", "e\u0301", "भारत", "中国", "👩\u200d👧", "🇯🇵", "❤\ufe0f", "\u2028", "\xad",
    "İ", "ß", "½", "²", "٣", "1,000.0", "-3", ".5", "...", "U.S.", "fifty-six",
    "one hundred and ", "the ", "is ", "South China Sea", "Niger", "Nigeria", "near ", "not ",
    "Georgia", "US", "I don't know", "{}", "|",
]  # fmt: skip


def areas():
    """One function an area: it takes any bytes, and what it raises is a fault."""
    import atheris

    with atheris.instrument_imports(include=["probekit"]):
        from probekit.extraction.asking import find_copy
        from probekit.pipeline.parameters import check_parameters, read_parameters
        from probekit.questions.candidates import Candidates, read_candidates
        from probekit.questions.grading import find_span, grade, is_refusal, normalize
        from probekit.questions.table import read_questions
        from probekit.run.directory import Run
        from probekit.run.manifest import sealed
        from probekit.tokens import TOKENS, decode_with_offsets, span_tokens, token_positions

    scratch = Path(tempfile.mkdtemp(prefix="probekit-fuzz-"))
    countries = read_candidates("countries")

    def questions(content):
        """Question files of every format, lists of candidates, files of parameters."""
        names = ["q.csv", "q.jsonl", "q.parquet", "candidates/own.csv", "p.yaml"]
        name = names[content[0] % len(names)] if content else names[0]
        file = scratch / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content[1:])
        try:
            if name == "candidates/own.csv":
                read_candidates("own", scratch)
            elif name == "p.yaml":
                parameters = read_parameters([], file)
                parameters.pop("scheduler", None)  # it would be called
                check_parameters(**parameters)
            else:
                read = read_questions(file)
                assert read["id"].is_unique
                assert all(q.strip() for q in read["question"])
                assert all(answers and all(answers) for answers in read["answers"])
                read.drop(columns="candidates").to_parquet(scratch / "saved.parquet")
        except MISTAKES as error:
            # It says which file or list, or names the parameter.
            known = file.name in str(error) or str(error).startswith("candidates ")
            assert known or name == "p.yaml", error

    def grading(content):
        """A response, accepted answers and a question, a line each: a grade, whatever they are."""
        response, answers, question = lines(content, 3)
        answers = answers.split("|")
        normal = normalize(response)
        assert normalize(normal) == normal
        assert grade(response, [response]) is bool(normal)
        for candidates in (None, countries):
            graded = grade(response, answers, question=question, candidates=candidates)
            assert graded is grade(
                response, answers[::-1], question=question, candidates=candidates
            )
            if graded:
                more = [*answers, "another"]
                assert grade(response, more, question=question, candidates=candidates)
        is_refusal(response)

    def spans(content):
        """A response, a question, and a name with its aliases and decoys, a line each."""
        response, question, name, aliases, decoys = lines(content, 5)
        lists = [countries]
        with suppress(MISTAKES):
            own = [(name, aliases.split("|"), decoys.split("|")), ("{other}", [], [])]
            lists.append(Candidates("own", own))
        for candidates in lists:
            for said in (response, f"{response} {name} {response}"):
                span = find_span(said, question, candidates)
                if span is not None:
                    assert 0 <= span[0] < span[1] <= len(said)
                    assert said[slice(*span)].strip() == said[slice(*span)]
        copy = find_copy(name, response)
        assert copy is None or response[slice(*copy)] in name

    class Pieces:
        """A tokenizer of which each token is some bytes."""

        def __init__(self, pieces):
            self.pieces = pieces

        def decode(self, ids, **_):
            return b"".join(self.pieces[i] for i in ids).decode(errors="replace")

    def positions(content):
        """Tokens, cut at bytes 255: their characters and the named positions of an exact answer.

        The first two bytes say where in the response the answer begins and how long it is.
        """
        pieces = content[2:].split(b"\xff")[:40]
        response, offsets = decode_with_offsets(Pieces(pieces), list(range(len(pieces))))
        assert offsets == sorted(offsets)
        assert all(0 <= start <= end <= len(response) for start, end in offsets)
        assert {c for o in offsets for c in range(*o)} == set(range(len(response)))
        answer = None
        if response and len(content) > 1:
            start = content[0] % len(response)
            stop = min(start + 1 + content[1], len(response))
            answer = span_tokens(offsets, (start, stop))
            first, last = answer
            assert offsets[first][0] <= start < offsets[first][1]
            assert offsets[last][0] < stop <= offsets[last][1]
        found = token_positions(len(pieces), answer)
        assert len(found) == len(TOKENS)
        assert all(-2 <= position < len(pieces) for position in found)

    def manifests(content):
        """Manifests, and what the pipeline recorded beside them, of any bytes."""
        run = Run(scratch / "run")
        stage = "probe" if content[:1] == b"\1" else "extract"
        content = content[1:]
        (run.path / "manifests").mkdir(parents=True, exist_ok=True)
        manifest, record = run.manifest_path(stage), run.pipeline_record(stage)
        record.write_bytes(content)
        with suppress(*MISTAKES, AttributeError, RecursionError):
            # As if it had been written so, or its seal would keep all but one out.
            content = json.dumps(sealed(json.loads(content)), ensure_ascii=False).encode()
        manifest.write_bytes(content)
        assert run.outdated(stage, {})
        for read in (lambda: run.manifest(stage), run.answers, run.activations, run.grid):
            try:
                read()
            except MISTAKES as error:
                todo = "(extract|probe) stage (again|first)|Make a run of your own"
                assert re.search(todo, str(error)), error

    return {f.__name__: f for f in (questions, grading, spans, positions, manifests)}


def lines(content, n):
    """The first `n` lines of a text, empty where there are fewer."""
    texts = content.decode(errors="ignore").split("\n", n - 1)
    return texts + [""] * (n - len(texts))


def fuzz(area, options):
    """Fuzz an area in this process, which ends with it."""
    import atheris

    one_input = areas()[area]
    logging.disable()
    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


def fuzz_each(seconds, names):
    """Fuzz areas one after the other; whether nothing failed."""
    FOUND.mkdir(parents=True, exist_ok=True)
    words = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in WORDS)
    (FOUND / "words.dict").write_text("".join(f'"{word}"\n' for word in words))
    print(f"{'area':10} {'executions':>10} {'a second':>9} {'branches':>9} {'inputs kept':>12}")
    passed = [_fuzz_one(name, seconds) for name in names]
    return all(passed)


def _fuzz_one(area, seconds):
    """Fuzz an area in a process of its own; print a line of figures, or what failed."""
    kept, log = FOUND / f"{area}-inputs", FOUND / f"{area}.log"
    kept.mkdir(exist_ok=True)
    for number, content in enumerate(BEGIN[area]):
        (kept / f"begin-{number}").write_bytes(content)
    options = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=4096"]
    options += [f"-dict={FOUND / 'words.dict'}", f"-artifact_prefix={FOUND}/{area}-", str(kept)]
    with open(log, "wb") as file:
        ended = subprocess.run(
            [sys.executable, __file__, area, *options], stdout=file, stderr=file, check=False
        ).returncode
    said = log.read_text(errors="replace")
    done = re.search(r"#(\d+)\tDONE +cov: (\d+) .*?corp: (\d+)/\S+ .*?exec/s: (\d+)", said)
    if ended == 0 and done:
        executions, branches, inputs, rate = map(int, done.groups())
        print(f"{area:10} {executions:10,} {rate:9,} {branches:9,} {inputs:12,}", flush=True)
        return True
    failing = re.search(r"Test unit written to (\S+)", said)
    shown = said[said.find("=== Uncaught") :] if "=== Uncaught" in said else said
    print(f"{area:10} FAILED (exit status {ended}), all of it in {log}:\n{shown[-4000:]}")
    if failing:
        print(f"again: {sys.executable} {__file__} {area} {failing.group(1)}")
    return False


def more_arguments():
    """Whether the public functions took or refused whatever hypothesis gave them."""
    test = REPOSITORY / "tests" / "test_wrong_arguments.py"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "--timeout=3600", str(test)]
    return subprocess.run([*command, "--hypothesis-profile=long"], check=False).returncode == 0


def main(*arguments):
    """Fuzz one area with libFuzzer's options or inputs, or each area for some seconds."""
    if arguments and arguments[0] in BEGIN:
        return fuzz(arguments[0], arguments[1:])
    seconds, *names = arguments or ("60",)
    unknown = set(names) - set(BEGIN)
    if unknown or not seconds.isdecimal():
        sys.exit(f"give seconds and areas out of {', '.join(BEGIN)}; got {' '.join(arguments)}")
    passed = fuzz_each(int(seconds), names or BEGIN)
    sys.exit(not ((names or more_arguments()) and passed))


if __name__ == "__main__":
    main(*sys.argv[1:])
