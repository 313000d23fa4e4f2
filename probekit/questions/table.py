"""Read and validate a table of short-answer questions."""

import csv
import io
import math
import os
from pathlib import Path

import pandas as pd

from probekit import arguments
from probekit.questions.candidates import read_candidates
from probekit.questions.kinds import kind_of
from probekit.questions.text import alternatives, read_text
from probekit.run.files import parse_json, resource

_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")
_HUB = "hub:"

# Where nested answers keep their accepted forms: TriviaQA's value and aliases, SQuAD's text.
_ANSWER_FIELDS = ("value", "aliases", "text")


@arguments.plainly()
def read_questions(
    source, *, question="question", answers="answers", id="id", candidates="candidates", limit=0
):
    """Read a question table from a file, a DataFrame or by the name of a shipped file.

    Parameters
    ----------
    source : str, Path or DataFrame
        A file in UTF-8 that ends in ``.csv``, ``.jsonl``, ``.json`` (lines or an array) or
        ``.parquet``; a DataFrame; a shipped file's name, such as ``"cities"``; or a data set of the
        hub, ``"hub:mandarjoshi/trivia_qa:rc.nocontext:validation"`` (name, configuration or
        nothing, split), which needs the extra ``datasets``.
    question, answers, id, candidates : str
        What these columns are called in the source; `id` and `candidates` may be absent. Accepted
        answers are a list, a text with ``|`` between them, or a mapping with ``value`` and
        ``aliases`` (TriviaQA) or ``text`` (SQuAD). `candidates` names a list of things that could
        be answered: a CSV file with the columns ``name``, ``aliases`` and ``decoys``, in the folder
        ``candidates`` beside the file or among the shipped ones.
    limit : int
        Only the first `limit` questions are read; 0 reads all.

    Returns
    -------
    DataFrame
        Columns ``id`` (str, unique; from the row number where there is none), ``question`` (str),
        ``answers`` (list of str, at least one) and ``candidates`` (`Candidates` or None).

    Raises
    ------
    FileNotFoundError, TypeError
        If the file does not exist, or an argument is of another type.
    ValueError
        If the file cannot be read as what its suffix says, a column is missing, a question is
        empty or has no accepted answer, ids repeat, or `limit` is negative.
    """
    limit = arguments.whole("limit", limit)
    names = {"question": question, "answers": answers, "id": id, "candidates": candidates}
    for parameter, column in names.items():
        arguments.text(parameter, column, such_as=parameter, empty=True)
    table, name, path = _load(source)
    if not len(table):
        raise ValueError(f"{name} has no questions: it holds no row below the column names.")
    columns = {
        parameter: column
        for parameter, column in names.items()
        if column in table.columns or column != parameter or parameter in ("question", "answers")
    }
    _require(columns, table, name)

    width = max(4, len(str(len(table))))
    if limit:
        table = table.iloc[:limit]
    rows = []
    cells = zip(*(table[column].tolist() for column in columns.values()), strict=True)
    for number, values in enumerate(cells, start=1):
        row = dict(zip(columns, values, strict=True))
        where = f"{name}, row {number}"
        identity = f"q{number:0{width}d}"
        if "id" in row:
            identity = _text(row["id"])
            where += f" (id {arguments.shown(identity)})"
        if not identity:
            raise ValueError(
                f"{where}: the id is empty. Give every row one, or leave out the column."
            )
        asked = _text(row["question"])
        if not asked:
            raise ValueError(f"{where}: the question is empty (column {question!r}).")
        accepted = list(dict.fromkeys(_accepted(row["answers"], where)))
        if not accepted:
            raise ValueError(
                f"{where}: no accepted answer (column {answers!r}). Give at least one; put | "
                "between several."
            )
        _require_characters([identity, asked, *accepted], where)
        rows.append((identity, asked, accepted, _text(row.get("candidates"))))
    questions = pd.DataFrame(rows, columns=["id", "question", "answers", "candidates"])
    repeated = questions["id"][questions["id"].duplicated()].unique()
    if len(repeated):
        raise ValueError(
            f"{name}: ids must be unique, but these repeat: {arguments.listed(repeated, 5)}."
        )
    lists = {
        listed: read_candidates(listed, path.parent if path else None)
        for listed in questions["candidates"].unique()
        if listed
    }
    found = [lists.get(listed) for listed in questions["candidates"]]
    questions["candidates"] = pd.Series(found, dtype=object)
    rows = zip(questions["answers"], found, questions["question"], strict=True)
    questions["kind"] = [kind_of(accepted, None, listed, asked) for accepted, listed, asked in rows]
    questions["choices"] = pd.Series([None] * len(questions), dtype=object)
    # What a run's manifest lists as its inputs.
    files = [path, *(c.path for c in lists.values())]
    questions.attrs["files"] = [str(file) for file in files if file is not None]
    return questions


def _load(source):
    """Table, what to call it in messages, and the file it is in (None for a DataFrame)."""
    if isinstance(source, pd.DataFrame):
        return source, "the DataFrame", None
    if isinstance(source, str) and source.startswith(_HUB):
        return _load_dataset(source), source, None
    if not isinstance(source, str | Path):
        raise TypeError(
            "questions must be a path, the name of a shipped file, or a pandas DataFrame; got "
            f"{arguments.shown(source)}."
        )
    path = Path(source)
    # Not path.exists, which fails where a text is too long for a name. Without a suffix no file or
    # folder is read, so none in the working directory hides a shipped file of its name.
    if not path.suffix and path.name == str(source):
        shipped = resource("data/questions")
        names = sorted(p.stem for p in shipped.glob("*.csv"))
        if path.name in names:
            path = shipped / f"{path.name}.csv"
        elif not os.path.exists(path):
            raise ValueError(
                f"questions {arguments.shown(str(source))}: neither a file nor a shipped question "
                f"file. Shipped: {', '.join(names)}. A file of yours needs its suffix: "
                f"{', '.join(_SUFFIXES)}."
            )
    if not os.path.exists(path):
        raise FileNotFoundError(f"question file {arguments.shown(str(path), 200)} does not exist")
    if path.is_dir():
        raise ValueError(f"question file {str(path)!r} is a folder. Give a file's path.")
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        raise ValueError(
            f"question file {str(path)!r}: expected a file that ends in {', '.join(_SUFFIXES)}."
        )
    return _read(path), path.name, path


def _load_dataset(source):
    """A data set from the hub, or a folder that `datasets` can load, as a DataFrame."""
    name, _, rest = source.removeprefix(_HUB).partition(":")
    config, _, split = rest.partition(":")
    if not name or not split:
        raise ValueError(
            f"questions {source!r}: a data set of the hub is written hub:NAME:CONFIG:SPLIT, such "
            "as hub:mandarjoshi/trivia_qa:rc.nocontext:validation (CONFIG may be empty)"
        )
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"questions {source!r}: data sets of the hub need the package datasets. Install it: "
            "pip install 'probekit-notebooks[datasets]'"
        ) from None
    try:
        return datasets.load_dataset(name, config or None, split=split).to_pandas()
    except Exception as error:  # datasets raises what its many formats and its client raise
        raise ValueError(f"questions {source!r} cannot be loaded: {error}") from error


def _read(path):
    if path.suffix.lower() == ".parquet":
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise ValueError(f"{path.name} is not a Parquet file: {error}") from error
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"question file {str(path)!r} is empty.")
    read = _read_csv if path.suffix.lower() == ".csv" else _read_json
    return read(text, path.name)


def _read_csv(text, name):
    try:
        # Not splitlines: U+2028 and the like end no row.
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(f"{name} is not a CSV file: {error}") from error
    rows = [row for row in rows if row]  # blank lines
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(
                f"{name}, row {number}: {len(row)} cells under {len(header)} column names. A cell "
                'that holds a comma needs quotes: "Paris, France".'
            )
    return pd.DataFrame(rows, columns=header, dtype=object)


def _read_json(text, name):
    try:
        rows = parse_json(text) if text.lstrip().startswith("[") else None
    except ValueError as error:
        raise ValueError(f"{name} is not a JSON array: {error}") from error
    if rows is None:
        rows = []
        # Not splitlines: U+2028 and the like are allowed inside a JSON string.
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                rows += [parse_json(line)] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"{name}, line {number} is not JSON: {error}") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(
                f"{name}, row {number}: expected an object such as "
                f'{{"question": ..., "answers": [...]}}, got {type(row).__name__}.'
            )
    return pd.DataFrame(rows, dtype=object)


def _require(columns, table, name):
    found = [str(column) for column in table.columns]
    for parameter, column in columns.items():
        count = found.count(str(column))
        if count > 1:
            raise ValueError(f"{name} has {count} columns called {arguments.shown(column)}")
        if column not in table.columns:
            required = parameter in ("question", "answers")
            also = f", or the notebook's parameter {parameter}_column" if required else ""
            raise ValueError(
                f"{name} has no column {arguments.shown(column)}. Columns found: "
                f"{arguments.listed(found) or 'none'}. Say which of them holds the {parameter}: "
                f"{parameter}= of read_questions{also}."
            )


def _require_characters(texts, where):
    for text in texts:
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError(
                f"{where}: {arguments.shown(text)} holds an unpaired surrogate (half of a "
                "character), which cannot be saved. Write the file again, as UTF-8."
            )


def _text(cell):
    """Text of a cell; "" where it holds nothing."""
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return ""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else str(int(cell)) if cell.is_integer() else str(cell)
    return str(cell).strip()


def _accepted(cell, where):
    """List the accepted answers in a cell: text, number, list, or mapping."""
    if hasattr(cell, "tolist"):  # numpy's arrays and numbers, as Parquet gives them
        cell = cell.tolist()
    if isinstance(cell, dict):
        fields = [field for field in _ANSWER_FIELDS if field in cell]
        if not fields:
            raise ValueError(
                f"{where}: answers with the fields {arguments.listed(cell)}; expected one of "
                f"{', '.join(_ANSWER_FIELDS)}"
            )
        return [answer for field in fields for answer in _accepted(cell[field], where)]
    if isinstance(cell, list | tuple | set | frozenset):
        return [text for text in map(_text, cell) if text]
    text = _text(cell)
    if text.startswith('["') and text.endswith("]"):
        try:
            return _accepted(parse_json(text), where)  # a list written as JSON in a CSV cell
        except ValueError:
            pass
    return alternatives(text)
