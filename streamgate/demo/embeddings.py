"""/v1/embeddings: one vector for each input, decided by the input alone, as floats or packed in base64."""

import base64
import hashlib
import struct
from typing import Any

from streamgate.demo.ask import Ask
from streamgate.demo.refusals import openai_error


def vector(text: str, dimensions: int) -> list[float]:
    """Between -1 and 1, the same for the same text, each a float that 32 bits hold exactly."""
    digest = hashlib.shake_256(text.encode()).digest(2 * dimensions)
    return [number / 32768 for number in struct.unpack(f"<{dimensions}h", digest)]


class Embedding:
    """An answer that is never streamed."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def whole(self) -> dict[str, Any]:
        """The vectors in the order of the inputs."""
        ask = self._ask
        data = [
            {"object": "embedding", "index": index, "embedding": self._packed(vector(prompt, ask.dimensions))}
            for index, prompt in enumerate(ask.prompts)
        ]
        usage = {"prompt_tokens": ask.prompt_tokens(), "total_tokens": ask.prompt_tokens()}
        return {"object": "list", "data": data, "model": ask.model, "usage": usage}

    def refusal(self, status: int) -> dict[str, Any]:
        """An error body."""
        return openai_error(status, f"The scripted server answers {status}, as asked.")

    def length(self) -> int:
        """No tokens are generated."""
        return 0

    def _packed(self, numbers: list[float]) -> list[float] | str:
        if not self._ask.base64:
            return numbers
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
