"""One chat request, whatever its protocol, and its submission to a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from engine.errors import ValidationError
from engine.types import AnswerRules, ChatPrompt, Completion, EncodedImage
from routes.chat.answer_format import AnswerFormat
from routes.chat.conversation import has_calls
from routes.chat.lengths import prompt_in
from routes.chat.masks import mask_of, uncut
from routes.chat.models import find_model
from routes.chat.names import FieldNames
from routes.chat.output import ExpectedOutput, OutputParser, ParsedAnswer
from routes.chat.sampling import Sampling, choices
from routes.chat.toolbox import Toolbox
from routes.generation_run import Run, tokenized


@dataclass(frozen=True, slots=True)
class ChatTask:
    """A conversation to answer.

    messages, images: from a `ConversationBuilder`; answer_format: None for any text; n: how many answers; logprobs: the
    number of alternatives for each token, None for no log probabilities; thinking: whether the model may reason first;
    continues: whether the last message is the assistant's, whose text the answers continue; opens_answer: whether the
    template opens them.
    """

    model: str
    messages: tuple[Mapping[str, Any], ...]
    images: tuple[EncodedImage, ...]
    toolbox: Toolbox
    names: FieldNames
    answer_format: AnswerFormat | None = None
    sampling: Sampling = Sampling()
    n: int = 1
    logprobs: int | None = None
    thinking: bool = False
    continues: bool = False
    opens_answer: bool = True

    @property
    def prompt(self) -> ChatPrompt:
        """The prompt of its answers."""
        shown = self.toolbox.shown
        return ChatPrompt(self.messages, self.images, shown, self.thinking, self.continues, self.opens_answer)

    @property
    def tools_field(self) -> str | None:
        """The field of the functions that the prompt describes, None where it describes none."""
        return self.names.tools if self.toolbox.shown else None


@dataclass(frozen=True, slots=True)
class ChatRun:
    """The answers of a task, which keep nothing of its request.

    tools: the functions that the answers may call; thinking: whether they may start with reasoning; expected: what else
    is known of their texts.
    """

    run: Run
    tools: frozenset[str]
    thinking: bool
    expected: ExpectedOutput = ExpectedOutput()

    @property
    def plain(self) -> bool:
        """True if every answer is text alone, so that its pieces need no parser."""
        return not (self.tools or self.thinking or self.expected.calls)

    def new_parser(self) -> OutputParser:
        """Return a parser for one answer that is streamed."""
        return OutputParser(self.tools, self.thinking, self.expected)

    def parsed(self, completion: Completion) -> ParsedAnswer:
        """Return the parts of a whole answer."""
        parser = self.new_parser()
        answer = ParsedAnswer.of([*parser.feed(completion.text), *parser.finish()])
        answer.hidden, answer.reasoned = parser.hidden, parser.reasoned
        return answer


def submit(task: ChatTask) -> ChatRun:
    """Submit a task inside its request's context. Raises the ServiceError that the request is refused with."""
    name, backend = find_model(task.model)
    new_mask = mask_of(task.answer_format, task.toolbox, task.names, task.sampling, backend, task.thinking)
    sampling = uncut(task.sampling, task.answer_format, task.toolbox)
    params = choices(backend, sampling, task.n, task.logprobs, new_mask, _rules(task))
    prompt = task.prompt
    naming = partial(_naming, task.names, task.tools_field)
    with naming():
        run = Run(name, backend, [(prompt, one) for one in params], task.model, naming)
    return ChatRun(run, task.toolbox.names, task.thinking, _expected(task))


def _rules(task: ChatTask) -> AnswerRules | None:
    """Return the rules of the answers as their request states them, None where there are none."""
    form, toolbox = task.answer_format, task.toolbox
    if form is None and not toolbox.names:
        return None
    rules = AnswerRules() if form is None or toolbox.forced else form.rules()
    if not toolbox.names:
        return rules
    return replace(
        rules,
        call=toolbox.call,
        arguments=toolbox.arguments(),
        strict=toolbox.strict(),
        parallel=toolbox.parallel,
        tools_field=task.names.tools,
    )


def _expected(task: ChatTask) -> ExpectedOutput:
    """Return what is known of the answers' texts."""
    return ExpectedOutput(
        calls=task.toolbox.given or has_calls(task.messages),
        forced=task.toolbox.forced,
        sole=task.toolbox.sole,
        exclusive=task.answer_format is not None and not task.toolbox.forced,
        parallel=task.toolbox.parallel,
    )


def prompt_ids(task: ChatTask) -> list[int]:
    """Return the tokens of the prompt of a task, inside its request's context; nothing is generated.

    Raises the ServiceError that the prompt is refused with.
    """
    with _naming(task.names, task.tools_field):
        return tokenized(find_model(task.model)[1], task.prompt)


def count_tokens(task: ChatTask) -> int:
    """Return how many tokens the prompt of a task has. As `prompt_ids`."""
    return len(prompt_ids(task))


@contextmanager
def _naming(names: FieldNames, tools: str | None) -> Iterator[None]:
    with _named(names), prompt_in(names.messages, tools):
        yield


@contextmanager
def _named(names: FieldNames) -> Iterator[None]:
    """Give the engine's errors the protocol's name of the field that holds the messages."""
    try:
        yield
    except ValidationError as error:
        if error.param == "messages":
            error.param = names.messages
        raise
