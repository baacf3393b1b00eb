"""What a folder may hold beside the tensors of its architecture, and what is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining

import unmask
from tests.models.test_masked_lm import SHAPE
from unmask.errors import UnmaskError
from unmask.hub import bundled
from unmask.models.auto import load_model
from unmask.pretrain import build_tokenizer
from unmask.tasks.auto import load_task


@pytest.fixture
def change(tmp_path, tiny_folder):
    """Add tensors to a copy of the tiny dLLM, or change them; its folder."""

    def changed(**tensors):
        folder = tmp_path / "m"
        shutil.copytree(tiny_folder, folder)
        weights = load_file(folder / "model.safetensors")
        save_file(weights | tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return changed


def test_a_published_bert_keeps_its_other_heads(tmp_path):
    tokenizer = build_tokenizer([load_task("house")])
    network = BertForPreTraining(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **SHAPE))
    network.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    names = set(load_file(tmp_path / "m" / "model.safetensors"))
    assert {"bert.pooler.dense.weight", "cls.seq_relationship.bias"} <= names
    load_model(tmp_path / "m")


@pytest.mark.parametrize(
    "name",
    [
        "roberta_prelayernorm.embeddings.position_ids",
        "roberta_prelayernorm.encoder.layer.0.attention.self.rotary_emb.inv_freq",
        "roberta_prelayernorm.pooler.dense.weight",
        "sop_classifier.classifier.weight",
    ],
)
def test_tensors_that_no_dllm_needs_may_be_there(change, name):
    load_model(change(**{name: torch.zeros(2)}))


def test_a_tensor_without_a_place_is_refused_by_name(change):
    folder = change(**{"roberta_prelayernorm.encoder.layer.2.output.dense.bias": torch.zeros(2), "z": torch.zeros(1)})
    with pytest.raises(UnmaskError) as e:
        load_model(folder)
    assert str(e.value) == (
        f"The weights of '{folder}' hold 'roberta_prelayernorm.encoder.layer.2.output.dense.bias' and 1 more tensors, "
        "for which its config.json has no place: config and weights are of different dLLMs; download both again."
    )


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(change, bad):
    name = "roberta_prelayernorm.encoder.layer.1.output.dense.bias"
    folder = change(**{name: torch.tensor([bad] + [0.0] * 31)})
    with pytest.raises(UnmaskError) as e:
        load_model(folder)
    assert str(e.value) == (
        f"The tensor '{name}' of '{folder}' holds NaN or infinity: download it again, or take an earlier checkpoint."
    )


def test_a_folder_without_its_tokenizer_is_refused(tiny_folder, tmp_path):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(f"{tiny_folder}/{name}", tmp_path / "bare")
    with pytest.raises(UnmaskError, match="The folder of '.*bare' lacks its tokenizer: download all of its files."):
        load_model(tmp_path / "bare")


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 0}, {"num_hidden_layers": 10**7}, {"hidden_size": "wide"}, {"num_hidden_layers": -1}],
    ids=str,
)
def test_a_config_with_odd_values_is_refused_in_a_sentence(tmp_path, tiny_folder, changes):
    shutil.copytree(tiny_folder, tmp_path / "odd")
    path = tmp_path / "odd" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UnmaskError):
        load_model(tmp_path / "odd")


def test_results_in_a_folder_of_a_bundled_name_do_not_hide_the_dllm(tmp_path, monkeypatch):
    """`unmask eval --output lists` makes one; a dLLM in such a folder is taken first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "config.json").write_text("{}")
    shipped = load_model("lists")
    assert shipped.vocab_size > 40
    shutil.copytree(bundled("models")["nae-sat"], tmp_path / "lists", dirs_exist_ok=True)
    assert load_model("lists").vocab_size < 20
    (tmp_path / "house-base-full").mkdir()
    assert unmask.load_policy("house-base-full").calibrations, "of policies, too"
    with pytest.raises(UnmaskError, match="or a bundled dLLM .*house-small, lists, nae-sat"):
        load_model("list")
