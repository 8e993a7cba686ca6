"""The ONNX files of a bundle: each planned, repaired, emitted, checked by ONNX, and compared with PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeresnext.bundle import Golden
from edgeresnext.compiler.correct import channel_means, corrected
from edgeresnext.compiler.emit import emit, save
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.compiler.execute import in_cache
from edgeresnext.compiler.feedback import with_feedback
from edgeresnext.compiler.graph import Graph
from edgeresnext.compiler.plan import INT8_CPU, Keep, activations_of, plan_for
from edgeresnext.compiler.quantise import Quantised, QuantisedWeight, quantise, weight_limits
from edgeresnext.compiler.saturation import pixel_layers, row_steps, safe_weight, with_pixel_step, with_row_steps
from edgeresnext.spec import Activations, Fidelity, ModelSpec, OnnxFile, Plan, Ranges, Recipe

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

_NONE: Mapping[str, Keep] = MappingProxyType({})


@dataclass(kw_only=True)
class Writer:
    """Writes the ONNX files of one network.

    Args:
        graph: The folded graph, equalised where the recipe says so.
        spec: The network.
        recipe: Which repairs are made.
        ranges: Of the graph's tensors; None without INT8.
        images: Normalised calibration images for weights and biases, float32 `(N, 3, H, W)`; None without INT8.
        golden: What each file is compared with.
        folder: Where the files go.
    """

    graph: Graph
    spec: ModelSpec
    recipe: Recipe
    ranges: Ranges | None
    images: Tensor | None
    golden: Golden
    folder: Path
    _repaired: dict[tuple[Activations, frozenset[str], str], Quantised] = field(default_factory=dict)

    def write(self, name: str, keep: Mapping[str, Keep] = _NONE) -> OnnxFile:
        """Write the file called `name`, one of `compiler.plan.ONNX_FILES` or `GROUPED_FLOAT_FILES`.

        Args:
            name: The file.
            keep: Layers that are not to be INT8.

        Raises:
            AccuracyError: A weight does not fit into float16.
            BackendError: It is not valid ONNX.
        """
        quantised = self.numbers(name, keep)
        proto = emit(self.graph, quantised, self.spec)
        path = self.folder / f"{name}.onnx"
        save(proto, path)
        unsigned = quantised.plan.activations == "unsigned"
        steps = self._safe[0] if unsigned and self.images is not None else {}
        return OnnxFile(
            file=f"onnx/{path.name}",
            opset=proto.opset_import[0].version,
            plan=quantised.plan,
            fidelity=self._fidelity(proto),
            saturated=self._fidelity(proto, saturating=True) if unsigned else None,
            wider_rows={one: int((by > 1).sum()) for one, by in steps.items() if one in quantised.weights},
            pixel_layers=pixel_layers(quantised),
        )

    def _fidelity(self, proto: ModelProto, *, saturating: bool = False) -> Fidelity:
        """Return how far what a file says is from PyTorch, on the golden images."""
        return self.golden.compare(Evaluator(proto, saturating=saturating).logits(self.golden.images))

    def plan(self, name: str, keep: Mapping[str, Keep] = _NONE) -> Plan:
        """Return the plan of a file."""
        return plan_for(self.graph, name, self._thresholds(name), keep)

    def _thresholds(self, name: str) -> dict[str, float]:
        """Return the |x| limit of every tensor, as a file stores them."""
        return {} if self.ranges is None else self.ranges.limits(activations_of(name))

    def numbers(self, name: str, keep: Mapping[str, Keep] = _NONE) -> Quantised:
        """Return the scales, weights and biases of a file."""
        plan = self.plan(name, keep)
        if not plan.inputs:
            return quantise(self.graph, plan, {})
        found = self._quantised(plan)
        if self.images is None:
            return found
        if plan.activations == "unsigned":
            found = self._without_saturation(found)
        # The steps of a float16 file are those of its float32 twin but for their rounding: one correction serves both,
        # unless weights were rounded for the one.
        rounding = "rounding" in self.recipe.repairs
        key = plan.activations, frozenset(plan.inputs), plan.floating if rounding else ""
        if key not in self._repaired:
            self._repaired[key] = self._repair(found, self.images)
        repaired = self._repaired[key]
        weights = repaired.weights if rounding else found.weights
        return dataclasses.replace(found, weights=weights, biases=repaired.biases)

    def _repair(self, found: Quantised, images: Tensor) -> Quantised:
        """Return numbers with weights rounded with regard to each other, then biases corrected, as the recipe says."""
        if "rounding" in self.recipe.repairs:
            found = with_feedback(self.graph, found, images, pixel_layers(found))
        if "bias-correction" in self.recipe.repairs:
            unsigned = found.plan.activations == "unsigned"
            found = corrected(self.graph, found, images, self._means, saturating=unsigned)
        return found

    def _quantised(self, plan: Plan) -> Quantised:
        """Return the numbers of a plan before anything is done for them."""
        pixels = self.spec.preprocess.range
        found = quantise(self.graph, plan, self._thresholds(plan.name), self._limits, pixels)
        return found if self.images is None else with_pixel_step(found, self.images)

    def _without_saturation(self, found: Quantised) -> Quantised:
        """Return numbers whose products do not saturate on CPUs without VNNI, or next to never."""
        steps, pixels = self._safe
        found = with_row_steps(self.graph, found, steps)
        weights = {**found.weights, **{one: weight for one, weight in pixels.items() if one in found.weights}}
        return dataclasses.replace(found, weights=weights)

    @cached_property
    def _limits(self) -> dict[str, NDArray[np.float64]]:
        """Where weights are clipped, by layer."""
        return weight_limits(self.graph) if "weight-clipping" in self.recipe.repairs else {}

    @cached_property
    def _means(self) -> dict[str, Tensor]:
        """What the exact network computes of the images."""
        assert self.images is not None
        return channel_means(self.graph, self.images)

    @cached_property
    def _safe(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, QuantisedWeight]]:
        """By how much the steps of rows are widened, and the weights of layers that read pixels.

        Found with every layer in INT8 that can be, and each layer by itself: they hold for every plan.
        """
        assert self.images is not None
        whole = self._quantised(self.plan(INT8_CPU))
        layers = {layer.name: layer for layer in self.graph.layers}
        batches = in_cache(self.images)
        pixels = {one: safe_weight(layers[one], whole, batches) for one in pixel_layers(whole)}
        return row_steps(self.graph, whole, self.images), pixels
