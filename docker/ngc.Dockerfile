# syntax=docker/dockerfile:1
# NVIDIA's TensorRT image with edgeresnext: x86-64, Arm servers (SBSA), and Jetsons with JetPack 7, which are SBSA too.
# Not yet built or run on hardware. How to: docs/docker.md
#
# An engine runs with the TensorRT that built it: take the tag that has it, or build the engine in this image.
ARG BASE=nvcr.io/nvidia/tensorrt:25.10-py3
FROM ${BASE}

# TensorRT's Python package is the image's own, so the environment sees the system's packages.
RUN --mount=type=bind,source=dist,target=/dist \
    python3 -m venv --system-site-packages --without-pip /opt/edgeresnext \
    && python3 -m pip --python /opt/edgeresnext install --no-cache-dir "$(echo /dist/edgeresnext-*.whl)[cpu]"
ENV PATH=/opt/edgeresnext/bin:${PATH}

# The group owns the GPU's device files on a Jetson.
RUN useradd --create-home --uid 10001 --groups video edgeresnext
USER 10001
WORKDIR /home/edgeresnext

# Digests of every file, and golden images on every artefact that runs here: wrong answers make a container unhealthy.
HEALTHCHECK --interval=30m --timeout=5m --start-period=2m CMD ["edgeresnext", "verify", "/bundle"]
ENTRYPOINT ["edgeresnext"]
CMD ["verify", "/bundle"]
