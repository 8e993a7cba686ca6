"""The accuracy gate: what an INT8 file must reach on validation images, and the layers that go back until it does.

The most sensitive layers return to floating point, as few as possible (`search`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from edgeresnext import bundle as bundles
from edgeresnext.compiler.graph import Graph
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES, Keep, int8_share
from edgeresnext.compiler.sensitivity import ALL, layer_costs
from edgeresnext.data import folder
from edgeresnext.errors import AccuracyError, DataError, RequestError
from edgeresnext.pipeline.onnx_files import Writer
from edgeresnext.pipeline.search import fewest
from edgeresnext.pipeline.verdict import Judge, Validation, verdict
from edgeresnext.progress import Progress
from edgeresnext.spec import Gate, OnnxFile, Plan, Verdict

DEFAULT_MAX_DROP = 0.5
_RANKING_IMAGES, _RANKING_BATCH = 16, 8
_POINTS = 100
"""Points of top-1 in all."""
_CHANCES = 2
"""Times what guessing reaches, up to which the labels are probably not those of the network."""
_ROUNDING = 1e-9
_log = logging.getLogger("edgeresnext")


def prepare(gate: Gate, *, trained: bool) -> Validation:
    """Check a gate and list its images; where neither limit is given, at most 0.5 points of top-1 may be lost.

    Raises:
        RequestError: A limit is out of range, or accuracy is asked of random weights.
        DataError: The folder cannot be used, or has no classes where accuracy is asked for.
    """
    if gate.max_drop is None and gate.min_agreement is None:
        gate = msgspec.structs.replace(gate, max_drop=DEFAULT_MAX_DROP)
    if gate.max_drop is not None and not 0 <= gate.max_drop <= _POINTS:
        raise RequestError(
            f"max_drop is {gate.max_drop:g}", "Give points of top-1 from 0 to 100, such as 0.5.", values=("max_drop",)
        )
    if gate.min_agreement is not None and not 0 < gate.min_agreement <= 1:
        raise RequestError(
            f"min_agreement is {gate.min_agreement:g}",
            "Give a share above 0, at most 1, such as 0.99.",
            values=("min_agreement",),
        )
    if not 0 <= gate.min_int8 <= 1:
        raise RequestError(
            f"min_int8 is {gate.min_int8:g}", "Give a share from 0 to 1, such as 0.5.", values=("min_int8",)
        )
    photos = folder.scan(gate.validation)
    if gate.max_drop is not None and not trained:
        raise RequestError(
            "random weights have no accuracy to lose",
            "Compare with PyTorch instead: give a min_agreement such as 0.99, and no max_drop.",
            values=("min_agreement", "max_drop"),
        )
    if gate.max_drop is not None and not photos.classes:
        raise DataError(
            f"validation folder '{photos.root}' has no class folders, so that top-1 cannot be told",
            "Put the images into one folder a class, or compare with PyTorch alone: give a min_agreement such as 0.99, "
            "and no max_drop.",
            values=("min_agreement", "max_drop"),
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
            f"the layers to keep leave {share:.0%} of the convolutions in INT8; min_int8 is "
            f"{validation.gate.min_int8:g}",
            "Keep fewer layers, or ask for less.",
            values=("keep", "min_int8"),
        )
    photos = validation.photos
    if validation.gate.max_drop is None:
        return validation
    mapping = folder.match_classes(photos.classes, labels, photos.root, validation.gate.class_order)
    return dataclasses.replace(validation, targets=tuple(mapping[target] for target in photos.targets))


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

    @cached_property
    def _comparison(self) -> Judge:
        weights = self.writer.folder.parent / bundles.WEIGHTS
        return Judge(self.writer.spec, weights, self.validation, self.progress)

    def judge(self, files: Mapping[str, OnnxFile], keep: Mapping[str, Keep]) -> dict[str, OnnxFile]:
        """Return the files with their verdicts, rewritten with layers in floating point where that was needed.

        Args:
            files: INT8 files as they were written first, by name.
            keep: Layers that were kept out of INT8 by hand.

        Raises:
            AccuracyError: A file cannot pass with enough convolutions in INT8.
        """
        found = self.measure(files)
        first = next(file.verdict for file in found.values())
        assert first is not None
        for doubt in doubts(first, self.validation.gate, self.writer.spec.classes):
            _log.warning("%s", doubt)
        for name, file in found.items():
            reason = self._shortfall(file)
            if reason:
                _log.warning("%s: %s; sensitive layers go back to floating point", file.file, reason)
                found[name] = self._repaired(name, file, keep)
        return found

    def _shortfall(self, file: OnnxFile) -> str:
        return shortfall(self.validation.gate, file, self.writer.recipe.method)

    def _repaired(self, name: str, file: OnnxFile, keep: Mapping[str, Keep]) -> OnnxFile:
        """Return a file that passes with as few layers as possible in floating point.

        Args:
            name: The file's name.
            file: The file as it failed.
            keep: Layers that were kept by hand.
        """
        before = self._shortfall(file)
        ranking = self._ranking(name, keep)
        closest, tries = file, 1
        passing: dict[tuple[str, ...], OnnxFile] = {}

        def plan_with(layers: tuple[str, ...]) -> dict[str, Keep]:
            return {**{layer: ranking[layer] for layer in layers}, **keep}

        def passes(layers: tuple[str, ...]) -> bool:
            nonlocal closest, tries
            found = self.measure({name: self.writer.write(name, plan_with(layers))})[name]
            tries += 1
            assert found.verdict is not None
            assert closest.verdict is not None
            if found.verdict.agreement >= closest.verdict.agreement:
                closest = found
            if self._shortfall(found):
                return False
            passing[layers] = found
            return True

        most = self._most(name, keep, ranking)
        needed = fewest(list(ranking), most, passes)
        if needed is None:
            share = self._share(name, self.writer.plan(name, plan_with(tuple(ranking)[:most])))
            raise AccuracyError(
                f"{file.file} cannot pass the gate: in INT8 {before}; the best of {tries} "
                f"plans, down to {share:.0%} of the convolutions in INT8: {self._shortfall(closest)}. "
                "Nothing was published.",
                f"Allow more layers in floating point (min_int8 is {self.validation.gate.min_int8:g}), calibrate on "
                "more or other images, try another method, or build fp32 and fp16 alone.",
                values=("min_int8", "method", "precisions"),
            )
        self.writer.write(name, plan_with(needed))  # the last attempt may have been another
        found = passing[needed]
        assert found.verdict is not None
        returned = msgspec.structs.replace(found.verdict, returned=needed, tries=tries, without_returning=before)
        return msgspec.structs.replace(found, verdict=returned)

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
            if self._int8_share(name, floating) < self.validation.gate.min_int8:
                return count
        return len(ranking)

    def measure(self, files: Mapping[str, OnnxFile]) -> dict[str, OnnxFile]:
        """Return files, as they lie in the writer's folder, with verdicts."""
        found = self._comparison.run({name: self.writer.folder / f"{name}.onnx" for name in files})
        return {
            name: msgspec.structs.replace(
                file, verdict=verdict(found, name, self.calibrated, self._share(name, file.plan))
            )
            for name, file in files.items()
        }

    def _share(self, name: str, plan: Plan) -> float:
        """Return the share of a plan's convolutions that are INT8."""
        return self._int8_share(name, [layer for layer, kind in plan.layers.items() if kind != "int8"])

    def _int8_share(self, name: str, floating: Collection[str]) -> float:
        """Return the share of the convolutions that are not `floating`; of grouped ones only where a file has them."""
        return int8_share(self.writer.graph, floating, grouped=name not in GROUPED_FLOAT_FILES)


def doubts(found: Verdict, gate: Gate, classes: int) -> tuple[str, ...]:
    """Return where a verdict means less than it seems to.

    Args:
        found: Of any file: what is doubtful is so of the images.
        gate: What was asked.
        classes: How many the network tells apart.
    """
    reasons = []
    if found.overlap:
        reasons.append(
            f"{found.overlap} of the {found.images} validation images were calibrated on: INT8 may look better than it "
            "is"
        )
    if found.top1_fp32 is not None and found.top1_fp32 <= _CHANCES / classes:
        reasons.append(
            f"PyTorch itself classifies only {found.top1_fp32:.2%} of the validation images right (chance is "
            f"{1 / classes:.2%}): are the folders named after the labels?"
        )
    if gate.max_drop and found.images * gate.max_drop < _POINTS:
        reasons.append(f"one of {found.images} validation images is more than {gate.max_drop:g} points: use more")
    return tuple(reasons)


def shortfall(gate: Gate, file: OnnxFile, method: str = "") -> str:
    """Return by how much a file with a verdict, calibrated by a method, misses what a gate asks of it, or nothing."""
    found = file.verdict
    assert found is not None
    parts = [file.fidelity.shortfall("int8", method)]
    if file.saturated is not None and (saturated := file.saturated.shortfall("int8", method)):
        parts.append(f"on CPUs without VNNI {saturated}")
    if found.int8_convolutions < gate.min_int8:
        parts.append(f"{found.int8_convolutions:.0%} of the convolutions are INT8 ({gate.min_int8:.0%} asked)")
    # A drop is a whole number of images: rounding must not turn 0.5 points into a little more than 0.5.
    if gate.max_drop is not None and found.drop is not None and found.drop > gate.max_drop + _ROUNDING:
        drop = f"top-1 drops by {found.drop:.2f} points on {found.images} images"
        parts.append(f"{drop} ({gate.max_drop:g} allowed)")
    if gate.min_agreement is not None and found.agreement < gate.min_agreement:
        agreeing = f"{found.agreement:.2%} of {found.images} images agree with PyTorch"
        parts.append(f"{agreeing} ({gate.min_agreement:.2%} asked)")
    return " and ".join(part for part in parts if part)
