"""What a user writes, as a type checker sees it from outside."""

from torch import Tensor

import unmask
from unmask.observation import Observation
from unmask.policies import Rule, rule


@rule
class Half(Rule):
    """Everything above a half."""

    type_name = "half"
    least: float = 0.5

    def select(self, observation: Observation) -> Tensor:
        return (observation.confidence[..., 0] > self.least) & observation.selectable


model = unmask.load_model("house-base")
policy = unmask.load_policy("house-base-full")
out = unmask.generate(model, policy, ["hall: red?"], speed=0.5)
texts: list[str] = out.texts
nfe: int = int(out.nfe.sum())
for done in out:
    print(done.text, done.nfe, done.ended)
config = unmask.DecodeConfig(gen_length=32, block_length=8)
unmask.generate(model, Half(0.7), ["hall: red?"], config)
