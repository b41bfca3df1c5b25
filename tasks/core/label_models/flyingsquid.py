"""FlyingSquid through its package: LFs that depend on each other, and sequences of items. The only module to import it.

Source: Fu et al., "Fast and Three-rious", PMLR v119, 2020. The package estimates the marginals of the graph's cliques; the
posterior is computed here, in log space and once per distinct sequence of votes.
"""

import contextlib
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from tasks.core.label_models.base import (
    Finding,
    count_joint_votes,
    decode_array,
    decode_findings,
    encode_array,
    encode_findings,
    inspect_votes,
    normalize_logs,
)
from tasks.core.label_models.triplets import FEWEST_LFS, PACKAGE_ON_COPIES, Estimate
from tasks.core.patterns import Patterns, find_patterns
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.types import ABSTAIN, Float64, Int64, Votes

Mode = Literal["corrected", "reference"]

LONGEST = 10
"""Most items in a sequence: the package and the posterior both enumerate the 2^T label sequences."""

_PACKAGE_VOTES = (1, 0, 2)
"""Positions of abstain, 0 and 1 on the package's axes, whose order is -1, 0 (abstain), +1."""

_LEAST = 1e-9
"""Replaces an estimated probability of zero in a divisor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Factor:
    """The log marginal of a clique, or of a separator with a negative power."""

    lfs: tuple[int, ...]
    """The LFs it depends on, numbered over the whole sequence: LF j of item t is t * m + j."""
    items: tuple[int, ...]
    """The positions in the sequence whose class it depends on."""
    logs: Float64
    """(3,) * lfs + (2,) * items: an axis per LF (abstain, 0, 1), then an axis per item's class; times the power."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceModel:
    """The posterior of two classes over sequences of items, from the marginals of a junction tree."""

    lfs: int
    """m, the number of LFs per item."""
    length: int
    """T, the number of items in a sequence."""
    factors: tuple[Factor, ...]
    precision: Float64
    """(m, 2): P(Y = c | the LF votes c) on the first item of a sequence; NaN where it never votes c."""
    findings: tuple[Finding, ...] = ()

    def predict_proba(self, votes: Votes) -> Float64:
        """Return the posterior of each item, given the votes on its sequence, (n, 2).

        Rows are in the order of time; every T of them form a sequence, and the last sequence is padded with abstains.

        Raises
        ------
        ValueError
            `votes` has another number of LFs.
        """
        if votes.shape[1] != self.lfs:
            raise ValueError(f"votes of {votes.shape[1]} labeling functions for a label model of {self.lfs}")
        filler = np.full((-len(votes) % self.length, self.lfs), ABSTAIN, dtype=np.int8)
        sequences = np.concatenate([votes, filler]).reshape(-1, self.length * self.lfs)
        patterns = find_patterns(sequences)
        positive = self._score(patterns)[patterns.inverse].reshape(-1)[: len(votes)]
        return np.stack([1 - positive, positive], axis=1)

    def _score(self, patterns: Patterns) -> Float64:
        """Return P(Y_t = 1) for each distinct sequence of votes, (u, T)."""
        states = np.array(list(product((0, 1), repeat=self.length)))
        total = np.zeros((len(patterns.counts), len(states)))
        for factor in self.factors:
            votes = np.zeros(len(patterns.counts), dtype=np.intp)
            for lf in factor.lfs:
                votes = votes * 3 + patterns.votes[lf] + 1
            state = np.zeros(len(states), dtype=np.intp)
            for item in factor.items:
                state = state * 2 + states[:, item]
            total += factor.logs.reshape(3 ** len(factor.lfs), -1)[votes][:, state]
        posterior = normalize_logs(total)
        positive = [posterior[:, states[:, t] == 1].sum(axis=1) for t in range(self.length)]
        bounded: Float64 = np.minimum(np.stack(positive, axis=1), 1.0)
        return bounded

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "form": "sequence",
            "lfs": self.lfs,
            "length": self.length,
            "factors": [
                {"lfs": list(factor.lfs), "items": list(factor.items), "logs": encode_array(factor.logs)}
                for factor in self.factors
            ],
            "precision": encode_array(self.precision),
            "findings": encode_findings(self.findings),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the model that `to_json` described."""
        return cls(
            lfs=value["lfs"],
            length=value["length"],
            factors=tuple(
                Factor(
                    lfs=tuple(factor["lfs"]),
                    items=tuple(factor["items"]),
                    logs=decode_array(factor["logs"], missing=-np.inf),
                )
                for factor in value["factors"]
            ),
            precision=decode_array(value["precision"], missing=np.nan),
            findings=decode_findings(value["findings"]),
        )


def count_sequences(gold: npt.NDArray[np.int64], length: int) -> Float64 | None:
    """Return the share of each sequence of classes, (2^T,); None if gold is incomplete in every sequence.

    `gold` is 0, 1 or -1 (unknown), in the order of time; every `length` rows form a sequence. One sequence, spread evenly,
    is added to the counts, so that none is impossible.
    """
    whole = gold[: len(gold) // length * length].reshape(-1, length)
    known = whole[(whole >= 0).all(axis=1)]
    if not len(known):
        return None
    codes = known @ (2 ** np.arange(length)[::-1])
    counts = np.bincount(codes, minlength=2**length) + 2.0**-length
    shares: Float64 = counts / counts.sum()
    return shares


def fit_sequence_model(
    votes: Votes,
    class_balance: Float64,
    *,
    length: int = 1,
    dependencies: Sequence[tuple[int, int]] = (),
    sequence_balance: Float64 | None = None,
    estimate: Estimate = "mean",
    mode: Mode = "corrected",
    items: Int64 | None = None,
    advance: Advance = ignore_progress,
) -> SequenceModel:
    """Return FlyingSquid for two classes with edges between LFs and a chain over `length` items.

    Rows are in the order of time. The graph joins each item's class with the next item's, each LF's vote with the class
    of its item, and each pair of `dependencies` on the same item. P(Y_1 .. Y_T) is `sequence_balance`, in lexicographic
    order; without it the items of a sequence are independent, each with the class balance. `reference` computes what the
    package does, with one power of P(Y) too many and without separators that contain LFs; `corrected` divides by every
    separator once per edge of the junction tree. An incomplete last sequence is not used for fitting. `items` says how many
    sequences of a single item a row stands for. `advance` receives the moments that the package asks for, which take most of the
    time.

    Raises
    ------
    ValueError
        There are not two classes; the length is below 1, above `LONGEST` or longer than the votes, or above 1 where `items` are
        given; a dependency is not between two different LFs; or there are fewer than three groups of LFs that do not depend on
        each other.
    """
    n, m = votes.shape
    _check_graph(n, m, len(class_balance), length, dependencies)
    if items is not None and length > 1:
        raise ValueError("sequences are of single items, in the order of time; got counts of items")
    if sequence_balance is None:
        sequence_balance = np.array([np.prod(class_balance[list(y)]) for y in product((0, 1), repeat=length)])
    counts = count_joint_votes(votes, 2, items)
    sequences = votes[: n // length * length].reshape(-1, length * m)
    fitted = _fit_package(sequences, items, m, length, dependencies, sequence_balance, estimate, advance)
    factors = [_make_factor(marginal, 1.0, mode) for _, marginal in fitted.clique_marginals]
    for nodes, marginal in fitted.separator_marginals:
        edges = fitted.separator_degrees[tuple(sorted(nodes))]
        holds_lfs = any(node.startswith("lambda") for node in nodes)
        if mode == "corrected":
            factors.append(_make_factor(marginal, -edges, mode))
        elif not holds_lfs:
            factors.append(_make_factor(marginal, 1.0 - edges, mode))
    factors.sort(key=lambda factor: (factor.items, factor.lfs, float(factor.logs.flat[0])))
    return SequenceModel(
        lfs=m,
        length=length,
        factors=tuple(factors),
        precision=np.where(counts.seen, _read_precision(fitted.clique_marginals, m), np.nan),
        findings=inspect_votes(counts, of_copies=PACKAGE_ON_COPIES),
    )


def _check_graph(n: int, m: int, k: int, length: int, dependencies: Sequence[tuple[int, int]]) -> None:
    if k != 2:
        raise ValueError(f"dependencies and sequences are for two classes; got {k}")
    if not 1 <= length <= LONGEST:
        raise ValueError(f"a sequence has 1 to {LONGEST} items; got {length}")
    if n < length:
        raise ValueError(f"{n} items cannot fill one sequence of {length}")
    group = list(range(m))
    for lf, other in dependencies:
        if lf == other or not (0 <= lf < m and 0 <= other < m):
            raise ValueError(f"a dependency joins two of the {m} labeling functions; got ({lf}, {other})")
        group = [group[lf] if g == group[other] else g for g in group]
    if len(set(group)) < FEWEST_LFS:
        raise ValueError(
            f"{len(set(group))} groups of labeling functions are left that do not depend on each other; "
            f"triplets need {FEWEST_LFS}"
        )


def _fit_package(
    sequences: Votes,
    items: Int64 | None,
    m: int,
    length: int,
    dependencies: Sequence[tuple[int, int]],
    sequence_balance: Float64,
    estimate: Estimate,
    advance: Advance,
) -> Any:
    """Return the package's own label model, fitted."""
    patterns = find_patterns(sequences, items)
    signed = np.where(patterns.votes == ABSTAIN, 0, 2 * patterns.votes.astype(np.int64) - 1).T
    state = random.getstate()  # The package seeds the global generator.
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = _load_package()(
                m * length,
                v=length,
                y_edges=[(t, t + 1) for t in range(length - 1)],
                lambda_y_edges=[(t * m + j, t) for t in range(length) for j in range(m)],
                lambda_edges=[(t * m + i, t * m + j) for t in range(length) for i, j in dependencies],
            )
            model.row_counts, model.advance = patterns.counts, advance
            model.fit(signed, class_balance=sequence_balance, solve_method=f"triplet_{estimate}")
    finally:
        random.setstate(state)
    return model


def _load_package() -> Any:
    """Return the package's label model, changed to count distinct rows rather than row by row.

    Imported here since pgmpy takes seconds to import, which only runs with dependencies or sequences should pay.
    """
    import pgmpy.models

    if not hasattr(pgmpy.models, "MarkovModel"):
        # The package imports this class by its name before pgmpy 1.
        pgmpy.models.MarkovModel = pgmpy.models.DiscreteMarkovNetwork
    from flyingsquid.label_model import LabelModel
    from pgmpy.factors.discrete import JointProbabilityDistribution

    class CountedLabelModel(LabelModel):  # type: ignore[misc]
        row_counts: npt.NDArray[np.int64]
        advance: Advance

        def _lambda_pass(
            self,
            L_train: npt.NDArray[np.int64],
            lambda_marginals: Any,
            lambda_moment_vals: Any,
            lambda_equals_one: Any,
            lambda_zeros: Any,
            abstention_probabilities: Any,
            verbose: bool = False,
        ) -> Any:
            """Return what the original method counts row by row, computed from distinct rows and their counts."""
            rows = self.row_counts.sum()

            def share(flags: Any, among: Any = None) -> float:
                base = rows if among is None else self.row_counts[among].sum()
                return float(self.row_counts[flags].sum() / base) if base else 0.0

            asked = (lambda_marginals, lambda_moment_vals, lambda_equals_one, lambda_zeros, abstention_probabilities)
            with count_steps(self.advance, sum(map(len, asked))) as step:
                for lfs in lambda_marginals:
                    entries = [
                        share((L_train[:, list(lfs)] == values).all(axis=1))
                        for values in product((-1, 0, 1), repeat=len(lfs))
                    ]
                    names = [f"lambda_{lf}" for lf in lfs]
                    lambda_marginals[lfs] = JointProbabilityDistribution(names, [3] * len(lfs), entries)
                    step(1)
                for lfs in lambda_moment_vals:
                    lambda_moment_vals[lfs] = float(self.row_counts @ L_train[:, list(lfs)].prod(axis=1) / rows)
                    step(1)
                for key in lambda_equals_one:
                    voting, silent = key if isinstance(key[0], tuple) else (key, ())
                    among = (L_train[:, list(silent)] == 0).all(axis=1)
                    lambda_equals_one[key] = share(among & (L_train[:, list(voting)].prod(axis=1) == 1), among)
                    step(1)
                for lfs in lambda_zeros:
                    lambda_zeros[lfs] = share((L_train[:, list(lfs)] == 0).all(axis=1))
                    step(1)
                for lfs in abstention_probabilities:
                    abstention_probabilities[lfs] = share((L_train[:, list(lfs)] == 0).any(axis=1))
                    step(1)
            return lambda_marginals, lambda_moment_vals, lambda_equals_one, lambda_zeros, abstention_probabilities

    return CountedLabelModel


def _make_factor(marginal: Any, power: float, mode: Mode) -> Factor:
    """Return a pgmpy factor as logs times `power`, its axes sorted: LFs, then items."""
    nodes = [(name.startswith("Y"), int(name.split("_")[1])) for name in marginal.variables]
    order = sorted(range(len(nodes)), key=lambda axis: nodes[axis])
    values = np.asarray(marginal.values, dtype=np.float64).transpose(order)
    for axis in range(sum(not is_item for is_item, _ in nodes)):
        values = values.take(_PACKAGE_VOTES, axis=axis)
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(values, _LEAST) if mode == "corrected" else values)
    return Factor(
        lfs=tuple(nodes[axis][1] for axis in order if not nodes[axis][0]),
        items=tuple(nodes[axis][1] for axis in order if nodes[axis][0]),
        logs=power * logs if power else np.zeros_like(logs),
    )


def _read_precision(cliques: Any, m: int) -> Float64:
    """Return P(Y = c | LF j votes c) on the first item, from any clique that holds both, (m, 2)."""
    precision = np.full((m, 2), np.nan)
    for _, marginal in cliques:
        names = list(marginal.variables)
        for j in range(m):
            if "Y_0" in names and f"lambda_{j}" in names:
                keep = (names.index(f"lambda_{j}"), names.index("Y_0"))
                rest = tuple(axis for axis in range(len(names)) if axis not in keep)
                joint = np.asarray(marginal.values).sum(axis=rest)
                joint = joint if keep[0] < keep[1] else joint.T
                cast = joint[list(_PACKAGE_VOTES[1:])]
                totals = cast.sum(axis=1)
                precision[j] = np.divide(np.diag(cast), totals, out=np.full(2, np.nan), where=totals > 0)
    return precision
