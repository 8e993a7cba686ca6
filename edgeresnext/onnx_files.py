"""The ONNX files of a bundle: each planned, repaired, emitted, checked by ONNX, and compared with PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx

from edgeresnext.acceptance import replay
from edgeresnext.backends.onnxruntime import open_reference
from edgeresnext.compiler.correct import corrected
from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.plan import activations_of, plan_for
from edgeresnext.compiler.quantise import Quantised, quantise, weight_limits
from edgeresnext.errors import BackendError
from edgeresnext.spec import OnnxFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from edgeresnext.bundle import Golden
    from edgeresnext.compiler.graph import Graph
    from edgeresnext.compiler.plan import Keep
    from edgeresnext.spec import Activations, ModelSpec, Plan, Ranges, Recipe

_NONE: Mapping[str, Keep] = MappingProxyType({})


@dataclass(kw_only=True)
class Writer:
    """Writes the ONNX files of one network.

    Args:
        graph: The folded graph, equalised where the recipe says so.
        spec: The network.
        recipe: Which repairs are made.
        ranges: Of the graph's tensors; None without INT8.
        images: Normalised calibration images for bias correction, float32 `(N, 3, H, W)`; None without INT8.
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
    _limits: dict[str, NDArray[np.float64]] | None = None
    _biases: dict[tuple[Activations, frozenset[str]], Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)

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
        onnx.save(proto, path)
        try:
            onnx.checker.check_model(path, full_check=True)
        except onnx.checker.ValidationError as error:
            raise BackendError(f"the ONNX checker refuses {path.name}: {error}", "This is a bug; report it.") from error
        session = open_reference(path, self.spec)
        fidelity = replay(session, self.golden)
        session.close()
        return OnnxFile(
            file=f"onnx/{path.name}", opset=proto.opset_import[0].version, plan=quantised.plan, fidelity=fidelity
        )

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
        if "weight-clipping" in self.recipe.repairs and self._limits is None:
            self._limits = weight_limits(self.graph)
        found = quantise(self.graph, plan, self._thresholds(name), self._limits or {})
        if "bias-correction" not in self.recipe.repairs or self.images is None:
            return found
        # The steps of a float16 file are those of its float32 twin but for their rounding: one correction serves both.
        key = plan.activations, frozenset(plan.inputs)
        if key not in self._biases:
            self._biases[key] = corrected(self.graph, found, self.images).biases
        return Quantised(
            plan=plan, scales=found.scales, unsigned=found.unsigned, weights=found.weights, biases=self._biases[key]
        )
