# One static binary and nothing else: no shell, no libc, no root.
# The image is both a replica (its default command) and the balancer (`ringway run ...`).
#
#   docker build -t ringway .
#
# Works with the classic builder, and without a registry if the two base images are on the engine. scripts/image makes
# the same image from a binary built on this machine, without base images.
ARG BUILDER=rust:1-bookworm
ARG RUNTIME=scratch

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# With crt-static the target is named: without a target, build scripts would be linked statically too.
RUN set -eu; target="$(rustc -vV | sed -n 's/^host: //p')"; \
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target"; \
    strip -o /ringway "target/$target/release/ringway"

FROM ${RUNTIME}
COPY --from=build /ringway /ringway
USER 65532:65532
# Balancer and replica listen on all addresses as process 1; under `docker run --init` they are not process 1.
ENV PORT=8080 RINGWAY_BIND=0.0.0.0
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=2s --start-period=2s CMD ["/ringway", "replica", "--check"]
# With this label the containers of `--runtime docker` get next to no right: this program needs none.
LABEL ringway.image=1
ENTRYPOINT ["/ringway"]
CMD ["replica"]
