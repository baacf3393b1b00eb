"""Decode a data set with Ray Data: read Parquet, decode in actors with one dLLM each, write Parquet.

    pip install 'unmask[ray]'
    python examples/ray_decode.py --output texts

Runs on a local Ray with the bundled dLLM, on CPUs. On a cluster, name a dLLM of the Hub or a folder that all machines
see, and ask for `num_gpus=1` instead of `num_cpus=1`.
"""

import argparse
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

import unmask
from unmask.integrations.ray import Decoder


def main(output, prompts=64, actors=2, speed=0.5):
    """Decode prompts of the bundled task and return how many are right."""
    examples = unmask.load_task("house").examples("test", prompts)
    columns = {"id": range(prompts), "prompt": [e.prompt for e in examples], "answer": [e.answer for e in examples]}
    ray.init(num_cpus=actors + 1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table(columns), Path(folder) / "prompts.parquet")
        rows = ray.data.read_parquet(folder).map_batches(
            Decoder,
            fn_constructor_kwargs={"policy": "house-base-full", "id_column": "id", "gen_length": 32, "speed": speed},
            batch_size=16,  # rows of a block; some thousand for a real data set
            num_cpus=1,
            concurrency=actors,
        )
        rows.write_parquet(output)
    done = ray.data.read_parquet(output).to_pandas()
    right = sum(answer in text for answer, text in zip(done["answer"], done["text"], strict=True))
    print(f"{len(done)} prompts, {right} right, {done['nfe'].mean():.1f} forward passes each: {output}")
    ray.shutdown()
    return right


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--speed", type=float, default=0.5)
    args = parser.parse_args()
    main(str(Path(args.output).absolute()), args.prompts, args.actors, args.speed)
