"""The pictures of docs/method.md, from real decodes of the bundled dLLM.

    pip install 'unmask[plot]'
    python docs/pictures.py                    # writes docs/images/*.svg
    python docs/pictures.py --png some/folder  # the same as PNG, to look at

Everything is seeded; another version of torch or another machine may still round otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import unmask
from unmask.policies import Plain
from unmask.rl.algorithms.grpo import group_advantages
from unmask.rl.rewards import additive, multiplicative

IMAGES = Path(__file__).parent / "images"
ONE_SPEED = str(Path(__file__).parents[1] / "tests" / "data" / "house-base-full")  # as the paper trains it
PROMPTS = 64  # test prompts that are looked through
INK, FAINT, HIDDEN = "#333333", "#8a8a8a", "#d9dde1"
TEAL, RED, GOLD, BLUE, GREEN = "#00798c", "#d1495b", "#edae49", "#30638e", "#5c8001"
STYLE = {
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "unmask",
}


class House:
    """The bundled dLLM, policy and test prompts, and one prompt that tells decoders apart."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model, self.task = unmask.load_model(), unmask.load_task()
        self.policy, self.rule = unmask.load_policy(ONE_SPEED), unmask.policies.ConfidenceThreshold(0.9)
        self.examples = self.task.examples("test", PROMPTS)
        self.prompts = [example.prompt for example in self.examples]
        self.full, self.blocks, self.learned = (
            unmask.generate(self.model, policy, self.prompts, gen_length=32, block_length=length, stop_at_eos=False)
            for policy, length in ((self.rule, None), (self.rule, 8), (self.policy, None))
        )
        # The first that the threshold gets wrong in full diffusion, and right in blocks, as the policy does.
        right = [self.right(out) for out in (self.full, self.blocks, self.learned)]
        self.index = next(i for i, (a, b, c) in enumerate(zip(*right, strict=True)) if b and c and not a)

    def right(self, out: unmask.Generation) -> list[bool]:
        """Which prompts were answered correctly."""
        return self.task.verify_all(self.examples, out.texts)

    def words(self, tokens: list[int]) -> list[str]:
        """The text of each token."""
        ends = set(self.model.eos_ids.tolist())
        return ["EOS" if token in ends else str(self.model.tokenizer.decode([token])) for token in tokens]


def one_step(house: House) -> plt.Figure:
    """What one step of the decision process holds: the state, what the dLLM says, what the policy does."""
    seen = []

    def record(step) -> None:
        logits = house.policy.logits(step.observation.only(house.policy.needs))
        seen.append((step, torch.sigmoid(logits)[0].tolist()))

    options = {"gen_length": 32, "stop_at_eos": False, "callback": record}
    decode_one = unmask.decoding.decode.decode
    tokens = [house.model.encode(house.prompts[house.index])]
    decode_one(house.model, house.policy, tokens, streams=[house.index], **options)
    step, chance = seen[1]
    masked, action = step.before.masked[0].tolist(), step.action[0].tolist()
    confidence = step.observation.confidence[0, :, 0].tolist()
    now, said = house.words(step.before.region[0].tolist()), house.words(step.predicted[0].tolist())

    figure, axes = plt.subplots(4, 1, figsize=(9.4, 5.2), sharex=True)
    titles = (
        "State: the tokens at the second step; masked positions are grey",
        "The dLLM, frozen, one forward pass: its likeliest token at each position, and how sure it is (confidence c)",
        "The policy: a probability of revealing each masked position, from all confidences, the masks and the step",
        "Action: positions drawn with these probabilities take the dLLM's token; the state of the next step",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
        axis.set_xlim(-0.6, 31.6)
        axis.set_xticks([])
        axis.spines["left"].set_visible(False)
        axis.set_yticks([])
    _row(axes[0], ["" if m else word for m, word in zip(masked, now, strict=True)], masked, "#eef3f4")
    colours = [TEAL if m else "#e3e7ea" for m in masked]
    axes[1].bar(range(32), confidence, color=colours, width=0.8)
    for i, word in enumerate(said):
        if masked[i]:
            axes[1].text(i, -0.05, word, rotation=90, ha="center", va="top", fontsize=6.8)
    axes[2].bar(range(32), [c if m else 0 for c, m in zip(chance, masked, strict=True)], color=GOLD, width=0.8)
    for axis in axes[1:3]:
        axis.set_ylim(0, 1.05)
        axis.set_yticks([0, 1])
        axis.spines["left"].set_visible(True)
    shown = [word if a else "" if m else old for a, m, old, word in zip(action, masked, now, said, strict=True)]
    still = [m and not a for m, a in zip(masked, action, strict=True)]
    _row(axes[3], shown, still, "#eef3f4", [RED if a else None for a in action])
    axes[3].set_xlabel("position in the generation region (32); red: revealed in this step")
    figure.suptitle(f"prompt: {house.prompts[house.index]}", x=0.012, ha="left", fontsize=9.5, fontweight="bold")
    places = ((0.765, 0.13), (0.565, 0.13), (0.3, 0.13), (0.06, 0.13))  # more room below the words of the second
    for axis, (bottom, height) in zip(axes, places, strict=True):
        axis.set_position([0.035, bottom, 0.95, height])
    return figure


def _row(axis, words, masked, colour, special=None) -> None:
    for i, word in enumerate(words):
        lit = special[i] if special and special[i] else None
        face = HIDDEN if masked[i] else (lit or colour)
        axis.add_patch(Rectangle((i - 0.45, 0), 0.9, 1, facecolor=face, edgecolor="white"))
        ink = "white" if lit else INK
        axis.text(i, 0.5, word, rotation=90, ha="center", va="center", fontsize=6.6, color=ink)
    axis.set_ylim(0, 1)
    axis.spines["bottom"].set_visible(False)


def trajectories(house: House) -> plt.Figure:
    """Position by step: when each position is revealed, under three decoders, on one prompt."""
    kinds = (
        ("threshold 0.9, full diffusion", house.full, TEAL),
        ("threshold 0.9, blocks of 8", house.blocks, BLUE),
        ("learned policy, full diffusion", house.learned, RED),
    )
    outs = [(name, out[house.index], colour) for name, out, colour in kinds]
    steps = [done.nfe for _, done, _ in outs]
    figure, axes = plt.subplots(3, 1, figsize=(9.4, 8.2), height_ratios=[n + 5.5 for n in steps])
    gold = house.examples[house.index].answer
    for axis, (name, done, colour) in zip(axes, outs, strict=True):
        words = house.words(done.tokens)
        axis.add_patch(Rectangle((-0.5, 0.5), 32, done.nfe, facecolor="#f1f3f5", linewidth=0))
        for position, at in enumerate(done.revealed_at):
            for first, height, face in ((0, at, HIDDEN), (at, 1, colour)):
                if height:
                    axis.add_patch(Rectangle((position - 0.5, first + 0.5), 1, height, facecolor=face, linewidth=0))
        axis.hlines([step + 0.5 for step in range(1, done.nfe)], -0.6, 31.6, color="white", linewidth=1.2)
        axis.vlines([place + 0.5 for place in range(31)], 0.5, done.nfe + 0.5, color="white", linewidth=1.2)
        answer = done.text.split()[-1]
        verdict = "right" if answer == gold else f"wrong, the answer is {gold}"
        axis.set_title(f"{name}: {done.nfe} forward passes, answers {answer} ({verdict})")
        axis.set_xlim(-0.6, 31.6)
        axis.set_ylim(done.nfe + 0.6, 0.4)
        axis.set_xticks([])
        for position, word in enumerate(words):
            axis.text(position, done.nfe + 0.8, word, rotation=90, ha="center", va="top", fontsize=7.5)
        # Block borders, where there are any.
        if "blocks" in name:
            for border in (8, 16, 24):
                axis.axvline(border - 0.5, color=INK, linewidth=0.8, linestyle=":")
        axis.set_yticks([1, done.nfe] if done.nfe < 8 else [1, 5, 10, done.nfe])
        axis.set_ylabel("step")
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.suptitle(f"prompt: {house.prompts[house.index]}", x=0.012, ha="left", fontsize=9.5, fontweight="bold")
    figure.text(0.988, 0.985, "coloured: revealed at this step · grey: masked", ha="right", va="top")
    figure.tight_layout(rect=(0, 0, 1, 0.985), h_pad=1.2)
    return figure


def network() -> plt.Figure:
    """The policy network."""
    figure, axis = plt.subplots(figsize=(9.4, 3.2))
    axis.set_xlim(-0.5, 100.5)
    axis.set_ylim(1, 35)
    axis.axis("off")

    def box(x, y, width, height, text, colour, ink="white") -> None:
        style = "round,pad=0,rounding_size=1"
        axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="none"))
        axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.2, color=ink)

    def arrow(a, b) -> None:
        axis.add_patch(FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=9, color=FAINT, shrinkA=1, shrinkB=1))

    pale = "#e9eef0"
    box(0, 26, 16, 7, "confidences c\n(L x k), k = 1", pale, INK)
    box(0, 14.5, 16, 7, "mask flags m\n(L)", pale, INK)
    box(0, 3, 16, 7, "time t = step / L\n(1)", pale, INK)
    box(21, 26, 15, 7, "linear\nk → 128", BLUE)
    box(21, 14.5, 15, 7, "embedding\n2 → 128", BLUE)
    box(21, 3, 15, 7, "cos, sin; MLP\n128 → 128", BLUE)
    box(40, 8.5, 7, 8, "+", BLUE)
    box(54, 7, 21, 26, "", TEAL)
    lines = (
        "one transformer block\nover all L positions\n\n"
        "attention, 2 heads,\nboth directions, rotary\n\nfeed-forward 512\n\n"
        "LayerNorms modulated\nby the condition (AdaLN)"
    )
    axis.text(64.5, 20, lines, ha="center", va="center", fontsize=8.2, color="white")
    box(80, 16, 9, 8, "linear\n128 → 1", BLUE)
    box(92, 16, 8, 8, "logit b\n(L)", pale, INK)
    for y in (29.5, 18, 6.5):
        arrow((16, y), (21, y))
    arrow((36, 29.5), (54, 29.5))
    arrow((36, 18), (40, 13.8))
    arrow((36, 6.5), (40, 11.2))
    arrow((47, 12.5), (54, 12.5))
    arrow((75, 20), (80, 20))
    arrow((89, 20), (92, 20))
    axis.text(45, 30.6, "x", ha="center", fontsize=8.2)
    axis.text(50.3, 13.4, "condition", ha="center", fontsize=6.6)
    axis.text(100, 12, "reveal position i\nwith probability\nsigmoid(b_i)", ha="right", va="top", fontsize=8.2)
    axis.text(54, 3.4, "331,265 weights at the defaults", fontsize=8.2, color=FAINT, va="center")
    figure.tight_layout(pad=0.3)
    return figure


def rewards() -> plt.Figure:
    """Reward against forward passes, for each alpha."""
    length = 32
    nfe = torch.arange(1, length + 1)
    right, wrong = torch.ones(length, dtype=torch.bool), torch.zeros(length, dtype=torch.bool)
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.3))
    colours = {0.0: FAINT, 0.3: GREEN, 1.0: TEAL, 3.0: BLUE, 10.0: RED}
    # Where each curve is named, by its NFE.
    left, right_hand = {0.0: 26, 0.3: 22, 1.0: 17, 3.0: 10, 10.0: 4}, {1.0: 22, 3.0: 16}
    for axis, reward, labels in ((axes[0], multiplicative, left), (axes[1], additive, right_hand)):
        for alpha, at in labels.items():
            values = reward(right, nfe, length, alpha)
            axis.plot(nfe, values, color=colours[alpha])
            axis.plot(nfe, reward(wrong, nfe, length, alpha), color=colours[alpha], linestyle=":", linewidth=1.4)
            card = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
            name = f"alpha {alpha:g}"
            spot = (at, values[at - 1].item())
            axis.text(*spot, name, color=colours[alpha], ha="center", va="center", fontsize=8, bbox=card)
        axis.set_xlabel("NFE of the roll-out (L = 32)")
        axis.set_xlim(1, length)
    axes[0].set_title("multiplicative (the default): a wrong answer earns 0")
    axes[0].set_ylabel("reward R")
    axes[0].set_ylim(-0.14, 1.06)
    axes[0].text(1.5, -0.045, "dotted: wrong answer", fontsize=8, va="top")
    axes[1].text(1.5, -2.95, "dotted: wrong answer", fontsize=8, va="bottom")
    axes[1].set_title("additive (an ablation): faster pays for wrong answers, too")
    axes[1].axhline(0, color=FAINT, linewidth=0.6)
    figure.tight_layout()
    return figure


def group(house: House) -> plt.Figure:
    """One group of GRPO: eight roll-outs of a prompt, their rewards and advantages."""
    size, length = 8, 32
    actor = Plain(house.policy)  # as in training: a step may reveal nothing
    examples = [example for example in house.examples for _ in range(size)]
    prompts = [example.prompt for example in examples]
    out = unmask.generate(house.model, actor, prompts, gen_length=length, stop_at_eos=False)
    correct = (torch.tensor(house.task.verify_all(examples, out.texts)) & out.complete).view(-1, size)
    nfe = out.nfe.view(-1, size)
    rewards = multiplicative(correct, nfe, length, 1.0)
    place = int(rewards.std(dim=1).argmax())  # the group that parts most
    reward = rewards[place]
    advantage = group_advantages(reward[None])[0]

    figure, axes = plt.subplots(1, 3, figsize=(9.4, 2.9))
    names = [f"{i + 1}" for i in range(size)]
    verdicts = [TEAL if right else HIDDEN for right in correct[place].tolist()]
    axes[0].bar(names, nfe[place].tolist(), color=verdicts)
    axes[0].set_title("NFE of 8 roll-outs (grey: wrong)")
    axes[1].bar(names, reward.tolist(), color=verdicts)
    axes[1].axhline(reward.mean().item(), color=INK, linewidth=1, linestyle="--")
    axes[1].set_title("reward, alpha 1 (dashed: mean)")
    axes[2].bar(names, advantage.tolist(), color=[GREEN if a > 0 else RED for a in advantage.tolist()])
    axes[2].axhline(0, color=FAINT, linewidth=0.8)
    axes[2].set_title("advantage = reward - mean")
    for axis in axes:
        axis.set_xlabel("roll-out")
        axis.tick_params(axis="x", length=0)
    figure.suptitle(f"prompt: {house.prompts[place]}", x=0.012, ha="left", fontsize=9.5, fontweight="bold")
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    return figure


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--png", type=Path, help="write PNG to this folder instead")
    png = parser.parse_args().png
    with plt.rc_context(STYLE):
        house = House()
        pictures = {
            "one-step": one_step(house),
            "trajectories": trajectories(house),
            "network": network(),
            "rewards": rewards(),
            "group": group(house),
        }
        for name, figure in pictures.items():
            if png is None:
                figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
            else:
                png.mkdir(parents=True, exist_ok=True)
                figure.savefig(png / f"{name}.png", dpi=130)


if __name__ == "__main__":
    main()
