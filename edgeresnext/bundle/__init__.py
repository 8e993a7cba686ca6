"""The bundle: a directory whose manifest names every other file with its size and SHA-256.

A bundle appears whole or not at all (`directories.replacing`). Nothing in it is executed or unpickled, and no file
reaches native code before its digest has been checked.
"""

from edgeresnext.bundle.bundle import Bundle as Bundle
from edgeresnext.bundle.bundle import read as read
from edgeresnext.bundle.bundle import reading as reading
from edgeresnext.bundle.golden import Golden as Golden
from edgeresnext.bundle.manifest import CALIBRATION_CACHE as CALIBRATION_CACHE
from edgeresnext.bundle.manifest import LABELS as LABELS
from edgeresnext.bundle.manifest import MANIFEST as MANIFEST
from edgeresnext.bundle.manifest import MANIFEST_DIGEST as MANIFEST_DIGEST
from edgeresnext.bundle.manifest import RANGES as RANGES
from edgeresnext.bundle.manifest import REFERENCE as REFERENCE
from edgeresnext.bundle.manifest import WEIGHTS as WEIGHTS
from edgeresnext.bundle.manifest import read_ranges as read_ranges
from edgeresnext.bundle.manifest import write_manifest as write_manifest
from edgeresnext.bundle.output import check_output as check_output
from edgeresnext.bundle.output import check_replaceable as check_replaceable
from edgeresnext.bundle.output import list_files as list_files
from edgeresnext.bundle.output import replacing as replacing
from edgeresnext.bundle.signature import sign as sign
