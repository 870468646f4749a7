"""Asking a service on this machine whether it answers."""

from __future__ import annotations

import http.client
import socket

from recoup.stacks.process_spec import Probe


def answers(probe: Probe, port: int) -> bool:
    """Say whether the port accepts a connection (``tcp``) or answers GET ``path`` with 200 (``http``) in time."""
    if probe.kind == "tcp":
        try:
            with socket.create_connection(("127.0.0.1", port), probe.timeout):
                return True
        except OSError:
            return False
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=probe.timeout)
    try:
        connection.request("GET", probe.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
