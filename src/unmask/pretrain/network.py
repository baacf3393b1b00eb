"""A small dLLM with fresh weights, and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
)

from unmask.errors import UnmaskError
from unmask.pretrain.config import PretrainConfig
from unmask.tasks.procedural import ProceduralTask

SPECIAL = ("[PAD]", "[EOS]", "[MASK]", "[UNK]")
LONGEST = 4096  # positions of a block-causal dLLM: rotary ones cost nothing
SHARED_WORDS = ("go", "the", "answer", "is", ",", ".", ":", "?")


def build_tokenizer(tasks: Sequence[ProceduralTask]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the tasks' words, in Hugging Face's format."""
    words = [*SPECIAL, *SHARED_WORDS, *(word for task in tasks for word in task.words())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[,.:?]"), "isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        eos_token="[EOS]",
        mask_token="[MASK]",
        unk_token="[UNK]",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_network(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The network with fresh weights."""
    if config.width % config.heads:
        raise UnmaskError(f"width {config.width} must be a multiple of heads {config.heads}.")
    if config.block_length is not None:
        return _block_causal(config, tokenizer)
    shape = RobertaPreLayerNormConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        # positions count from pad_token_id + 1
        max_position_embeddings=config.room + 1,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(config.seed)
    network = RobertaPreLayerNormForMaskedLM(shape)
    network.set_attn_implementation("eager")  # faster than SDPA at these sizes
    return network


def _block_causal(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    shape = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        intermediate_size=3 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.width // config.heads,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(config.seed)
    network = Qwen3ForCausalLM(shape)
    network.set_attn_implementation("sdpa")
    return network


def align(network: PreTrainedModel, places: Sequence[Sequence[str]], first: int, seed: int) -> None:
    """Position embeddings of positions about the same thing begin as sums of vectors that these share."""
    table = network.base_model.get_submodule("embeddings.position_embeddings").weight
    assert isinstance(table, Tensor)
    generator = torch.Generator().manual_seed(seed)
    spread = network.config.initializer_range
    names = dict.fromkeys(name for each in places for name in each)
    vectors = {name: spread * torch.randn(table.shape[1], generator=generator) for name in names}
    with torch.no_grad():
        for i, each in enumerate(places):
            if each:
                table[first + i] = torch.stack([vectors[name] for name in each]).sum(dim=0)
