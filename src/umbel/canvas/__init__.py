"""Say what runs after what, without sending anything."""

from umbel.canvas.chain import chain
from umbel.canvas.chord import chord
from umbel.canvas.group import group
from umbel.canvas.maps import chunks, xmap, xstarmap
from umbel.canvas.signature import Signature, maybe_signature, signature, subtask
from umbel.canvas.stamping import StampingVisitor

__all__ = [
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
