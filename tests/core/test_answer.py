from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_emotion.answer import Response, is_correct, parse_response
from edge_emotion.labels import EMOTIONS
from edge_emotion.prompt import Prompt

LABELS = EMOTIONS[:7]


@pytest.mark.parametrize(
    "text",
    [
        "<think>A high voice.</think><answer>anger</answer>",
        "  <think> A high voice. </think>\n <answer> anger </answer>\n",
    ],
)
def test_the_schema_is_well_formed(text: str):
    assert parse_response(text, LABELS) == Response("A high voice.", "anger", well_formed=True)


@pytest.mark.parametrize(
    ("text", "reasoning", "label"),
    [
        ("A high voice.</think><answer>anger</answer>", "A high voice.", "anger"),
        ("<think>A high voice.</think>anger", "A high voice.", "anger"),
        ("<think>A high voice.</think><answer>anger", "A high voice.", "anger"),
        ("<THINK>A high voice.</THINK> <Answer>Anger.</Answer>", "A high voice.", "anger"),
        ("<think>A high voice.</think><answer>The speaker is angry!</answer>", "A high voice.", "anger"),
        ("Sure! <think>A high voice.</think><answer>anger</answer> Bye.", "A high voice.", "anger"),
        ("<think></think><answer>anger</answer>", "", "anger"),
        ("<think>A high voice.</think><answer>fear</answer><answer>anger</answer>", "A high voice.", "anger"),
        ("<answer>anger</answer>", "", "anger"),
        ("anger", "", "anger"),
        ("The emotion is sadness.", "", "sadness"),
        ("A high voice. <answer>anger</answer>", "A high voice.", "anger"),
        ("<think>fear or anger", "fear or anger", None),
        ("<think>A high voice.</think><answer>anger or fear</answer>", "A high voice.", None),
        ("<think>A high voice.</think><answer>dangerous</answer>", "A high voice.", None),
        ("<think>A high voice.</think><answer>surprise</answer>", "A high voice.", None),
        ("<think>a</think><think>b</think><answer>anger</answer>", "a b", "anger"),
        ("<think>a</think><answer>anger</answer> or <answer></answer>", "a", "anger"),
        ("", "", None),
    ],
)
def test_other_replies_are_read_but_not_well_formed(text: str, reasoning: str, label: str | None):
    assert parse_response(text, LABELS) == Response(reasoning, label, well_formed=False)


def test_labels_of_a_bundle_may_be_any_text():
    assert parse_response("<think>a</think><answer>fru(s)tration</answer>", ["fru(s)tration"]).well_formed
    assert parse_response("It is Frustration", ["frustration", "anger"]).label == "frustration"


FRAGMENTS = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "<", ">", "anger", "Angry", "fear", " ", "\n", "high"]
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(FRAGMENTS, max_size=12).map("".join)))
def test_any_text_is_read_without_an_error(text: str):
    response = parse_response(text, LABELS)
    assert response.label is None or response.label in LABELS
    if response.well_formed:
        assert response.label is not None
        assert response.reasoning
        assert text.count("<think>") == text.count("</answer>") == 1


@given(st.text(alphabet=st.characters(exclude_characters="<>"), min_size=1).filter(str.strip), st.sampled_from(LABELS))
def test_what_a_prompt_completes_is_read_back(reasoning: str, label: str):
    prompt = Prompt()
    opening = prompt.after_audio.removeprefix("<|/audio|>")
    response = parse_response(opening + prompt.completion(reasoning, label), LABELS)
    assert response == Response(reasoning.strip(), label, well_formed=True)


@pytest.mark.parametrize(
    ("predicted", "truth", "right"),
    [
        ("anger", "anger", True),
        ("Angry", "anger", True),
        ("anger", "Wut", True),
        ("fear", "anger", False),
        (None, "anger", False),
        ("nonsense", "anger", False),
        ("Frustration", "frustration", True),
    ],
)
def test_correctness_knows_aliases(predicted: str | None, truth: str, right: bool):
    assert is_correct(predicted, truth) is right


def test_a_prompt_survives_json_and_refuses_what_it_does_not_know():
    prompt = Prompt(before_audio="hear: ", stop=("</think>", "\n\n"), max_think_tokens=9)
    assert Prompt.from_dict(prompt.to_dict()) == prompt
    for change in ({"surplus": 1}, {"max_think_tokens": -1}, {"max_think_tokens": True}, {"stop": "x"}, {"stop": [1]},
                   {"answer_open": None}):  # fmt: skip
        with pytest.raises(ValueError, match="prompt"):
            Prompt.from_dict(prompt.to_dict() | change)
    incomplete = prompt.to_dict()
    del incomplete["stop"]
    with pytest.raises(ValueError, match=r"missing \['stop'\]"):
        Prompt.from_dict(incomplete)
