# Flyway's command line on Debian's Java, used as the usual image is: migrations in /flyway/sql.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY flyway /flyway
ENV PATH=/flyway:$PATH \
    JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64
WORKDIR /flyway
USER nobody
ENTRYPOINT ["flyway"]
CMD ["-?"]
