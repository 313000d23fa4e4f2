"""The folds of every cell: which examples are trained and tested on, and with what labels."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy.sparse import block_array, coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from probekit import arguments
from probekit.questions.grading import normalize

_ALIKE = 8  # groups of about the same size, between which labels are permuted
_FIFTHS = 5  # of which the published protocol tests on one
_NO_FOLD = -1  # marks the examples that are trained on only, in the published protocol

# A name is dropped from training if a fold holds a third of its errors, and that is far more than
# the fold's share of all errors.
_MUCH, _FAR_MORE = 1 / 3, 5 / 3


@dataclass(frozen=True)
class Plan:
    """Which fits every cell needs: labellings, and what each fit is trained and tested on.

    The first labelling is the real one; the others are its permutations. Labels and folds are the
    same in all cells, so that the cells of a permutation depend on each other as the real ones do.
    """

    wrong: np.ndarray  # (labelling, example)
    fold: np.ndarray  # (labelling, example)
    n_folds: int
    C: np.ndarray
    groups: np.ndarray | None  # (example,)
    training: np.ndarray  # (labelling, fold, example): who may train a fit that this fold tests

    @classmethod
    def make(
        cls,
        wrong,
        groups,
        protocol,
        folds,
        C,
        seed,
        n_permutations,
        names=None,
        among=None,
        split="random",
    ):
        """Divide examples into folds, and permute their labels; both are (example,).

        `names` are what is held out and what goes with it, (2, example): see `held_names`. `among`
        are how many answers there are, with those that don't count, and which of them these are.
        `split` says what the groups are, for messages.
        """
        published = (among or (len(wrong), slice(None))) if protocol == "published" else None
        random = np.random.default_rng(seed)
        # To choose one of several C inside the training folds takes a third fold.
        least = 2 if len(C) == 1 else 3
        first, training = _divide(wrong, groups, published, folds, seed, names, split, least)
        labellings, fold = [wrong], [first]
        for _ in range(100 * n_permutations):
            if len(labellings) > n_permutations:
                break
            labels = _permuted(wrong, groups, random)
            try:
                fold.append(_folds(labels, groups, published, folds, seed))
            except _IndivisibleError:
                continue  # labels that can't be divided into folds would have been refused
            labellings.append(labels)
        n_folds = 1 if published is not None else folds
        if len(C) > 1 and n_folds < 3:
            given = f"folds={folds}" if published is None else 'protocol="published"'
            raise ValueError(
                f"{given} takes one value of C, got {len(C)}: to choose one inside the training "
                "folds takes at least 3 folds."
            )
        training = [training] + [
            _training(f, n_folds, labels, names)
            for f, labels in zip(fold[1:], labellings[1:], strict=True)
        ]
        return cls(np.array(labellings), np.array(fold), n_folds, C, groups, np.array(training))

    def fits(self):
        """Per fit: labelling, folds left out (one twice, or two), and number of C.

        Those of the real labels come first, and are the same whatever the others are.
        """
        listed = []
        for labelling in range(len(self.wrong)):
            left_out = [(k, k) for k in range(self.n_folds)]
            # Pairs too, to choose a cell or C without the data that it is then measured on.
            if self.n_folds > 2 and (labelling == 0 or len(self.C) > 1):
                left_out += [(j, k) for k in range(self.n_folds) for j in range(k)]
            listed += [(labelling, *pair, c) for pair in left_out for c in range(len(self.C))]
        return np.array(listed)

    @property
    def n_others(self):
        """How many fits score an example that lack one more fold than its own; see `measured`."""
        return 0 if self.n_folds == 1 else max(self.n_folds - 1, 1)

    def rows(self, fits):
        """Where each fit is: over (labelling, fold, fold in either order, C), or -1."""
        rows = np.full((len(self.wrong), self.n_folds, self.n_folds, len(self.C)), -1)
        labelling, j, k, c = fits.T
        rows[labelling, j, k, c] = rows[labelling, k, j, c] = np.arange(len(labelling))
        return rows


# Of a split: what one fold keeps together, one and several, and what helps where these are few.
_KEPT_TOGETHER = {
    "random": ("question", "questions", "ask more questions"),
    "answer": (
        "group of answers",
        "groups of answers",
        'ask more questions with more different answers, or use split="random"',
    ),
    "group": ("group", "groups", 'ask questions of more groups, or use split="random"'),
}
_KEPT_TOGETHER["gold"] = _KEPT_TOGETHER["answer"]


class _IndivisibleError(ValueError):
    """Answers that can't be divided into folds: why, and what would help but fewer folds."""


def _divide(wrong, groups, published, folds, seed, names, split, least=2):
    """Fold of each example, (example,), and which may train: (fold, example).

    Refuses what can't be divided, and says what helps: fewer folds only if they do, and never
    fewer than `least`.
    """
    try:
        return _attempt(wrong, groups, published, folds, seed, names, split)
    except _IndivisibleError as error:
        cause, helps = error.args
    groups_there = len(wrong) if groups is None else len(np.unique(groups))
    most = min(folds - 1, wrong.sum(), (~wrong).sum(), groups_there)
    for fewer in sorted({most, *range(2, 6)}, reverse=True) if published is None else ():
        if least <= fewer <= most:
            with suppress(_IndivisibleError):
                _attempt(wrong, groups, None, fewer, seed, names, split)
                helps = f"use folds={fewer}, or {helps}"
                break
    raise ValueError(f"{cause}. {helps[0].upper()}{helps[1:]}.")


def _attempt(wrong, groups, published, folds, seed, names, split):
    """As `_divide`, without advice on fewer folds."""
    fold = _folds(wrong, groups, published, folds, seed, split)
    training = _training(fold, folds if published is None else 1, wrong, names)
    _check_training(training, wrong)
    return fold, training


def _folds(wrong, groups, published, folds, seed, split="random"):
    """Fold of each example, (example,); refuses what can't be divided.

    `published` is None, or how many answers there are to be divided, and which of them these are.
    `split` says what the groups are.
    """
    needed = folds if published is None else 2
    need = f"{folds} folds need" if published is None else 'protocol="published" needs'
    for name, other, ask, count in (
        ("wrong", "right", "harder questions, or more of them", wrong.sum()),
        ("right", "wrong", "easier questions, or more of them", (~wrong).sum()),
    ):
        if count == 0:
            raise _IndivisibleError(
                f"All {len(wrong)} answers with an exact answer are {other}, so there is nothing "
                "to tell apart",
                f"ask {ask}, or another model",
            )
        if count < needed:
            raise _IndivisibleError(
                f"{need} at least {needed} {name} answers with an exact answer, got {count} of "
                f"{len(wrong)}",
                f"ask {ask}",
            )
    one, several, more_groups = _KEPT_TOGETHER.get(split, _KEPT_TOGETHER["group"])
    n_groups = len(wrong) if groups is None else len(np.unique(groups))
    if groups is not None and published is not None and n_groups < _FIFTHS:
        raise _IndivisibleError(
            'protocol="published" tests on a fifth of the answers and divides no '
            f"{one}, so it needs at least {_FIFTHS} different {several}, got {n_groups}",
            f'{more_groups}, or use protocol="cross-validated" with fewer folds',
        )
    if groups is not None and n_groups < needed:
        raise _IndivisibleError(
            f"{need} at least {needed} different {several}, got {n_groups}", more_groups
        )
    fold = np.full(len(wrong), _NO_FOLD)
    if groups is None and published is not None:
        # 80 % to train on and 20 % to test on, of all answers: what has no exact answer is left
        # out of either afterwards, and nothing sees to it that both have as many errors.
        n, which = published
        tested = np.zeros(n, bool)
        tested[train_test_split(np.arange(n), test_size=0.2, random_state=seed)[1]] = True
        fold[tested[which]] = 0
        if len(np.unique(wrong[fold == 0])) < 2:  # of few answers: it can't be measured on these
            fold[:] = _NO_FOLD
            halves = {"test_size": 0.2, "stratify": wrong, "random_state": seed}
            fold[train_test_split(np.arange(len(wrong)), **halves)[1]] = 0
    else:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        k = folds if published is None else _FIFTHS
        splitter = kind(k, shuffle=True, random_state=seed)
        for k, (_, test) in enumerate(splitter.split(wrong, wrong, groups)):
            fold[test] = k
    if published is not None:
        fold[fold > 0] = _NO_FOLD  # tested on the first fold only
        if len(np.unique(wrong[fold == 0])) < 2:
            raise _IndivisibleError(
                f"The {(fold == 0).sum()} answers to test on are of one class: only "
                f"{wrong.sum()} of {len(wrong)} answers are wrong",
                'use protocol="cross-validated", which tests on every answer, or more questions',
            )
    # Left out are single folds, and pairs where a cell is chosen without those it is measured on.
    for kind, side in (("wrong", wrong), ("right", ~wrong)):
        held = np.bincount(fold[side & (fold >= 0)], minlength=2)
        most = np.argsort(-held, kind="stable")[: 2 if published is None and folds > 2 else 1]
        if held[most].sum() == side.sum():
            without = sorted(most[held[most] > 0])
            without = f"fold{'s' * (len(without) > 1)} {' and '.join(map(str, without))}"
            cause = f"Without {without}, all answers are of one class"
            if groups is None:  # which are then published folds, of few answers
                raise _IndivisibleError(
                    f"{cause}: only {side.sum()} of {len(wrong)} answers are {kind}",
                    'use protocol="cross-validated", or ask more questions',
                )
            n_groups = len(np.unique(groups[side]))
            are = (
                f"{side.sum()} {kind} answers are of {n_groups} {one if n_groups == 1 else several}"
            )
            raise _IndivisibleError(
                f"{cause}: the {are}, which a fold keeps together",
                more_groups,
            )
    return fold


def _training(fold, n_folds, wrong, names):
    """Which examples may train a fit that a fold tests: (fold, example).

    A right answer is its question's own accepted answer. To hold out the answer X takes the right
    answers to X's questions out of training and leaves their wrong ones: whatever shows that X
    would be right is then learned as a sign of errors. So all questions to which X is the right
    answer are left out as well. And where a fold holds most wrong answers that are given to Y's
    questions, since Y is confused with few others, training would be left with Y's right ones, and
    leaves Y out too. (Of two noise cells that hold only what would be right, the AUROC was 0.13 and
    0.19 without this; it is 0.49 to 0.51.)
    """
    tested = fold == np.arange(n_folds)[:, None]
    if names is None:
        return ~tested
    held, other = names
    n_names = names.max() + 1
    training = ~tested
    errors = np.bincount(other[wrong], minlength=n_names)
    for k in range(n_folds):
        here = np.bincount(other[wrong & tested[k]], minlength=n_names)
        fair = here.sum() / max(errors.sum(), 1) * errors
        drop = (here > 0) & (here >= _MUCH * errors) & (here >= _FAR_MORE * fair)
        drop[held[tested[k]]] = True
        training[k] &= ~drop[other]
    return training


def _check_training(training, wrong):
    """Refuse folds without which, and without what goes with them, one class is left."""
    n = len(training)
    for j, k in np.ndindex(n, n):
        # Pairs are left out where a cell is chosen without those it is measured on.
        if j > k or (j < k and n == 2):
            continue
        left = training[j] & training[k]
        if not (wrong & left).any() or not (~wrong & left).any():
            without = f"fold {k}" if j == k else f"folds {j} and {k}"
            raise _IndivisibleError(
                f"Without {without}, and without the questions whose accepted answers are held "
                f"out there, the {left.sum()} answers that are left to train on are of one class",
                'use split="random", or ask questions whose answers differ more',
            )


def held_names(examples, split):
    """What a split holds out by name, and what goes with it: (2, example), or None.

    With answers held out, the exact answers and the accepted ones; with accepted ones held out,
    the other way round. Two names are the same if any of their accepted forms is. None where
    nothing is held out by name, or it isn't known what was accepted (older runs).
    """
    if split not in ("answer", "gold") or "accepted" not in examples.coords:
        return None
    accepted = _by_forms(examples["accepted"].to_numpy())
    forms = {}
    for group, text in zip(accepted, examples["accepted"].to_numpy(), strict=True):
        forms |= dict.fromkeys(_forms(text), group)
    given = examples["answer" if "answer" in examples.coords else "exact_answer"].to_numpy()
    right = examples["correct"].to_numpy().astype(bool)
    new = iter(range(accepted.max() + 1, accepted.max() + 1 + len(accepted)))
    answers = np.empty_like(accepted)
    for i, text in enumerate(given):
        name = normalize(text)
        if right[i]:
            answers[i] = accepted[i]
        else:
            if name not in forms:
                forms[name] = next(new)
            answers[i] = forms[name]
    return np.array([answers, accepted] if split == "answer" else [accepted, answers])


def _forms(accepted):
    """Normalized forms in which an accepted answer may be given."""
    return {normalize(form) for form in str(accepted).split("|")}


def _by_forms(accepted):
    """Groups of examples, (example,), whose accepted answers share a form."""
    rows, columns, numbers = [], [], {}
    for row, text in enumerate(accepted):
        for form in sorted(_forms(text)):
            rows.append(row)
            columns.append(numbers.setdefault(form, len(numbers)))
    shape = len(accepted), max(len(numbers), 1)
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    both = block_array([[None, links], [links.T, None]])
    return connected_components(both, directed=False)[1][: len(accepted)]


def _permuted(wrong, groups, random):
    """Labels that have nothing to do with the activations but are as alike within groups.

    Each group gets the labels of another of about its size, some of them twice if that is smaller:
    groups that are mostly right or mostly wrong stay so, which widens the null as it should. From
    a group of any size, a large one would often get the single label of a small one, which makes
    the null too wide.
    """
    if groups is None:
        return random.permutation(wrong)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    members.sort(key=len)
    permuted = np.empty_like(wrong)
    for alike in np.array_split(np.arange(len(members)), max(1, len(members) // _ALIKE)):
        for receiver, donor in zip(alike, random.permutation(alike), strict=True):
            labels, size = random.permutation(wrong[members[donor]]), len(members[receiver])
            permuted[members[receiver]] = np.resize(labels, size)
    return permuted


def example_groups(examples, split):
    """Groups of examples, (example,), that a split keeps together, or None.

    The same question is never on both sides, whatever the split: samples of it, and exact
    duplicates, stay together.
    """
    if not examples.sizes["example"]:
        raise ValueError(
            "No response has an exact answer, so there is nothing to probe. See "
            "probekit.preflight(run), which names the cause."
        )
    questions = examples["question"].to_numpy().astype(str) if "question" in examples.coords else []
    repeated = len(np.unique(questions)) < len(questions)
    if split == "random":
        return np.unique(questions, return_inverse=True)[1] if repeated else None
    if split == "gold":
        if "accepted" not in examples.coords:
            raise ValueError(
                'split="gold" holds accepted answers out and needs the coordinate accepted on '
                "example, which runs of earlier versions lack. Extract again, or use "
                'split="answer".'
            )
        values = _by_forms(examples["accepted"].to_numpy())
    elif split == "answer":
        name = "answer" if "answer" in examples.coords else "exact_answer"
        if name not in examples.coords:
            raise ValueError('split="answer" needs the coordinate exact_answer on example.')
        values = [normalize(answer) for answer in examples[name].to_numpy()]
    elif split in examples.coords and examples[split].dims == ("example",):
        values = examples[split].to_numpy().astype(str)
        if split == "group" and (values == "").all():
            raise ValueError(
                'split="group" keeps groups of questions together, and no question has a group. '
                'Name the question file\'s column of groups, or use split="random".'
            )
    else:
        per_example = [n for n, c in examples.coords.items() if c.dims == ("example",)]
        raise ValueError(
            f'split must be "random", "answer" or a coordinate on example '
            f"({arguments.listed(per_example)}); got {arguments.shown(split)}."
        )
    groups = np.unique(values, return_inverse=True)[1]
    if split == "group":  # a question without a group is a group of its own
        alone = np.flatnonzero(np.asarray(values) == "")
        groups[alone] = groups.max() + 1 + np.arange(len(alone))
    return joined_groups(groups, questions) if repeated else groups


def group_counts(groups):
    """How many groups of answers there are, how many of one answer, and how large the largest is.

    `groups` (example,); where each answer is alone, one number for each.
    """
    sizes = np.unique(groups, return_counts=True)[1]
    single, largest = int((sizes == 1).sum()), int(sizes.max())
    return {"n_groups": len(sizes), "n_single_groups": single, "largest_group": largest}


def joined_groups(groups, others):
    """Groups that also keep together what others keep together: what either joins, joined.

    Each (example,); None where every example is alone.
    """
    if groups is None or others is None:
        return groups if others is None else others
    others = np.unique(others, return_inverse=True)[1]
    shape = (groups.max() + 1, others.max() + 1)
    links = coo_array((np.ones(len(groups)), (groups, others)), shape=shape)
    both = block_array([[None, links], [links.T, None]])
    return connected_components(both, directed=False)[1][groups]


def held_out_splits(dataset, *, folds=5, seed=0, needed="random"):
    """Which splits can hold whole answers or groups of questions out, and why others can't.

    Where the answers are yes and no, no fold can be tested by probes that never saw its answers.
    Where more than half of the answers were given once, holding them out is the same as random
    folds, and tests nothing.

    Parameters
    ----------
    dataset : Dataset
        From `Run.activations`, or a grid.
    folds, seed
        As for `probe_grid`.
    needed : str
        The split that is asked for: an error if it can't be made.

    Returns
    -------
    dict of {str: str}
        For ``"answer"``, and ``"group"`` if any question has a group: nothing if `probe_grid` can
        make the split, else a sentence that says why it can't and what follows.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If it lacks `correct` or `exact_answer`, no response has an exact answer, or the split
        that is needed can't be made.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> pk.held_out_splits(run.activations())
    {'answer': ''}
    """
    arguments.variable(dataset, "correct", ("example",), "dataset")
    folds, seed = arguments.whole("folds", folds, 2), arguments.seed(seed)
    arguments.text("needed", needed, such_as="random")
    labels = dataset.coords.to_dataset()
    if "exact_answer" in labels:
        labels = labels.isel(example=labels["exact_answer"].to_numpy() != "")
    wrong = ~labels["correct"].to_numpy().astype(bool)
    grouped = "group" in labels.coords and (labels["group"].to_numpy() != "").any()
    obstacles = {}
    for split in ["answer"] + ["group"] * bool(grouped or needed == "group"):
        groups = example_groups(labels, split)
        obstacles[split] = ""
        try:
            _divide(wrong, groups, None, folds, seed, held_names(labels, split), split)
        except ValueError as error:
            if split == needed:
                raise
            obstacles[split] = _obstacle(labels, split, groups, folds, str(error))
            continue
        counts = group_counts(groups)
        if counts["n_single_groups"] > len(wrong) / 2 and split != needed:
            obstacles[split] = _untested(split, len(wrong), **counts)
    return obstacles


def _untested(split, n, n_groups, n_single_groups, largest_group):
    """In a sentence: why holding single answers out tests nothing, and what that leaves open."""
    what, read = _WHAT[split]
    return (
        f"Held-out {what}: not testable here. Of {n_groups} different {what}, {n_single_groups} "
        f"were given once and the most frequent {largest_group} times ({n} in all), so to hold "
        f"them out is nearly the same as random folds. Whether the probes read {read} can't be "
        "tested by it, and no gain over the controls shows that they don't."
    )


# Of a split: what it holds out, and what the probes may have read instead of errors.
_WHAT = {
    "answer": ("answers", "which answer was given"),
    "group": ("groups of questions", "which group a question is of"),
}


def _obstacle(labels, split, groups, folds, reason):
    """In a sentence: why a split can't be made, and what then can't be ruled out."""
    what, read = _WHAT[split]
    reason = reason.split(". ")[0]
    reason = reason[0].lower() + reason[1:]
    if (n := len(np.unique(groups))) < folds:
        name = split if split in labels.coords else "exact_answer"
        first = np.unique(groups, return_index=True)[1]
        names = arguments.listed(sorted(labels[name].to_numpy()[first].astype(str)), 5)
        reason = f"there are only {n} different {what} ({names})"
        if n == 1:
            reason = f"there is only one, {names}"
    return (
        f"{what.capitalize()} can't be held out in {folds} folds: {reason}. So it can't be ruled "
        f"out by holding {what} out that the probes read {read}. Use random folds, and compare "
        "with the controls."
    )
