"""What every language-model runtime must do; `make_language_model` runs these for each of them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_emotion.errors import LanguageModelError
from edge_emotion.metrics import softmax

PROMPT = "<|audio|>the anger of the other<|/audio|><think>"
CLOSING = "</answer>"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return np.log(softmax(logits))


def prefilled(model, text=PROMPT):
    model.prefill([model.tokenize(text)])
    return model


def test_tags_are_single_tokens(language_model, tiny):
    assert [len(language_model.tokenize(tag)) for tag in tiny.tags] == [1] * len(tiny.tags)


def test_merges_are_applied(language_model, tiny):
    assert language_model.tokenize("anger the") == [tiny.vocabulary.index("anger"), tiny.vocabulary.index("Ġthe")]


@pytest.mark.parametrize("text", ["", "anger", " the  anger ", "é ß 日本 🙂", "a\0b", "line\nbreak"])
def test_text_survives_tokenizing(language_model, text):
    assert language_model.detokenize(language_model.tokenize(text)) == text


def test_text_that_is_not_unicode_is_refused(language_model):
    with pytest.raises(LanguageModelError, match="not Unicode"):
        language_model.tokenize("\ud800")


def test_embedding_rows_equal_their_tokens(make_language_model, tiny):
    """The rows that the model itself looks up, injected, give the same logits as the tokens."""
    by_token, by_row = make_language_model(), make_language_model()
    ids = by_token.tokenize(PROMPT)
    by_token.prefill([ids])
    by_row.prefill([ids[:1], tiny.token_embeddings[ids[1:-2]], ids[-2:]])
    np.testing.assert_allclose(by_row.logits(), by_token.logits(), atol=1e-5)


def test_embeddings_matter(make_language_model, tiny):
    one, other = make_language_model(), make_language_model()
    rows = np.zeros((5, tiny.embedding_dim), np.float32)
    one.prefill([[1], rows, [2]])
    other.prefill([[1], rows + tiny.token_embeddings[3], [2]])
    assert np.abs(one.logits() - other.logits()).max() > 0.1


def test_rows_need_not_be_contiguous(make_language_model, tiny):
    plain, strided = make_language_model(), make_language_model()
    rows = np.random.default_rng(0).normal(size=(6, 2 * tiny.embedding_dim)).astype(np.float32)
    plain.prefill([rows[::2, ::2].copy()])
    strided.prefill([rows[::2, ::2]])
    np.testing.assert_array_equal(plain.logits(), strided.logits())


def test_one_prefill_equals_many(make_language_model):
    whole, parts = make_language_model(), make_language_model()
    ids = whole.tokenize(PROMPT)
    whole.prefill([ids])
    for token in ids:
        parts.prefill([[token]])
    assert whole.position == parts.position == len(ids)
    np.testing.assert_allclose(whole.logits(), parts.logits(), atol=1e-4)


def test_long_input_is_split_into_batches(make_language_model, tiny):
    """More rows than one batch takes: the sequence is the same as row by row."""
    model, stepwise = make_language_model(context_tokens=1200), make_language_model(context_tokens=1200)
    rows = np.random.default_rng(1).normal(size=(1100, tiny.embedding_dim)).astype(np.float32)
    model.prefill([rows])
    for start in range(0, len(rows), 100):
        stepwise.prefill([rows[start : start + 100]])
    np.testing.assert_allclose(model.logits(), stepwise.logits(), atol=1e-3)


def test_prefix_reuse_equals_a_full_prefill(make_language_model):
    fresh, reused = make_language_model(), make_language_model()
    fresh.prefill([fresh.tokenize("<|audio|>the"), fresh.tokenize("anger")])
    prefilled(reused, "<|audio|>the").save_prefix()
    for other in ("boredom and more", "fear"):
        prefilled(reused, other)
        list(reused.stream(7))
        reused.load_prefix()
    prefilled(reused, "anger")
    assert reused.position == fresh.position
    np.testing.assert_allclose(reused.logits(), fresh.logits(), atol=1e-5)


def test_a_loaded_prefix_brings_its_logits(language_model):
    prefilled(language_model, "<|audio|>the").save_prefix()
    expected = language_model.logits()
    prefilled(language_model, "anger")
    language_model.load_prefix()
    np.testing.assert_array_equal(language_model.logits(), expected)


def test_an_empty_prefix_can_be_saved(language_model):
    language_model.save_prefix()
    prefilled(language_model)
    language_model.load_prefix()
    assert language_model.position == 0
    with pytest.raises(LanguageModelError, match="nothing was prefilled"):
        language_model.logits()


def test_load_without_save_is_refused(language_model):
    with pytest.raises(LanguageModelError, match="no prefix"):
        language_model.load_prefix()


def test_stream_is_greedy_and_deterministic(language_model):
    prefilled(language_model).save_prefix()
    first = list(language_model.stream(12))
    language_model.load_prefix()
    for token in first:
        logits = language_model.logits()
        assert token.id == int(np.argmax(logits))
        assert token.logprob == pytest.approx(log_softmax(logits)[token.id], abs=1e-4)
        language_model.prefill([[token.id]])
    language_model.load_prefix()
    assert [token.id for token in language_model.stream(12)] == [token.id for token in first]
    assert len(first) == 12


def test_stream_stops_before_the_stop_token(language_model):
    prefilled(language_model).save_prefix()
    ids = [token.id for token in language_model.stream(12)]
    stop = ids[4]
    language_model.load_prefix()
    start = language_model.position
    assert [token.id for token in language_model.stream(12, {stop})] == ids[: ids.index(stop)]
    assert language_model.position == start + ids.index(stop)
    assert int(np.argmax(language_model.logits())) == stop


def test_stream_that_is_left_early_can_go_on(language_model):
    prefilled(language_model).save_prefix()
    ids = [token.id for token in language_model.stream(6)]
    language_model.load_prefix()
    start = language_model.position
    assert next(language_model.stream(6)).id == ids[0]
    assert language_model.position == start + 1
    assert [token.id for token in language_model.stream(5)] == ids[1:]


def test_streamed_text_is_the_tokens_text(language_model):
    tokens = list(prefilled(language_model).stream(40))
    whole = language_model.detokenize([token.id for token in tokens])
    assert whole.startswith("".join(token.text for token in tokens).rstrip("�"))


def test_label_scores_equal_step_by_step(language_model, tiny):
    prefilled(language_model).save_prefix()
    expected = []
    for label in tiny.labels:
        language_model.load_prefix()
        total = 0.0
        for token in language_model.tokenize(label + CLOSING):
            total += log_softmax(language_model.logits())[token]
            language_model.prefill([[token]])
        expected.append(total)
    language_model.load_prefix()
    np.testing.assert_allclose(language_model.score_labels(tiny.labels, CLOSING), expected, atol=1e-3)


def test_scoring_leaves_the_sequence_as_it_was(make_language_model, tiny):
    scored, untouched = prefilled(make_language_model()), prefilled(make_language_model())
    scored.score_labels(tiny.labels, CLOSING)
    np.testing.assert_array_equal(scored.logits(), untouched.logits())
    ids = [[token.id for token in model.stream(10)] for model in (scored, untouched)]
    assert ids[0] == ids[1]


def test_more_labels_than_fit_one_batch(language_model):
    labels = [f"label number {index}" for index in range(40)]
    prefilled(language_model)
    together = language_model.score_labels(labels, CLOSING)
    alone = [language_model.score_labels([label], CLOSING)[0] for label in labels]
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_labels_are_scored_in_the_last_free_tokens(make_language_model, tiny):
    wide, narrow = make_language_model(), make_language_model()
    longest = max(len(wide.tokenize(label + CLOSING)) for label in tiny.labels) - 1
    ids = wide.tokenize(PROMPT)
    narrow = make_language_model(context_tokens=len(ids) + longest)
    for model in (wide, narrow):
        model.prefill([ids])
    np.testing.assert_allclose(
        narrow.score_labels(tiny.labels, CLOSING), wide.score_labels(tiny.labels, CLOSING), atol=1e-3
    )


def test_single_token_labels_need_no_decoding(language_model):
    logits = prefilled(language_model).logits()
    token = language_model.tokenize("anger")
    assert len(token) == 1
    assert language_model.score_labels(["anger"])[0] == pytest.approx(log_softmax(logits)[token[0]], abs=1e-5)


def invalid_segments(width: int, vocabulary: int) -> dict[str, list]:
    rows = np.zeros((3, width), np.float32)
    broken, endless = rows.copy(), rows.copy()
    broken[1, 2], endless[0, 0] = np.nan, np.inf
    return {
        "no segments": [],
        "empty tokens": [[]],
        "empty embeddings": [rows[:0]],
        "one good, one empty": [[1, 2], []],
        "token too large": [[1, vocabulary]],
        "token negative": [[1, -1]],
        "token huge": [[2**40]],
        "token float": [[1.5]],
        "token text": [["anger"]],
        "token ragged": [[[1], [2, 3]]],
        "token bool": [[True]],
        "token none": [None],
        "too narrow": [rows[:, 1:].copy()],
        "too wide": [np.zeros((3, width + 1), np.float32)],
        "float64": [rows.astype(np.float64)],
        "float16": [rows.astype(np.float16)],
        "one row without its axis": [rows[0]],
        "three axes": [rows[None]],
        "nan": [broken],
        "infinity": [endless],
        "longer than the context": [np.zeros((513, width), np.float32)],
        "longer than the context in all": [[1] * 300, np.zeros((300, width), np.float32)],
    }


@pytest.mark.parametrize("name", list(invalid_segments(4, 10)))
def test_invalid_segments_are_refused_and_change_nothing(language_model, tiny, name):
    prefilled(language_model)
    before, position = language_model.logits(), language_model.position
    with pytest.raises(LanguageModelError):
        language_model.prefill(invalid_segments(tiny.embedding_dim, len(tiny.vocabulary))[name])
    assert language_model.position == position
    np.testing.assert_array_equal(language_model.logits(), before)
    assert len(list(language_model.stream(3))) == 3


def test_a_full_context_is_refused_and_recovers(language_model):
    language_model.save_prefix()
    language_model.prefill([[1] * 512])
    with pytest.raises(LanguageModelError, match="do not fit"):
        language_model.prefill([[1]])
    with pytest.raises(LanguageModelError, match="does not fit"):
        language_model.stream(1)
    with pytest.raises(LanguageModelError, match="can be scored"):
        language_model.score_labels(["a longer label"])
    language_model.load_prefix()
    assert len(list(prefilled(language_model).stream(3))) == 3


@pytest.mark.parametrize("ask", ["logits", "stream", "score_labels"])
def test_nothing_can_be_asked_before_a_prefill(language_model, ask):
    arguments = {"logits": (), "stream": (3,), "score_labels": (["anger"],)}[ask]
    with pytest.raises(LanguageModelError, match="nothing was prefilled"):
        getattr(language_model, ask)(*arguments)


def test_an_empty_label_is_refused(language_model):
    with pytest.raises(LanguageModelError, match="has 0 tokens"):
        prefilled(language_model).score_labels(["anger", ""])


def test_a_negative_budget_is_refused(language_model):
    with pytest.raises(LanguageModelError, match="max_tokens -1"):
        prefilled(language_model).stream(-1)


def test_close_twice_then_every_call_is_refused(make_language_model):
    model = prefilled(make_language_model())
    running = model.stream(5)
    next(running)
    model.close()
    model.close()
    calls = (
        lambda: model.tokenize("anger"),
        lambda: model.prefill([[1]]),
        lambda: model.logits(),
        lambda: next(running),
        lambda: model.score_labels(["anger"]),
        lambda: model.load_prefix(),
        lambda: model.describe(),
    )
    for call in calls:
        with pytest.raises(LanguageModelError, match="closed"):
            call()


def test_describe_tells_what_runs(language_model, tiny):
    described = language_model.describe()
    assert described["embedding_dim"] == tiny.embedding_dim
    assert described["vocabulary"] == len(tiny.vocabulary)
    assert described["threads"] == 1
    assert described["version"]
