"""Classify images with one artefact of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeresnext.backends import registry
from edgeresnext.backends.base import Session
from edgeresnext.bundle import Bundle
from edgeresnext.bundle.onnx_file import check_onnx
from edgeresnext.data.images import ImageSource, load_image
from edgeresnext.errors import RequestError, shown
from edgeresnext.spec import Artifact, Preprocess

_BATCH = 16
_BATCH_NDIM = 4


@dataclass(frozen=True)
class Prediction:
    """One class that an image may show: its label, its index among the logits, and its softmax probability."""

    label: str
    index: int
    probability: float


_READERS_OF_ONNX = ("onnxruntime", "openvino")


class Classifier:
    """An artefact of a bundle, ready to classify. Safe to use from several threads; a context manager.

    Args:
        session: The loaded artefact.
        artifact: What it is.
        labels: The label of each logit.
        preprocess: Resize and crop that the weights need.
        reason: Why this artefact was chosen, in words.
    """

    def __init__(
        self, session: Session, artifact: Artifact, labels: tuple[str, ...], preprocess: Preprocess, reason: str = ""
    ) -> None:
        self.artifact = artifact
        self.reason = reason
        self.labels = labels
        self.preprocess = preprocess
        self._session: Session | None = session

    @overload
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...
    @overload
    def logits(self, images: Any, out: Any = None, stream: Any = None) -> Any: ...  # noqa: ANN401 - of any library
    def logits(self, images: Any, out: Any = None, stream: Any = None) -> Any:
        """Return the logits `(N, classes)`, float32, of uint8 images `(N, height, width, channels)`.

        Args:
            images: A NumPy array; or an array of any library that lends its memory, which is then not copied: by
                `__dlpack__`, on the host or, for engines, on their GPU, or there by `__cuda_array_interface__`. It must
                be compact.
            out: Takes the logits: float32, compact, where the images are (host or GPU).
            stream: For images on the GPU: the CUDA stream to work on, a number or an object of any library. The call
                then returns at once, and its result is for that stream; without it, the logits are there on return. It
                must live until then, which CUDA does not check, and not be in a capture.

        Returns:
            `out` where it is given; else a NumPy array, or for images on the GPU one with `__dlpack__` and
            `__cuda_array_interface__`.

        Raises:
            DataError: The images, or `out`, have another shape, type or layout, or lie elsewhere.
            RequestError: The stream is none of this GPU or is being captured, or this classifier is closed.
            BackendError: The runtime failed.
        """
        if self._session is None:
            raise RequestError("this classifier is closed", "Call edgeresnext.load again.")
        return self._session.run(images, out, stream)

    @overload
    def predict(self, images: str | Path | Image.Image | IO[bytes], top: int = 5) -> list[Prediction]: ...
    @overload
    def predict(self, images: list[ImageSource] | tuple[ImageSource, ...], top: int = 5) -> list[list[Prediction]]: ...
    @overload
    def predict(self, images: NDArray[np.uint8], top: int = 5) -> list[Prediction] | list[list[Prediction]]: ...
    def predict(
        self, images: ImageSource | NDArray[np.uint8] | Sequence[ImageSource], top: int = 5
    ) -> list[Prediction] | list[list[Prediction]]:
        """Return the `top` most probable classes, most probable first.

        Args:
            images: One image (path, PIL image, uint8 array `(H, W, C)`, binary file object), or several: a list
                of images, or an array `(N, H, W, C)`. Any size; resized and cropped as the weights need.
            top: How many classes, at most as many as there are.

        Returns:
            A list of predictions for one image; a list of such lists for several.

        Raises:
            DataError: An image cannot be decoded.
            RequestError: `top` is not positive.
        """
        if not is_count(top):
            raise RequestError(f"top is {top!r}", "Ask for one class or more.", values=("top",))
        several = isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == _BATCH_NDIM)
        sources: Sequence[ImageSource] = images if several else [images]  # type: ignore[assignment,list-item]
        results = []
        for start in range(0, len(sources), _BATCH):
            batch = [load_image(source, self.preprocess) for source in sources[start : start + _BATCH]]
            logits = self.logits(np.stack(batch))
            best = np.argsort(-logits, axis=1, kind="stable")[:, :top].tolist()
            results += [
                [Prediction(self.labels[i], i, float(probabilities[i])) for i in indices]
                for indices, probabilities in zip(best, softmax(logits), strict=True)
            ]
        return results if several else results[0]

    def close(self) -> None:
        """Free the runtime; further calls raise."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> Classifier:  # noqa: PYI034 - typing.Self is of Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        what = "a classifier cannot be copied or sent to another process"
        raise RequestError(what, "Call edgeresnext.load there, or share this one.")

    def __repr__(self) -> str:
        return f"<Classifier {self.artifact.name}, {len(self.labels)} classes, {self.artifact.file}>"


def is_count(value: object) -> bool:
    """Whether a value is a whole number of things, one or more."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities of each row of logits `(N, classes)`, float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    found: NDArray[np.float64] = exponentials / exponentials.sum(1, keepdims=True)
    return found


_MOST_THREADS = 4096
"""Runtimes start as many as they are told to."""


def open_artifact(bundle: Bundle, artifact: Artifact, threads: int | None = None, *, profiled: bool = False) -> Session:
    """Open an artefact after checking its digest; `profiled` as `Backend.open` has it.

    Raises:
        RequestError: `threads` is not positive, or more than any machine has.
        BundleError: The file is missing or altered.
        BackendError: The runtime refuses it.
    """
    if threads is not None and not (is_count(threads) and threads <= _MOST_THREADS):
        given = shown(threads) if is_count(threads) else repr(threads)
        raise RequestError(f"threads is {given}", f"Give 1 to {_MOST_THREADS}, or leave it out.", values=("threads",))
    file, model, content = bundle.path / artifact.file, bundle.manifest.model, bundle.content(artifact.file)
    if artifact.backend in _READERS_OF_ONNX:  # whatever the manifest calls the file
        check_onnx(content, model, file)
    backend = registry.get(artifact.backend)
    return backend.open(file, model, artifact, threads, profiled=profiled, content=content)
