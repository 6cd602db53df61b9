"""The split of a run, split.json: who trains and who validates, and what their data are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from segtrain.errors import RunError
from segtrain.run.stored import built, shown


@dataclass(frozen=True)
class _StoredSplit:
    """What split.json holds."""

    train: list[Any]
    validation: list[Any]
    hash: str = ""
    people: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    version: int | None = None


@dataclass(frozen=True)
class RunSplit:
    """The content of split.json.

    people: the person of each patient who is not the person's only one, empty in a run from before there were groups;
    pixels: the hash of each patient's pixels in the source, as far as they are known;
    version: of the definition that it follows, None in a run from before there were versions, and of a file.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    people: Mapping[str, str]
    pixels: Mapping[str, str]
    version: int | None = field(compare=False)

    @property
    def patients(self) -> frozenset[str]:
        """Those of both sides."""
        return frozenset(self.train) | frozenset(self.validation)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Raises ValueError: damaged."""
        stored = built(_StoredSplit, tree)
        sides = {"train": stored.train, "validation": stored.validation}
        for side, patients in sides.items():
            if wrong := [patient for patient in patients if not isinstance(patient, str)]:
                raise ValueError(f"{side} lists {shown(wrong[0])}, no patient's name")
        return cls(
            train=tuple(stored.train),
            validation=tuple(stored.validation),
            people=stored.people,
            pixels={patient: content["pixels"] for patient, content in stored.content.items() if "pixels" in content},
            version=stored.version,
        )


def merged(file: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """The split that the data give now, with the content that `file` has of its patients from before.

    Raises RunError: it is another split, or the patients have other content. Data that were prepared by an earlier
    version do not say what they are.
    """
    ours, theirs = str(now["hash"]), str(before.get("hash"))
    if theirs != ours:
        remedy = "restore the patients"
        if before.get("version", 1) != now.get("version", 1):
            remedy = f"set data.split_version={before.get('version', 1)}"
        raise RunError(
            f"{file}: this run used split {theirs[:12]}; the data now gives split {ours[:12]}; {remedy}, or --fresh "
            "starts over"
        )
    content_before, content_now = before.get("content", {}), now.get("content", {})
    for patient in sorted(content_before.keys() & content_now.keys()):
        changed = [
            words
            for what, words in (("pixels", "other pixels"), ("mask", "another mask"))
            if content_before[patient].get(what) != content_now[patient].get(what)
        ]
        if changed:
            raise RunError(
                f"{file.parent}: patient {patient} has {' and '.join(changed)} than this run was begun with; bring "
                "the data back, or --fresh starts over"
            )
    content = {**content_now, **content_before}
    return {**now, "content": content} if content else now
