"""Whether a newly trained model may replace the one it came from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Verdict = Literal["proved", "candidate", "candidate, unproved"]

MAY_LOSE = 0.01  # one Dice point


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate says, and why.

    Parameters
    ----------
    verdict : str
        ``proved``: held-out cases show it is no worse on any label, and better on one.
        ``candidate``: scored on held-out cases, but not better, or nothing to compare with.
        ``candidate, unproved``: too few cases to hold whole ones out.
    reasons : tuple of str
        Sentences for the person.
    """

    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def is_promoted(self) -> bool:
        """Whether the new model may be offered before the old one."""
        return self.verdict == "proved"


def judge(
    new: Mapping[str, float],
    old: Mapping[str, float] | None,
    *,
    is_disjoint: bool,
    cases: int,
    measure: str = "Dice",
) -> Judgement:
    """Compare held-out scores label by label.

    Parameters
    ----------
    new, old : mapping of str to float
        Score per label, 0 to 1; NaN where a label occurs in no held-out case. `old` is None where
        training began from random weights.
    is_disjoint : bool
        Whether every held-out case (by its content and its patient) was kept out of training.
    cases : int
        How many cases there were, held-out ones included.
    measure : str
        Name of the score, for the sentences.

    Returns
    -------
    Judgement
        ``proved`` only if no label loses more than 0.01, at least one gains, and the held-out
        cases were disjoint.
    """
    if cases < 3 or not is_disjoint:
        why = (
            f"{cases} case(s) are too few to hold whole ones out: the scores come from "
            f"{'a part of a case' if cases == 1 else 'one case'} and prove nothing"
            if cases < 3
            else "a held-out case was also trained on: the scores prove nothing"
        )
        return Judgement("candidate, unproved", (why, *_sentences(new, old, measure)))
    if old is None:
        why = "there was no earlier model to compare with"
        return Judgement("candidate", (why, *_sentences(new, old, measure)))
    known = {name: (_number(old.get(name)), _number(new.get(name))) for name in {**old, **new}}
    both = {
        name: pair for name, pair in known.items() if not any(math.isnan(value) for value in pair)
    }
    lost = [name for name, (before, after) in both.items() if after < before - MAY_LOSE - 1e-9]
    vanished = [n for n, (before, after) in known.items() if before == before and after != after]
    gained = [name for name, (before, after) in both.items() if after > before + 1e-9]
    if lost or vanished:
        why = f"{measure} of {', '.join([*lost, *vanished])} fell by more than {MAY_LOSE:g}"
    elif not gained:
        why = "no label gained"
    else:
        why = f"{measure} of {', '.join(gained)} rose and no label fell by more than {MAY_LOSE:g}"
    is_better = bool(gained) and not lost and not vanished
    verdict: Verdict = "proved" if is_better else "candidate"
    return Judgement(verdict, (why, *_sentences(new, old, measure)))


def _sentences(
    new: Mapping[str, float], old: Mapping[str, float] | None, measure: str
) -> tuple[str, ...]:
    found = []
    for name, after in new.items():
        before = None if old is None else _number(old.get(name))
        if math.isnan(after):
            found.append(f"{name}: in no held-out case")
        elif before is None or math.isnan(before):
            found.append(f"{name}: held-out {measure} {after:.3f}")
        else:
            found.append(f"{name}: held-out {measure} {before:.3f} before, {after:.3f} after")
    return tuple(found)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
