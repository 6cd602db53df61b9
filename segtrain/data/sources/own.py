"""A source of the user's own: its few methods made the whole protocol, and checked whenever they are called.

The user writes a class with `contrasts`, `patients()` and `read(patient)`; docs/own_parts.md has one. What else a
source needs is derived, or taken from methods that it may have: `slices`, `spacing_mm`, `person`, `institution`,
`fingerprint`, `write_mask`, `write_probability`.

Legend: s slice, h height, w width, c channel (one a contrast).
"""

import inspect
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtrain.config import DataConfig, Reference, canonical, name_of, options_of
from segtrain.config.importing import explained, load
from segtrain.config.own_code import own_code
from segtrain.config.paths import expanded
from segtrain.data.sources.base import Check, Volume, digest, first_few, no_check, plain_slice_names
from segtrain.data.sources.images import write_masks, write_pages
from segtrain.data.sources.labels import LabelRules
from segtrain.data.sources.listing import refuse_odd_names
from segtrain.data.sources.own_volume import RawVolume, raw_volume
from segtrain.errors import ConfigError, DataError

log = logging.getLogger(__name__)

NEEDED = ("patients", "read")
ROOT_NAMES = ("root", "folder", "data_root", "path")
CFG_NAMES = ("cfg", "config", "data")
_fingerprints: dict[str, str] = {}  # by code, options and root: a process reads the data once for it


def forget_fingerprints() -> None:
    """Have the data read again: in a process that goes on they may have changed."""
    _fingerprints.clear()


@dataclass(frozen=True)
class OwnSource:
    """The source that `data.source=FILE.py:NAME` names: a class, or a function that returns an object like one."""

    cfg: DataConfig

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnSource, (self.cfg,)  # the user's object stays in its process

    @property
    def reference(self) -> Reference:
        """Where its code is."""
        return Reference.of(name_of(self.cfg.source))

    @cached_property
    def mine(self) -> Any:
        """The user's object. Raises ConfigError: it cannot be made, or has no `patients` or `read`."""
        factory = load(self.reference)
        if not callable(factory):
            mine = factory
        else:
            arguments = self._arguments(factory)
            with explained(self.reference, "cannot be made", "see that it works by hand"):
                mine = factory(**arguments)
        for name in NEEDED:
            if not callable(getattr(mine, name, None)):
                raise ConfigError(f"{self.reference}: a source needs a method {name}; see docs/own_parts.md")
        return mine

    def _arguments(self, factory: Any) -> dict[str, Any]:
        """The options of the config, and root and config where the parameters ask for them. Raises ConfigError."""
        arguments = options_of(self.cfg.source)
        parameters = inspect.signature(factory).parameters
        root = None if self.cfg.root is None else expanded(self.cfg.root)
        for name, parameter in parameters.items():
            if name in arguments or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if name in CFG_NAMES:
                arguments[name] = self.cfg
            elif name in ROOT_NAMES and (root or parameter.default is parameter.empty):
                if root is None:
                    raise ConfigError(f"{self.reference}: takes the folder of the data; add data.root=FOLDER")
                arguments[name] = root
            elif parameter.default is parameter.empty:
                raise ConfigError(
                    f"{self.reference}: its parameter {name} has no value; give it one, data.source.{name}=..., or a "
                    f"default (a folder is called root, the config cfg)"
                )
        return arguments

    @contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        """A context for a call of the user's code, whose failures become a DataError of one line."""
        _ = self.mine  # one that cannot be made is another error
        try:
            with explained(self.reference, f"{what} failed", "mend it, and try segtrain check"):
                yield
        except ConfigError as error:
            raise DataError(str(error)) from error

    @property
    def label(self) -> str:
        return f"{self.reference.short} of {self.cfg.root}" if self.cfg.root else self.reference.short

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The contrasts that it reads, in its own order. Raises DataError."""
        names = getattr(self.mine, "contrasts", None)
        if callable(names):
            with self._calling("contrasts()"):
                names = names()
        if names is None or isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
            raise DataError(
                f"{self.reference}: contrasts is {names!r}, but the names of the channels are needed; "
                "write contrasts = ('t1', 'flair')"
            )
        if len(set(map(canonical, names))) != len(names) or not names:
            raise DataError(f"{self.reference}: contrasts has {first_few(names)}; name each contrast once")
        return tuple(names)

    @property
    def contrasts(self) -> tuple[str, ...]:
        self._channels()
        return self.cfg.contrasts or self.names

    def _channels(self) -> list[int] | None:
        """Places of the contrasts that the config names; None: all as they are. Raises DataError."""
        if not self.cfg.contrasts:
            return None
        places = {canonical(name): place for place, name in enumerate(self.names)}
        for name in self.cfg.contrasts:
            if canonical(name) not in places:
                raise DataError(
                    f"{self.reference}: data.contrasts names {name}, but it has {first_few(self.names)}; name those"
                )
        return [places[canonical(name)] for name in self.cfg.contrasts]

    @property
    def rules(self) -> LabelRules:
        return LabelRules.of(self.cfg)

    def patients(self) -> list[str]:
        with self._calling("patients()"):
            names = list(self.mine.patients())
        if not names:
            raise DataError(f"{self.reference}: patients() gives none; set data.root to the folder that has them")
        if odd := [name for name in names if not isinstance(name, str) or not name or "/" in name or name[0] == "."]:
            raise DataError(
                f"{self.reference}: patient {odd[0]!r}: files are named by ids; make them of letters, digits and _"
            )
        refuse_odd_names(names, Path(self.reference.short))
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise DataError(f"{self.reference}: patient {twice[0]} is listed twice; list each patient once")
        return sorted(names)

    def raw(self, patient: str) -> RawVolume:
        """What it reads of the patient, checked. Raises DataError."""
        with self._calling(f"read({patient!r})"):
            result = self.mine.read(patient)
            spacing_mm = self._optional("spacing_mm", patient)
        return raw_volume(result, spacing_mm, len(self.names), f"{self.reference.short}: read({patient!r})")

    def _optional(self, name: str, patient: str) -> Any:
        """What the optional attribute says of the patient: a method of it, or a value for all; None without it."""
        attribute = getattr(self.mine, name, None)
        return attribute(patient) if callable(attribute) else attribute

    def read(self, patient: str) -> Volume:
        raw = self.raw(patient)
        channels = self._channels()
        image_shwc = raw.image_shwc if channels is None else np.ascontiguousarray(raw.image_shwc[..., channels])
        labels = None
        if raw.labels_shw is not None:
            labels = self.rules.read(Path(f"{self.reference.short}: labels of {patient}"), raw.labels_shw)
        slices = len(image_shwc)
        return Volume(
            image_shwc=image_shwc,
            mask_shw=None if labels is None else labels.bits,
            slice_names=plain_slice_names(slices),
            slice_numbers=tuple(range(1, slices + 1)),
            remarks=labels.remarks if labels else (),
            has_one_range=bool(getattr(self.mine, "has_one_range", False)),
            spacing_mm=raw.spacing_mm,
            label_voxels=labels.voxels if labels else {},
        )

    def slices(self, patient: str) -> int:
        with self._calling("slices()"):
            count = self._optional("slices", patient)
        return len(self.raw(patient).image_shwc) if count is None else int(count)

    def fingerprint(self, check: Check = no_check) -> str:
        code = own_code(self.reference)
        identity = repr((self.reference.short, code and code.hashes(), options_of(self.cfg.source)))
        key = f"{identity} {self.cfg.root}"
        if key not in _fingerprints:
            self.refuse_changing(self.patients()[0])
            _fingerprints[key] = digest(self._content(identity, check))
        return _fingerprints[key]

    def _content(self, identity: str, check: Check) -> Iterator[bytes]:
        """All that it reads; where it has a fingerprint, that and its code, which decides what is read."""
        if callable(fingerprint := getattr(self.mine, "fingerprint", None)):
            with self._calling("fingerprint()"):
                yield f"{identity} {fingerprint()}".encode()
            return
        yield repr(self.names).encode()
        patients = self.patients()
        log.info("%s has no fingerprint(): reading all %d patients to know the data again", self.label, len(patients))
        for patient in patients:
            check()
            yield patient.encode()
            try:
                yield self.raw(patient).digest.encode()
            except DataError as error:  # told when the patient is prepared, or left out
                yield str(error).encode()

    def refuse_changing(self, patient: str) -> None:
        """Raises DataError where the patient is not the same when it is read again (L6)."""
        try:
            first = self.raw(patient)
        except DataError:  # told when the patient is prepared, or left out
            return
        if first.digest != self.raw(patient).digest:
            raise DataError(
                f"{self.reference}: read({patient!r}) gives other values the second time; make it depend on the "
                "patient alone, without random numbers"
            )

    def stamp(self) -> None:
        return None

    def takes(self, name: str) -> bool:
        return False

    def passed_over(self) -> Mapping[str, Sequence[str]]:
        """Nothing: what it reads of its folder is known to itself alone."""
        return {}

    def person(self, patient: str) -> str | None:
        """The person whom the source names."""
        with self._calling("person()"):
            person = self._optional("person", patient)
        return None if person is None else str(person)

    def institution(self, patient: str) -> str:
        with self._calling("institution()"):
            return str(self._optional("institution", patient) or "unknown")

    def write_mask(self, patient: str, mask_shw: NDArray[np.bool_], folder: Path) -> list[Path]:
        """By its own method, or an 8-bit TIFF of 0 and 255 for each slice."""
        if callable(write := getattr(self.mine, "write_mask", None)):
            with self._calling("write_mask()"):
                return [Path(file) for file in write(patient, mask_shw, folder)]
        names = plain_slice_names(len(mask_shw))
        return write_masks(mask_shw, [folder / patient / f"{name}_mask.tif" for name in names])

    def write_probability(self, patient: str, probability_shw: NDArray[np.float32], folder: Path) -> Path:
        if callable(write := getattr(self.mine, "write_probability", None)):
            with self._calling("write_probability()"):
                return Path(write(patient, probability_shw, folder))
        return write_pages(probability_shw, folder / f"{patient}.tif")
