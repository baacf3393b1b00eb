"""LLaDA, Dream and the block-causal families by their published code's mathematics, a row at a time, in float64."""

import torch
import torch.nn.functional as F


def plain_logits(weights, config, tokens, embedded=None, block=None):
    """(t, v) logits, each position's own as the network gives them (Dream: of the next one).

    Args:
        weights: tensors by their published names.
        tokens: (t,) ids of one row, without padding.
        embedded: (t, h) instead of the tokens' embeddings.
        block: length of a block-causal dLLM's blocks.
    """
    w = {name: tensor.double() for name, tensor in _stock(weights, config).items()}
    llada = "d_model" in config
    width = config["d_model"] if llada else config["hidden_size"]
    heads = config["n_heads"] if llada else config["num_attention_heads"]
    groups = config["n_kv_heads"] if llada else config["num_key_value_heads"]
    size = config.get("head_dim", width // heads)
    turned = int(size * config.get("partial_rotary_factor", 1.0))
    cos, sin = _rotary(len(tokens), turned, config["rope_theta"])
    at = torch.arange(len(tokens)) // (block or len(tokens))
    unseen = at[None] > at[:, None]
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
        queries, keys, values = (
            linear(name, h).view(-1, n, size).transpose(0, 1) for name, n in ((q, heads), (k, groups), (v, groups))
        )
        if f"{root}self_attn.q_norm.weight" in w:
            queries = _norm(queries, w[f"{root}self_attn.q_norm.weight"], config["rms_norm_eps"])
            keys = _norm(keys, w[f"{root}self_attn.k_norm.weight"], config["rms_norm_eps"])
        keys, values = (each.repeat_interleave(heads // groups, dim=0) for each in (keys, values))
        scores = _rotate(queries, cos, sin) @ _rotate(keys, cos, sin).transpose(1, 2) / size**0.5
        scores = scores.masked_fill(unseen, -torch.inf)
        mixed = (scores.softmax(dim=-1) @ values).transpose(0, 1).reshape(len(tokens), heads * size)
        x = x + linear(out, mixed)
        h = _norm(x, w[f"{norm2}.weight"], config["rms_norm_eps"])
        if f"{root}mlp.gate.weight" in w:
            x = x + _experts(h, w, f"{root}mlp.", config)
        else:
            x = x + linear(down, F.silu(linear(gate, h)) * linear(up, h))
    x = _norm(x, w["model.transformer.ln_f.weight" if llada else "model.norm.weight"], config["rms_norm_eps"])
    return x @ w["model.transformer.ff_out.weight" if llada else "lm_head.weight"].T


def _stock(weights, config):
    """A LLaDA2's tensors under the names that Qwen's have, query, key and value apart."""
    if config["model_type"] != "llada2_moe":
        return weights
    found, size = {}, config["head_dim"]
    parts = [size * config[key] for key in ("num_attention_heads", "num_key_value_heads", "num_key_value_heads")]
    for name, tensor in weights.items():
        if name.endswith("query_key_value.weight"):
            root = name.removesuffix("attention.query_key_value.weight")
            found |= {
                f"{root}self_attn.{p}_proj.weight": part for p, part in zip("qkv", tensor.split(parts), strict=True)
            }
            continue
        for published, stock in (
            ("word_embeddings", "embed_tokens"),
            ("attention.dense", "self_attn.o_proj"),
            ("attention.query_layernorm", "self_attn.q_norm"),
            ("attention.key_layernorm", "self_attn.k_norm"),
        ):
            name = name.replace(published, stock)
        found[name] = tensor
    return found


def _experts(h, w, root, config):
    """LLaDA2: the best groups by their two best experts, of those the best experts, weighed by score; and the shared
    one. LLaDA-MoE: the likeliest experts, weighed by probability; SDAR-MoE: those of the chosen ones sum to 1."""

    def feed_forward(name, x):
        gate, up = (x @ w[f"{root}{name}.{part}_proj.weight"].T for part in ("gate", "up"))
        return (F.silu(gate) * up) @ w[f"{root}{name}.down_proj.weight"].T

    out = []
    for x in h:
        if "n_group" not in config:
            p = (x @ w[f"{root}gate.weight"].T).softmax(dim=-1)
            best = p.topk(config["num_experts_per_tok"]).indices.tolist()
            whole = p[best].sum() if config["norm_topk_prob"] else 1
            out.append(sum(p[i] / whole * feed_forward(f"experts.{i}", x) for i in best))
            continue
        scores = (x @ w[f"{root}gate.weight"].T).sigmoid()
        chosen_by = scores + w[f"{root}gate.expert_bias"]
        groups = chosen_by.view(config["n_group"], -1)
        best = groups.topk(2, dim=1).values.sum(dim=1).topk(config["topk_group"]).indices
        open_ = torch.full_like(groups, -torch.inf)
        open_[best] = groups[best]
        picked = open_.flatten().topk(config["num_experts_per_tok"]).indices
        weight = scores[picked] / scores[picked].sum() * config["routed_scaling_factor"]
        mixed = sum(a * feed_forward(f"experts.{i}", x) for a, i in zip(weight, picked.tolist(), strict=True))
        out.append(mixed + feed_forward("shared_experts", x))
    return torch.stack(out)


def _norm(x, weight, eps):
    return x * (x.pow(2).mean(dim=-1, keepdim=True) + eps).rsqrt() * weight


def _rotary(length, size, theta):
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles, angles], dim=-1).cos(), torch.cat([angles, angles], dim=-1).sin()


def _rotate(x, cos, sin):
    x, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([x * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)
