"""Typed state: what a learner stores in a snapshot, its canonical encoding and its digest.

A state is a tree of None, bool, int (64 bits), float, str, bytes, numpy arrays, lists and dictionaries with string
keys. Its canonical encoding is MessagePack with sorted keys, exact floats, and arrays as extension 1 (dtype, shape,
bytes in C order). Equal states have equal bytes; their SHA-256 is the *state digest*. Pickle is never used.
"""

import hashlib
from typing import Any, TypeAlias

import msgspec
import numpy as np

State: TypeAlias = dict[str, Any]

_ARRAY = 1
_DTYPES = frozenset({"<i1", "|i1", "|u1", "|b1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8"})


def _encode_array(value: object) -> msgspec.msgpack.Ext:
    if isinstance(value, np.ndarray):
        if value.dtype.str not in _DTYPES:
            raise TypeError(f"state array of dtype {value.dtype.str}: wanted a plain little-endian number type")
        head = msgspec.msgpack.encode([value.dtype.str, list(value.shape)])
        return msgspec.msgpack.Ext(_ARRAY, len(head).to_bytes(4, "little") + head + value.tobytes())
    raise TypeError(f"state holds a {type(value).__name__}: wanted a number, text, bytes, array, list or dict")


def _decode_array(code: int, data: memoryview) -> np.ndarray[Any, Any]:
    if code != _ARRAY:
        raise ValueError(f"state holds extension {code}: wanted {_ARRAY} (an array)")
    size = int.from_bytes(data[:4], "little")
    dtype, shape = msgspec.msgpack.decode(data[4 : 4 + size], type=tuple[str, list[int]])
    if dtype not in _DTYPES:
        raise ValueError(f"state array of dtype {dtype!r}: wanted a plain little-endian number type")
    return np.frombuffer(data[4 + size :], dtype=dtype).reshape(shape).copy()


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_array, order="deterministic")
_decoder = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_decode_array)


def encode(state: State) -> bytes:
    """Return the canonical bytes of a state.

    >>> encode({"b": 1, "a": 2.5}) == encode({"a": 2.5, "b": 1})
    True
    """
    return _encoder.encode(state)


def decode(data: bytes) -> State:
    """Return the state that `encode` wrote; arrays are copies. Verify the blob's hash first.

    Raises:
        msgspec.MsgspecError, ValueError: the bytes are not a canonical state.
    """
    return _decoder.decode(data)


def digest(state: State) -> str:
    """Return the SHA-256 of the canonical bytes, in hex.

    >>> digest({"n": 1})[:8]
    '09e4be6a'
    """
    return hashlib.sha256(encode(state)).hexdigest()
