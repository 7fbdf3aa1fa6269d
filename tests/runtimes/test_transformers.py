"""Encoders of transformers on a tiny random BERT: its pipelines' answers, and what is refused."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from stackserve.runtimes.base import BadInput, Metadata, Model, ModelFiles, ModelRefused, TensorSpec
from stackserve.runtimes.transformers import TransformersRuntime
from tests.runtimes.payload import Payload

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "mill",
    "bank",
    "is",
    "open",
    "##ed",
    "river",
]
LABELS = {0: "O", 1: "PLACE", 2: "THING"}
TEXTS = [
    "the bank is open",
    "river",
    "the mill opened the river bank is the mill",
    "",
    "unheard words",
]
TOLERANCE = 2e-6
"""Of probabilities and unit vectors in FP32, between one batch and another: padding changes the shapes
of products, and with them the order of their sums.
"""


def saved(folder: Path, kind: type[Any], **config: Any) -> Path:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    settings = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=24,
        initializer_range=0.7,
        id2label=LABELS,
        label2id={label: place for place, label in LABELS.items()},
        **config,
    )
    torch.manual_seed(11)
    kind(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "model"
    return saved(folder, transformers.BertForSequenceClassification)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", transformers.BertForSequenceClassification)


def loaded(folder: Path, **options: Any) -> Model:
    return TransformersRuntime().load(ModelFiles(folder, options))


def refusal(folder: Path, **options: Any) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        loaded(folder, **options)
    return caught.value


def texts(*given: str) -> dict[str, Any]:
    array = np.empty(len(given), dtype=object)
    array[:] = [text.encode() for text in given]
    return {"text": array}


def test_the_labels_are_those_of_the_pipeline(classifier: Path) -> None:
    pipeline = transformers.pipeline("text-classification", str(classifier), top_k=None)
    answer = loaded(classifier).infer(texts(*TEXTS), ["label", "score", "scores"])
    for row, expected in enumerate(pipeline(TEXTS)):
        assert answer["label"][row] == expected[0]["label"].encode()
        assert answer["score"][row] == pytest.approx(expected[0]["score"], abs=TOLERANCE)
        by_label = {each["label"]: each["score"] for each in expected}
        given = dict(zip(LABELS.values(), answer["scores"][row], strict=True))
        assert given == pytest.approx(by_label, abs=TOLERANCE)


def test_labels_that_do_not_exclude_each_other_have_a_probability_each(tmp_path: Path) -> None:
    kind = transformers.BertForSequenceClassification
    folder = saved(tmp_path / "model", kind, problem_type="multi_label_classification")
    pipeline = transformers.pipeline("text-classification", str(folder), top_k=None)
    answer = loaded(folder).infer(texts(*TEXTS), ["scores"])["scores"]
    for row, expected in enumerate(pipeline(TEXTS)):
        by_label = {each["label"]: each["score"] for each in expected}
        given = dict(zip(LABELS.values(), answer[row], strict=True))
        assert given == pytest.approx(by_label, abs=TOLERANCE)


def test_the_metadata_of_a_classifier(classifier: Path) -> None:
    assert loaded(classifier).metadata == Metadata(
        "transformers",
        (TensorSpec("text", "BYTES", (-1,)),),
        (
            TensorSpec("label", "BYTES", (-1,)),
            TensorSpec("score", "FP32", (-1,)),
            TensorSpec("scores", "FP32", (-1, 3)),
        ),
        True,
    )


@pytest.mark.parametrize("task", ["embeddings", "feature-extraction"])
def test_an_embedding_is_the_mean_over_a_texts_tokens(classifier: Path, task: str) -> None:
    model = transformers.AutoModel.from_pretrained(classifier).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    served = loaded(classifier, task=task)
    assert served.metadata.outputs == (TensorSpec("embedding", "FP32", (-1, 16)),)
    answer = served.infer(texts(*TEXTS), ["embedding"])["embedding"]
    for row, text in enumerate(TEXTS):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(answer[row], states[0].mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_normalized_embeddings_have_the_length_one(classifier: Path) -> None:
    served = loaded(classifier, task="embeddings", normalize=True)
    answer = served.infer(texts(*TEXTS), ["embedding"])["embedding"]
    np.testing.assert_allclose(np.linalg.norm(answer, axis=1), 1.0, rtol=1e-6)


def test_words_are_labelled_as_the_pipeline_does(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", transformers.BertForTokenClassification)
    pipeline = transformers.pipeline("token-classification", str(folder))
    answer = loaded(folder).infer(texts(*TEXTS[:3]), ["entities"])["entities"]
    for text, row in zip(TEXTS, answer, strict=False):
        given, expected = json.loads(row), pipeline(text)
        assert expected
        assert [each["score"] for each in given] == pytest.approx(
            [float(each["score"]) for each in expected], abs=TOLERANCE
        )
        for one, other in zip(given, expected, strict=True):
            assert {key: one[key] for key in ("entity", "index", "start", "end")} == {
                key: other[key] for key in ("entity", "index", "start", "end")
            }
            assert one["word"] == text[one["start"] : one["end"]]


@pytest.mark.parametrize(
    ("task", "name"), [("text-classification", "scores"), ("embeddings", "embedding")]
)
def test_a_rows_numbers_do_not_depend_on_its_company(
    classifier: Path, task: str, name: str
) -> None:
    model = loaded(classifier, task=task, normalize=True)
    many = [TEXTS[place % len(TEXTS)] for place in range(70)]
    together = model.infer(texts(*many), [name])[name]
    for place, text in enumerate(TEXTS):
        alone = model.infer(texts(text), [name])[name]
        np.testing.assert_allclose(
            together[place :: len(TEXTS)], np.repeat(alone, 14, 0), atol=TOLERANCE
        )


def test_many_threads_get_the_answers_of_one(classifier: Path) -> None:
    model = loaded(classifier)
    expected = {text: model.infer(texts(text), ["scores"])["scores"] for text in TEXTS}
    asked = TEXTS * 20
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: model.infer(texts(text), ["scores"])["scores"], asked))
    for text, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(answer, expected[text], atol=TOLERANCE)


def test_several_may_be_loaded_at_once(classifier: Path) -> None:
    expected = loaded(classifier).infer(texts(*TEXTS), ["scores"])["scores"]
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(lambda _: loaded(classifier), range(12)))
    for model in models:
        np.testing.assert_array_equal(model.infer(texts(*TEXTS), ["scores"])["scores"], expected)


def test_a_text_longer_than_the_model_takes_is_cut_off(classifier: Path) -> None:
    model = loaded(classifier)
    long, longer = ("the mill " * 40, "the mill " * 400)
    answer = model.infer(texts(long, longer), ["scores"])["scores"]
    np.testing.assert_allclose(answer[0], answer[1], atol=TOLERANCE)


def test_no_text_gives_no_rows(classifier: Path) -> None:
    answer = loaded(classifier).infer(texts(), ["label", "score", "scores"])
    assert {name: array.shape for name, array in answer.items()} == {
        "label": (0,),
        "score": (0,),
        "scores": (0, 3),
    }


def test_bytes_that_are_no_text_are_the_callers_fault(classifier: Path) -> None:
    array = np.array([b"\xff\xfe"], dtype=object)
    with pytest.raises(BadInput, match="'text'"):
        loaded(classifier).infer({"text": array}, ["label"])


def changed(folder: Path, name: str, **more: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_that_a_model_brings_is_refused_and_never_runs(own: Path, name: str) -> None:
    trace = own.parent / "trace"
    (own / "mine.py").write_text(f"import pathlib; pathlib.Path({str(trace)!r}).touch()")
    auto = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"}
    changed(own, name, auto_map=auto)
    assert refusal(own).code == "remote_code"
    assert not trace.exists()


def test_a_pickled_checkpoint_is_refused_and_its_payload_never_runs(own: Path) -> None:
    trace = own.parent / "trace"
    (own / "model.safetensors").unlink()
    (own / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(trace)))
    assert refusal(own).code == "unsafe_format"
    assert not trace.exists()


def test_a_checkpoint_without_its_head_is_refused(own: Path) -> None:
    path = own / "model.safetensors"
    state = load_file(path)
    save_file({name: value for name, value in state.items() if "classifier" not in name}, path)
    found = refusal(own)
    assert found.code == "weights_mismatch"
    assert "classifier.bias" in found.message


@pytest.mark.parametrize("content", [b"", b"garbage" * 30], ids=repr)
def test_damaged_weights_are_refused(own: Path, content: bytes) -> None:
    (own / "model.safetensors").write_bytes(content)
    assert refusal(own).code == "model_unreadable"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_damaged_json_is_refused(own: Path, name: str) -> None:
    path = own / name
    path.write_bytes(path.read_bytes()[:100])
    assert refusal(own).code == "model_unreadable"


@pytest.mark.parametrize(
    "options",
    [
        {"task": "translation"},
        {"task": "token-classification"},
        {"tsak": "embeddings"},
        {"max_length": 1},
    ],
)
def test_wrong_options_are_refused(classifier: Path, options: dict[str, Any]) -> None:
    assert refusal(classifier, **options).code == "invalid_options"


def test_an_adapter_is_refused_with_what_to_do(own: Path) -> None:
    (own / "adapter_config.json").write_text("{}")
    found = refusal(own)
    assert found.code == "unsupported_model"
    assert "merge" in found.message


def test_the_estimate_covers_the_weights_and_their_copy(classifier: Path) -> None:
    size = (classifier / "model.safetensors").stat().st_size
    assert TransformersRuntime().estimate(ModelFiles(classifier)) > 2 * size


def test_weights_without_a_configuration_are_refused(own: Path) -> None:
    (own / "config.json").unlink()
    assert refusal(own).code == "description_missing"
