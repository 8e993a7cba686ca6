# syntax=docker/dockerfile:1
# JetPack 6 with edgeresnext, for Jetson Orin. Not yet built or run on hardware. How to: docs/docker.md
#
# r36.4.0 is JetPack 6.1 and 6.2, with TensorRT 10.3. An engine runs with the TensorRT that built it: build it in here.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}

# No versions: TensorRT's bindings have to be those of the image's own TensorRT.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-libnvinfer python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

# TensorRT's Python package is the system's, so the environment sees the system's packages.
RUN --mount=type=bind,source=dist,target=/dist \
    python3 -m venv --system-site-packages /opt/edgeresnext \
    && /opt/edgeresnext/bin/pip install --no-cache-dir "$(echo /dist/edgeresnext-*.whl)[cpu]"
ENV PATH=/opt/edgeresnext/bin:${PATH}

# The group owns the GPU's device files on a Jetson.
RUN useradd --create-home --uid 10001 --groups video edgeresnext
USER 10001
WORKDIR /home/edgeresnext

# Digests of every file, and golden images on every artefact that runs here: wrong answers make a container unhealthy.
HEALTHCHECK --interval=30m --timeout=5m --start-period=2m CMD ["edgeresnext", "verify", "/bundle"]
ENTRYPOINT ["edgeresnext"]
CMD ["verify", "/bundle"]
