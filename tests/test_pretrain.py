"""The objective by hand, and a pretraining that can be killed."""

import math
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from unmask import generate
from unmask.cli.main import main
from unmask.errors import Stopped, UnmaskError
from unmask.journal import Journal
from unmask.models.auto import load_model
from unmask.policies.auto import load_policy
from unmask.pretrain import (
    PretrainConfig,
    build_tokenizer,
    check_recipe,
    diffusion_loss,
    draw_batch,
    draw_mask,
    learning_rate,
    pretrain,
    settled,
    stage_at,
)
from unmask.pretrain.objective import block_attention, draw_block_batch, draw_block_mask, draw_filled
from unmask.tasks.auto import load_task
from unmask.tasks.procedural import Stage
from unmask.testing import check_model


def small(folder, **changes):
    settings = {
        "output": str(folder),
        "layers": 1,
        "width": 16,
        "heads": 2,
        "steps": 6,
        "batch_size": 8,
        "save_every": 2,
    }
    return PretrainConfig(**{**settings, **changes})


def test_loss_by_hand():
    # two rows of two positions, two words; row 0 masks one position (ratio 1/2), row 1 both (ratio 1)
    p = torch.tensor([[[0.25, 0.75], [0.5, 0.5]], [[0.9, 0.1], [0.2, 0.8]]])
    target = torch.tensor([[1, 0], [0, 1]])
    masked = torch.tensor([[True, False], [True, True]])
    ratio = torch.tensor([[0.5], [1.0]])
    expected = (-math.log(0.75) / 0.5 - math.log(0.9) - math.log(0.8)) / 4
    assert diffusion_loss(p.log(), target, masked, ratio).item() == pytest.approx(expected, rel=1e-5)


def test_masks_hold_exactly_their_ratio():
    masked, ratio = draw_mask(64, 32, torch.Generator().manual_seed(0))
    assert torch.equal(masked.sum(dim=1), (ratio[:, 0] * 32).round().long())
    counts = masked.sum(dim=1)
    assert counts.min() >= 1
    assert sorted(set(counts.tolist())) == list(range(1, 33))


def test_batches_are_padded_left_and_end_in_eos():
    task = load_task("house")
    tokenizer = build_tokenizer([task])
    tokens, length = draw_batch(PretrainConfig(batch_size=16, double_share=0.0), [task], tokenizer, 9000)
    assert length == 32
    assert (tokens[:, -1] == tokenizer.eos_token_id).all()
    prompts, regions = tokens[:, :-length], tokens[:, -length:]
    assert (prompts[:, -1] == tokenizer.convert_tokens_to_ids("?")).all()
    assert (prompts == tokenizer.pad_token_id).any()
    assert not (regions == tokenizer.pad_token_id).any()
    text = tokenizer.decode(regions[0][regions[0] != tokenizer.eos_token_id])
    assert "the answer is" in text
    doubled, length = draw_batch(PretrainConfig(batch_size=16, double_share=1.0), [task], tokenizer, 9000)
    assert length == 64
    assert len(doubled) == 8


def test_the_curriculum_grows_the_problems():
    config = PretrainConfig(steps=100, curriculum=0.5, lengths=(1, 2, 3, 4))
    assert stage_at(config, 0) == Stage(0.0, {1: 1}, {"full": 1.0})
    assert stage_at(config, 25) == Stage(0.5, {1: 1, 2: 2}, {"full": 1.0})
    assert stage_at(config, 50) == stage_at(config, 99) == Stage(1.0, {1: 1, 2: 2, 3: 3, 4: 4}, {"full": 1.0})
    assert learning_rate(config, 99) < learning_rate(config, 50)


def test_a_resumed_pretraining_equals_an_uninterrupted_one(tmp_path):
    assert pretrain(small(tmp_path / "whole")) > 0
    stops = iter([False, False, True])
    cut = small(tmp_path / "cut")
    with pytest.raises(Stopped, match="Stopped after step 3 of 6; go on with --resume."):
        pretrain(cut, stop=lambda: next(stops))
    assert not (tmp_path / "cut").exists()
    kinds = {file.suffix for file in (tmp_path / "cut.checkpoint").iterdir()}
    assert kinds == {".json", ".safetensors"}, "nothing is pickled"
    assert pretrain(cut, resume=True) > 0
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    resumed = load_file(tmp_path / "cut" / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert {file.name for file in tmp_path.iterdir()} == {"whole", "cut"}, "nothing is left beside them"


def test_the_folder_is_standard(tmp_path):
    pretrain(small(tmp_path / "m"))
    network = AutoModelForMaskedLM.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    ids = tokenizer("hall: red blue? go red porch, blue hall. the answer is hall", return_tensors="pt")["input_ids"]
    assert network(input_ids=ids).logits.shape == (1, ids.shape[1], len(tokenizer))
    assert tokenizer.decode(ids[0, 5:]) == "go red porch, blue hall. the answer is hall"
    assert load_model(tmp_path / "m").max_length == 32 + 64


def test_bad_recipes_are_refused(tmp_path):
    with pytest.raises(UnmaskError, match="No checkpoint at"):
        pretrain(small(tmp_path / "m"), resume=True)
    with pytest.raises(UnmaskError, match="width 16 must be a multiple of heads 3"):
        pretrain(small(tmp_path / "m", heads=3))
    with pytest.raises(UnmaskError, match="Unknown answer style 'fulll': did you mean 'full'"):
        pretrain(small(tmp_path / "m", styles={"fulll": 1.0}))
    stops = iter([True])
    with pytest.raises(Stopped):
        pretrain(small(tmp_path / "m"), stop=lambda: next(stops))
    with pytest.raises(UnmaskError, match="or its checkpoint exists: pass --resume"):
        pretrain(small(tmp_path / "m"))
    with pytest.raises(UnmaskError, match="checkpoint was begun with lr = 0.001, not 0.1: resume with the"):
        pretrain(small(tmp_path / "m", lr=0.1), resume=True)


def test_bfloat16_is_for_processors_that_have_it(tmp_path, monkeypatch):
    config = small(tmp_path / "m", bf16=None)
    for capability, expected in (("AVX2", False), ("AVX512", True)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert settled(config).bf16 is expected
        assert settled(small(tmp_path / "m", bf16=not expected)).bf16 is not expected, "what is said is done"
    with pytest.raises(Stopped):
        pretrain(config, stop=lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert settled(config, resume=True).bf16 is True, "a run goes on as it was begun"
    assert pretrain(config, resume=True) > 0
    assert '"bf16":true' in (tmp_path / "m" / "pretrain.json").read_text().replace(" ", "")


@pytest.mark.parametrize("name", ["optimizer.safetensors", "progress.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_refused(tmp_path, name):
    stops = iter([True])
    with pytest.raises(Stopped):
        pretrain(small(tmp_path / "m"), stop=lambda: next(stops))
    file = tmp_path / "m.checkpoint" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UnmaskError, match=r"The checkpoint .*m.checkpoint is damaged .*: delete it and start again."):
        pretrain(small(tmp_path / "m"), resume=True)


def test_who_sees_whom_beside_the_clean_row():
    see = block_attention(4, 2)
    noised = [[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]]
    clean = [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert see.int().tolist() == noised + clean


def test_masks_of_blocks_hold_their_ratio_of_the_region():
    region = torch.arange(40).expand(64, 40) >= torch.arange(64)[:, None] % 13
    masked, share = draw_block_mask(region, 8, torch.Generator().manual_seed(0))
    assert not (masked & ~region).any()
    counts, sizes = (each.view(-1, 8).sum(dim=1) for each in (masked, region))
    assert (counts[sizes > 0] >= 1).all()
    wanted = counts[sizes > 0] / sizes[sizes > 0]
    assert torch.allclose(share.view(-1, 8)[sizes > 0, 0], wanted)
    assert (share > 0).all(), "it divides"
    assert sorted(set(counts[sizes == 8].tolist())) == list(range(1, 9))


def test_batches_of_blocks_have_no_padding(house_tokenizer):
    task, tokenizer = house_tokenizer
    config = PretrainConfig(batch_size=16, block_length=8, double_share=0.0)
    tokens, region = draw_block_batch(config, [task], tokenizer, 9000)
    assert tokens.shape[1] % 8 == 0
    assert not (tokens == tokenizer.pad_token_id).any()
    first = tokenizer.convert_tokens_to_ids("?")
    for row, inside in zip(tokens.tolist(), region.tolist(), strict=True):
        assert row.index(first) + 1 == inside.index(True), "the region begins behind the prompt"
        assert row[-1] == tokenizer.eos_token_id


@pytest.fixture
def house_tokenizer():
    task = load_task("house")
    return task, build_tokenizer([task])


def test_a_block_causal_dllm_is_written_in_sdars_layout_and_resumes(tmp_path):
    recipe = {"block_length": 4, "double_share": 0.0}
    pretrain(small(tmp_path / "whole", **recipe))
    pretrain(small(tmp_path / "half", **recipe, stored="bfloat16"))
    half = load_model(tmp_path / "half").network.state_dict()
    assert load_file(tmp_path / "half" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    model = load_model(tmp_path / "whole")
    assert all(torch.equal(one.bfloat16().float(), half[name]) for name, one in model.network.state_dict().items())
    assert (model.family, model.block_length) == ("SDAR", 4)
    check_model(model)
    with pytest.raises(Stopped):
        pretrain(small(tmp_path / "cut", **recipe), stop=lambda: True)
    pretrain(small(tmp_path / "cut", **recipe), resume=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_filled_is_masked_and_some_blocks_are_filled_whole():
    generator = torch.Generator().manual_seed(0)
    region = torch.ones(200, 32, dtype=torch.bool)
    masked, _ = draw_block_mask(region, 8, generator)
    filled = draw_filled(masked, 8, generator)
    assert not (filled & ~masked).any()
    whole = ((filled == masked).view(-1, 8).all(dim=1)).float().mean().item()
    assert 0.25 < whole < 0.6, "a block of few masks is filled by chance, too"
    assert 0.55 < (filled.sum() / masked.sum()).item() < 0.75  # the mean of min(1, 4u/3) is 5/8


def test_a_dllm_goes_on_from_another_and_learns_to_correct_its_draws(tmp_path):
    recipe = {"block_length": 4, "double_share": 0.0, "curriculum": 0.0, "warmup": 0}
    pretrain(small(tmp_path / "first", **recipe))
    begun = load_model(tmp_path / "first").network.state_dict()
    small_step = {**recipe, "start": str(tmp_path / "first"), "steps": 1, "lr": 1e-9}
    pretrain(small(tmp_path / "second", **small_step, edits=1.0))
    after = load_model(tmp_path / "second").network.state_dict()
    assert all(torch.allclose(one, after[name], atol=1e-6) for name, one in begun.items())
    losses = []
    for edits in (0.0, 1.0):
        config = small(tmp_path / f"e{edits}", **{**small_step, "edits": edits, "batch_size": 64})
        pretrain(config, on_step=lambda progress: losses.append(progress.loss))
    assert losses[0] != losses[1]
    with pytest.raises(UnmaskError, match="start .*first' has other words or another shape"):
        pretrain(small(tmp_path / "wide", **{**small_step, "width": 32}))
    with pytest.raises(UnmaskError, match="edits is for block-causal dLLMs: set block_length"):
        small(tmp_path / "full", edits=0.5)


LISTS = {"tasks": {"lists:items=4": 0.7, "lists:items=8": 0.3}, "gen_length": 4, "max_prompt": 9, "double_share": 0.0}


def test_a_batch_of_puzzles_has_one_region_that_its_answers_fill():
    tasks = [load_task(name) for name in LISTS["tasks"]]
    tokenizer = build_tokenizer(tasks)
    config = PretrainConfig(batch_size=16, curriculum=0.0, **LISTS)
    seen = set()
    for step in range(12):
        tokens, length = draw_batch(config, tasks, tokenizer, step)
        seen.add((length, len(tokens)))
        assert tokens.shape[1] == 2 * length + 1, "operation, items, result"
        assert not {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id} & {
            *tokens.flatten().tolist()
        }
        task = next(task for task in tasks if task.gen_length == length)
        for row in tokens.tolist():
            words = tokenizer.convert_ids_to_tokens(row)
            assert task.is_correct(words[: length + 1], words[length + 1 :])
    assert seen == {(4, 16), (8, 8)}, "half as many of twice the length"


def test_positions_about_the_same_thing_begin_alike(tmp_path):
    recipe = {"tasks": {"addition:digits=2": 1.0}, "gen_length": 4, "max_prompt": 6, "double_share": 0.0}
    config = small(tmp_path / "m", steps=1, lr=1e-12, warmup=0, **recipe)
    pretrain(config.model_copy(update={"output": str(tmp_path / "plain")}))
    pretrain(config.model_copy(update={"aligned": True}))
    name = "roberta_prelayernorm.embeddings.position_embeddings.weight"
    plain, table = (load_file(tmp_path / folder / "model.safetensors")[name] for folder in ("plain", "m"))
    first = 1  # positions count from pad_token_id + 1
    a, b, total = table[first : first + 2], table[first + 3 : first + 5], table[first + 7 : first + 9]
    # a1 - b1 = (a) - (b) = a2 - b2: the digit's own vector cancels
    assert torch.allclose(a[0] - b[0], a[1] - b[1], atol=1e-5)
    assert torch.allclose(a[0] - total[0], a[1] - total[1], atol=1e-5)
    assert not torch.allclose(plain[first] - plain[first + 3], plain[first + 1] - plain[first + 4], atol=1e-3)


def test_recipes_of_puzzles_that_cannot_be_are_refused(tmp_path, capsys):
    with pytest.raises(
        UnmaskError, match=r"of 'lists:items=8' takes 9 \+ 8 positions, and max_prompt \+ 2 \* gen_length"
    ):
        pretrain(small(tmp_path / "m", **{**LISTS, "max_prompt": 8}))
    with pytest.raises(UnmaskError, match="Task 'lists' is for dLLMs of full attention: leave out block_length"):
        pretrain(small(tmp_path / "m", tasks={"lists": 1.0}, gen_length=8, block_length=4))
    with pytest.raises(UnmaskError, match="Positions of 'house' are not aligned with each other: leave out aligned"):
        pretrain(small(tmp_path / "m", aligned=True))
    with pytest.raises(UnmaskError, match="Task 'gsm8k' draws no texts to train on: use house"):
        pretrain(small(tmp_path / "m", tasks={"gsm8k": 1.0}))
    with pytest.raises(UnmaskError, match="tasks.lists = 0.0"):
        small(tmp_path / "m", tasks={"lists": 0.0})
    assert not list(tmp_path.iterdir())
    for line, message in (
        (
            'tasks = { "addition:digits=1" = 1 }\ngen_length = 4',
            "not 1000: ask for no more than that. (--test-prompts, of the model",
        ),
        ("tasks = { lits = 1 }", "Unknown task 'lits': did you mean 'lists'"),
        ("aligned = true", "Positions of 'house' are not aligned with each other: leave out aligned"),
    ):
        (tmp_path / "recipe.toml").write_text(line)
        with pytest.raises(SystemExit):
            main(["pretrain", f"--config={tmp_path / 'recipe.toml'}", f"--output={tmp_path / 'm'}", "--dry-run"])
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_task_may_be_spelt_with_a_space(tmp_path):
    recipe = {**LISTS, "tasks": {"lists: items=4": 1.0}}
    assert pretrain(small(tmp_path / "m", **recipe)) > 0


def test_the_card_of_a_puzzles_dllm_says_what_the_puzzle_is(tmp_path, capsys, monkeypatch):
    recipe = [
        "layers = 1",
        "width = 16",
        "heads = 2",
        "steps = 2",
        "gen_length = 4",
        "max_prompt = 5",
        "double_share = 0",
    ]
    (tmp_path / "lists.toml").write_text("\n".join(['tasks = { "lists:items=4" = 1 }', *recipe]))
    main(["pretrain", f"--config={tmp_path / 'lists.toml'}", f"--output={tmp_path / 'lists'}", "--test-prompts=4"])
    card = (tmp_path / "lists" / "README.md").read_text()
    assert "reverse b k a   ->   a k b" in card
    assert "how many positions may be revealed at once depends on the operation" in card
    assert "| lists:items=4 | region 4, in the task's own order |" in card
    assert "100% lists:items=4; easier at first, over 40% of the steps" in card
    assert "- region length 4\n" in card
    capsys.readouterr()
    asked = ["--model", tmp_path / "lists", "--task", "lists:items=4", "--policies", "top_k_confidence:k=4"]
    main([*map(str, ["eval", *asked, "--prompts", 6, "--bounds", "--output", tmp_path / "eval"])])
    rows = Journal(tmp_path / "eval" / "rows.jsonl").rows()
    assert {row["correlation"] for row in rows} == {None}, "nothing is right"
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("known", "best of 64"):
        assert word in shown
    again = [*map(str, ["eval", *asked, "--prompts", 6, "--bounds", "--output", tmp_path / "eval"])]
    kept = (tmp_path / "eval" / "bounds.json").read_text()
    with pytest.raises(SystemExit):
        main(again)
    assert (tmp_path / "eval" / "bounds.json").read_text() == kept, "what is refused deletes nothing"
    monkeypatch.setattr("unmask.cli.bounds.bounds_of", None)
    main([*again, "--resume"])
    assert "known order" in " ".join(capsys.readouterr().out.split())
    model = load_model(tmp_path / "lists")
    with pytest.raises(UnmaskError, match="has words that the dLLM .* does not know"):
        model.encode(load_task("addition").examples("test", 1)[0].prompt)
    with pytest.raises(UnmaskError, match="positions"):
        generate(
            model, load_policy("random_order"), load_task("lists:items=20").examples("test", 1)[0].prompt, gen_length=20
        )


def test_an_output_that_is_no_dllm_of_this_command_is_refused_with_a_way_out(tmp_path, capsys):
    """No circle: without --resume it does not send to --resume, with it not back."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("folder", "file"):
        recipe = small(tmp_path / name)
        with pytest.raises(
            UnmaskError, match="exists, and is no dLLM that this command has made: give another --output"
        ):
            pretrain(recipe)
        with pytest.raises(UnmaskError, match="No checkpoint at .*: give another --output"):
            pretrain(recipe, resume=True)
    (tmp_path / "folder" / "pretrain.json").write_text("{")
    with pytest.raises(UnmaskError, match=r"pretrain.json is not valid JSON .*: give another --output"):
        pretrain(small(tmp_path / "folder", bf16=None), resume=True)


def test_a_pretraining_that_is_stopped_ends_in_130(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unmask.cli.pretrain.Stop.__call__", lambda self: True)
    recipe = [f"--output={tmp_path / 'm'}", "--layers=1", "--width=16", "--heads=2", "--steps=2", "--tasks.ledger=1"]
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", *recipe])
    assert stopped.value.code == 130
    assert "Stopped after step 1 of 2; go on with --resume." in capsys.readouterr().err


def test_a_training_that_has_ended_lacks_nothing_but_its_card(tmp_path, capsys):
    """Stopped while the card is measured: --resume makes the card, and trains nothing."""
    recipe = [f"--output={tmp_path / 'm'}", "--layers=1", "--width=16", "--heads=2", "--steps=2", "--test-prompts=4"]
    recipe += ["--tasks.ledger=1"]
    main(["pretrain", *recipe])
    card = tmp_path / "m" / "README.md"
    text, weights = card.read_text(), (tmp_path / "m" / "model.safetensors").read_bytes()
    assert re.search("command: `unmask pretrain .*--tasks.ledger=1.0.* --test-prompts=4`", text)
    assert "--output" not in text
    card.unlink()
    main(["pretrain", *recipe, "--resume"])
    assert card.read_text() == text
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == weights
    with pytest.raises(SystemExit) as refused:
        main(["pretrain", *recipe, "--resume", "--lr=0.5"])
    assert refused.value.code == 2
    assert "was begun with lr = 0.001, not 0.5" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("output", [".", "/", "..", "a/.."])
def test_a_dllm_has_a_folder_of_its_own(tmp_path, output, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnmaskError, match="has no name of its own: give that of a new folder"):
        PretrainConfig(output=output)
    assert PretrainConfig(output="runs/b/").output == PretrainConfig(output="runs/./b").output == "runs/b"


def test_puzzles_that_do_not_fit_are_refused_before_the_training():
    with pytest.raises(UnmaskError, match="Prompts of 'sudoku' have 36 words: raise max_prompt, which is 17"):
        check_recipe(PretrainConfig(tasks={"lists": 0.99, "sudoku": 0.01}, max_prompt=17))
    with pytest.raises(UnmaskError, match=r"takes 36 \+ 36 positions, and max_prompt \+ 2 \* gen_length are 68"):
        check_recipe(PretrainConfig(tasks={"sudoku": 1}, max_prompt=36, gen_length=16))


@pytest.mark.parametrize(
    "progress", ['{"step": 5000, "seconds": 1}', '{"step": -5, "seconds": 1}', '{"step": 1, "seconds": 1e400}']
)
def test_progress_that_cannot_be_is_refused(tmp_path, progress):
    stops = iter([True])
    with pytest.raises(Stopped):
        pretrain(small(tmp_path / "m"), stop=lambda: next(stops))
    (tmp_path / "m.checkpoint" / "progress.json").write_text(progress)
    with pytest.raises(UnmaskError, match=r"The checkpoint .*m.checkpoint is damaged .*: delete it and start again."):
        pretrain(small(tmp_path / "m"), resume=True)
