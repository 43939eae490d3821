# docker build --tag larder-node:0.1.0 .
FROM rust:1-bookworm AS build
WORKDIR /larder
COPY . .
RUN cargo build --locked --profile dist --package larder-node --package larder-cli

FROM debian:bookworm-slim
# The numbers of memcached's image: charts name them.
RUN groupadd --system --gid 11211 larder && useradd --system --gid larder --uid 11211 --no-create-home larder
COPY --from=build /larder/target/dist/larder-node /larder/target/dist/larder-cluster /larder/target/dist/larder /usr/local/bin/
COPY contrib/docker/entrypoint /usr/local/bin/entrypoint
# Within a container nobody else reaches 127.0.0.1.
ENV LARDER_LISTEN=*
USER 11211:11211
EXPOSE 11211
ENTRYPOINT ["entrypoint"]
CMD ["larder-node"]
