"""A policy in `model.generate(..., custom_generate=FOLDER, trust_remote_code=True)` of transformers.

`unmask export --engine transformers` writes the folder, whose code calls `generate` here. For the time of a call the
caller's network is a dLLM; then it is again what it was.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pprint import pformat
from typing import Any, cast

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from unmask import __version__
from unmask.decoding.generate import generate as decode
from unmask.errors import UnmaskError
from unmask.models.auto import BLOCK_CAUSAL, kind_of
from unmask.models.base import MaskedDiffusionModel
from unmask.models.block_causal import BlockCausalDecoder
from unmask.models.block_families import BLOCK_KEYS, ENDS, MASKS, read_tokenizer
from unmask.models.decoder import FullAttentionDecoder, token_ids
from unmask.models.llada import rotate_in_float32
from unmask.models.loading import config_of, generation_ids
from unmask.models.masked_lm import MaskedLM
from unmask.models.remote import RemoteModel, check_attention
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.policies.registry import make_policy

STOCK = ("llama", "qwen2", "qwen3", "qwen3_moe", "glm4_moe")  # architectures that published dLLMs are
SHIFTED = ("Dream", "qwen2")  # Dream, DiffuCoder and Fast-dLLM v2 are all the dLLMs that were made of a Qwen2
MORE_ENDS = ("<|eot_id|>", "<|dlm_pad|>")
MORE_MASKS = ("<|mdm_mask|>",)
REMOTE = "transformers_modules."  # where transformers puts code published with a model

GENERATE = '''"""Decode with a diffusion language model by an unmasking policy.

    model.generate(**inputs, custom_generate="<this folder>", trust_remote_code=True, max_new_tokens=256)

Written by `unmask export`; the policy is in policy.py. Arguments: `unmask.integrations.transformers.generate`.
"""

from unmask.integrations.transformers import generate as decode
from unmask.integrations.transformers import policy_of

from .policy import CONFIG, WEIGHTS

POLICY = policy_of(CONFIG, WEIGHTS)


def generate(model, input_ids=None, attention_mask=None, policy=POLICY, speed={speed!r}, seed={seed!r}, **options):
    return decode(model, policy, input_ids, attention_mask, speed=speed, seed=seed, **options)
'''

CARD = """---
tags:
- custom_generate
---

# An unmasking policy for diffusion language models

A policy of the Python package `unmask` ({type}) that decides which masked positions to reveal at each
decoding step. After `pip install unmask`:

```python
out = model.generate(**inputs, custom_generate="<this folder or repo>", trust_remote_code=True, max_new_tokens=256)
```

`model` is a diffusion language model: LLaDA, Dream, SDAR, LLaDA2 and others. Further arguments are `block_length`,
`speed` (of a policy with a speed: 0 slow and careful, 1 fast), `temperature`, `seed`; and `mask_id`, `eos_ids`,
`shifted` and `causal_block`, where the model's files do not tell them.
"""


def write_folder(policy: Policy, folder: Path, speed: float | None, seed: int) -> None:
    """What ``custom_generate=FOLDER`` runs: the code, what it needs, and the policy.

    Args:
        folder: that is there, and empty.
        speed: by default, of a policy with a speed.
        seed: by default.
    """
    code = folder / "custom_generate"
    code.mkdir()
    config, weights = {"type": policy.type_name, **policy.config()}, policy.weights()
    text = "" if weights is None else base64.b64encode(save(weights)).decode()
    config = json.loads(json.dumps(config))  # as the folder of a saved policy has it
    (code / "policy.py").write_text(
        f'"""A saved policy: its config.json, and its model.safetensors in base64."""\n\n'
        f"CONFIG = {pformat(config, sort_dicts=False)}\n\nWEIGHTS = {text!r}\n"
    )
    (code / "generate.py").write_text(GENERATE.format(speed=speed, seed=seed))
    (code / "requirements.txt").write_text(f"unmask>={__version__}\n")
    (folder / "README.md").write_text(CARD.format(type=policy.type_name))


def policy_of(config: Mapping[str, Any], weights: str = "") -> Policy:
    """The policy in an exported folder.

    Args:
        config: its config.json.
        weights: its model.safetensors in base64; empty for a rule.

    Raises:
        UnmaskError: they do not fit.
    """
    where = "the exported policy"
    policy = make_policy(config, where)
    if weights:
        try:
            policy.load_weights(load(base64.b64decode(weights, validate=True)), where)
        except (binascii.Error, SafetensorError):
            raise UnmaskError("The weights of the exported policy are damaged: export it again.") from None
    return policy


def generate(
    model: PreTrainedModel,
    policy: Policy | str,
    input_ids: Int[Tensor, "b t"] | None = None,
    attention_mask: Int[Tensor, "b t"] | None = None,
    *,
    inputs: Int[Tensor, "b t"] | None = None,
    generation_config: Any = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int | None = None,
    do_sample: bool | None = None,
    return_dict_in_generate: bool = False,
    mask_id: int | None = None,
    eos_ids: int | Sequence[int] | None = None,
    shifted: bool | None = None,
    causal_block: int | None = None,
    full_attention: bool = False,
    speed: float | Sequence[float] | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """What `model.generate` calls: prompts in, prompts with their completions out.

    Args:
        model: a dLLM's network; its modules, modes, gradients and config are left as they are found.
        policy: that decides, or what `unmask.load_policy` reads.
        input_ids: prompts, padded on the left.
        attention_mask: 0 at padding; by default all are tokens.
        inputs: `input_ids` by transformers' other name.
        generation_config: of which the length counts.
        tokenizer: by default the one in the folder that the model is from; it may tell ids that no config does.
        max_new_tokens: length of the region.
        do_sample: True draws tokens, at temperature 1 unless `temperature` is given; False leaves the temperature out.
        return_dict_in_generate: return transformers' output class.
        mask_id: of the mask token, where no config and no tokenizer tells it.
        eos_ids: that end a text, instead of those which configs and tokenizer tell.
        shifted: logits stand one position before the token they predict; by default as the family has it.
        causal_block: block length of a block-causal dLLM, where its config does not tell.
        full_attention: run published code without a mask even if its family is known to need one between blocks.
        speed: as in `unmask.generate`, as is `seed`.
        options: fields of `unmask.DecodeConfig`, such as ``block_length=32``; those that are None are left out.

    Returns:
        Token ids (b, t + max_new_tokens).

    Raises:
        UnmaskError: no prompts; a network that is no dLLM that can be read here; what `unmask.generate` refuses.
    """
    given = inputs if input_ids is None else input_ids
    if not isinstance(given, Tensor) or given.ndim != 2:
        raise UnmaskError("Give input_ids, a tensor of token ids (prompts, tokens), padded on the left.")
    seen = torch.ones_like(given) if attention_mask is None else attention_mask
    if seen.shape != given.shape:
        raise UnmaskError(f"attention_mask has shape {tuple(seen.shape)}, and input_ids {tuple(given.shape)}.")
    length = getattr(generation_config, "max_new_tokens", None) if max_new_tokens is None else max_new_tokens
    prompts = [row[here.bool()].tolist() for row, here in zip(given, seen, strict=True)]
    options = {name: value for name, value in options.items() if value is not None}
    options |= {} if length is None else {"gen_length": length}
    if do_sample is not None:
        options["temperature"] = options.get("temperature", 1.0) if do_sample else 0.0
    with left_as_found(model):
        dllm = dllm_of(model, tokenizer, mask_id, eos_ids, shifted, causal_block, full_attention)
        used = policy if isinstance(policy, Policy) else load_policy(policy)
        out = decode(dllm, used, prompts, speed=speed, seed=seed, **options)
    sequences = torch.cat([given, out.tokens.to(given.device)], dim=1)
    return GenerateDecoderOnlyOutput(sequences=cast(Any, sequences)) if return_dict_in_generate else sequences


@contextmanager
def left_as_found(network: PreTrainedModel) -> Iterator[None]:
    """Undo what a block does to a network's modules (modes, forwards, causality), gradients and config."""
    holders = [network.config, *network.modules()]
    before = [dict(vars(holder)) for holder in holders]
    gradients = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        yield
    finally:
        for holder, was in zip(holders, before, strict=True):
            now = vars(holder)
            for name in now.keys() - was.keys():
                del now[name]
            now.update(was)
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)


def dllm_of(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    mask_id: int | None = None,
    eos_ids: int | Sequence[int] | None = None,
    shifted: bool | None = None,
    causal_block: int | None = None,
    full_attention: bool = False,
) -> MaskedDiffusionModel:
    """A network that somebody else has loaded, as a dLLM; it is changed, see `left_as_found`.

    What is not given is found as `unmask.load_model` finds it: in the folder's config.json, in generation_config.json
    and in the tokenizer. Where the folder is gone, the network's own config counts.

    Args:
        network: a Llama, Qwen2, Qwen3 or GLM-4, a masked language model, or one by code published with it.
        tokenizer: as in `generate`, as are the others.

    Raises:
        UnmaskError: another architecture; no tokenizer; no mask id.
    """
    path = str(network.config.name_or_path or "")
    name = path or type(network).__name__
    published = _published(network, path)
    kind = kind_of(published)
    tokenizer = _tokenizer(name, path) if tokenizer is None else tokenizer
    remote = type(network).__module__.startswith(REMOTE)
    if not remote and network.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return MaskedLM(name, network, tokenizer, mask_id)
    mask, ends = _ids(name, network, published, tokenizer, mask_id, eos_ids)
    family = BLOCK_CAUSAL.get(kind)
    if shifted is None:
        shifted = kind in SHIFTED if family is None else family.shifted
    ids: dict[str, Any] = {"mask_id": mask, "eos_ids": ends, "shifted": shifted}
    if remote:
        if not full_attention:
            check_attention(name, published, also=tuple(BLOCK_CAUSAL))
        pad, most = published.get("pad_token_id") or 0, published.get("max_position_embeddings")
        return RemoteModel(name, network, tokenizer, pad_id=pad, max_length=most, **ids)
    if network.config.model_type not in STOCK:
        raise UnmaskError(
            f"{name!r} is a {network.config.model_type!r}, which no dLLM known here is ({', '.join(STOCK)}): load it "
            "with unmask.load_model."
        )
    block = _blocks(published, causal_block)
    if block is not None:
        return BlockCausalDecoder(name, network, tokenizer, family=kind, block_length=block, **ids)
    if kind == "llada" and published.get("rope_full_precision", True):
        rotate_in_float32(network)
    return FullAttentionDecoder(name, network, tokenizer, family=kind, **ids)


def _blocks(published: Mapping[str, Any], asked: int | None) -> int | None:
    """Block length of a block-causal dLLM; None of one that attends in full."""
    family = BLOCK_CAUSAL.get(kind_of(published))
    told = [asked, *(published.get(key) for key in BLOCK_KEYS), None if family is None else family.block_length]
    return next((int(length) for length in told if length is not None), None)


def _published(network: PreTrainedModel, path: str) -> dict[str, Any]:
    try:
        return config_of(path, path, {"local_files_only": True})
    except UnmaskError:
        return dict(network.config.to_dict())


def _tokenizer(name: str, path: str) -> PreTrainedTokenizerBase:
    try:
        return read_tokenizer(name, path, {"local_files_only": True})
    except UnmaskError:
        raise UnmaskError(f"The folder of {name!r} has no tokenizer that can be read: pass tokenizer.") from None


def _ids(
    name: str,
    network: PreTrainedModel,
    published: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    mask_id: int | None,
    eos_ids: int | Sequence[int] | None,
) -> tuple[int, list[int]]:
    """Mask id and EOS ids.

    Raises:
        UnmaskError: nothing tells the mask id.
    """
    path = str(network.config.name_or_path or "")
    told = generation_ids(path, {"local_files_only": True})
    own = getattr(network, "generation_config", None)
    family = BLOCK_CAUSAL.get(kind_of(published))
    masks = [mask_id, published.get("mask_token_id"), told.mask, getattr(own, "mask_token_id", None)]
    masks += [tokenizer.mask_token_id, *token_ids(tokenizer, (*MASKS, *MORE_MASKS))]
    masks.append(None if family is None else family.mask_id)
    mask = next((found for found in masks if found is not None), None)
    if mask is None:
        raise UnmaskError(f"Neither config nor tokenizer of {name!r} tell the mask id: pass mask_id.")
    if eos_ids is not None:
        return int(mask), [eos_ids] if isinstance(eos_ids, int) else list(eos_ids)
    ends: list[Any] = []
    for each in (published.get("eos_token_id"), list(told.ends), getattr(own, "eos_token_id", None)):
        ends += each if isinstance(each, list) else [each]
    ends += token_ids(tokenizer, (*ENDS, *MORE_ENDS))
    if family is not None:
        ends.append(tokenizer.eos_token_id)
    return int(mask), list(dict.fromkeys(end for end in ends if isinstance(end, int) and end != mask))
