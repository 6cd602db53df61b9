"""Slices in image files under any names: a folder a patient, or twin folders of images and masks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from segtrain.config import LGG_CONTRASTS, canonical
from segtrain.config.paths import expanded
from segtrain.data.sources.base import Check, digest, first_few, no_check
from segtrain.data.sources.images import SliceFiles, SliceSource, add_file, refuse_unpaired
from segtrain.data.sources.listing import (
    digest_of_contents,
    digest_of_states,
    escaped,
    is_broken_link,
    refuse_broken_link,
    refuse_odd_names,
)
from segtrain.data.sources.numbering import in_order
from segtrain.data.sources.slice_contrasts import (
    common_contrasts,
    contrasts_of,
    refuse_contrasts_for_people,
    refuse_strays,
)
from segtrain.data.sources.slice_folders import LOOSE, SliceFile, SliceFolders, slice_folders
from segtrain.data.sources.slice_names import in_usual_order, known_contrasts
from segtrain.data.sources.slice_people import by_groups, by_leading_id, nobody_known
from segtrain.errors import LEAVE_OUT, DataError

COLOURS = 3  # channels of a colour image
GREY_MODES = ("1", "L", "I;16", "I;16B", "I")  # Pillow's


@dataclass(frozen=True)
class FolderSource(SliceSource):
    """Each folder below `root` is a patient, or `root` itself is the only one; so it is in each of two twin folders.

    Slices are in the order of the numbers in their names. `<name>_mask` (or _seg, _segmentation, _gt), or the file of
    the same name in the folder of masks, is the mask of `<name>`: for all slices of a patient or for none. A contrast
    is a file of its own (`<name>_flair`, or a folder `flair`), or a channel.

    for_training: slices in no patient's folder are an error where nobody knows whose they are; else they are a volume.
    """

    for_training: bool = False

    @property
    def label(self) -> str:
        return f"slices in {escaped(str(self.root))}"

    @cached_property
    def found(self) -> SliceFolders:
        """What lies below the root. Raises DataError."""
        return slice_folders(self.root, known_contrasts(self.cfg.contrasts))

    @cached_property
    def _names_contrasts(self) -> frozenset[str]:
        """The contrasts that names and folders of most slices' files say; none where most have no contrast."""
        return contrasts_of(file for files in self.found.files.values() for file in files)

    @property
    def _groups(self) -> Path | None:
        return expanded(self.cfg.groups) if self.cfg.groups and self.for_training else None

    @cached_property
    def _by_patient(self) -> dict[str, list[SliceFile]]:
        """Each patient's files, of slices and masks. Raises DataError where it is not clear whose a slice is."""
        loose = self.found.files.get(LOOSE, [])
        folders = [patient for patient in self.found.folders if patient != LOOSE]
        inside = [patient for patient in folders if self.found.files.get(patient)]
        if not loose:
            names = inside if self.found.has_twins else folders
            return {patient: self.found.files.get(patient, []) for patient in sorted(names)}
        if inside:
            raise DataError(
                f"{self.root}: slices beside folders ({inside[0]}), so it is not clear what is a volume; "
                "move the slices into a folder of their own"
            )
        if self._names_contrasts:
            refuse_strays(loose)
        keys = list(dict.fromkeys(self._key(file) for file in loose if not file.name.is_mask))
        if not keys:
            self._refuse_jpeg(LOOSE)
        if self._groups is not None:
            patients = by_groups(keys, self._groups)
        elif (by_id := by_leading_id(keys)) is not None:
            patients = by_id
        elif self.for_training:
            raise nobody_known(self.root, keys)
        else:
            patients = {self.root.resolve().name: keys}
        owner = {key: patient for patient, of_patient in patients.items() for key in of_patient}
        strays = next(iter(patients))  # a mask without slice is named when its patient is read
        by_patient: dict[str, list[SliceFile]] = {patient: [] for patient in patients}
        for file in loose:
            by_patient[owner.get(self._key(file), strays)].append(file)
        return by_patient

    def _key(self, file: SliceFile) -> str:
        return file.name.key if self._names_contrasts else file.name.whole

    @cached_property
    def contrasts(self) -> tuple[str, ...]:
        named = self.cfg.contrasts
        if len(self._names_contrasts) > 1:
            if named or not self.for_training:
                return named or LGG_CONTRASTS
            return common_contrasts(self.root, self.contrast_counts, len(self._labelled))
        channels = self._channels
        if named and len(named) != channels:
            raise DataError(
                f"{self.root}: {channels} channel(s) a file, but data.contrasts names {len(named)} "
                f"({first_few(named)}); name {channels}, or give each contrast a file <slice>_<contrast>"
            )
        if named:
            return named
        if channels == 1:
            return tuple(self._names_contrasts) or ("channel_1",)
        if not self.for_training:
            return LGG_CONTRASTS  # of a network whose run names none
        return tuple(f"channel_{number}" for number in range(1, channels + 1))

    @cached_property
    def contrast_counts(self) -> Mapping[str, int]:
        """The number of patients that have files of each contrast."""
        counts: Counter[str] = Counter()
        for patient in self._labelled:
            files = self._by_patient[patient]
            counts.update({file.name.contrast for file in files if not file.name.is_mask and file.name.contrast})
        return {name: counts[name] for name in in_usual_order(counts)}

    @property
    def _labelled(self) -> list[str]:
        """The patients that are not left out; all where that would be none."""
        left_out = self.left_out()
        return [patient for patient in self._by_patient if patient not in left_out] or list(self._by_patient)

    @cached_property
    def _channels(self) -> int:
        """Channels of the first image whose header can be read; reading names those that differ."""
        for files in self._by_patient.values():
            for file in files:
                if file.name.is_mask:
                    continue
                try:
                    with Image.open(file.path, formats=["PNG", "TIFF"]) as image:
                        return 1 if image.mode in GREY_MODES else COLOURS
                except Exception:  # noqa: BLE001  reading the file says what is wrong with it
                    continue
        return COLOURS

    def patients(self) -> list[str]:
        """Names of the volumes' folders, or of people, sorted; for training without those that have no masks."""
        refuse_odd_names(self._by_patient, self.root)
        left_out = self.left_out()
        if left_out and len(left_out) == len(self._by_patient):
            raise DataError(
                f"{self.root}: 0 of {len(left_out)} patients have masks; add <slice>_mask.png beside each slice, or a "
                "folder masks beside the folder images"
            )
        if self.for_training and self.cfg.groups is None:
            refuse_contrasts_for_people(self.root, self._by_patient, known_contrasts(self.cfg.contrasts))
        return [patient for patient in self._by_patient if patient not in left_out]

    def left_out(self) -> Mapping[str, str]:
        """For training the patients with slices and without masks, each with the reason."""
        if not self.for_training:
            return {}
        return {
            patient: f"patient {patient}: no mask among its files"
            for patient, files in self._by_patient.items()
            if files and not any(file.name.is_mask for file in [*files, *self._lossy(patient)])
        }

    def _lossy(self, patient: str) -> list[SliceFile]:
        """The patient's JPEG files; of slices in no patient's folder, everybody's."""
        has_folder = bool(self.found.folders.get(patient))
        return self.found.lossy.get(patient if has_folder else LOOSE, [])

    def folder(self, patient: str) -> Path:
        folders = self.found.folders
        return (folders.get(patient) or folders[LOOSE])[0]

    def files(self, patient: str) -> SliceFiles:
        folder = self.folder(patient)
        refuse_broken_link(folder)
        if self._names_contrasts:
            refuse_strays(self._by_patient[patient])
        images: dict[str, dict[str, Path]] = {}  # by contrast and slice
        masks: dict[str, Path] = {}
        for file in self._by_patient[patient]:
            of_contrast = images.setdefault(file.name.contrast or "" if self._names_contrasts else "", {})
            add_file(masks if file.name.is_mask else of_contrast, self._key(file), file.path)
        images = {contrast: paths for contrast, paths in images.items() if paths}
        if not images:
            self._refuse_jpeg(patient)
            option = "data.root" if self.for_training else "--images"
            raise DataError(
                f"{folder}: 0 slices (.tif, .png) in this folder; add them or set {option} to a folder without it"
            )
        first = next(iter(images.values()))
        refuse_odd_names([path.name for path in first.values()], folder)
        self._refuse_jpeg_twin(patient, first, masks)
        refuse_unpaired(first, masks)
        names = in_order(list(first), folder)
        paths = {name: self._slices_of(name, images[key], names) for name, key in self._chosen(images).items()}
        return SliceFiles(
            images=next(iter(paths.values())) if paths else tuple(first[name] for name in names),
            masks=tuple(masks[name] for name in names if masks),
            numbers=tuple(range(1, len(names) + 1)),
            by_contrast=paths,
            names=tuple(names) if paths else (),
        )

    def _chosen(self, images: Mapping[str, object]) -> dict[str, str]:
        """The patient's contrasts by the name that the source gives them; none where a file has all."""
        if len(self._names_contrasts) < 2:
            return {}
        chosen = {name: canonical(name) for name in self.contrasts if canonical(name) in images}
        if not chosen:
            raise DataError(
                f"{self.root}: a patient with none of the contrasts {first_few(self.contrasts)}, but "
                f"{first_few(sorted(images))}; name one that all have in data.contrasts, or {LEAVE_OUT}"
            )
        return chosen

    def _slices_of(self, contrast: str, paths: Mapping[str, Path], names: Sequence[str]) -> tuple[Path, ...]:
        """The contrast's files, one for each slice. Raises DataError."""
        if odd := sorted(set(names) ^ paths.keys()):
            example = next(iter(paths.values()))
            raise DataError(
                f"{example.parent}: slice {odd[0]} has {'no' if odd[0] in names else 'a'} file of {contrast}, unlike "
                f"its other contrasts; give each slice one of every contrast, or {LEAVE_OUT}"
            )
        return tuple(paths[name] for name in names)

    def _refuse_jpeg(self, patient: str) -> None:
        """Raises DataError for a patient with no other images."""
        if lossy := self.found.lossy.get(patient):
            raise DataError(
                f"{lossy[0].path}: JPEG, which changes grey levels and labels ({len(lossy)} such, no .png or .tif "
                "beside them); export the original images as PNG or TIFF"
            )

    def _refuse_jpeg_twin(self, patient: str, images: Mapping[str, Path], masks: Mapping[str, Path]) -> None:
        """Raises DataError where a slice's mask, or a mask's slice, is there as JPEG alone."""
        for file in self._lossy(patient):
            key, is_mask = self._key(file), file.name.is_mask
            if key in (images if is_mask else masks) and key not in (masks if is_mask else images):
                what = "mask" if is_mask else "image"
                raise DataError(
                    f"{file.path}: a JPEG as {what} of slice {key}, which changes grey levels and labels; export the "
                    f"original {what} as PNG or TIFF"
                )

    @property
    def _all_files(self) -> list[Path]:
        """What the source's volumes depend on, links to lost folders among them."""
        files = [file.path for files in self._by_patient.values() for file in files]
        lost = [folder for folders in self.found.folders.values() for folder in folders if is_broken_link(folder)]
        return sorted([*files, *lost])

    def fingerprint(self, check: Check = no_check) -> str:
        content = digest_of_contents(self.root, self._all_files, check)
        return digest([content.encode(), *self._grouped()]) if self._grouped() else content

    def stamp(self) -> str:
        state = digest_of_states(self.root, self._all_files)
        return digest([state.encode(), *self._grouped()]) if self._grouped() else state

    def _grouped(self) -> list[bytes]:
        """What the file of groups decides: whose the slices are that lie in no patient's folder."""
        if self._groups is None or not self.found.files.get(LOOSE):
            return []
        return [f"{p} {[file.path.name for file in files]}".encode() for p, files in self._by_patient.items()]

    def passed_over(self) -> Mapping[str, Sequence[str]]:
        """What lies below the root and is not read, by reason."""
        reasons = {reason: sorted(map(escaped, names)) for reason, names in self.found.passed_over.items()}
        if len(self._names_contrasts) > 1:
            for contrast in in_usual_order(set(self.contrast_counts) - set(map(canonical, self.contrasts))):
                names = [escaped(str(path.relative_to(self.root))) for path in self._paths_of(contrast)]
                reasons[f"{contrast}, not among the contrasts that are taken"] = names
        if self.found.has_twins:
            empty = [escaped(p) for p in self.found.folders if p != LOOSE and not self.found.files.get(p)]
            reasons |= {"a folder without slices": empty} if empty else {}
        return reasons

    def _paths_of(self, contrast: str) -> list[Path]:
        files = [file for files in self._by_patient.values() for file in files]
        return [file.path for file in files if file.name.contrast == contrast and not file.name.is_mask]
