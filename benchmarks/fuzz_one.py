"""One target under the fuzzer, in a process of its own: python benchmarks/fuzz_one.py TARGET FOUND [options of libFuzzer].

What leaves a target that should not is written to the folder FOUND, one file a kind, and the fuzzer goes on; it ends at
a wait, at too much memory or in native code. Needs `atheris`.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from pathlib import Path
from random import Random

import atheris

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))
_WATCHED = ("edgeresnext", "PIL", "zipfile", "tarfile", "tomllib", "json", "pickle", "base64")
"""What is written in Python of what reads: only of this the fuzzer sees which way was taken."""

with atheris.instrument_imports(include=[*_WATCHED]):
    from fuzzing.mutation import mutated
    from fuzzing.targets import TARGETS

_OURS = f"{os.sep}edgeresnext{os.sep}"


def kind_of(error: BaseException) -> str:
    """Return a name for what went wrong, the same for the same place."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((one for one in reversed(frames) if _OURS in one.filename), frames[-1])
    return re.sub(r"\W", "_", f"{type(error).__name__}_{Path(frame.filename).stem}_{frame.name}_{frame.lineno}")


def main() -> None:
    """Fuzz until libFuzzer says that it is enough."""
    name, found, *options = sys.argv[1:]
    target, folder = TARGETS[name], Path(found)
    warnings.simplefilter("ignore")  # Pillow's, of every second image

    def attempt(content: bytes) -> None:
        try:
            target(content)
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            place = folder / kind_of(error)
            if not place.exists():
                place.write_bytes(content)
                print(f"FOUND {place.name}: {error}"[:300], flush=True)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        changed = mutated(content, random) if random.random() < 0.5 else atheris.Mutate(content, most)  # noqa: PLR2004 - half
        return bytes(changed[:most])

    atheris.Setup([sys.argv[0], *options], attempt, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
