# PostgreSQL 15 from Debian with PGMQ as an extension, which understands the variables of the usual images.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ENV PATH=/usr/lib/postgresql/15/bin:$PATH \
    PGDATA=/var/lib/postgresql/data
COPY pgmq.control pgmq--*.sql /usr/share/postgresql/15/extension/
COPY entrypoint.sh /usr/local/bin/
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
CMD ["postgres"]
