"""A family that only its own code knows: nothing of it runs unless asked, and rows are padded away."""

import json

import pytest
import torch
from benchmarks.published import DREAM, tiny, write

from unmask.decoding.decode import decode
from unmask.errors import UnmaskError
from unmask.models.auto import load_model
from unmask.policies import ConfidenceThreshold
from unmask.testing import check_model

CODE = """
import pathlib
import torch
from transformers import PreTrainedModel, PreTrainedConfig
from transformers.modeling_outputs import MaskedLMOutput

pathlib.Path(r"{trace}").write_text("ran")

class NovelConfig(PreTrainedConfig):
    model_type = "novel"

class NovelModel(PreTrainedModel):
    config_class = NovelConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, 16)
        self.mix = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = torch.nn.Linear(16, config.vocab_size)
        self.post_init()

    def forward(self, input_ids):
        place = torch.arange(input_ids.shape[1])[None, :, None] / 10
        x = self.embed(input_ids) + place.sin()
        return MaskedLMOutput(logits=self.out(x + self.mix(x, x, x)[0]))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with code of its own; `ran` appears beside it when that code runs."""
    write(tmp_path / "novel", tiny(DREAM), ["some text"])
    trace = tmp_path / "ran"
    (tmp_path / "novel" / "modeling_novel.py").write_text(CODE.format(trace=trace))
    settings = json.loads((tmp_path / "novel" / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Qwen2Tokenizer"}
    del settings["auto_map"]
    (tmp_path / "novel" / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "model_type": "novel",
        "architectures": ["NovelModel"],
        "auto_map": {"AutoConfig": "modeling_novel.NovelConfig", "AutoModelForMaskedLM": "modeling_novel.NovelModel"},
        "vocab_size": 400,
        "mask_token_id": 370,
        "eos_token_id": 360,
        "pad_token_id": 360,
    }
    (tmp_path / "novel" / "config.json").write_text(json.dumps(config))
    for stale in (tmp_path / "novel").glob("*.safetensors"):
        stale.unlink()
    from safetensors.torch import save_file

    torch.manual_seed(0)
    mix = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    weights = {"embed.weight": torch.randn(400, 16), "out.weight": torch.randn(400, 16), "out.bias": torch.randn(400)}
    weights |= {f"mix.{name}": value.detach() * 3 for name, value in mix.state_dict().items()}
    save_file(weights, tmp_path / "novel" / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "novel"


def test_remote_code_runs_only_when_asked(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(UnmaskError, match="is a 'novel', .*pass trust_remote_code"):
        load_model(folder)
    assert not (folder.parent / "ran").exists()
    model = load_model(folder, trust_remote_code=True)
    assert (folder.parent / "ran").exists()
    assert model.family == "remote code"
    check_model(model)


def test_rows_of_any_length_are_exact_though_the_code_knows_no_padding(folder):
    model = load_model(folder, trust_remote_code=True)
    prompts = [[5 + i] * (1 + i) for i in range(8)]
    together = decode(model, ConfidenceThreshold(0.5), prompts, gen_length=8)
    for i, prompt in enumerate(prompts):
        alone = decode(model, ConfidenceThreshold(0.5), [prompt], gen_length=8)
        assert torch.equal(together.tokens[i], alone.tokens[0])


def test_a_mask_id_that_the_files_do_not_tell_is_asked_for(folder):
    for file, key in (("config.json", "mask_token_id"), ("tokenizer_config.json", "mask_token")):
        settings = json.loads((folder / file).read_text())
        del settings[key]
        (folder / file).write_text(json.dumps(settings))
    with pytest.raises(UnmaskError, match="pass mask_id"):
        load_model(folder, trust_remote_code=True)
    assert load_model(folder, trust_remote_code=True, mask_id=370).mask_id == 370


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model_type": "LLaDA2"}, "it is a 'LLaDA2'"),
        ({"block_size": 32}, "its config.json has 'block_size'"),
    ],
)
def test_families_that_need_a_mask_between_blocks_are_refused(folder, tmp_path, changes, why):
    path = tmp_path / "novel" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UnmaskError, match=rf"causally between blocks \({why}\).*or pass full_attention"):
        load_model(tmp_path / "novel", trust_remote_code=True)
    assert not (tmp_path / "ran").exists()


def test_who_knows_better_runs_such_a_family_without_a_mask(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "block_size": 32}))
    check_model(load_model(folder, trust_remote_code=True, full_attention=True))
