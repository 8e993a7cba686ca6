"""The accuracy gate: what an INT8 file loses on validation images, and the layers that go back until it may pass.

The most sensitive layers return to floating point, most sensitive first. How many are needed is found by doubling and
halving, and then each is tried in INT8 again, so that as few as possible stay out.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext.backends import base
from edgeresnext.backends.base import Session
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES, Keep, int8_share
from edgeresnext.compiler.sensitivity import ALL, layer_costs
from edgeresnext.data import folder
from edgeresnext.errors import AccuracyError, BackendError, DataError, RequestError
from edgeresnext.measure.accuracy import best_classes, classify
from edgeresnext.measure.statistics import mcnemar
from edgeresnext.spec import Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeresnext.compiler.graph import Graph
    from edgeresnext.data.folder import ImageFolder
    from edgeresnext.measure.accuracy import Classified
    from edgeresnext.pipeline.onnx_files import Writer
    from edgeresnext.progress import Progress
    from edgeresnext.spec import Gate, ModelSpec, OnnxFile, Plan

DEFAULT_MAX_DROP = 0.5
_RANKING_IMAGES, _RANKING_BATCH = 16, 8
_POINTS = 100
"""Points of top-1 in all."""
_CHANCES = 2
"""Times what guessing reaches, up to which the labels are probably not those of the network."""
_BASELINE = "PyTorch"
_ARITHMETIC = "exact"
"""Who computed what a file says: nobody's kernels."""
_ROUNDING = 1e-9
_MOST_BYTES = 2**28
"""Of decoded images that are kept while plans are tried: 1,783 images of 224 px."""
_log = logging.getLogger("edgeresnext")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The images of a gate.

    Args:
        gate: What is to be reached.
        photos: The images.
        targets: Right class of each image; None where it does not matter.
    """

    gate: Gate
    photos: ImageFolder
    targets: tuple[int, ...] | None = None


def prepare(gate: Gate, *, trained: bool) -> Validation:
    """Check a gate and list its images; where neither limit is given, at most 0.5 points of top-1 may be lost.

    Raises:
        RequestError: A limit is out of range, or accuracy is asked of random weights.
        DataError: The folder cannot be used, or has no classes where accuracy is asked for.
    """
    if gate.max_drop is None and gate.min_agreement is None:
        gate = msgspec.structs.replace(gate, max_drop=DEFAULT_MAX_DROP)
    if gate.max_drop is not None and not 0 <= gate.max_drop <= _POINTS:
        raise RequestError(f"--max-drop is {gate.max_drop:g}", "Give points of top-1 from 0 to 100, such as 0.5.")
    if gate.min_agreement is not None and not 0 < gate.min_agreement <= 1:
        raise RequestError(f"--min-agreement is {gate.min_agreement:g}", "Give a share up to 1, such as 0.99.")
    if not 0 <= gate.min_int8 <= 1:
        raise RequestError(f"--min-int8 is {gate.min_int8:g}", "Give a share from 0 to 1, such as 0.5.")
    photos = folder.scan(gate.validation)
    if gate.max_drop is not None and not trained:
        raise RequestError(
            "random weights have no accuracy to lose", "Compare with PyTorch instead: --min-agreement 0.99."
        )
    if gate.max_drop is not None and not photos.classes:
        raise DataError(
            f"validation folder '{photos.root}' has no class folders, so that top-1 cannot be told",
            "Put the images into one folder a class, or leave --max-drop out and compare with PyTorch alone: "
            "--min-agreement 0.99.",
        )
    return Validation(gate=gate, photos=photos)


def match(validation: Validation, labels: Sequence[str], graph: Graph, kept: Collection[str]) -> Validation:
    """Return a validation whose images have the classes of the network.

    Args:
        validation: The images.
        labels: Of the network, in the order of its logits.
        graph: The network.
        kept: Layers that are kept out of INT8 by hand.

    Raises:
        DataError: A class folder is none of the network's labels.
        RequestError: Too few convolutions would be INT8 from the start.
    """
    share = int8_share(graph, kept)
    if share < validation.gate.min_int8:
        raise RequestError(
            f"--keep leaves {share:.0%} of the convolutions in INT8, less than --min-int8 {validation.gate.min_int8:g}",
            "Keep fewer layers, or ask for less.",
        )
    photos = validation.photos
    if validation.gate.max_drop is None:
        return validation
    mapping = folder.match_classes(photos.classes, labels, photos.root)
    return dataclasses.replace(validation, targets=tuple(mapping[target] for target in photos.targets))


class _Kept:
    """Keeps decoded images, as long as they do not take too much memory, so that further plans need not decode them."""

    def __init__(self) -> None:
        self.whole = True
        self._batches: list[NDArray[np.uint8]] = []
        self._bytes = 0

    def add(self, images: NDArray[np.uint8], *_: object) -> None:
        """Keep a batch."""
        self._bytes += images.nbytes
        self.whole = self._bytes <= _MOST_BYTES
        self._batches = [*self._batches, images] if self.whole else []

    @property
    def images(self) -> NDArray[np.uint8]:
        """All of them."""
        if len(self._batches) > 1:
            self._batches = [np.concatenate(self._batches)]
        return self._batches[0]


@dataclass(kw_only=True)
class Jury:
    """Judges the INT8 files of a build on validation images.

    Args:
        writer: Writes the files.
        validation: The images, and what is to be reached on them.
        calibrated: Digests of the images that the ranges were taken from.
        progress: Told how far each pass over the images is.
    """

    writer: Writer
    validation: Validation
    calibrated: Collection[str]
    progress: Progress
    _baseline: Classified | None = None
    _kept: _Kept = field(default_factory=_Kept)

    def judge(self, files: Mapping[str, OnnxFile], keep: Mapping[str, Keep]) -> dict[str, OnnxFile]:
        """Return the files with their verdicts, rewritten with layers in floating point where that was needed.

        Args:
            files: INT8 files as they were written first, by name.
            keep: Layers that were kept out of INT8 by hand.

        Raises:
            AccuracyError: A file cannot pass with enough convolutions in INT8.
        """
        found = self.measure(files)
        self._warn(found)
        for name, file in found.items():
            reason = self.shortfall(file)
            if reason:
                _log.warning("%s: %s; sensitive layers go back to floating point", file.file, reason)
                found[name] = self._repaired(name, file, keep)
        return found

    def _warn(self, files: Mapping[str, OnnxFile]) -> None:
        """Say where the verdicts mean less than they seem to."""
        verdict = next(file.verdict for file in files.values())
        assert verdict is not None
        if verdict.overlap:
            _log.warning(
                "%d of the %d validation images were calibrated on: INT8 may look better than it is",
                verdict.overlap,
                verdict.images,
            )
        classes = self.writer.spec.classes
        if verdict.top1_fp32 is not None and verdict.top1_fp32 <= _CHANCES / classes:
            _log.warning(
                "PyTorch itself classifies only %.2f %% of the validation images right (chance is %.2f %%): are the "
                "folders named after the labels?",
                _POINTS * verdict.top1_fp32,
                _POINTS / classes,
            )
        limit = self.validation.gate.max_drop
        if limit and verdict.images * limit < _POINTS:
            _log.warning("one of %d validation images is more than %g points: use more", verdict.images, limit)

    def _repaired(self, name: str, file: OnnxFile, keep: Mapping[str, Keep]) -> OnnxFile:
        """Return a file that passes with as few layers as possible in floating point.

        Args:
            name: The file's name.
            file: The file as it failed.
            keep: Layers that were kept by hand.
        """
        before = self.shortfall(file)
        ranking = self._ranking(name, keep)
        most = self._most(name, keep, ranking)
        search = _Search(jury=self, name=name, keep=keep, ranking=ranking, closest=file)
        search.shortest_prefix(most)
        if search.passing is None:
            share = self._share(name, self.writer.plan(name, {**search.prefix(most), **keep}))
            raise AccuracyError(
                f"{file.file} cannot pass the gate: in INT8 {before}; the best of {search.tries} "
                f"plans, down to {share:.0%} of the convolutions in INT8: {self.shortfall(search.closest)}. "
                "Nothing was published.",
                f"Allow more layers in floating point (--min-int8 {self.validation.gate.min_int8:g} now), calibrate on "
                "more or other images, try another --method, or leave INT8 out: --precision fp32 --precision fp16.",
            )
        search.spare()
        found, needed = search.passing
        self.writer.write(name, {**needed, **keep})  # the last attempt may have been another
        assert found.verdict is not None
        verdict = msgspec.structs.replace(
            found.verdict, returned=tuple(needed), tries=search.tries, without_returning=before
        )
        return msgspec.structs.replace(found, verdict=verdict)

    def _ranking(self, name: str, keep: Mapping[str, Keep]) -> dict[str, Keep]:
        """Return the INT8 layers of a file, the most sensitive first, each with the reason to return it."""
        images = self.writer.images
        assert images is not None
        costs = layer_costs(
            self.writer.graph,
            self.writer.numbers(name, keep),
            ((images[i : i + _RANKING_BATCH], None) for i in range(0, _RANKING_IMAGES, _RANKING_BATCH)),
            lambda done, total: self.progress(f"sensitivity {name}", done, total),
        )
        ranked = sorted((cost for cost in costs if cost.layer != ALL), key=lambda cost: cost.snr_db)
        return {
            cost.layer: Keep(precision="fp16", reason=f"returned by the accuracy gate ({cost.snr_db:.1f} dB alone)")
            for cost in ranked
        }

    def _most(self, name: str, keep: Mapping[str, Keep], ranking: Mapping[str, Keep]) -> int:
        """Return how many layers of the ranking may be returned before too few convolutions are INT8."""
        floating = {layer for layer, kind in self.writer.plan(name, keep).layers.items() if kind != "int8"}
        for count, layer in enumerate(ranking):
            floating.add(layer)
            grouped = name not in GROUPED_FLOAT_FILES
            if int8_share(self.writer.graph, floating, grouped=grouped) < self.validation.gate.min_int8:
                return count
        return len(ranking)

    def measure(self, files: Mapping[str, OnnxFile]) -> dict[str, OnnxFile]:
        """Return files, as they lie in the writer's folder, with verdicts; PyTorch runs beside the first ones."""
        exact = {name: _ExactSession(self.writer.folder / f"{name}.onnx", self.writer.spec) for name in files}
        if self._baseline is None or not self._kept.whole:
            found = self._classified(exact)
        else:
            best = {name: best_classes(session.run(self._kept.images)) for name, session in exact.items()}
            self.progress("accuracy gate", len(self._kept.images), len(self._kept.images))
            found = dataclasses.replace(self._baseline, best=best)
        if self._baseline is None:
            self._baseline = found
        return {
            name: msgspec.structs.replace(file, verdict=self._verdict(name, file.plan, found))
            for name, file in files.items()
        }

    def _classified(self, exact: Mapping[str, Session]) -> Classified:
        """Run files over the images, decoded anew; PyTorch beside the first ones."""
        spec = self.writer.spec
        sessions: dict[str, Session] = {}
        weights = self.writer.folder.parent / bundles.WEIGHTS
        try:
            if self._baseline is None:
                sessions[_BASELINE] = base.get(base.BASELINE).open(weights, spec, base.BASELINE_ARTIFACT)
            sessions |= exact
            photos = self.validation.photos
            found = classify(
                sessions,
                photos.images,
                self.validation.targets,
                spec.preprocess,
                lambda done, total: self.progress("accuracy gate", done, total),
                watcher=self._kept if self._baseline is None else None,
            )
        finally:
            for session in sessions.values():
                session.close()
        if found.failures:
            raise BackendError(f"the accuracy gate could not run: {'; '.join(found.failures.values())}")
        return found

    def _verdict(self, name: str, plan: Plan, found: Classified) -> Verdict:
        """Compare what a file said of each image with what PyTorch said."""
        assert self._baseline is not None
        expected, own = self._baseline.best[_BASELINE][:, 0], found.best[name][:, 0]
        verdict = Verdict(
            images=len(own),
            runtime=_ARITHMETIC,
            agreement=float((expected == own).mean()),
            int8_convolutions=self._share(name, plan),
            overlap=sum(digest in self.calibrated for digest in found.digests),
        )
        if found.targets is None:
            return verdict
        right, still = expected == found.targets, own == found.targets
        flips = found.flips(name, expected)
        assert flips is not None
        return msgspec.structs.replace(
            verdict,
            top1_fp32=float(right.mean()),
            top1=float(still.mean()),
            drop=100 * float(np.mean(right) - np.mean(still)),
            lost=flips[0],
            gained=flips[1],
            p_value=mcnemar(*flips),
        )

    def _share(self, name: str, plan: Plan) -> float:
        """Return the share of the convolutions that are INT8; without grouped ones where the file has none of these."""
        floating = [layer for layer, kind in plan.layers.items() if kind != "int8"]
        return int8_share(self.writer.graph, floating, grouped=name not in GROUPED_FLOAT_FILES)

    def shortfall(self, file: OnnxFile) -> str:
        """Return by how much a file misses what is asked of it, or nothing."""
        gate, verdict = self.validation.gate, file.verdict
        assert verdict is not None
        parts = [file.fidelity.shortfall("int8")]
        if file.saturated is not None and file.saturated.shortfall("int8"):
            parts.append(f"on CPUs without VNNI {file.saturated.shortfall('int8')}")
        if verdict.int8_convolutions < gate.min_int8:
            parts.append(f"{verdict.int8_convolutions:.0%} of the convolutions are INT8 ({gate.min_int8:.0%} asked)")
        # A drop is a whole number of images: rounding must not turn 0.5 points into a little more than 0.5.
        if gate.max_drop is not None and verdict.drop is not None and verdict.drop > gate.max_drop + _ROUNDING:
            found = f"top-1 drops by {verdict.drop:.2f} points on {verdict.images} images"
            parts.append(f"{found} ({gate.max_drop:g} allowed)")
        if gate.min_agreement is not None and verdict.agreement < gate.min_agreement:
            found = f"{verdict.agreement:.2%} of {verdict.images} images agree with PyTorch"
            parts.append(f"{found} ({gate.min_agreement:.2%} asked)")
        return " and ".join(part for part in parts if part)


@dataclass(kw_only=True)
class _Search:
    """Looks for the fewest layers of a file that must be in floating point.

    Args:
        jury: Measures each plan.
        name: The file.
        keep: Layers that were kept by hand.
        ranking: The other INT8 layers, the most sensitive first.
        closest: The file that agreed most with PyTorch so far.
        tries: Plans measured so far.
        passing: The file with the fewest layers that passes, and these.
    """

    jury: Jury
    name: str
    keep: Mapping[str, Keep]
    ranking: Mapping[str, Keep]
    closest: OnnxFile
    tries: int = 1
    passing: tuple[OnnxFile, dict[str, Keep]] | None = None

    def prefix(self, count: int) -> dict[str, Keep]:
        """Return the `count` most sensitive layers."""
        return dict(list(self.ranking.items())[:count])

    def attempt(self, returned: Mapping[str, Keep]) -> bool:
        """Write and measure the file with these layers in floating point, and return whether it passes."""
        file = self.jury.writer.write(self.name, {**returned, **self.keep})
        self.tries += 1
        file = self.jury.measure({self.name: file})[self.name]
        assert file.verdict is not None
        assert self.closest.verdict is not None
        if file.verdict.agreement >= self.closest.verdict.agreement:
            self.closest = file
        if self.jury.shortfall(file):
            return False
        self.passing = file, dict(returned)
        return True

    def shortest_prefix(self, most: int) -> None:
        """Find the shortest prefix that passes: doubled until one does, then halved between the last two."""
        failed, count = 0, min(1, most)
        while count > failed and not self.attempt(self.prefix(count)):
            failed, count = count, min(2 * count, most)
        if self.passing is None:
            return
        while count - failed > 1:
            middle = (failed + count) // 2
            failed, count = (failed, middle) if self.attempt(self.prefix(middle)) else (middle, count)

    def spare(self) -> None:
        """Try each of the layers in INT8 again, the least sensitive first."""
        assert self.passing is not None
        for layer in list(self.passing[1])[::-1]:
            needed = self.passing[1]
            if len(needed) > 1:
                self.attempt({name: why for name, why in needed.items() if name != layer})


class _ExactSession(Session):
    """An ONNX file as it is written, the same on every machine."""

    def __init__(self, path: Path, model: ModelSpec) -> None:
        super().__init__(model)
        self._evaluator = Evaluator.read(path)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._evaluator.logits(images)
