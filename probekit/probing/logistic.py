"""Fit many logistic regressions over one design matrix at once, and score them by AUROC.

Folds, splits, permutations of the labels, bootstrap weights and values of C are all fits over the
same examples, so they advance together: every iteration is two matrix products for all of them,
``(fits, examples) @ (examples, features)`` and back. Fits are rows, which is the fast layout.
So a fit depends on its company, within the tolerance: on their mean curvature, on when the last of
them stops, on the order of summation. Fits that must not depend on others get a call of their own,
and the others a second call that begins from it (`begin`), which saves the whitening.

The method is preconditioned nonlinear conjugate gradients. What makes it quick, and right:

- One preconditioner, M = X' D X + I, serves every fit. D is the curvature of the loss, a mean over
  the fits. It begins at half the value where all of them start, and is renewed when it has halved,
  as it does again and again where the classes can be separated. It is applied once, to X: in the
  coordinates in which M is the identity, the penalty is what X' D X leaves of it, so an iteration
  is two matrix products and no third.
- The margins X w + b are carried along, so a line search costs no matrix product and can be
  exact. The intercept is one more coordinate, which the penalty leaves out.
- A fit is done when its gradient says so, measured once more at the end from its coefficients.
  Fits that single precision does not bring there are made again in double precision.
- With fewer examples than features, the solution lies in the span of the examples, and X is
  replaced by the square Cholesky factor of X X'.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.linalg import vecdot

from probekit.probing.linear import LinearProbes, as_fits, centred


def fit_logistic(
    X,
    y,
    sample_weight=None,
    C=1.0,
    *,
    standardize=False,
    tol=3e-6,
    max_iter=1000,
    dtype=torch.float32,
    begin=None,
):
    """Fit L2-regularised logistic regressions that share a design matrix.

    Each fit minimises scikit-learn's objective,
    ``1/2 ||w||^2 + C * sum_i s_i * log(1 + exp(-y_i (x_i . w + b)))`` with y_i = -1 or 1 and a free
    intercept b. The leading dimension of `y`, `sample_weight` and `C` is broadcast: where one of
    them is given once, all fits share it. `begin` are probes of the same X, standardize and dtype.
    """
    X, y, weight, C = as_fits(X, y, sample_weight, C, dtype)
    begun = _begin(X, weight, standardize, dtype) if begin is None else begin.begun
    design, mean, span = begun.design, begun.mean, begun.span
    penalty, constant = _fold_variance(design, weight, mean) if standardize else (None, None)

    coef = design.new_zeros(len(y), design.shape[1])
    offset = design.new_zeros(len(y), dtype=torch.float64)
    converged = torch.zeros_like(y[:, 0])
    # One preconditioner cannot serve penalties of different orders of magnitude.
    scale = torch.log2(C).round().long()
    for value in scale.unique().tolist():
        rows = torch.nonzero(scale == value)[:, 0]
        loss_weight = weight[rows] * C[rows, None]
        own = None if penalty is None else penalty[rows]
        coef[rows], offset[rows], converged[rows], begun.coordinates[value] = _solve(
            design,
            begun.reach,
            y[rows].to(dtype),
            loss_weight,
            own,
            tol,
            max_iter,
            begun.coordinates.get(value),
        )
    if span is not None:
        coef = span(coef)
    if constant is not None:
        # The penalty alone holds these at 0, too weakly to be found exactly.
        offset += (coef * constant.nan_to_num()).sum(1)
        coef[~constant.isnan()] = 0
    lost = ~converged
    if dtype != torch.float64 and lost.any():
        again = fit_logistic(
            X,
            y[lost],
            weight[lost],
            C[lost],
            standardize=standardize,
            # With examples far out, the preconditioner may overstate a fit's curvature there, and
            # so understate what is left.
            tol=tol / 100 if bool((begun.reach < 1).any()) else tol,
            max_iter=max_iter,
            dtype=torch.float64,
            begin=begun.again[-1] if begun.again else None,
        )
        begun.again[:] = [again]
        if again.converged:
            converged[lost] = True
            coef[lost] = again.coef.to(dtype)
            # At the mean taken away here, which is the other one but for rounding.
            offset[lost] = again.offset + coef[lost].double() @ (mean.double() - again.mean)
    return LinearProbes(coef, offset, mean, bool(converged.all()), begun)


@dataclass(frozen=True)
class _Begun:
    """What does not have to be computed again for more fits over the same X."""

    mean: torch.Tensor
    design: torch.Tensor  # X centred, or its square factor
    reach: torch.Tensor  # (example,), of its curvature what the preconditioner knows
    span: object  # from coefficients over the factor to those over X
    coordinates: dict  # the first ones and their shared penalty, by the order of magnitude of C
    again: list  # of fits that had to be made in double precision, the latest probes


def _begin(X, weight, standardize, dtype):
    """What fits with these weights have in common."""
    X = X.to(torch.promote_types(X.dtype, dtype))
    everywhere = weight.sum(0, dtype=torch.float64)
    reach = 1.0
    for _ in range(2):
        share = everywhere * reach / (everywhere * reach).sum()
        # Seen from one example, as the sum of large numbers has large errors.
        mean = X[0] + share.to(X.dtype) @ (X - X[0])
        design, span = centred(X, mean, dtype), None
        # A mean that one example far from all others moves is far from all of them.
        reach = _reach(design)
        if bool((reach == 1).all()):
            break
    if X.shape[0] < X.shape[1] and not standardize:
        design, span = _in_span(design)
    if dtype == torch.float64:
        # This precision can hold more of them, which is quicker where there are many.
        reach = reach.sqrt()
    return _Begun(mean, design, reach, span, {}, [])


def _reach(X):
    """Weight of each centred example, below 1 where it is far from nearly all others.

    In the preconditioner such an example would hide the others from the fits that lack it, and
    from those that are sure of it, for which it has no curvature left.
    """
    square = vecdot(X, X)
    return (10 * square.quantile(0.9) / square).nan_to_num(1.0).clamp_max(1)


def _fold_variance(X, weight, mean):
    """Variance of each feature in each fit's examples, and values that do not vary.

    X is centred, `mean` is what was taken away.
    """
    eps = torch.finfo(X.dtype).eps
    total = weight.sum(1, keepdim=True)
    square = weight @ X.square() / total
    level = weight @ X / total
    variance = square - level.square()
    # Differences this small are rounding in the sums, and below, in the centring.
    still = variance <= len(X) * eps * square
    nothing = (X.abs().amax(0) <= 10 * eps * mean.abs()) | (square == 0)
    variance = torch.where(nothing, torch.ones_like(square), torch.where(still, square, variance))
    return variance, torch.where(still | nothing, level, torch.nan)


def _in_span(X):
    """Square factor R of X X' = R R', and the map from coefficients over R to those over X."""
    gram = X.double() @ X.double().T
    # Centred examples are linearly dependent, so the Gram matrix is singular without this.
    gram.diagonal().add_(1e-12 * gram.diagonal().mean() + torch.finfo(torch.float64).tiny)
    factor = torch.linalg.cholesky(gram)

    def over_features(coef):
        dual = torch.linalg.solve_triangular(factor, coef.double(), upper=False, left=False)
        return (dual @ X.double()).to(X.dtype)

    return factor.to(X.dtype), over_features


@dataclass(frozen=True)
class _Coordinates:
    """Coordinates in which the shared part of the objective's curvature is the identity.

    With D a curvature for each example, P the penalty for each feature and X with a column of ones
    for the intercept, which has no penalty, ``L L' = X' D X + P``. Coefficients w are ``w L`` here
    and the examples, the rows of the design, are ``X L'^-1``. The penalty is what the design leaves
    of the identity: ``w P w' = |w L|^2 - sum_i D_i (w . x_i)^2``. So P itself appears nowhere.
    """

    factor: torch.Tensor  # (features, features), L
    curvature: torch.Tensor  # (rows,), D
    total: float  # the sum of D
    design: torch.Tensor  # (rows, features)
    transposed: torch.Tensor  # (features, rows), the same for products from the other side

    @classmethod
    def make(cls, X, curvature, penalty, own_penalty, fits):
        """Coordinates of so many fits for X (examples, features), of which the last is 1.

        With penalties of their own, fits have the coefficients themselves as further rows.
        """
        features = X.shape[1]
        hessian = X.new_empty(features, features)
        # Only the lower half is needed: strips of it take 5/8 of the arithmetic.
        edges = [features * k // 4 for k in range(5)]
        for low, high in pairwise(edges):
            weighted = X[:, low:high] * curvature[:, None]
            torch.mm(weighted.T, X[:, :high], out=hessian[low:high, :high])
        diagonal = hessian.diagonal()
        diagonal[:-1] += penalty
        jitter = torch.finfo(X.dtype).eps
        while True:
            factor, failed = torch.linalg.cholesky_ex(hessian)
            if not bool(failed) or jitter > 1:
                break
            # A curvature of 0 has to be raised as well, where a fit is sure of all examples.
            diagonal.mul_(1 + jitter).add_(torch.finfo(X.dtype).tiny)
            jitter *= 10
        total = float(curvature.sum())
        if own_penalty:
            X = torch.cat([X, torch.eye(features, dtype=X.dtype, device=X.device)[:-1]])
            curvature = torch.cat([curvature, torch.zeros_like(penalty)])
        design = torch.linalg.solve_triangular(factor, X.T, upper=False).T
        # A layout for either side makes products quicker, but those of very few fits are bound by
        # the memory that they read, and two layouts are twice of it.
        transposed = design.T if fits <= 5 else design.T.contiguous()
        return cls(factor, curvature, total, design, transposed)


@torch.inference_mode()  # which takes a quarter off what an iteration of few fits costs
def _solve(X, reach, y, loss_weight, penalty, tol, max_iter, first):
    """Minimise all fits from zero.

    X (examples, features) is centred; y and loss_weight = C * sample_weight are (fits, examples);
    reach (examples,) multiplies the curvature of examples in the preconditioner;
    penalty (fits, features) multiplies the squared coefficients, None for all ones. `first` is
    None, or the last value of an earlier call: coordinates to begin in, and the shared penalty.

    Returns coef, intercept, whether each converged, and `first` for a later call.
    """
    fits, features = len(y), X.shape[1]
    X = torch.nn.functional.pad(X, (0, 1), value=1.0)
    coef = X.new_zeros(fits, features + 1)
    coef[:, -1] = ((loss_weight * y).sum(1) / (loss_weight * (1 - y)).sum(1)).log()
    # Margins are carried with the sign that makes a wrong answer's positive.
    sign = 1 - 2 * y
    margin = sign * coef[:, -1:]
    # The fits still running, a row of each tensor for each of them.
    run = {"fit": torch.arange(fits, device=X.device), "loss_weight": loss_weight}
    shared_penalty = X.new_ones(features)
    if penalty is not None:
        shared_penalty = penalty.mean(0) if first is None else first[1]
        run["own"] = penalty - shared_penalty
        sign = torch.cat([sign, torch.ones_like(penalty)], 1)
        margin = torch.cat([margin, torch.zeros_like(penalty)], 1)
    run |= {"sign": sign, "margin": margin}
    run["first"], run["second"] = _derivatives(run, margin)
    at, left = None, []  # coordinates, and the fits that have stopped in them
    converged, enough = torch.zeros_like(run["fit"], dtype=torch.bool), X.new_zeros(fits)
    for iteration in range(max_iter + 1):
        examples = run["second"][:, : len(X)]
        curvature = examples.sum(1)
        if at is None or float(curvature.mean()) < at.total / 2:
            if at is not None:
                left.append((run["fit"], run["place"]))
                _settle(coef, left, at)
            if at is None and first is not None:
                at = first[0]
            else:
                # A part of it spread evenly: examples that most fits are sure of and one is not
                # would otherwise give that one a curvature far above the preconditioner's.
                shared = examples.mean(0)
                shared = (3 * shared + shared.mean()) / 4 * reach
                if at is None:
                    # All fits start where the curvature is greatest, and soon leave.
                    shared /= 2
                running = len(run["fit"])
                at = _Coordinates.make(X, shared, shared_penalty, penalty is not None, running)
                first = first or (at, shared_penalty)
            run["place"] = coef[run["fit"]] @ at.factor
            run["direction"] = run["gradient"] = torch.zeros_like(run["place"])
            # With an infinite decrement before it, the first direction is the steepest descent.
            run["decrement"] = run["enough"] = torch.full_like(curvature, torch.inf)
        pull = torch.addcmul(run["first"], at.curvature, run["margin"], value=-1)
        gradient = torch.addmm(run["place"], pull.mul_(run["sign"]), at.design)
        decrement = vecdot(gradient, gradient).clamp_min_(torch.finfo(X.dtype).tiny)
        # The preconditioner overstates the curvature of a fit that is sure of most examples.
        gap = decrement * curvature.clamp_min(at.total) / curvature
        if iteration == 0:
            run["gain"] = gap
        done = gap <= run["enough"]
        finished = int(done.sum())
        if finished:
            # Objectives only fall: one from before can be too high and never too low.
            run["enough"] = _enough(_objective(run, at), run["gain"], tol)
            done = gap <= run["enough"]
            finished = int(done.sum())
        # Dropping rows copies the others, so a few are waited for.
        if iteration == max_iter or 8 * finished >= len(done):
            last = iteration == max_iter or finished == len(done)
            stop = torch.ones_like(done) if last else done
            left.append((run["fit"][stop], run["place"][stop]))
            converged[left[-1][0]], enough[left[-1][0]] = done[stop], run["enough"][stop]
            if last:
                break
            run = {name: values[~stop] for name, values in run.items()}
            gradient, decrement = gradient[~stop], decrement[~stop]
        # Polak and Ribiere's conjugate direction, or steepest descent where that would climb.
        beta = (decrement - vecdot(run["gradient"], gradient)) / run["decrement"]
        direction = (run["direction"] * beta.clamp_min_(0)[:, None]).sub_(gradient)
        slope = vecdot(direction, gradient)
        if float(slope.max()) >= 0:
            climbs = slope >= 0
            direction[climbs], slope[climbs] = -gradient[climbs], -decrement[climbs]
        run |= {"direction": direction, "gradient": gradient, "decrement": decrement}
        _line_search(run, slope, at)
    _settle(coef, left, at)
    coef, intercept = coef[:, :-1], coef[:, -1].double()
    # Rounding of the coefficients alone takes it to 30 times as much where classes are separable.
    gap = _gap(X, y, coef, intercept, loss_weight, penalty, at)
    return coef, intercept, converged & (gap <= 100 * enough), first


def _gap(X, y, coef, intercept, loss_weight, penalty, at):
    """Twice what Newton's method expects to be left of each fit's objective, (fits,).

    From the coefficients and the examples alone. Coordinates may have lost the penalty or weak
    directions to rounding, and what is computed in them then looks like a solution and is none.
    The intercepts are brought to their optimum in place, in double precision: small features move
    margins by less than single precision of the intercept.
    """
    margin = coef @ X[:, :-1].T
    for dtype in (X.dtype, torch.float64):  # two steps of Newton's, the first one rough
        probability = torch.sigmoid(margin.to(dtype) + intercept[:, None].to(dtype))
        pull = (probability - y).mul_(loss_weight)
        if dtype == X.dtype:  # which hardly changes any more
            curvature = vecdot(loss_weight, probability * (1 - probability)).double()
        step = pull.sum(1, dtype=torch.float64) / curvature
        # The curvature changes by no more than the share that a step is long.
        intercept -= torch.where(step.abs() < 0.1, step, 0)
    gradient = pull.to(X.dtype) @ X
    gradient[:, :-1] += coef if penalty is None else penalty * coef
    gradient = torch.linalg.solve_triangular(at.factor.T, gradient, upper=True, left=False)
    return vecdot(gradient, gradient) * (at.total / curvature.to(X.dtype)).clamp_min(1)


def _enough(objective, gain, tol):
    """Gap at which a fit is done, (fits,).

    A share of the objective, and of what the features can take off it at all, which is little
    where they are small or tell little. Not less than rounding leaves.
    """
    rounding = 10 * torch.finfo(objective.dtype).eps ** 2
    return torch.minimum(2 * tol * objective, (32 * tol * gain).clamp_min(rounding * objective))


def _settle(coef, left, at):
    """Coefficients of fits that leave some coordinates, all at once, which takes little longer."""
    fits, places = map(torch.cat, zip(*left, strict=True))
    coef[fits] = torch.linalg.solve_triangular(at.factor, places, upper=False, left=False)
    left.clear()


def _line_search(run, slope, at):
    """Move each fit to the minimum along its direction, in place, from where the slope is given.

    Newton steps. One that ends in a rise of more than half the slope it began with has gone too
    far, as it may where the loss is nearly flat, and is cut by the secant rule.
    """
    direction, second = run["direction"], run["second"]
    ahead = (direction @ at.transposed).mul_(run["sign"])
    square = ahead.square()
    # What the penalty adds to slope and curvature.
    pull = slope - vecdot(run["first"], ahead)
    bend = (vecdot(direction, direction) - square @ at.curvature).clamp_min_(0)
    tiny = torch.finfo(bend.dtype).tiny
    step = 0
    for _ in range(4):
        # Just below the slope, and so never zero where that is.
        begin = slope - tiny
        along = -slope / (vecdot(second, square) + bend).clamp_min_(tiny)
        for attempt in range(7):
            reached = step + along
            margin = torch.addcmul(run["margin"], reached[:, None], ahead)
            first, second = _derivatives(run, margin)
            slope = torch.addcmul(vecdot(first, ahead) + pull, reached, bend)
            left = slope / begin  # the share of it that is left, below zero where it now rises
            if float(left.min()) >= -0.5 or attempt == 6:
                break
            # Coefficients and margins have to agree, so the last look is at what is kept. It is
            # where the fit came from if no cut was enough: one far out may find no way back.
            along = torch.where(left < -0.5, along / (1 - left) if attempt < 5 else 0, along)
        step = reached
        if float(left.abs().max()) <= 0.3:
            break
    run["place"] = torch.addcmul(run["place"], step[:, None], direction)
    run["margin"], run["first"], run["second"] = margin, first, second


def _derivatives(run, margin):
    """First and second derivative of each row's loss with respect to its signed margin.

    After the examples come, of fits with penalties of their own, the coefficients, each with what
    its penalty differs by from the shared one.
    """
    loss_weight = run["loss_weight"]
    examples = loss_weight.shape[1]
    probability = torch.sigmoid(margin[:, :examples])
    first = probability * loss_weight
    second = torch.addcmul(first, first, probability, value=-1)
    if "own" in run:
        first = torch.cat([first, run["own"] * margin[:, examples:]], 1)
        second = torch.cat([second, run["own"]], 1)
    return first, second


def _objective(run, at):
    """Objective of each fit, (fits,)."""
    margin = run["margin"]
    examples = run["loss_weight"].shape[1]
    loss = vecdot(run["loss_weight"], torch.nn.functional.softplus(margin[:, :examples]))
    place = run["place"]
    penalty = vecdot(place, place) - vecdot(at.curvature * margin, margin)
    if "own" in run:
        penalty += vecdot(run["own"] * margin[:, examples:], margin[:, examples:])
    return loss + penalty / 2
