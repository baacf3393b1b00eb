"""LLaDA and Dream written out once more from their published code's mathematics, one row at a time, in float64."""

import torch
import torch.nn.functional as F


def plain_logits(weights, config, tokens, embedded=None):
    """(t, v) logits, each position's own as the network gives them (Dream: of the next one).

    Args:
        weights: tensors by their published names.
        tokens: (t,) ids of one row, without padding.
        embedded: (t, h) instead of the tokens' embeddings.
    """
    w = {name: tensor.double() for name, tensor in weights.items()}
    llada = config["model_type"] == "llada"
    width = config["d_model"] if llada else config["hidden_size"]
    heads = config["n_heads"] if llada else config["num_attention_heads"]
    groups = config["n_kv_heads"] if llada else config["num_key_value_heads"]
    size = width // heads
    cos, sin = _rotary(len(tokens), size, config["rope_theta"])
    x = w["model.transformer.wte.weight" if llada else "model.embed_tokens.weight"][tokens]
    x = x if embedded is None else embedded.double()
    for layer in range(config["n_layers"] if llada else config["num_hidden_layers"]):
        root = f"model.transformer.blocks.{layer}." if llada else f"model.layers.{layer}."
        names = (
            ("attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out")
            if llada
            else (
                "input_layernorm",
                *(f"self_attn.{p}_proj" for p in "qkvo"),
                "post_attention_layernorm",
                *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
            )
        )
        norm1, q, k, v, out, norm2, gate, up, down = (f"{root}{name}" for name in names)

        def linear(name, value):
            return F.linear(value, w[f"{name}.weight"], w.get(f"{name}.bias"))

        h = _norm(x, w[f"{norm1}.weight"], config["rms_norm_eps"])
        queries = linear(q, h).view(-1, heads, size).transpose(0, 1)
        keys, values = (
            linear(name, h).view(-1, groups, size).transpose(0, 1).repeat_interleave(heads // groups, dim=0)
            for name in (k, v)
        )
        scores = _rotate(queries, cos, sin) @ _rotate(keys, cos, sin).transpose(1, 2) / size**0.5
        mixed = (scores.softmax(dim=-1) @ values).transpose(0, 1).reshape(len(tokens), width)
        x = x + linear(out, mixed)
        h = _norm(x, w[f"{norm2}.weight"], config["rms_norm_eps"])
        x = x + linear(down, F.silu(linear(gate, h)) * linear(up, h))
    x = _norm(x, w["model.transformer.ln_f.weight" if llada else "model.norm.weight"], config["rms_norm_eps"])
    return x @ w["model.transformer.ff_out.weight" if llada else "lm_head.weight"].T


def _norm(x, weight, eps):
    return x * (x.pow(2).mean(dim=-1, keepdim=True) + eps).rsqrt() * weight


def _rotary(length, size, theta):
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles, angles], dim=-1).cos(), torch.cat([angles, angles], dim=-1).sin()


def _rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
