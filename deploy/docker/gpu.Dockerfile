# Assay on NVIDIA's GPUs: docker build -f deploy/docker/gpu.Dockerfile -t assay:gpu .
# CUDA's libraries come with torch's wheels; the host brings the driver (NVIDIA container toolkit).
FROM python:3.11.13-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9 && python -m venv /opt/assay
WORKDIR /src
# The libraries first, all of them pinned: this layer stays while only Assay's own code changes.
COPY requirements/gpu.txt ./
RUN uv pip install --no-cache --python /opt/assay/bin/python --no-deps -r gpu.txt
COPY . .
RUN uv pip install --no-cache --python /opt/assay/bin/python --no-deps . && rm -rf /src/*

FROM python:3.11.13-slim-bookworm
# bubblewrap: the sandbox of judges that run code; g++: Triton's and DeepSpeed's kernels; wget: KubeRay's probes.
# Debian keeps only the newest version of a package, so a pin would break the build with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap g++ libnuma1 tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home assay
COPY --from=build /opt/assay /opt/assay
ENV PATH=/opt/assay/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /home/assay
ENTRYPOINT ["tini", "--"]
CMD ["assay", "doctor"]
