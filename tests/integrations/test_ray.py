"""Decoding as a step of Ray Data: however the rows are split, they get what `unmask.generate` gives them."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

import unmask
from unmask.errors import UnmaskError
from unmask.integrations.ray import Decoder

TEXTS = [f"hall: {'red ' * (i % 4 + 1)}blue?" for i in range(9)]
DRAWS = {"policy": "random_order:k=2", "gen_length": 8, "temperature": 1.0, "batch_size": 2, "seed": 3}


def blocks(columns, *ends):
    """Rows in blocks, as Ray hands them."""
    starts = (0, *ends[:-1])
    return [{name: values[a:b] for name, values in columns.items()} for a, b in zip(starts, ends, strict=True)]


def joined(decoder, parts):
    found = [decoder(part) for part in parts]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def test_rows_do_not_depend_on_how_they_are_split(tiny):
    columns = {"prompt": np.array(TEXTS, dtype=object), "id": np.arange(9), "more": np.ones((9, 2))}
    decoder = Decoder(tiny, id_column="id", **DRAWS)
    options = {name: value for name, value in DRAWS.items() if name not in ("policy", "seed")}
    whole = unmask.generate(tiny, unmask.load_policy(DRAWS["policy"]), TEXTS, seed=3, **options)
    for ends in ((9,), (2, 3, 9), (4, 4, 9)):
        rows = joined(decoder, blocks(columns, *ends))
        assert list(rows) == ["prompt", "id", "more", "text", "tokens", "nfe", "ended"]
        assert rows["text"].tolist() == whole.texts
        assert (rows["tokens"] == whole.tokens.numpy()).all()
        assert rows["nfe"].tolist() == whole.nfe.tolist()
        assert rows["ended"].tolist() == whole.ended
        assert (rows["more"] == columns["more"]).all()
    by_hash = Decoder(tiny, **DRAWS)
    one, other = (joined(by_hash, blocks(columns, *ends))["tokens"] for ends in ((9,), (2, 3, 9)))
    assert (one == other).all()
    assert (one[0] == one[4]).all(), "equal prompts draw the same without an id"
    assert (one != whole.tokens.numpy()).any()


def test_ids_may_be_texts_and_prompts_token_ids_or_chats(tiny):
    named = Decoder(tiny, id_column="id", **DRAWS)({"prompt": TEXTS, "id": [f"row-{i}" for i in range(9)]})
    ids = np.empty(9, dtype=object)
    ids[:] = [np.array(tiny.encode(text)) for text in TEXTS]
    again = Decoder(tiny, id_column="id", **DRAWS)({"prompt": ids, "id": np.array([f"row-{i}" for i in range(9)])})
    assert (named["tokens"] == again["tokens"]).all()
    assert (named["tokens"][0] != named["tokens"][4]).any(), "equal prompts of other ids draw others"
    with pytest.raises(UnmaskError, match="Row 0 of a block of 1 cannot be decoded .* no chat template"):
        Decoder(tiny, chat=True)({"prompt": TEXTS[:1]})


def test_each_row_has_its_speed():
    decoder = Decoder(policy="house-base-full", speed_column="speed", gen_length=32)
    prompts = [example.prompt for example in unmask.load_task("house").examples("test", 8)]
    nfe = decoder({"prompt": prompts * 2, "speed": np.repeat([0.0, 1.0], 8)})["nfe"]
    assert nfe[:8].sum() > nfe[8:].sum()
    with pytest.raises(UnmaskError, match="This policy has no speed to choose"):
        Decoder(policy="random_order", speed_column="speed")


def test_an_empty_block_has_the_columns_of_others(tiny):
    out = Decoder(tiny, **DRAWS)({"prompt": np.array([], dtype=object)})
    assert {name: values.shape for name, values in out.items()} == {
        "prompt": (0,), "text": (0,), "tokens": (0, 8), "nfe": (0,), "ended": (0,)
    }  # fmt: skip


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({}, {"promt": TEXTS}, "The rows have no column 'prompt': did you mean 'promt'?"),
        ({}, {"prompt": TEXTS, "text": TEXTS}, "The rows have a column 'text' already: rename it before"),
        ({}, {"prompt": [TEXTS[0], None]}, "Row 1 of a block of 2 cannot be decoded .Row 1 of a block of 2 is None"),
        ({}, {"prompt": [" "]}, "Row 0 of a block of 1 cannot be decoded .* is empty.*: filter such rows out."),
        ({"id_column": "id"}, {"prompt": TEXTS[:1], "id": [1.5]}, "The id of a row is 1.5: give each a whole number"),
        ({"gen_lenght": 8}, None, "did you mean 'gen_length'"),
        ({"model_options": {"dtype": "float32"}}, None, "model_options are for a dLLM given by its name"),
    ],
)
def test_bad_input_is_one_sentence(tiny, options, batch, message):
    with pytest.raises(UnmaskError, match=message):
        Decoder(tiny, **options)(batch)


def test_it_imports_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    importlib.reload(sys.modules[Decoder.__module__])


@pytest.mark.slow
def test_the_example_runs_on_a_local_ray(tmp_path):
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "examples/ray_decode.py", "--output", tmp_path / "texts", "--actors", "2"],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert "64 prompts" in done.stdout
