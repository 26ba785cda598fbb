"""What model calls take: time, tokens, and money where the prices are known."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from shared.telemetry import meter

_TOKENS_A_PRICE = 1_000_000

_calls = meter.create_histogram(
    "chartloom_ai_call_seconds", unit="s", description="One call of the model endpoint, by model and outcome."
)
_tokens = meter.create_counter("chartloom_ai_tokens", description="Tokens used, by model and direction.")
_cost = meter.create_counter(
    "chartloom_ai_cost", description="What the tokens cost, by model, in the currency of AI_PRICES."
)


class Price(BaseModel):
    """Of a million tokens, in the operator's currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0)
    output: float = Field(ge=0)


def record_call(model: str, outcome: str, seconds: float) -> None:
    """One call, answered or not."""
    _calls.record(seconds, {"model": model, "outcome": outcome})


def record_usage(model: str, usage: Mapping[str, int], price: Price | None) -> None:
    """What one reply used. It is paid for, whatever becomes of the job that asked."""
    asked, answered = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    _tokens.add(asked, {"model": model, "direction": "input"})
    _tokens.add(answered, {"model": model, "direction": "output"})
    if price is not None:
        _cost.add((asked * price.input + answered * price.output) / _TOKENS_A_PRICE, {"model": model})
