"""The frozen values that pass between stages, and their JSON form.

Sizes end in `_px` or `_bytes`, times in `_s`; anything that was not measured is None.
"""

from edgeresnext.spec.artifact import CPU as CPU
from edgeresnext.spec.artifact import Artifact as Artifact
from edgeresnext.spec.artifact import Engine as Engine
from edgeresnext.spec.artifact import EngineLayer as EngineLayer
from edgeresnext.spec.artifact import EngineOptions as EngineOptions
from edgeresnext.spec.artifact import variant_name as variant_name
from edgeresnext.spec.manifest import FP32_MAX_ERROR as FP32_MAX_ERROR
from edgeresnext.spec.manifest import MANIFEST_SCHEMA as MANIFEST_SCHEMA
from edgeresnext.spec.manifest import MIN_SNR_DB as MIN_SNR_DB
from edgeresnext.spec.manifest import READABLE_SCHEMAS as READABLE_SCHEMAS
from edgeresnext.spec.manifest import Check as Check
from edgeresnext.spec.manifest import Fidelity as Fidelity
from edgeresnext.spec.manifest import FileEntry as FileEntry
from edgeresnext.spec.manifest import Manifest as Manifest
from edgeresnext.spec.manifest import OnnxFile as OnnxFile
from edgeresnext.spec.manifest import Selection as Selection
from edgeresnext.spec.manifest import Timing as Timing
from edgeresnext.spec.network import CHANNELS as CHANNELS
from edgeresnext.spec.network import EXPANSION as EXPANSION
from edgeresnext.spec.network import Average as Average
from edgeresnext.spec.network import CheckpointOptions as CheckpointOptions
from edgeresnext.spec.network import Interpolation as Interpolation
from edgeresnext.spec.network import ModelSpec as ModelSpec
from edgeresnext.spec.network import Preprocess as Preprocess
from edgeresnext.spec.network import TensorSpec as TensorSpec
from edgeresnext.spec.quantisation import AUTO as AUTO
from edgeresnext.spec.quantisation import RANGES_SCHEMA as RANGES_SCHEMA
from edgeresnext.spec.quantisation import REPAIRS as REPAIRS
from edgeresnext.spec.quantisation import STANDARD_REPAIRS as STANDARD_REPAIRS
from edgeresnext.spec.quantisation import TRAINED as TRAINED
from edgeresnext.spec.quantisation import Activations as Activations
from edgeresnext.spec.quantisation import Gate as Gate
from edgeresnext.spec.quantisation import LayerCost as LayerCost
from edgeresnext.spec.quantisation import Plan as Plan
from edgeresnext.spec.quantisation import Ranges as Ranges
from edgeresnext.spec.quantisation import Recipe as Recipe
from edgeresnext.spec.quantisation import Repair as Repair
from edgeresnext.spec.quantisation import Sensitivity as Sensitivity
from edgeresnext.spec.quantisation import Verdict as Verdict
from edgeresnext.spec.training import Epoch as Epoch
from edgeresnext.spec.training import TrainingRecipe as TrainingRecipe
from edgeresnext.spec.value import ClassOrder as ClassOrder
from edgeresnext.spec.value import Precision as Precision
from edgeresnext.spec.value import Value as Value
