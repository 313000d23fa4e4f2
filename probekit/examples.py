"""The examples behind a cell of the grid, each with the P(error) that its probe gave."""

import numpy as np
import pandas as pd
import xarray as xr

#: Lists of examples: which answers, whether the highest P(error) comes first, and that in words.
LISTS = {
    "most confidently wrong": ("wrong", True, "wrong answers, highest P(error) first"),
    "misses": ("wrong", False, "wrong answers, lowest P(error) first"),
    "false alarms": ("right", True, "right answers, highest P(error) first"),
    "all": ("all", True, "all answers, highest P(error) first, those without one last"),
}


def by_id(scores, ids):
    """Scores of some examples, found by their ids.

    Parameters
    ----------
    scores : DataArray, dims (example, ...)
        With the coordinate ``id`` on example, such as ``grid.score.sel(layer=12)``.
    ids : sequence of str

    Returns
    -------
    DataArray
        One entry an id, in their order; NaN for those that have no score.

    Raises
    ------
    ValueError
        If the scores have no ids, or an id more than once.
    """
    if not isinstance(scores, xr.DataArray) or "id" not in scores.coords:
        raise ValueError(
            "scores must be a DataArray with the coordinate id on example, such as "
            "grid.score.sel(layer=12)."
        )
    index = pd.Index(scores["id"].to_numpy().astype(str))
    if not index.is_unique:
        twice = index[index.duplicated()][0]
        raise ValueError(f"The scores have the id {twice!r} more than once; ids must be unique.")
    rows = index.get_indexer(pd.Index(np.asarray(ids, dtype=object)).astype(str))
    known = xr.DataArray(rows >= 0, dims="example")
    return scores.isel(example=np.maximum(rows, 0)).where(known)


def cell_examples(answers, scores, which="all", search=""):
    """List the examples behind a cell.

    Parameters
    ----------
    answers : DataFrame
        From `Run.answers`.
    scores : DataArray, dims (example)
        The cell's P(error), such as ``grid.score.sel(layer=12, token="exact_answer_last")``.
    which : str
        One of `LISTS`. Answers without a P(error) (of no exact answer, without this token, or not
        tested) are in "all" only.
    search : str
        Keep only those whose question, response or exact answer has this text, in capitals or not.

    Returns
    -------
    DataFrame
        Rows of the answers with a column ``p_error``, in the list's order.

    Raises
    ------
    ValueError
        If there is no such list, or the scores can't be matched with the answers.
    """
    if which not in LISTS:
        raise ValueError(f"No list {which!r}. The lists are {', '.join(LISTS)}.")
    side, descending, _ = LISTS[which]
    table = answers.assign(p_error=by_id(scores, answers["id"]).to_numpy())
    if side != "all":
        table = table[table["p_error"].notna() & (table["correct"] == (side == "right"))]
    if wanted := search.strip().casefold():
        texts = table[["question", "response", "exact_answer"]].astype(str)
        found = [any(wanted in text.casefold() for text in row) for row in texts.to_numpy()]
        table = table[found]
    return table.sort_values("p_error", ascending=not descending, kind="stable")
