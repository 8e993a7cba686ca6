"""What a runtime must offer: two classes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from edgeresnext import files
from edgeresnext.backends import arrays
from edgeresnext.errors import BackendError, RequestError
from edgeresnext.spec import Artifact, ModelSpec, Precision

_FORKED = "Load the bundle in each child, before the parent does, or start children with multiprocessing's spawn."


class ForkedError(BackendError):
    """A runtime that was used before this process was forked: nothing that another process should remember."""


class Session(ABC):
    """An artefact loaded into a runtime. Safe to call from several threads.

    Args:
        model: The network that the artefact holds; inputs are checked against it.
    """

    detail: str = ""
    """What the runtime chose for itself, for tables; such as a memory layout."""

    smallest: int = 1
    largest: int | None = None
    """Images a run that it takes: smaller batches are filled up, larger ones are run in pieces."""

    takes_gpu_arrays: ClassVar[bool] = False
    """Whether it runs images where they lie on its GPU."""

    def __init__(self, model: ModelSpec) -> None:
        self.model = model
        self._image_shape = model.input.shape[1:]
        self._process = os.getpid()

    @overload
    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...
    @overload
    def run(self, images: Any, out: Any = None, stream: Any = None) -> Any: ...  # noqa: ANN401 - of any library
    def run(self, images: Any, out: Any = None, stream: Any = None) -> Any:
        """Return the logits `(N, classes)`, float32, of uint8 images `(N, height, width, channels)`.

        `images`, `out`, `stream` and what is raised are those of `runtime.classifier.Classifier.logits`.
        """
        if os.getpid() != self._process:
            raise ForkedError(
                "this session was opened before the process was forked: its threads are not here", _FORKED
            )
        if self.takes_gpu_arrays and not isinstance(images, np.ndarray) and arrays.on_gpu(images):
            return self._run_on_gpu(images, out, stream)
        if stream is not None:
            raise RequestError("a stream is given, and the images are on the host", "Leave it out.", values=("stream",))
        checked = arrays.on_host(images, self._image_shape)
        logits = self._run(checked) if len(checked) else np.empty((0, self.model.classes), np.float32)
        if out is None:
            return logits
        arrays.fill(out, logits)
        return out

    def _run_on_gpu(self, images: Any, out: Any, stream: Any) -> Any:  # noqa: ANN401 - of any library
        """Run images that lie on a GPU, where a session can (`takes_gpu_arrays`)."""
        raise NotImplementedError

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Let the runtime choose how to run batches like `images`, and warm up."""
        self.run(images)

    def compute_s(self, images: NDArray[np.uint8]) -> float | None:
        """Return the seconds that the network alone took for one batch, or None where that cannot be told apart.

        From its input being where the runtime reads it to its output being where the runtime writes it: no copies, no
        checks. By the device's own clock where it has one.
        """
        del images
        return None

    def profile(self, images: NDArray[np.uint8], runs: int) -> tuple[Operation, ...]:
        """Return what each operation took, the median of several runs of a batch. Once a session, opened `profiled`.

        Measuring slows the run down: it serves to compare operations, not to tell a latency.

        Raises:
            BackendError: The runtime measures no operations, or failed.
        """
        del images, runs
        raise BackendError("this runtime's single operations are not measured")

    def closed(self) -> BackendError:
        """Return the error for a session that was closed."""
        return BackendError("this session is closed", "Open it again.")

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run checked images; the result belongs to the caller."""

    def close(self) -> None:  # noqa: B027 - most runtimes free themselves
        """Free what the runtime holds; the session cannot be used afterwards."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a profiled run.

    Args:
        name: As the runtime calls it, which for the operations of our files begins with the name of the module.
        kind: What it does, in the runtime's words.
        seconds: How long it took.
    """

    name: str
    kind: str
    seconds: float


class Backend(ABC):
    """A runtime."""

    name: ClassVar[str]
    profiles: ClassVar[bool] = True
    """Whether its sessions can tell what single operations take."""
    survives_fork: ClassVar[bool] = False
    """Whether a process may use it that was forked after its parent did: threads of others are not there then."""
    _used_in: int = 0
    """The process that opened a session first; a child that is forked later still finds its parent's number here."""

    @abstractmethod
    def unavailable(self, precision: Precision) -> str | None:
        """Return None where this machine can run `precision`, or one line: what is missing and how to get it."""

    def misfit(self, artifact: Artifact) -> str | None:
        """Return None where this machine, which runs the artefact's precision, can run all of it, or why not."""
        del artifact
        return None

    def open(
        self,
        file: Path,
        model: ModelSpec,
        artifact: Artifact,
        threads: int | None = None,
        *,
        profiled: bool = False,
        content: bytes | None = None,
    ) -> Session:
        """Load an artefact.

        Args:
            file: Where it lies.
            model: The network that it holds.
            artifact: What it is; its precision is computed in exactly.
            threads: CPU threads; None leaves the choice to the runtime.
            profiled: Open it for `Session.profile`, which may be slower.
            content: What lies there, already checked; None to read it.

        Raises:
            BackendError: The runtime refuses the file.
            NotInstalledError: The runtime does not start.
        """
        if not self.survives_fork and self._used_in not in (0, os.getpid()):
            raise ForkedError(f"{self.name} was used before this process was forked, and would wait for ever", _FORKED)
        self._used_in = self._used_in or os.getpid()
        try:
            content = files.read(file, files.ANY_SIZE) if content is None else content
        except OSError as error:
            raise BackendError(f"cannot read '{file}': {error.strerror}") from None
        return self.start(
            Opening(file=file, content=content, model=model, artifact=artifact, threads=threads, profiled=profiled)
        )

    @abstractmethod
    def start(self, opening: Opening) -> Session:
        """Load an artefact from its bytes: what has been checked is what runs.

        Raises:
            BackendError: The runtime refuses the file.
            NotInstalledError: The runtime does not start.
        """


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What is opened, and how; `Backend.open` says what each of them is."""

    file: Path
    content: bytes
    model: ModelSpec
    artifact: Artifact
    threads: int | None
    profiled: bool
