"""What several tests of the server share."""

import pytest

import unmask


@pytest.fixture(scope="module")
def house():
    return unmask.load_model("house-base")


@pytest.fixture(scope="module")
def served(house):
    """(address, engine) of a server of two policies."""
    from tests.integrations.serving import THRESHOLD, serving

    with serving(house, ["house-base-full", THRESHOLD]) as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as found:
        yield found
