"""Read and validate a table of short-answer questions."""

import codecs
import csv
import io
import math
import os
import re
from itertools import takewhile
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from probekit import arguments
from probekit.questions import layouts
from probekit.questions.candidates import read_candidates
from probekit.questions.kinds import KINDS, is_of_kind, kind_of, with_options
from probekit.questions.text import read_text
from probekit.run.files import parse_json, resource

_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")
_HUB = "hub:"
_REQUIRED = ("question", "answers")
_SUCH_AS = {"number": "72 kg", "date": "20 July 1969", "yes_no": "yes", "choice": "B"}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}

# Read as Windows-1252, a binary file has control characters, and a text in the code page of another
# alphabet has words of nothing but accented letters and signs, or with a sign inside.
_NOT_WESTERN = re.compile("[\x00-\x08\x0e-\x1f]|[¡-ÿ]{3}|[^\\W\\d_][¡-©«¬®-³µ¶¸¹»-¿][^\\W\\d_]")


@arguments.plainly()
def read_questions(
    source,
    *,
    question="question",
    answers="answers",
    id="id",
    candidates="candidates",
    choices="choices",
    kind="kind",
    group="group",
    unanswerable="refuse",
    limit=0,
):
    """Read a question table from a file, a DataFrame or by the name of a shipped file.

    Parameters
    ----------
    source : str, Path or DataFrame
        A file that ends in ``.csv``, ``.jsonl``, ``.json`` (lines or an array) or ``.parquet``; a
        DataFrame; a shipped file's name, such as ``"cities"``; or a data set of the hub,
        ``"hub:mandarjoshi/trivia_qa:rc.nocontext:validation"`` (name, configuration or nothing,
        split), which needs the extra ``datasets``. Text is UTF-8; of a CSV file, Windows-1252 and
        UTF-16 are read too, and semicolons or tabs in place of commas, and it is said.
    question : str or list of str
        The column of questions; of several (``["passage", "question"]``) the texts are asked
        below one another.
    answers : str
        The column of accepted answers: a text with ``|`` between them, a list, a mapping with
        ``value`` and ``aliases`` (TriviaQA) or ``text`` (SQuAD, NarrativeQA), or a list of these;
        also written as JSON, or as Python prints it, in a cell. For other mappings a field is
        named after a dot, here and in the other columns: ``"output.answer"`` (KILT). An answer
        that begins with a bracket is put in a list: ``["[0, 1)"]``.
    choices : str or list of str
        The column of options, or a column for each (``["option1", "option2"]``): a list, a mapping
        of labels to texts, or a mapping with ``text`` and ``label`` (ARC). The answer is then an
        option's letter, label, text or position. With marks of the right ones (TruthfulQA's
        ``mc1_targets``), or with the column of answers among the columns of options, the options
        are sorted, as the right one would always come first. A column of class labels offers all
        of its classes.
    kind : str
        The column of kinds: text, number, date, yes_no or choice; or one of these for all rows, if
        there is no column of that name. Where the file does not say it, it is told from the
        answers. True and False are read if the kind is yes_no, and a worked solution with its
        answer after ``####`` (GSM8K) if it is number.
    id, candidates, group : str
        Other columns, which may be absent, as may `choices` and `kind`; an empty name leaves one
        out. `candidates` names a list
        of things that could be answered: a CSV file with the columns ``name``, ``aliases`` and
        ``decoys``, in the folder ``candidates`` beside the file or among the shipped ones. `group`
        says which questions belong together.
    unanswerable : {"refuse", "skip"}
        Rows without an accepted answer, as in SQuAD 2, are an error, or left out and counted.
    limit : int
        Only the first `limit` questions are read; 0 reads all.

    Returns
    -------
    DataFrame
        Columns ``id`` (str, unique; from the row number where there is none), ``question`` (str,
        with its lettered options), ``answers`` (list of str, at least one; the letter and the text
        of an option), ``candidates`` (`Candidates` or None), ``kind`` (str), ``choices`` (list of
        str, or None) and ``group`` (str, empty where there is none).

    Raises
    ------
    FileNotFoundError, TypeError
        If the file does not exist, or an argument is of another type.
    ValueError
        If the file cannot be read as what its suffix says, a column is missing, a question is
        empty or has no accepted answer, ids repeat, `limit` is negative, or it is not certain what
        a cell means.

    Examples
    --------
    >>> import probekit as pk
    >>> questions = pk.read_questions("capitals", limit=3)
    >>> questions[["question", "answers"]]
                                 question       answers
    0        What is the capital of Mali?      [Bamako]
    1  What is the capital of Bangladesh?       [Dhaka]
    2    What is the capital of Cambodia?  [Phnom Penh]
    """
    limit = arguments.whole("limit", limit)
    arguments.one_of("unanswerable", unanswerable, ("refuse", "skip"))
    names = {
        "question": question,
        "answers": answers,
        "id": id,
        "candidates": candidates,
        "choices": choices,
        "kind": kind,
        "group": group,
    }
    for parameter, column in names.items():
        several = parameter in ("question", "choices") and isinstance(column, list | tuple)
        names[parameter] = list(column) if several and column else [column]
        for each in names[parameter]:
            arguments.text(parameter, each, such_as=parameter, empty=True)
    table, name, path, classes = _load(source, [*names["question"], *names["answers"]])
    if not len(table):
        raise ValueError(f"{name} has no questions: it holds no row below the column names.")
    if kind not in KINDS or kind in table.columns:
        kind = ""  # it is not one kind for all rows
    else:
        names["kind"] = [""]
    columns = {
        parameter: given
        for parameter, given in names.items()
        if parameter in _REQUIRED
        or (given != [""] and (given != [parameter] or parameter in table.columns))
    }
    columns = _found(columns, table, name)
    if not kind and "kind" not in columns:
        _no_flags(table, columns["answers"][0][0], name)

    width = max(4, len(str(len(table))))
    rows, skipped = [], 0
    cells = zip(*(table[c].tolist() for found in columns.values() for c, _ in found), strict=True)
    for number, values in enumerate(cells, start=1):
        # What a 1 means among options is told by all rows, so that a limit does not change it.
        if limit and len(rows) == limit and "choices" not in columns:
            break
        remaining = iter(values)
        row = {
            parameter: [(next(remaining), path) for _, path in found]
            for parameter, found in columns.items()
        }
        where = f"{name}, row {number}"
        identity = f"q{number:0{width}d}"
        if "id" in row:
            identity = _text(row["id"][0])
            where += f" (id {arguments.shown(identity)})"
        if not identity:
            raise ValueError(
                f"{where}: the id is empty. Give every row one, or leave out the column."
            )
        try:
            read = _row(row, columns, kind, classes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if not read["question"]:
            called = arguments.listed(map(repr, names["question"]))
            raise ValueError(f"{where}: the question is empty (column {called}).")
        if read["answers"]:
            rows.append(read | {"id": identity, "where": where})
        elif unanswerable == "skip":
            skipped += 1
        else:
            raise ValueError(
                f"{where}: no accepted answer (column {answers!r}). Give at least one; put | "
                'between several. unanswerable="skip" leaves such rows out.'
            )
    if skipped:
        arguments.say(f"{name}: {skipped:,} rows without an accepted answer are left out.")
    if not rows:
        raise ValueError(f"{name} has no row with an accepted answer (column {answers!r}).")
    _choose(rows, name)
    rows = rows[:limit] if limit else rows
    for row in rows:
        texts = [row["id"], row["question"], *row["answers"], row["group"]]
        _require_characters(texts, row["where"])
    ids = pd.Series([row["id"] for row in rows])
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise ValueError(
            f"{name}: ids must be unique, but these repeat: {arguments.listed(repeated, 5)}."
        )
    lists = {
        listed: read_candidates(listed, path.parent if path else None)
        for listed in dict.fromkeys(row["candidates"] for row in rows)
        if listed
    }
    for row in rows:
        row["candidates"] = lists.get(row["candidates"])
        asked = row["question"]
        kind = kind_of(row["answers"], row["choices"], row["candidates"], asked)
        row["kind"] = row["kind"] or kind
        if not any(is_of_kind(answer, row["kind"], row["choices"]) for answer in row["answers"]):
            given = arguments.listed(map(arguments.shown, row["answers"]), 3)
            raise ValueError(
                f"{row['where']}: the kind is {row['kind']}, but no accepted answer is one: "
                f"{given}. Give another kind, or answers such as {_SUCH_AS[row['kind']]}."
            )
    names = ["id", "question", "answers", "candidates", "kind", "choices", "group"]
    questions = pd.DataFrame([[row[name] for name in names] for row in rows], columns=names)
    for name in ("answers", "candidates", "choices"):
        questions[name] = pd.Series([row[name] for row in rows], dtype=object)
    # What a run's manifest lists as its inputs.
    files = [path, *(c.path for c in lists.values())]
    questions.attrs["files"] = [str(file) for file in files if file is not None]
    return questions


def _row(row, columns, kind, classes):
    """What the cells of a row say. ``answers`` are not yet matched with ``choices``."""
    parts = [layouts.asked(layouts.read(*cell)) for cell in row["question"]]
    if "kind" in row:
        kind = _text(row["kind"][0]).lower()
        if kind and kind not in KINDS:
            raise ValueError(
                f"the kind is {arguments.shown(kind)} (column {columns['kind'][0][0]!r}); expected "
                f"one of {', '.join(KINDS)}. Name another column, or give one kind for all rows, "
                'such as kind="text".'
            )
    answer = layouts.read(*row["answers"][0])
    texts, labels, marks = _options(row, answer, columns, classes)
    if marks:
        right = [text for text, mark in zip(texts, marks, strict=True) if mark]
    else:
        right = layouts.answers(answer, kind, texts)
    # In the file's order, the right one of such options would always be the same.
    by_column = len(columns.get("choices", [])) > 1
    if marks or (by_column and columns["answers"][0] in columns["choices"]):
        texts = labels = sorted(texts, key=str.casefold)
    if not texts:
        right = list(dict.fromkeys(filter(None, (layouts.as_text(one, kind) for one in right))))
    return {
        "question": "\n".join(filter(None, parts)),
        "answers": right,
        "choices": texts or None,
        "labels": labels,
        "kind": kind,
        "candidates": _text(*row.get("candidates", [None])),
        "group": _text(*row.get("group", [None])),
    }


def _options(row, answer, columns, classes):
    """Options of a row: their texts, labels, and marks of the right ones where these answer."""
    if "choices" not in row:
        marked = isinstance(answer, dict) and {"choices", "labels"} <= {*answer}
        return layouts.options(answer if marked else None)
    called = [column for column, _ in columns["choices"]]
    if columns["choices"] == columns["answers"]:
        return layouts.options(classes.get(called[0], answer))
    offered = [layouts.read(*cell) for cell in row["choices"]]
    if len(called) > 1 and not isinstance(answer, str):
        # Typed numbers are positions: the columns choice1 and choice2 go with 0 and 1 in COPA.
        offered = [offered]
    elif len(called) > 1:
        # Of option1 and option2, what differs in the names are the labels.
        letters = zip(*called, strict=False)
        shared = len(list(takewhile(lambda same: len({*same}) == 1, letters)))
        offered = [{name[shared:]: text for name, text in zip(called, offered, strict=True)}]
    return (*layouts.options(offered[0])[:2], None)


def _choose(rows, name):
    """Ask questions with their options, and accept the letter and the text of the right ones."""
    offered = [row for row in rows if row["choices"]]
    try:
        chosen = layouts.chosen([(r["choices"], r["labels"], r["answers"]) for r in offered])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    for row, indices in zip(offered, chosen, strict=True):
        row["question"] = with_options(row["question"], row["choices"])
        pairs = [(layouts.LETTERS[i], row["choices"][i]) for i in indices]
        row["answers"] = list(dict.fromkeys(text for pair in pairs for text in pair))


def _no_flags(table, column, name):
    """Refuse True and False written as texts, as pandas and Excel write them to CSV."""
    found = {cell.strip() for cell in table[column] if isinstance(cell, str)} - {""}
    if found and found <= {"True", "False", "TRUE", "FALSE"}:
        raise ValueError(
            f"{name}: the answers are {arguments.listed(sorted(found))} (column {column!r}). Give "
            'kind="yes_no" if they mean yes and no, or kind="text" if they are the words to answer.'
        )


def _load(source, wanted):
    """Table, what to call it, its file (None for a DataFrame), and the names of class labels."""
    if isinstance(source, pd.DataFrame):
        return source, "the DataFrame", None, {}
    if isinstance(source, str) and source.startswith(_HUB):
        table, features = _load_dataset(source)
        return _with_classes(table, source, None, features)
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
    if path.suffix.lower() != ".parquet":
        return _read(path, wanted), path.name, path, {}
    try:
        table, metadata = pd.read_parquet(path), pq.read_schema(path).metadata or {}
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ValueError(f"{path.name} is not a Parquet file: {error}") from error
    try:  # where `datasets` keeps what it knows of the columns
        features = dict(parse_json(metadata[b"huggingface"].decode())["info"]["features"])
    except (KeyError, TypeError, ValueError):
        features = {}
    return _with_classes(table, path.name, path, features)


def _with_classes(table, name, path, features):
    """What `_load` returns, with the names of class labels in place of their numbers."""
    table, classes = table.copy(deep=False), {}
    for column, feature in features.items():
        if column in table.columns and "ClassLabel" in str(feature):
            try:
                cells = [layouts.named(cell, feature) for cell in table[column].tolist()]
            except (ValueError, TypeError, AttributeError) as error:  # the file describes others
                raise ValueError(
                    f"{name}, column {column!r}: its cells do not fit its class labels: {error}."
                ) from None
            table[column] = pd.Series(cells, index=table.index, dtype=object)
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                classes[column] = feature["names"]
    return table, name, path, classes


def _load_dataset(source):
    """A data set from the hub, or a folder that `datasets` can load: a DataFrame, its features."""
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
        table = datasets.load_dataset(name, config or None, split=split)
        return table.to_pandas(), table.features.to_dict()
    except Exception as error:  # datasets raises what its many formats and its client raise
        raise ValueError(f"questions {source!r} cannot be loaded: {error}") from error


def _read(path, wanted):
    """Table of a text file. `wanted` are the columns that it must have."""
    is_csv = path.suffix.lower() == ".csv"
    text, encoding = _decoded(path, is_csv)
    if not text.strip():
        raise ValueError(f"question file {str(path)!r} is empty.")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if is_csv:
        table, separator = _read_csv(text, path.name, wanted)
    else:
        table, separator = _read_json(text, path.name, wanted), ","
    notes = [encoding] if encoding else []
    if separator != ",":
        notes.append(f"with {_SEPARATORS[separator]} between its cells")
    if notes:
        arguments.say(f"{path.name} is read {' and '.join(notes)}.")
    return table


def _decoded(path, is_csv):
    """Text of a file, and as what it is read if that is not UTF-8."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16"), "as UTF-16"
        except UnicodeDecodeError:
            raise ValueError(f"{path} begins as UTF-16, but is not. Save it as UTF-8.") from None
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
        if not is_csv or "\ufffd" in text or _NOT_WESTERN.search(text):
            return read_text(path), ""  # which refuses it
    sample = next(line for line in text.splitlines() if not line.isascii())
    return text, f"as Windows-1252, as it is not UTF-8 ({arguments.shown(sample.strip())})"


def _read_csv(text, name, wanted):
    """Table and its separator: the one with which the first line has the wanted columns."""

    def fit(separator):
        try:
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
        except (csv.Error, StopIteration):
            return 0, 0
        have = sum(column in header or column.split(".")[0] in header for column in wanted)
        return have, len(header)

    said = re.match(r"sep=([,;\t])\n", text)  # Excel's way to say it
    separator = said[1] if said else max(_SEPARATORS, key=fit)
    text = text[said.end() :] if said else text
    try:
        # Not splitlines: U+2028 and the like end no row.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header, *rows = reader
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{name} is not a CSV file: {error}") from error
    rows = [row for row in rows if row]  # blank lines
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            sign = _SEPARATORS[separator][:-1]
            raise ValueError(
                f"{name}, row {number}: {len(row)} cells under {len(header)} column names, with "
                f"{sign}s between them: {arguments.listed(map(repr, row), 5)}. A cell that holds "
                f'a {sign} needs quotes: "Paris{separator} France".'
            )
    return pd.DataFrame(rows, columns=header, dtype=object), separator


def _read_json(text, name, wanted):
    try:
        rows = parse_json(text) if text.lstrip().startswith("[") else None
    except ValueError as error:
        raise ValueError(f"{name} is not a JSON array: {error}") from error
    if rows is None:
        rows = _wrapped(text, wanted)
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


def _wrapped(text, wanted):
    """Rows of a file that is one object around one list of objects, as TriviaQA's own."""
    try:
        whole = parse_json(text)
    except ValueError:
        return None
    if not isinstance(whole, dict) or {column.split(".")[0] for column in wanted} & {*whole}:
        return None
    lists = [value for value in whole.values() if isinstance(value, list) and value]
    return lists[0] if len(lists) == 1 and isinstance(lists[0][0], dict) else None


def _found(columns, table, name):
    """The column that each name stands for, and the fields inside its mappings after a dot."""
    have = [str(column) for column in table.columns]
    found = {}
    for parameter, given in columns.items():
        found[parameter] = []
        for called in given:
            column, path = called, []
            if column not in table.columns:
                column, *path = column.split(".")
            count = have.count(column)
            if count > 1:
                raise ValueError(f"{name} has {count} columns called {arguments.shown(column)}")
            if column not in table.columns:
                also = ""
                if parameter in _REQUIRED:
                    also = f", or the notebook's parameter {parameter}_column"
                raise ValueError(
                    f"{name} has no column {arguments.shown(called)}. Columns found: "
                    f"{arguments.listed(have) or 'none'}. Say which of them holds the {parameter}: "
                    f"{parameter}= of read_questions{also}."
                )
            found[parameter].append((column, path))
    return found


def _require_characters(texts, where):
    for text in texts:
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError(
                f"{where}: {arguments.shown(text)} holds an unpaired surrogate (half of a "
                "character), which cannot be saved. Write the file again, as UTF-8."
            )


def _text(cell):
    """Text of a cell, and of the fields in it that its column names; "" where it holds nothing."""
    value, path = cell or (None, [])
    if path:
        value = layouts.read(value, path)
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    return str(value).strip()
