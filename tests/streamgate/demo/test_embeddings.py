"""Vectors are decided by their input alone, and packed without loss."""

import base64
import struct

from hypothesis import given
from hypothesis import strategies as st

from streamgate.demo.ask import Ask
from streamgate.demo.embeddings import Embedding, vector


@given(st.text(), st.integers(1, 64))
def test_a_vector_is_bounded_exact_in_32_bits_and_the_same_again(text: str, dimensions: int) -> None:
    numbers = vector(text, dimensions)
    assert numbers == vector(text, dimensions)
    assert len(numbers) == dimensions
    assert all(-1 <= number < 1 for number in numbers)
    packed = struct.pack(f"<{dimensions}f", *numbers)
    assert list(struct.unpack(f"<{dimensions}f", packed)) == numbers


def test_each_input_has_its_vector_in_order_in_either_form() -> None:
    plain = Embedding(Ask(prompts=("a", "b"), dimensions=4)).whole()
    assert [item["embedding"] for item in plain["data"]] == [vector("a", 4), vector("b", 4)]
    packed = Embedding(Ask(prompts=("a", "b"), dimensions=4, base64=True)).whole()
    assert list(struct.unpack("<4f", base64.b64decode(packed["data"][1]["embedding"]))) == vector("b", 4)
    assert plain["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
