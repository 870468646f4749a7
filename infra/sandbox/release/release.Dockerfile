# One version of the sandbox's application: its own code on the image that has the libraries.
ARG BASE
FROM ${BASE}
COPY app app
