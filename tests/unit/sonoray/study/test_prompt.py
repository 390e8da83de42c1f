"""What stands in front of a question."""

import pytest

from sonoray.study.contract import Turn
from sonoray.study.prompt import FOLLOW_UP, begins_at, dialogue

TOPICS = ("finding", FOLLOW_UP, FOLLOW_UP, "organ", FOLLOW_UP)
TURNS = [
    Turn(question=f"问{number}", answer=f"答{number}", topic=topic)
    for number, topic in enumerate(TOPICS)
]


@pytest.mark.parametrize(
    ("number", "texts"),
    [
        (0, ("问0",)),
        (1, ("问0", "答0", "问1")),
        (2, ("问0", "答0", "问1", "答1", "问2")),
        (3, ("问3",)),
        (4, ("问3", "答3", "问4")),
    ],
)
def test_a_follow_up_is_asked_with_all_since_the_last_question_that_stands_alone(number, texts):
    assert dialogue(TURNS, number) == texts


def test_a_conversation_that_lost_its_beginning_begins_with_what_is_left():
    assert begins_at(TURNS[1:], 1) == 0
    assert dialogue(TURNS[1:], 1) == ("问1", "答1", "问2")
