"""The parts of the user's own that a config names: found, checked against their signatures, hashed, moved.

Nothing of them is run. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segtrain.config.choice import PART, Choice, name_of, options_of, with_name
from segtrain.config.loss_terms import TAKES
from segtrain.config.own_code import OwnCode, own_code
from segtrain.config.paths import expanded, is_file
from segtrain.config.reference import Reference
from segtrain.config.schema import Config
from segtrain.config.signature import signature_of
from segtrain.errors import ConfigError

CODE = "code"  # the folder beside a config that holds the files of its parts; see run/layout.py
RANGE = "range"  # the option of data.augment that says which values an augmentation of the user's own expects
RANGES = ("zscore", "unit", "uint8")  # as in the store; 0 to 1; 0 to 255
KEYS = {
    "model": "model.name",
    "augment": "data.augment",
    "optim": "optim.name",
    "schedule": "optim.schedule",
    "source": "data.source",
}
# Options that segtrain reads, unless the part has a parameter of that name: whether a schedule counts steps or epochs,
# how a loss is called.
RESERVED = {"optim.schedule": ("unit",), "loss": (TAKES,)}


@dataclass(frozen=True)
class OwnPart:
    """One part of the user's own. `folder` names it in `code`, `key` is the config's key that chooses it."""

    folder: str
    key: str
    reference: Reference
    options: Mapping[str, Any]

    def code(self) -> OwnCode | None:
        """Its files; None for a part of an installed package. Raises ConfigError, naming the key."""
        try:
            return own_code(self.reference)
        except ConfigError as error:
            raise ConfigError(f"{self.key}={error}") from error

    def check(self) -> None:
        """Raise ConfigError where its file is missing, has no such name, or does not take the options."""
        options = dict(self.options)
        if self.key == KEYS["augment"] and (values := options.pop(RANGE, RANGES[0])) not in RANGES:
            raise ConfigError(f"{self.key}.{RANGE}={values}: no such range; set it to one of {', '.join(RANGES)}")
        try:
            signature = signature_of(self.reference)
            ours = set(RESERVED.get(self.key, ())) - set(signature.names())
            signature.check(self.reference.short, {k: v for k, v in options.items() if k not in ours})
        except ConfigError as error:
            raise ConfigError(f"{self.key}={error}") from error
        except ValueError as error:
            raise ConfigError(f"{self.key}: {error}; change {self.key}") from error


def own_parts(cfg: Config) -> list[OwnPart]:
    """The parts of the user's own, each under a name of its own."""
    choices = {folder: (key, _value(cfg, key)) for folder, key in KEYS.items()}
    loss = cfg.loss
    if isinstance(loss, str) or PART in loss:
        choices["loss"] = ("loss", loss)
    else:
        for place, (name, term) in enumerate(loss.items(), start=1):
            options = {key: value for key, value in term.items() if key != "weight"} if isinstance(term, dict) else {}
            choices[f"loss-{place}"] = ("loss", {PART: name, **options})
    return [
        OwnPart(folder, key, reference, options_of(choice))
        for folder, (key, choice) in choices.items()
        if (reference := Reference.parse(name_of(choice)))
    ]


def with_code(cfg: Config) -> Config:
    """The config with the hashes of its own parts' files. Raises ConfigError: a part that is not there, or not so."""
    hashes: dict[str, str] = {}
    for part in own_parts(cfg):
        part.check()
        if code := part.code():
            hashes |= {f"{part.folder}/{path}": digest for path, digest in code.hashes().items()}
    return replace(cfg, code=hashes)


def beside(cfg: Config, folders: Sequence[Path]) -> Config:
    """The config whose own parts are looked for in the working directory, then in `folders`, those of its files.

    A run's config finds the copies of its parts in the `code` folder beside it.
    """
    places: dict[str, Path] = {}
    for part in own_parts(cfg):
        path = expanded(part.reference.where)
        if not part.reference.is_file or is_file(path):
            continue
        copied = next((name for name in cfg.code if name.startswith(f"{part.folder}/")), None)
        candidates = [folder / path for folder in folders]
        candidates += [folder / CODE / copied for folder in folders if copied]
        if there := next((file for file in candidates if is_file(file)), None):
            places[part.folder] = there.resolve()
    return moved(cfg, places)


def portable(cfg: Config) -> Config:
    """The config as it is wherever the files of its own parts lie."""
    files_of = {part.folder: part.reference for part in own_parts(cfg) if part.reference.is_file}
    return moved(cfg, {folder: Path(Path(reference.where).name) for folder, reference in files_of.items()})


def moved(cfg: Config, places: Mapping[str, Path]) -> Config:
    """The config with its own parts, by folder, in other files."""

    def elsewhere(folder: str, choice: Choice) -> Choice:
        reference = Reference.parse(name_of(choice))
        if reference is None or folder not in places:
            return choice
        return with_name(choice, str(reference.moved(places[folder])))

    loss: Any = cfg.loss
    if isinstance(loss, str) or PART in loss:
        loss = elsewhere("loss", loss)
    else:
        pairs = enumerate(loss.items(), start=1)
        loss = {name_of(elsewhere(f"loss-{place}", name)): term for place, (name, term) in pairs}
    return replace(
        cfg,
        loss=loss,
        model=replace(cfg.model, name=elsewhere("model", cfg.model.name)),
        data=replace(
            cfg.data,
            augment=elsewhere("augment", cfg.data.augment),
            source=elsewhere("source", cfg.data.source),
        ),
        optim=replace(
            cfg.optim,
            name=elsewhere("optim", cfg.optim.name),
            schedule=elsewhere("schedule", cfg.optim.schedule),
        ),
    )


def in_folder(cfg: Config, folder: Path) -> Config:
    """The config with its own parts in the copies that lie in `folder`. Raises ConfigError: missing, or changed."""
    checked = dict(cfg.code)
    places: dict[str, Path] = {}
    for name in checked:
        places.setdefault(name.partition("/")[0], folder / name)  # a part's own file is its first
    copied = moved(cfg, places)
    there = with_code(copied).code
    for name in {**checked, **there}:
        if checked.get(name) != there.get(name):
            raise ConfigError(
                f"{folder / name}: is not the file that the run was trained with ({str(there.get(name))[:12]}, not "
                f"{str(checked.get(name))[:12]}); bring it back"
            )
    return copied


def _value(cfg: Config, key: str) -> Choice:
    section, name = key.split(".")
    value: Choice = getattr(getattr(cfg, section), name)
    return value


def files_of(part: OwnPart) -> list[tuple[str, Path]]:
    """The files of a part by their path below its folder, its own first; none of an installed package."""
    code = part.code()
    return [] if code is None else [(file.relative_to(code.root).as_posix(), file) for file in code.files]
