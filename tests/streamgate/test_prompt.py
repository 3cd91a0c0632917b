"""The notes of one request to a model."""

from streamgate.observe.records import PromptRecord
from streamgate.prompt import Prompt


def test_at_first_nothing_is_known_but_what_was_asked_for() -> None:
    prompt = Prompt("tutor", "chat", stream=True)
    noted = {name: getattr(prompt, name) for name in Prompt.__slots__}
    assert {name: value for name, value in noted.items() if value} == {"model": "tutor", "operation": "chat", "stream": True}
    assert (prompt.input_tokens, prompt.output_tokens, prompt.cost) == (None, None, None)  # nobody told: that is not zero


def test_there_is_no_room_for_a_word_of_what_was_said() -> None:
    prompt = Prompt("tutor", "chat", stream=False)
    assert not hasattr(prompt, "__dict__")
    assert not {"body", "messages", "text", "input", "output", "key"} & {*Prompt.__slots__, *PromptRecord.__struct_fields__}
