"""Offer under Celery's name what makes and expands the names of nodes."""

from __future__ import annotations

from umbel._names import (
    anon_nodename,
    default_nodename,
    gethostname,
    host_format,
    node_format,
    nodename,
    nodesplit,
    worker_direct_name,
)

__all__ = [
    "anon_nodename",
    "default_nodename",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "worker_direct",
]


def worker_direct(hostname: str) -> str:
    """Return the name of the queue that only the worker *hostname* consumes."""
    return worker_direct_name(hostname)
