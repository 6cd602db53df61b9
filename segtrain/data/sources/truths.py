"""The truth among a patient's masks: the rater whom the config names, else the consensus, else the plain mask."""

from collections.abc import Sequence
from pathlib import Path

from segtrain.data.sources.base import first_few
from segtrain.data.sources.candidates import Candidates, VolumeFile
from segtrain.data.sources.naming import Role, is_rater, stem_of

ELSEWHERE = "say which in data.files, as in data.files='{truth: \"{patient}/*_seg.nii.gz\", ..}'"


def choose_truth(patient: str, candidates: Candidates, rater: str | None) -> tuple[Path | None, str]:
    """The truth, and why it cannot be known: one of both, or neither where there is none."""
    if rater is not None:
        return _of_rater(patient, candidates.truths, rater)
    if best := _best(candidates.truths):
        if len(best) == 1:
            return best[0].path, ""
        return None, (
            f"{best[1].path}: a second truth of patient {patient}, beside {best[0].path}; keep one of them here, or "
            f"{ELSEWHERE}"
        )
    if raters := [file for file in candidates.truths if file.name.role is Role.RATER]:
        names = first_few(sorted(file.name.what for file in raters))
        return None, (
            f"{raters[0].path}: patient {patient} has masks of raters alone ({names}); name one, as in data.rater="
            f"{raters[0].name.what}"
        )
    if len(candidates.odd) == 1 and not candidates.truths:
        odd = candidates.odd[0]
        ending = odd.name[len(stem_of(odd)) :]
        return None, (
            f"{odd}: may be the truth of patient {patient}, which has none by name; rename it to "
            f"{patient}_seg{ending}, or {ELSEWHERE}"
        )
    return None, ""


def is_consensus_of_several(candidates: Candidates, rater: str | None) -> bool:
    """Whether the truth is a consensus with other masks beside it."""
    best = _best(candidates.truths)
    return rater is None and len(best) == 1 and best[0].name.rank == 0 and len(candidates.truths) > 1


def is_automatic_alone(candidates: Candidates) -> bool:
    """Whether all masks are by programs."""
    return {file.name.role for file in candidates.truths} == {Role.AUTOMATIC}


def _best(truths: Sequence[VolumeFile]) -> list[VolumeFile]:
    plain = [file for file in truths if file.name.role is Role.TRUTH]
    return [file for file in plain if file.name.rank == min(other.name.rank for other in plain)]


def _of_rater(patient: str, truths: Sequence[VolumeFile], rater: str) -> tuple[Path | None, str]:
    of_rater = [file for file in truths if is_rater(file.name, rater)]
    if len(of_rater) == 1:
        return of_rater[0].path, ""
    if not truths:
        return None, ""
    names = first_few(sorted(file.name.what for file in truths))
    return None, (
        f"{truths[0].path}: patient {patient} has {len(of_rater)} masks of data.rater={rater} among {names}; name one "
        "of these"
    )
