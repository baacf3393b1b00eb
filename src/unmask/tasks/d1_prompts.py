"""The prompts of d1 for mathematics, which the code of arXiv 2512.09106 took over.

From github.com/dllm-reasoning/d1: diffu-grpo/data_utils.py to train, eval/gsm8k.py to evaluate. Training asks for a
format only; evaluation also begins the answer.
"""

TRAINING = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
BOXED = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a "
    "\\boxed{}."
)
EVALUATION = (
    f"{BOXED}\nRespond in the following format:\n"
    "<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>"
)
PREFIX = "<reasoning>"
