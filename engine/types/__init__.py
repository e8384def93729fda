"""The types at the engine's interface: requests, answers, states and limits. No torch here."""

from engine.types.answers import (
    UNKNOWN_TOKEN,
    Completion,
    Echo,
    FinishReason,
    Piece,
    Spelled,
    Spent,
    Timings,
    TokenLogprob,
)
from engine.types.models import EngineConfig, ModelIdentity, ModelInfo, ModelSpec, Vocabulary, is_further, model_of
from engine.types.prompts import ChatPrompt, EncodedImage, Prompt, TextPrompt, TokensPrompt
from engine.types.requests import Cancellation, DetokenizeRequest, GenerationRequest, Priority, TokenizeRequest
from engine.types.rules import ANY_OBJECT, AnswerRules
from engine.types.sampling import SamplingParams, TokenMask
from engine.types.states import BackendState, BackendStats, Progress, QueuePosition, ServerReport, Status

__all__ = [
    "ANY_OBJECT",
    "UNKNOWN_TOKEN",
    "AnswerRules",
    "BackendState",
    "BackendStats",
    "Cancellation",
    "ChatPrompt",
    "Completion",
    "DetokenizeRequest",
    "Echo",
    "EncodedImage",
    "EngineConfig",
    "FinishReason",
    "GenerationRequest",
    "ModelIdentity",
    "ModelInfo",
    "ModelSpec",
    "Piece",
    "Priority",
    "Progress",
    "Prompt",
    "QueuePosition",
    "SamplingParams",
    "ServerReport",
    "Spelled",
    "Spent",
    "Status",
    "TextPrompt",
    "Timings",
    "TokenLogprob",
    "TokenMask",
    "TokenizeRequest",
    "TokensPrompt",
    "Vocabulary",
    "is_further",
    "model_of",
]
