"""The lm-evaluation-harness's face: its scores and ours agree, texts are cut, and what cannot be done is refused."""

import copy
import functools
import json
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval")

import datasets
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

import unmask
from tests.cli.test_cli import run
from tests.cli.test_shared import Half
from tests.launching import launched
from unmask.evaluation.entries import candidate, decoding
from unmask.evaluation.evaluate import Setup, evaluate
from unmask.integrations import lm_eval, lm_eval_tasks
from unmask.integrations.lm_eval import UnmaskLM, evaluate_tasks
from unmask.integrations.lm_eval_answers import FILE, Answered, Answers
from unmask.models.masked_lm import MaskedLM

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
fewshot_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
"""
SCORED = """
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 30
  do_sample: false
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - name: answer
    filter:
      - {function: regex, regex_pattern: 'answer is (\\S+)', group_select: -1}
      - {function: take_first}
"""
CHOICE = 'doc_to_choice: ["hall", "porch"]\n'
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.content }} {% endfor %}{% if add_generation_prompt %}go {% endif %}"
)


@pytest.fixture(scope="module")
def house():
    return unmask.load_model(), unmask.load_task("house").examples("test", 24)


@pytest.fixture(scope="module")
def files(house, tmp_path_factory):
    """Task files with the house's prompts; the data sets that the harness makes of them go beside."""
    folder = tmp_path_factory.mktemp("harness")
    rows = [{"prompt": example.prompt, "answer": example.answer} for example in house[1]]
    (folder / "house.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, kind, rest in (("local_house", "generate_until", SCORED), ("local_choice", "multiple_choice", CHOICE)):
        text = TASK.format(name=name, kind=kind, data=folder / "house.jsonl") + rest
        (folder / f"{name}.yaml").write_text(text)
    (folder / "local_unsafe.yaml").write_text(
        (folder / "local_house.yaml").read_text().replace("local_house", "local_unsafe") + "unsafe_code: true\n"
    )
    (folder / "local_broken.yaml").write_text("task: local_broken\ndataset_path: json\noutput_type: generate_until\n")
    (folder / "local_group.yaml").write_text("group: local_group\ntask: [local_house]\n")
    with pytest.MonkeyPatch.context() as patch:
        for module in (lm_eval, lm_eval_tasks):  # each manager reads 14,000 files
            patch.setattr(module, "TaskManager", functools.cache(TaskManager))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        patch.chdir(folder)  # data sets are looked for below the working directory: not in all of a checkout
        yield folder


def request(context, doc_id=0, **settings):
    return SimpleNamespace(args=(context, settings), task_name="made", doc_id=doc_id)


def ours(house, policy, block_length, **options):
    setup = Setup(house[0], unmask.load_task("house"), house[1])
    return evaluate(setup, *candidate(policy, decoding(32, block_length, **options)))


@pytest.mark.parametrize(
    ("policy", "block_length", "flags"),
    [("confidence_threshold:threshold=0.6", 32, ["--no-stop-at-eos"]), ("random_order:k=4", 8, ["--batch-size", 5])],
)
def test_the_harness_finds_what_our_evaluation_finds(capsys, tmp_path, house, files, policy, block_length, flags):
    code, out, err = run(
        capsys, "lm-eval", "--tasks", files / "local_house.yaml", "--policy", policy, "--gen-length", 32,
        "--block-length", block_length, "--log-samples", "--output", tmp_path / "new", *flags,
    )  # fmt: skip
    assert code == 0
    rows = ours(house, policy, block_length, stop_at_eos="--no-stop-at-eos" not in flags)
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    accuracy = sum(row["correct"] for row in rows) / len(rows)
    assert 0 < accuracy < 1
    assert results["results"]["local_house"]["exact_match,answer"] == accuracy
    spent = results["unmask"]["tasks"]["local_house"]
    nfe = sum(row["nfe"] for row in rows) / len(rows)
    assert spent["nfe"] == results["unmask"]["nfe"] == pytest.approx(nfe)
    assert spent["requests"] == 24
    assert results["unmask"]["policy"]["type"] == policy.partition(":")[0]
    samples = [json.loads(line) for line in (tmp_path / "new" / "samples_local_house.jsonl").read_text().splitlines()]
    assert [sample["resps"] for sample in samples] == [[[row["text"]]] for row in rows]
    assert [sample["nfe"] for sample in samples] == [row["nfe"] for row in rows]
    assert [bool(sample["exact_match"]) for sample in samples] == [row["correct"] for row in rows]
    tokens = [len(house[0].encode(row["text"])) for row in rows]
    assert [sample["tpf"] for sample in samples] == [n / row["nfe"] for n, row in zip(tokens, rows, strict=True)]
    assert "local_house" in out
    assert f"{accuracy:.4f} ±" in out
    assert f"{nfe:.1f}" in out
    assert "decoding 24/24" in err


def test_texts_are_cut_at_the_earliest_stop_string_and_in_order(house):
    model, examples = house
    policy = unmask.load_policy("confidence_threshold:threshold=0.9")
    prompts = [example.prompt for example in examples[:6]]
    whole = unmask.generate(model, policy, prompts, gen_length=32, block_length=8)
    end = model.tokenizer.decode([int(model.eos_ids[0])])
    untils = [["the", "."], ["."], "answer", [], None, [end]]
    # 30 becomes 32, whole blocks; two lengths are two calls, and the order stays
    lengths = [{"max_gen_toks": 30}, {"max_new_tokens": 40}] * 3
    requests = [
        request(prompt, until=until, **length) for prompt, until, length in zip(prompts, untils, lengths, strict=True)
    ]
    seen = []
    lm = UnmaskLM(model, policy, block_length=8, batch_size=2, on_ended=lambda done, total: seen.append((done, total)))
    texts = lm.generate_until(requests)
    assert texts[0] == whole.texts[0].partition(".")[0], "the earliest in the text, not in the list"
    assert texts[2] == whole.texts[2].partition("answer")[0]
    assert texts[4] == whole.texts[4]
    assert "." not in texts[1]
    assert "answer is" in texts[3]
    assert [one.gen_length for one in lm.spent] == [32, 40] * 3
    assert [one.tokens for one in lm.spent] == [len(model.encode(text)) for text in texts]
    spent, needed = [one.nfe for one in lm.spent[::2]], whole.nfe[::2].tolist()
    assert spent[0] < needed[0], "decoding ends at a stop string"
    assert spent[2] == needed[2], "here there is none"
    assert lm.spent[0].ended == "stop"
    to_the_end = UnmaskLM(model, policy, block_length=8, stop_at_eos=False)
    assert to_the_end.generate_until(requests) == texts
    assert all(a.nfe >= b.nfe for a, b in zip(to_the_end.spent, lm.spent, strict=True))
    assert to_the_end.spent[0].ended == "complete", "NFE is counted as in the paper"
    assert seen[-1] == (6, 6)
    assert sorted(seen) == seen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True}, "The task 'made' asks for do_sample without a temperature"),
        ({"do_sample": True, "temperature": 0.2, "min_p": 0.1}, "asks for min_p = 0.1, which decoding by a policy"),
        ({"do_sample": True, "temperature": 0.2, "top_p": 1.5}, "top_p"),
        ({"num_beams": 10}, "asks for num_beams = 10, which decoding by a policy does not have: leave it out"),
        ({"max_gen_toks": 400}, "Document 0 of 'made' has 8 tokens and with gen_length 400 needs 408 positions"),
    ],
)
def test_what_decoding_cannot_honour_is_refused(house, settings, message):
    with pytest.raises(unmask.UnmaskError, match=message):
        UnmaskLM(house[0]).generate_until([request("hall: red blue gold green gold?", **settings)])


def test_temperatures_are_honoured(house):
    policy, prompt = unmask.load_policy("random_order:k=2"), house[1][0].prompt
    greedy = {"do_sample": False, "temperature": 0.7, "top_p": 0.9, "num_beams": 1, "max_gen_toks": 32}
    hot = {"do_sample": True, "temperature": 1.5, "top_p": 1.0, "max_gen_toks": 32}
    nucleus = {**hot, "top_p": 1e-6}
    lm = UnmaskLM(house[0], policy, seed=3)
    texts = lm.generate_until([request(prompt, **greedy), request(prompt, **hot), request(prompt, **hot)])
    assert texts[0] == unmask.generate(house[0], policy, prompt, gen_length=32, seed=3).texts[0]
    assert len(set(texts)) == 3, "repeats draw anew"
    assert lm.generate_until([request(prompt, **nucleus)]) == texts[:1], "of a tiny nucleus only the likeliest is left"
    assert UnmaskLM(house[0], policy, seed=3, temperature=0).generate_until([request(prompt, **hot)]) == texts[:1]


def test_chats_go_through_the_template(house, files):
    model = MaskedLM("chatty", house[0].network, copy.deepcopy(house[0].tokenizer))
    lm = UnmaskLM(model, "confidence_threshold:threshold=0.9", gen_length=8)
    with pytest.raises(unmask.UnmaskError, match="The tokenizer of the dLLM 'chatty' has no chat template: leave"):
        evaluate_tasks(lm, [str(files / "local_house.yaml")], apply_chat_template=True)
    model.tokenizer.chat_template = TEMPLATE
    options = {"limit": 2, "num_fewshot": 2, "apply_chat_template": True, "log_samples": True}
    results = evaluate_tasks(lm, ["local_group"], include_path=files, **options)
    prompt = results["samples"]["local_house"][0]["arguments"][0][0]
    assert prompt.endswith(f"{house[1][0].prompt} go ")
    assert prompt.count("?") == 3
    assert lm.tokenizer_name == "chatty"
    assert lm.apply_chat_template([{"role": "assistant", "content": "hall"}], add_generation_prompt=False) == "hall"
    with pytest.raises(unmask.UnmaskError, match="refuses a chat of the roles system, user"):
        evaluate_tasks(lm, [str(files / "local_house.yaml")], system_instruction="red", **options)


def test_what_cannot_be_run_is_one_sentence(capsys, files, monkeypatch):
    for argv, message in [
        ([files / "local_choice.yaml"], "The task 'local_choice' needs likelihoods, which a dLLM decoded by a policy"),
        ([files / "local_unsafe.yaml"], "--confirm-run-unsafe-code"),
        ([files / "local_broken.yaml"], "local_broken.yaml' ("),
        ([files / "local_group.yaml"], "is the file of a group: give the group's name"),
        ([files / "local_house.yaml", "--limit", 0], "limit must be a number of documents"),
        (["local_house,local_group", "--include-path", files], "Duplicate task 'local_house': found in both"),
        (["none.yaml"], "No task file at none.yaml"),
        (["x", "--include-path", "none"], "No folder of tasks at none"),
        (["gsm9k,local_huose", "--include-path", files], "Unknown task 'gsm9k': did you mean 'gsm8k'"),
        ([files / "local_house.yaml", "--model", "no/such"], "Cannot load the dLLM 'no/such'"),
    ]:
        code, _, err = run(capsys, "lm-eval", "--tasks", *argv)
        assert code == 2
        assert message in err
        assert "Traceback" not in err
        assert "unmask: " in err.splitlines()[-1]
    with pytest.raises(unmask.UnmaskError, match="does not give: use generate_until tasks"):
        UnmaskLM().loglikelihood([])
    with pytest.raises(unmask.UnmaskError, match="batch_size must be a number of active rows, not 'auto'"):
        UnmaskLM(batch_size="auto")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    code, _, err = run(capsys, "lm-eval", "--tasks", "gsm8k")
    assert code == 2
    assert "lm-eval is not installed: pip install 'unmask[eval]'." in err


def test_the_harness_knows_the_model_by_name(files):
    results = simple_evaluate(
        "unmask",
        model_args="policy=confidence_threshold:threshold=0.9,gen_length=32,block_length=8,stop_at_eos=false",
        batch_size="4",
        task_manager=TaskManager(include_defaults=False),
        tasks=[str(files / "local_house.yaml")],
        limit=3,
    )
    assert results["config"]["unmask"]["tasks"]["local_house"]["requests"] == 3
    assert results["config"]["unmask"]["stop_at_eos"] is False
    assert results["config"]["unmask"]["block_length"] == 8


def test_answers_are_shared_kept_and_gone_on_with(house, tmp_path):
    model, examples = house
    policy = unmask.load_policy("random_order:k=4")
    requests = [request(e.prompt, i, until=["."], max_gen_toks=16 + 8 * (i % 2)) for i, e in enumerate(examples[:9])]
    alone = UnmaskLM(model, policy, temperature=1.0)
    texts = alone.generate_until(requests)
    with pytest.raises(Answered):
        UnmaskLM(model, policy, temperature=1.0, answers=Answers(tmp_path, Half(1))).generate_until(requests)
    part = tmp_path / f"{FILE}.1"
    assert sorted(json.loads(line)["index"] for line in part.read_text().splitlines()) == [1, 3, 5, 7]
    with pytest.raises(unmask.UnmaskError, match=r"part.1 holds what a stopped run has answered: pass --resume to go"):
        Answers(tmp_path)
    with part.open("a") as file:
        file.write('{"index": 0, "asked": "cut sho')
    answers = Answers(tmp_path, resume=True)
    for options, asked, message in (
        ({"temperature": 0.5}, requests, "was begun with temperature = 1.0, not 0.5: resume with the same settings"),
        ({"temperature": 1.0}, requests[::-1], "was begun with other requests: give the same tasks, or another"),
    ):
        with pytest.raises(unmask.UnmaskError, match=message):
            UnmaskLM(model, policy, answers=answers, **options).generate_until(asked)
    seen = []
    lm = UnmaskLM(model, policy, temperature=1.0, answers=answers, on_ended=lambda *told: seen.append(told))
    assert lm.generate_until(requests) == texts
    assert lm.spent == alone.spent
    assert seen[-1] == (5, 5), "the others are there"
    answers.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_score_what_one_scores(capsys, tmp_path, files, tiny_folder):
    argv = ["lm-eval", "--tasks", files / "local_house.yaml", "--policy", "random_order:k=4", "--gen-length", 32]
    argv += ["--temperature", 1.0, "--log-samples", "--model", tiny_folder, "--output"]
    assert run(capsys, *argv, tmp_path / "one")[0] == 0
    code, out, err = launched(2, *argv, tmp_path / "two")
    assert code == 0, err
    assert out.count("Results:") == 1
    one, two = ((tmp_path / name / "samples_local_house.jsonl").read_text() for name in ("one", "two"))
    assert one == two
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert (one["results"], one["unmask"]) == (two["results"], two["unmask"])
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["results.json", "samples_local_house.jsonl"]
    code, out, err = launched(2, *argv, tmp_path / "three", "--block-length", 5)
    assert code != 0
    assert err.count("unmask: ") == err.count("block_length 5 does not divide gen_length 32") == 1
