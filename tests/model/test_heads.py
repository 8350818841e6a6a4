"""Classifiers, process reward models and embeddings against the classes of transformers, sample by sample."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from tests.model import plain_preferences as plain
from tests.model.conftest import assert_splits_alike
from xtuner.config.folders import check_folder, named_folders
from xtuner.dataset.collate_fns.head_collate_fns import (
    classification_collate_fn,
    embedding_collate_fn,
    stepwise_collate_fn,
)
from xtuner.errors import ConfigError
from xtuner.loadable import WITHOUT_TEXT
from xtuner.model.classifier import SequenceClassifier
from xtuner.model.embedding import EmbeddingModel
from xtuner.model.isolation import Isolation
from xtuner.model.process_reward import ProcessRewardModel
from xtuner.model.reward import RewardModel

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

NAMES = ["red", "green", "blue"]
SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"]}


def randomised(model):
    """The model in float64, far from its initial values."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


@pytest.fixture
def make(sizes):
    """A function of the name of a class of transformers: a random Llama of that class."""
    import transformers

    def made(name, **more):
        return randomised(getattr(transformers, name)(transformers.LlamaConfig(**sizes, **more)))

    return made


def with_adapter(model, task):
    """A copy of `model` with a random adapter, by peft alone."""
    torch.manual_seed(1)
    found = get_peft_model(copy.deepcopy(model), LoraConfig(**LORA, task_type=task))
    for name, parameter in found.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return found.double()


def padded(items):
    """All samples of `items` as one batch of transformers, padded on the right with 0."""
    rows = [ids for ids, _ in plain.samples(items)]
    width = max(map(len, rows))
    ids = torch.stack([functional.pad(row, (0, width - len(row))) for row in rows])
    mask = torch.stack([torch.arange(width) < len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask.long(), "use_cache": False}


def assert_same(model, batch, count, loss, policy, gradients, relative_error):
    """The `count` items of a batch give the `loss` and the gradients of `policy`; returns the outputs."""
    assert model.num_items(batch) == count
    outputs = model(batch, num_items=count)
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(loss.item(), rel=1e-10)
    ours, theirs = gradients(model.llm), gradients(policy)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 4
    assert max(relative_error(ours[n], theirs[n]) for n in ours if theirs[n].norm() > 0) < 1e-8
    return outputs


# --- classifiers -----------------------------------------------------------------------------------------

LABELS = {
    SINGLE: np.array([2, 0, 1, 1, 0, 2]),
    SEVERAL: np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]], np.uint8),
    NUMBER: np.array([0.5, -1, 2, 0, 3, -0.25], np.float32),
}


def labelled(items, problem_type):
    """Items of four and of two samples, with labels."""
    names = [] if problem_type == NUMBER else NAMES
    parts = np.split(LABELS[problem_type], [4])
    return [
        {**item, "sample_labels": part, "label_names": names} for item, part in zip(items, parts, strict=True)
    ]


def classifier(llm, problem_type, **more):
    names = None if problem_type == NUMBER else NAMES
    return SequenceClassifier(llm, labels=names, problem_type=problem_type, **more)


@pytest.mark.parametrize("way", ["padded", "alone"])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("problem_type", LABELS)
def test_a_classifier_is_that_of_transformers(
    make, items, problem_type, lora, way, gradients, relative_error
):
    """Loss and gradients of a pack equal those of a padded batch, and of samples alone, by its own loss."""
    data = labelled(items, problem_type)
    size = 1 if problem_type == NUMBER else 3
    scorer = make("LlamaForSequenceClassification", num_labels=size, problem_type=problem_type)
    policy = with_adapter(scorer, "SEQ_CLS") if lora else copy.deepcopy(scorer)
    labels = torch.from_numpy(LABELS[problem_type])
    labels = labels if problem_type == SINGLE else labels.double()
    with plain.exact_norms():
        if way == "padded":
            wanted = policy(**padded(items), labels=labels).loss
        else:
            rows = zip(plain.samples(items), labels, strict=True)
            losses = [policy(input_ids=ids[None], labels=label[None]).loss for (ids, _), label in rows]
            wanted = torch.stack(losses).mean()
        wanted.backward()
    model = classifier(scorer, problem_type, lora=LoraConfig(**LORA) if lora else None).train()
    model.llm.load_state_dict(policy.state_dict())
    model.double()
    batch = classification_collate_fn(data)["data"]
    assert_same(model, batch, 6, wanted, policy, gradients, relative_error)


@pytest.mark.parametrize("problem_type", LABELS)
def test_splits_of_an_update_are_alike(make, items, problem_type, gradients):
    size = 1 if problem_type == NUMBER else 3
    model = classifier(make("LlamaForSequenceClassification", num_labels=size), problem_type).train()
    assert_splits_alike(model, classification_collate_fn, labelled(items, problem_type), 7, gradients)


def test_metrics_of_labels(make, items, monkeypatch):
    """Accuracy; of several labels the rows that are all right, and the mean F1 of rows; the mean error."""
    logits = torch.tensor([[1.0, -1, -1], [-1, -1, -1], [1, 1, 1]])
    found = {}
    for problem_type, labels in (
        (SINGLE, [0, 2, 0]),
        (SEVERAL, [[1, 0, 0], [0, 0, 0], [1, 0, 0]]),
        (NUMBER, [0.0, 0, 0]),
    ):
        size = 1 if problem_type == NUMBER else 3
        model = classifier(make("LlamaForSequenceClassification", num_labels=size), problem_type)
        monkeypatch.setattr(model, "scores", lambda packed, size=size: logits[:, :size])
        kind = np.float32 if problem_type == NUMBER else np.int64
        item = {**items[0], "cumulative_len": [0, 7, 12, 22], "label_names": model.label_names}
        data = classification_collate_fn([{**item, "sample_labels": np.array(labels, kind)}])["data"]
        found |= {(problem_type, n): v.item() for n, v in model(data)["sums"].items()}
    assert found == {
        (SINGLE, "acc"): 2.0,
        (SEVERAL, "acc"): 2.0,
        (SEVERAL, "f1"): 2.5,
        (NUMBER, "mean_error"): 3.0,
    }


def test_names_of_labels_are_in_the_models_config(make):
    model = classifier(make("LlamaForSequenceClassification", num_labels=3), SEVERAL)
    config = model.llm.config
    assert config.id2label == {0: "red", 1: "green", 2: "blue"}
    assert config.label2id == {"red": 0, "green": 1, "blue": 2}
    assert (config.problem_type, config.num_labels) == (SEVERAL, 3)


def test_a_classifier_names_what_is_wrong(make, items, batch):
    """No labels, labels of regression, an unknown type, data of other labels or without any."""
    scorer = make("LlamaForSequenceClassification", num_labels=3)
    with pytest.raises(ConfigError, match=r"model.labels is None, but problem_type is 'single_label_class"):
        SequenceClassifier(scorer)
    with pytest.raises(ConfigError, match=r"but problem_type is 'regression': leave them out"):
        SequenceClassifier(scorer, labels=NAMES, problem_type=NUMBER)
    with pytest.raises(ConfigError, match=r"model.problem_type is 'x', but must be one of: single_label"):
        SequenceClassifier(scorer, labels=NAMES, problem_type="x")
    model = SequenceClassifier(scorer, labels=NAMES)
    with pytest.raises(ConfigError, match="SequenceClassifier trains on texts with labels: set dataset = "):
        model.num_items(batch)
    for problem_type in (SEVERAL, NUMBER):
        data = classification_collate_fn(labelled(items, problem_type))["data"]
        with pytest.raises(
            ConfigError, match=f"the data have the labels .* for {problem_type}, the model ha"
        ):
            model.num_items(data)
    padding = labelled(items, SINGLE)
    padding[0]["input_ids"][-1] = 0
    with pytest.raises(ConfigError, match="a sample ends with token 0, the padding token, which transf"):
        model.num_items(classification_collate_fn(padding)["data"])
    other = [{**item, "label_names": NAMES[::-1]} for item in labelled(items, SINGLE)]
    with pytest.raises(ConfigError, match=r"labels \['blue', 'green', 'red'\] for single"):
        model.num_items(classification_collate_fn(other)["data"])


# --- process reward models -------------------------------------------------------------------------------


def stepwise(items):
    """Items with six steps: each sample ends with one, and the longest have another within."""
    found, classes = [], iter([1, 0, 1, 1, 0, 0, 1, 0, 1])
    for item in items:
        labels = np.full_like(item["labels"], -100)
        for start, end in itertools.pairwise(item["cumulative_len"]):
            if end - start > 8:
                labels[start + 4] = next(classes)
            if end - start > 4:
                labels[end - 1] = next(classes)
        found.append({**item, "labels": labels})
    return found


@pytest.mark.parametrize("lora", [False, True])
def test_a_process_reward_model_is_a_token_classifier(make, items, lora, gradients, relative_error):
    """Loss and gradients are those of transformers' class on a padded batch with labels at ends of steps."""
    data = stepwise(items)
    scorer = make("LlamaForTokenClassification", num_labels=2, classifier_dropout=0.0)
    policy = with_adapter(scorer, "TOKEN_CLS") if lora else copy.deepcopy(scorer)
    batch = padded(items)
    labels = [
        torch.from_numpy(part) for item in data for part in np.split(item["labels"], item["cumulative_len"])
    ]
    labels = [row for row in labels if len(row)]
    width = batch["input_ids"].shape[1]
    labels = torch.stack([functional.pad(row, (0, width - len(row)), value=-100) for row in labels])
    with plain.exact_norms():
        theirs = policy(**batch, labels=labels)
        logits, classes = theirs.logits[labels >= 0], labels[labels >= 0]
        wanted = functional.cross_entropy(logits, classes)  # theirs is in fp32
        wanted.backward()
    model = ProcessRewardModel(scorer, lora=LoraConfig(**LORA) if lora else None).train()
    model.llm.load_state_dict(policy.state_dict())
    model.double()
    collated = stepwise_collate_fn(data)["data"]
    outputs = assert_same(model, collated, 6, wanted, policy, gradients, relative_error)
    assert outputs["loss"].item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    assert outputs["sums"]["acc"].item() == (logits.argmax(1) == classes).sum().item()
    right = logits.detach().softmax(-1)[:, 1]
    assert outputs["sums"]["score_mean"].item() == pytest.approx(right.sum().item(), rel=1e-10)
    with plain.exact_norms():
        scores = [found["scores"] for found in model.eval()(collated, mode="predict")]
    assert [len(found) for found in scores] == [1, 1, 0, 1, 2, 1]
    torch.testing.assert_close(torch.cat(scores), right, rtol=1e-9, atol=1e-12)


def test_splits_of_steps_are_alike(make, items, gradients):
    model = ProcessRewardModel(make("LlamaForTokenClassification", num_labels=2)).train()
    assert_splits_alike(model, stepwise_collate_fn, stepwise(items), 7, gradients)


def test_a_process_reward_model_names_wrong_data(make, batch):
    model = ProcessRewardModel(make("LlamaForTokenClassification", num_labels=2))
    assert model.llm.config.id2label == {0: "wrong", 1: "right"}
    with pytest.raises(ConfigError, match="ProcessRewardModel trains on answers in steps: set dataset = "):
        model.num_items(batch)


# --- embeddings ------------------------------------------------------------------------------------------


def grouped(items):
    """Groups of (7, 5), (4, 6) tokens, and of (9, 8) and a third sample as hard negative."""
    first = {**items[0], "group_sizes": [2, 2]}
    ids = np.concatenate([items[1]["input_ids"], items[0]["input_ids"][:4]])
    labels = np.concatenate([items[1]["labels"], items[0]["labels"][:4]])
    second = {"input_ids": ids, "labels": labels, "cumulative_len": [0, 9, 17, 21], "group_sizes": [3]}
    return [first, second]


def plain_vectors(model, items, pooling, way):
    """The vectors of all samples by a stock model."""
    if way == "padded":
        batch = padded(items)
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"]
        ends = mask.sum(1) - 1
        last = hidden[torch.arange(len(hidden)), ends]
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found = last if pooling == "last" else mean
    else:
        rows = [
            model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
            for ids, _ in plain.samples(items)
        ]
        found = torch.stack([row[-1] if pooling == "last" else row.mean(0) for row in rows])
    return found / found.norm(dim=-1, keepdim=True)


def plain_contrast(anchors, positives, negatives, temperature, symmetric):
    """InfoNCE by loops."""
    losses = []
    for i, (anchor, positive) in enumerate(zip(anchors, positives, strict=True)):
        every = torch.stack([anchor @ c for c in [*positives, *negatives]]) / temperature
        loss = every.logsumexp(0) - every[i]
        if symmetric:
            back = torch.stack([positive @ other for other in anchors]) / temperature
            loss = (loss + back.logsumexp(0) - back[i]) / 2
        losses.append(loss)
    return torch.stack(losses)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("way", ["padded", "alone"])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_and_their_loss_equal_plain_torch(
    make, items, pooling, lora, way, symmetric, gradients, relative_error
):
    """Vectors, loss, metrics and gradients of packs, with a hard negative."""
    data = grouped(items)
    base = make("LlamaModel")
    policy = with_adapter(base, "FEATURE_EXTRACTION") if lora else copy.deepcopy(base)
    with plain.exact_norms():
        vectors = plain_vectors(policy, data, pooling, way)
        groups = vectors[[0, 2, 4]], vectors[[1, 3, 5]], vectors[[6]]
        wanted = plain_contrast(*groups, 0.5, symmetric).sum() / 3
        wanted.backward()
    lora = LoraConfig(**LORA) if lora else None
    model = EmbeddingModel(base, lora=lora, pooling=pooling, temperature=0.5, symmetric=symmetric).train()
    model.llm.load_state_dict(policy.state_dict())
    model.double()
    batch = embedding_collate_fn(data)["data"]
    outputs = assert_same(model, batch, 3, wanted, policy, gradients, relative_error)
    anchors, candidates = groups[0].detach(), torch.cat(groups[1:]).detach()
    similarities = anchors @ candidates.T
    own = similarities.diagonal()
    sums = {
        "acc": (similarities.argmax(1) == torch.arange(3)).sum().item(),
        "positive_similarity": own.sum().item(),
        "negative_similarity": ((similarities.sum(1) - own) / 3).sum().item(),
    }
    assert {n: v.item() for n, v in outputs["sums"].items()} == pytest.approx(sums, rel=1e-9)
    with plain.exact_norms():
        found = torch.stack([one["vector"] for one in model.eval()(batch, mode="predict")])
    torch.testing.assert_close(found, vectors.detach(), rtol=1e-8, atol=1e-11)


def test_texts_that_belong_together_are_no_negatives(make, items):
    """An equal positive, another positive of an equal anchor, and the anchor's own text do not count."""
    model = EmbeddingModel(make("LlamaModel")).train()
    same = {**items[0], "group_sizes": [2, 2]}
    alone = {
        name: (value[:12] if name != "cumulative_len" else [0, 7, 12]) for name, value in items[0].items()
    } | {"group_sizes": [2]}
    batch = embedding_collate_fn([same, alone])["data"]
    both, wanted = (
        model(embedding_collate_fn(data)["data"], num_items=1)["loss"] for data in ([same, alone], [same])
    )
    assert batch["text_keys"][0] == batch["text_keys"][4]
    # The anchor that is there twice sees only the other positive, as before; so does the other anchor, twice.
    vectors = torch.stack([one["vector"] for one in model(batch, mode="predict")])
    anchors, positives = vectors[0::2], vectors[1::2]
    first = plain_contrast(anchors[:2], positives[:2], [], 0.05, False)
    assert wanted.item() == pytest.approx(first.sum().item(), rel=1e-9)
    second = plain_contrast(anchors[[1]], positives[[1]], positives[[0, 2]], 0.05, False)
    assert both.item() == pytest.approx((2 * first[0] + second[0]).item(), rel=1e-9)


def test_an_embedding_model_names_what_is_wrong(make, batch, llama):
    base = make("LlamaModel")
    with pytest.raises(ConfigError, match=r"model.pooling is 'cls', but must be one of: last, mean"):
        EmbeddingModel(base, pooling="cls")
    with pytest.raises(ConfigError, match=r"model.temperature is 0, but must be above 0"):
        EmbeddingModel(base, temperature=0)
    model = EmbeddingModel(base)
    with pytest.raises(ConfigError, match="EmbeddingModel trains on texts that belong together: set dataset"):
        model.num_items(batch)
    with pytest.raises(ConfigError, match="sequence_parallel_size: EmbeddingModel cannot train on parts"):
        model.enable_sequence_parallel(None)


def test_a_batch_without_negatives_is_said(make, items, caplog):
    model = EmbeddingModel(make("LlamaModel")).train()
    one = {**items[1], "group_sizes": [2]}
    assert model(embedding_collate_fn([one])["data"])["loss"].item() == 0
    assert "EmbeddingModel: a batch has no negatives to learn from: raise batch_size" in caplog.text


# --- families --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "bloom", "gpt2", "internlm2", "mistral"])
def test_families_load_with_each_head(saved, family, items):
    """Packed or each sample by itself, all give what their own class gives; heads are zero at first."""
    from transformers import AutoModelForCausalLM

    small = {"n_layer": 2, "n_head": 4} if family in ("bloom", "gpt2") else {}
    small |= {"n_embd": 32} if family == "gpt2" else {}
    small |= {"sliding_window": 4} if family == "mistral" else {}
    llm = {
        "type": AutoModelForCausalLM.from_pretrained,
        "pretrained_model_name_or_path": str(saved(family, **small)),
        "torch_dtype": torch.float32,
    }
    model = SequenceClassifier(llm, labels=NAMES).train()
    losses = model(classification_collate_fn(labelled(items, SINGLE))["data"])["loss"]
    assert losses.item() == pytest.approx(np.log(3), rel=1e-6)
    losses.backward()
    losses = ProcessRewardModel(llm)(stepwise_collate_fn(stepwise(items))["data"])["loss"]
    assert losses.item() == pytest.approx(np.log(2), rel=1e-6)
    model = EmbeddingModel(llm, pooling="mean").eval()
    found = torch.stack(
        [x["vector"] for x in model(embedding_collate_fn(grouped(items))["data"], mode="predict")]
    )
    with torch.no_grad():
        wanted = plain_vectors(model.llm, grouped(items), "mean", "alone")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_training_goes_on_from_a_saved_model_with_a_head(llama_dir, items, tmp_path):
    """The head of the folder is trained on; vectors are those of a folder of sentence-transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def llm(folder):
        return {
            "type": AutoModelForCausalLM.from_pretrained,
            "pretrained_model_name_or_path": str(folder),
            "torch_dtype": torch.float32,
        }

    cases = {
        "classes": (
            SequenceClassifier,
            {"labels": NAMES},
            classification_collate_fn,
            labelled(items, SINGLE),
        ),
        "steps": (ProcessRewardModel, {}, stepwise_collate_fn, stepwise(items)),
        "pairs": (EmbeddingModel, {}, embedding_collate_fn, grouped(items)),
    }
    for name, (kind, settings, collate, data) in cases.items():
        first = kind(llm(llama_dir), **settings).eval()
        for parameter in first.llm.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        folder = tmp_path / name
        first.llm.save_pretrained(folder)
        AutoTokenizer.from_pretrained(llama_dir).save_pretrained(folder)
        for file, words in first.extra_files().items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(words)
        batch = collate(data)["data"]
        losses = [model(batch)["loss"].item() for model in (first, kind(llm(folder), **settings).eval())]
        assert losses[0] == losses[1]
        config = {"model": {"type": kind, "llm": llm(folder)}}
        (found,) = named_folders(config)
        check_folder(found, config)


def test_methods_without_text_are_known_by_name():
    """`check` and `train` name them without importing torch."""
    kinds = (EmbeddingModel, ProcessRewardModel, RewardModel, SequenceClassifier)
    assert tuple(kind.__name__ for kind in kinds) == WITHOUT_TEXT
    assert not any(kind.writes_text for kind in kinds)


def test_models_that_are_not_known_to_isolate_samples_are_tested(make):
    """With the attention of transformers, which keeps packed samples apart, they are packed."""
    models = (
        SequenceClassifier(make("LlamaForSequenceClassification", num_labels=3), labels=NAMES),
        ProcessRewardModel(make("LlamaForTokenClassification", num_labels=2)),
        EmbeddingModel(make("LlamaModel")),
    )
    for model in models:
        model.llm.set_attn_implementation("eager")
        assert Isolation().holds(model.llm, 30)
