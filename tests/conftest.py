"""Real classes at tiny size: a random two-layer dLLM, its tokenizer, and the bundled tasks."""

import os
from importlib import import_module
from tempfile import TemporaryDirectory

modules = TemporaryDirectory(prefix="unmask-tests-")  # for the code of models, as transformers copies it
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = modules.name

import jaxtyping
import torch
import transformers.modeling_utils
import transformers.models.auto.modeling_auto  # noqa: F401 (what is first imported under the hook is compiled anew)
from jaxtyping import install_import_hook

from tests import typecheck

jaxtyping.jaxtyped = typecheck.instead_of_jaxtyped  # for good: what the hook put before functions runs later, too
hook = install_import_hook("unmask", None)

import pytest

from unmask.models.masked_lm import MaskedLM
from unmask.pretrain import PretrainConfig, build_network, build_tokenizer
from unmask.tasks.auto import load_task

for name in (
    "decoding.generate",
    "decoding.session",
    "decoding.trajectory",
    "evaluation.bounds",
    "evaluation.calibrate",
    "evaluation.differences",
    "integrations.engine",
    "policies.auto",
    "rl.algorithms.ppo",
    "rl.algorithms.rloo",
    "rl.env",
    "rl.labels",
    "rl.trainer",
    "testing.exact",
):
    import_module(f"unmask.{name}")
hook.uninstall()
torch.set_num_threads(1)


def make_tiny(seed: int = 0, scale: float = 3.0) -> MaskedLM:
    """A random dLLM whose confidences are spread over (0, 1) by scaling its vocabulary head."""
    config = PretrainConfig(layers=2, width=32, heads=2, seed=seed)
    tokenizer = build_tokenizer([load_task("house")])
    network = build_network(config, tokenizer)
    with torch.no_grad():
        network.lm_head.decoder.weight.mul_(scale)
        embeddings = network.roberta_prelayernorm.embeddings
        embeddings.position_embeddings.weight.mul_(20)
        embeddings.word_embeddings.weight.mul_(20)
        for layer in network.roberta_prelayernorm.encoder.layer:
            for projection in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                projection.weight.mul_(12)
    return MaskedLM("tiny", network, tokenizer)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Types and shapes are checked at the first calls of each test, but where it gives other types on purpose."""
    typecheck.begin(item.get_closest_marker("unchecked") is None)


@pytest.fixture(scope="session")
def tiny() -> MaskedLM:
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> str:
    model = make_tiny()
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return str(folder)
