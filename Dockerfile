# syntax=docker/dockerfile:1
#
# The image of tollgate, for amd64 and arm64: one static binary, the certificates of public authorities, and nothing else.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --tag tollgate:dev .
#
# Without a Docker engine: deploy/image/build makes the same image of a binary that cargo built here.

# The compiler runs on the builder's own architecture and compiles for the target's, guided by a profile that is made on the
# builder's (deploy/image/compile): it counts calls and branches, which both have.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG TARGETARCH
RUN case "$TARGETARCH" in \
        amd64) echo x86_64 ;; \
        arm64) echo aarch64 ;; \
        *) echo "tollgate is not built for $TARGETARCH" >&2; exit 1 ;; \
    esac > /cpu \
    && apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl gcc libc6-dev \
    && if [ "$(cat /cpu)" != "$(uname -m)" ]; then \
        name="$(tr _ - < /cpu)" \
        && apt-get install -y --no-install-recommends "gcc-$name-linux-gnu" "libc6-dev-$TARGETARCH-cross"; \
    fi \
    && rustup target add "$(cat /cpu)-unknown-linux-gnu" \
    && rustup component add llvm-tools
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build,id=tollgate-$TARGETARCH \
    cpu="$(cat /cpu)" \
    && export CARGO_BUILD_BUILD_DIR=/build RUSTFLAGS="-C target-feature=+crt-static" \
    && export CC_x86_64_unknown_linux_gnu=x86_64-linux-gnu-gcc CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    && export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    && deploy/image/root "$(deploy/image/compile "$cpu-unknown-linux-gnu")" /image

FROM scratch
COPY --from=build /image/root/ /
COPY --from=build --chown=65532:65532 /image/data /var/lib/tollgate
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tollgate" \
      org.opencontainers.image.description="A gateway to large language models with virtual keys and budgets that hold" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt TOLLGATE_DATA=/var/lib/tollgate
USER 65532:65532
EXPOSE 4000 4001
ENTRYPOINT ["/tollgate"]
