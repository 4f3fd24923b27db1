# The whole product is one static binary: `make image` builds it first.
FROM scratch
COPY build/holdfast /holdfast
EXPOSE 7070 7071 7946 7946/udp 8787 7080
VOLUME /data
ENTRYPOINT ["/holdfast"]
CMD ["serve"]
