"""Adaptive blocks: by hand, and against fixed ones."""

import pytest
import torch

from tests.conftest import make_tiny
from unmask.decoding.blocks import AdaptiveBlocks, DelimitedBlocks, parse_block_length
from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.policies import ConfidenceThreshold, TopKConfidence

DOT = 9
BLOCKS = DelimitedBlocks(default=3, delimiters=torch.tensor([DOT]), threshold=0.3, window=5)


def end(predicted, confidence, masked=None, block_end=0):
    masked = torch.ones(1, 8, dtype=torch.bool) if masked is None else torch.tensor([masked], dtype=torch.bool)
    return BLOCKS.end(masked, torch.tensor([block_end]), torch.tensor([predicted]), torch.tensor([confidence])).item()


def test_a_block_ends_at_the_most_confident_delimiter_in_its_window():
    assert end([1, DOT, 1, DOT, 1, 1, 1, 1], [0.9, 0.4, 0.9, 0.6, 0.9, 0.9, 0.9, 0.9]) == 4
    assert end([1, DOT, 1, DOT, 1, 1, 1, 1], [0.9, 0.6, 0.9, 0.6, 0.9, 0.9, 0.9, 0.9]) == 2, "the first of a tie"
    assert end([1, DOT, 1, 1, 1, 1, 1, 1], [0.9, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]) == 3, "not sure enough: default"
    assert end([1, 1, 1, 1, 1, DOT, 1, 1], [0.9] * 8) == 3, "beyond the window: default"


def test_a_row_inside_its_block_keeps_its_end_and_the_next_starts_behind_it():
    inside = [0, 1, 1, 1, 1, 1, 1, 1]
    assert end([DOT] * 8, [0.9] * 8, inside, block_end=4) == 4
    done = [0, 0, 0, 0, 1, 1, 1, 1]
    assert end([1, 1, 1, 1, 1, DOT, 1, 1], [0.9] * 8, done, block_end=4) == 6
    assert end([1] * 8, [0.9] * 8, [0, 0, 0, 0, 0, 0, 0, 1], block_end=7) == 8, "no longer than the region"


def test_each_row_asks_as_far_as_it_may_have_to_see():
    masked = torch.tensor([[1] * 8, [0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]], dtype=torch.bool)
    scope = BLOCKS.scope(masked, torch.tensor([0, 4, 4]))
    assert scope.sum(dim=1).tolist() == [5, 2, 4]


TINY = make_tiny()
PROMPTS = [[5, 6, 7], [8] * 9, [9, 10], [11, 12, 13, 14], [15]]


@pytest.mark.parametrize("rule", [ConfidenceThreshold(0.3), TopKConfidence(1)])
def test_without_delimiters_adaptive_blocks_are_fixed_ones(rule):
    """Token for token and pass for pass: finding a block's end costs none."""
    never = AdaptiveBlocks(default=4, delimiters=(".",), threshold=1.0, window=0.5)
    adaptive = decode(TINY, rule, PROMPTS, gen_length=12, block_length=never, batch_size=3)
    fixed = decode(TINY, rule, PROMPTS, gen_length=12, block_length=4, batch_size=3)
    assert torch.equal(adaptive.tokens, fixed.tokens)
    assert torch.equal(adaptive.revealed_at, fixed.revealed_at)


def test_blocks_follow_what_is_predicted():
    """Every end is where the rule puts it, given what the pass at the block's start predicted."""
    words = tuple(str(TINY.tokenizer.decode([i])) for i in range(10, 40))
    asked = AdaptiveBlocks(default=4, delimiters=words, threshold=0.05, window=0.5)
    steps, lengths = [], set()
    decode(TINY, TopKConfidence(1), PROMPTS, gen_length=12, block_length=asked, callback=steps.append)
    delimiters = torch.tensor([TINY.encode(word)[0] for word in words])
    ends = {}
    for step in steps:
        for i, row in enumerate(step.before.row.tolist()):
            masked, may = step.before.masked[i], step.observation.selectable[i]
            start = int(masked.int().argmax())
            if start >= ends.get(row, 0):
                window = range(start, min(start + 6, 12))
                found = [j for j in window if masked[j] and step.predicted[i, j] in delimiters]
                best = max(found, key=lambda j: (step.observation.confidence[i, j, 0], -j), default=None)
                # What lies past the block's end is no longer shown, so ask for the block only.
                ends[row] = int(may.nonzero().max()) + 1
                lengths.add(ends[row] - start)
                if best is not None and step.observation.confidence[i, best, 0] >= 0.05:
                    assert ends[row] == best + 1
                else:
                    assert ends[row] == min(start + 4, 12)
            assert torch.equal(may, masked & (torch.arange(12) < ends[row]))
    assert len(lengths) > 2, "blocks of several lengths"


def test_bad_adaptive_blocks_are_refused_in_one_sentence():
    with pytest.raises(UnmaskError, match="AdaptiveBlocks: default = 0 .input should be greater than or equal to 1"):
        AdaptiveBlocks(default=0)


def test_block_lengths_are_read_from_text():
    assert parse_block_length(None) is None
    assert parse_block_length("8") == 8
    assert parse_block_length("adaptive") == AdaptiveBlocks()
    expected = AdaptiveBlocks(default=8, threshold=0.5, delimiters=(".", ";"))
    assert parse_block_length("adaptive:default=8,threshold=0.5,delimiters=[.,;]") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adaptiv", "Unknown block_length 'adaptiv': give a number, or adaptive:default=32"),
        ("adaptive:defualt=8", "Unknown key 'defualt' in the block_length .*did you mean 'default'"),
        ("adaptive:default=0", "default = '0' .input should be greater than or equal to 1"),
        ("-4", "Unknown block_length '-4'"),
        (
            "adaptive:delimiters=[.",
            r"Cannot read 'adaptive:delimiters=\[.': .*=\[item,item\], with double quotes",
        ),
        ("adaptive:delimiters=.]", r"Cannot read 'adaptive:delimiters=.\]': write it as type:key=value"),
        (
            'adaptive:delimiters=[",]',
            r"Cannot read .*, with double quotes around an item that holds a comma, a",
        ),
        ('adaptive:delimiters=["\\q"]', "Cannot read .*, with double quotes around an item that holds a comma"),
        ("adaptive:delimiters=.", "Bad value in the block_length .*delimiters = '.' .input should be a valid tuple"),
    ],
)
def test_bad_block_lengths_are_refused(text, message):
    for read in (parse_block_length, lambda text: DecodeConfig(block_length=text)):
        with pytest.raises(UnmaskError, match=message):
            read(text)


def test_a_comma_may_end_a_block():
    blocks = AdaptiveBlocks(default=8, delimiters=(".", ",", "red"))
    assert str(blocks) == 'adaptive:default=8,delimiters=[.,",",red]'
    assert parse_block_length(str(blocks)) == blocks
    assert parse_block_length("adaptive:delimiters=[]").delimiters == ()
    with pytest.raises(UnmaskError, match=r'its list \[,\] has an empty item; quote a comma as ","\.'):
        parse_block_length("adaptive:default=8,delimiters=[,]")


@pytest.mark.parametrize("delimiters", [("\n", "."), ("]", "["), ('"', "a b"), (" ", "\\", "\\n", "\t."), ("",), ()])
def test_delimiters_are_read_back_as_they_were(delimiters):
    config = DecodeConfig(block_length=AdaptiveBlocks(delimiters=delimiters))
    assert parse_block_length(str(config.block_length)) == config.block_length
    assert DecodeConfig.model_validate_json(config.model_dump_json()) == config
