"""State: canonical bytes, exact round trips, and rejection of other types."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.state import decode, digest, encode

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
STATES = st.dictionaries(st.text(max_size=8), TREES, max_size=6)


@given(STATES)
def test_a_state_is_decoded_as_it_was_encoded(state: dict[str, object]) -> None:
    again = decode(encode(state))
    assert again == state
    assert encode(again) == encode(state)


@given(STATES)
def test_the_order_of_keys_does_not_matter(state: dict[str, object]) -> None:
    assert digest(dict(reversed(state.items()))) == digest(state)


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i8", "<i4", "|i1", "|u1", "|b1", "<u8"])
def test_arrays_keep_dtype_shape_and_bits(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    again = decode(encode({"a": array}))["a"]
    assert again.dtype == array.dtype
    assert again.shape == (3, 4)
    assert again.tobytes() == array.tobytes()
    again[0, 0] = 1  # raises unless the array is a writable copy


def test_digests_distinguish_values_that_compare_equal() -> None:
    values: list[object] = [
        np.zeros(4, np.float32), np.zeros(4, np.float64), np.zeros((2, 2), np.float32),
        0, 0.0, -0.0, False, None, "", b"", [],
    ]  # fmt: skip
    digests = {digest({"x": value}) for value in values} | {digest({"y": 0})}
    assert len(digests) == 12


def test_memory_order_does_not_matter() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert digest({"a": np.asfortranarray(array)}) == digest({"a": array})


@pytest.mark.parametrize("value", [object(), 1j, np.array(["a"]), np.array([object()]), np.zeros(2, ">f4")])
def test_values_of_other_types_are_rejected(value: object) -> None:
    with pytest.raises(TypeError, match="wanted"):
        encode({"x": value})


def test_an_unknown_extension_is_rejected() -> None:
    with pytest.raises(ValueError, match="extension 5"):
        decode(b"\x81\xa1x\xd4\x05\x00")


def test_an_array_of_objects_is_rejected_when_decoded() -> None:
    forged = encode({"x": np.zeros(1, np.float64)}).replace(b"<f8", b"|O8")
    with pytest.raises(ValueError, match=r"\|O8"):
        decode(forged)
