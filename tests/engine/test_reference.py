"""The reference backend: exactly generate() when greedy, and its promises when things go wrong."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from engine.errors import (
    ContextTooLong,
    DeadlineExceeded,
    EngineDead,
    ModelError,
    NotReady,
    Overloaded,
    RequestAborted,
    StartError,
    Unsupported,
    ValidationError,
)
from engine.loading.loader import load_model
from engine.reference import ReferenceBackend
from engine.text.images import decode
from engine.text.processor import load_processor
from engine.types import (
    ChatPrompt,
    EngineConfig,
    GenerationRequest,
    Priority,
    Progress,
    SamplingParams,
    Status,
    TextPrompt,
    TokensPrompt,
)
from tests.checkpoints import text_spec, vision_spec
from tests.engine.scripted_model import PATIENCE, Clock, Gate, scripted

PICTURE_QUESTION = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Что тут?"}]},)


def ask(text="Привет", max_tokens=12, request_id="r", prompt=None, queue_timeout=30.0, timeout=300.0, **sampling):
    """Return a request, greedy unless it says otherwise."""
    prompt = prompt or ChatPrompt(({"role": "user", "content": text},))
    params = SamplingParams(max_tokens, **({"temperature": 0.0} | sampling))
    return GenerationRequest(request_id, prompt, params, queue_timeout=queue_timeout, timeout=timeout)


@pytest.fixture(scope="module")
def text(text_folder):
    """A started backend over the text checkpoint."""
    backend = ReferenceBackend(text_spec(text_folder), EngineConfig())
    backend.start()
    yield backend
    backend.stop(PATIENCE)


@pytest.fixture(scope="module")
def vision(vision_folder):
    """A started backend over the vision checkpoint."""
    backend = ReferenceBackend(vision_spec(vision_folder), EngineConfig())
    backend.start()
    yield backend
    backend.stop(PATIENCE)


@pytest.fixture
def start(text_model, text_folder):
    """Start a backend over a scripted model; it is stopped in the end."""
    started = []

    def make(clock=None, config=None, **script):
        config = config or EngineConfig(max_waiting=2)
        backend = ReferenceBackend(
            text_spec(text_folder), config, scripted(text_model, **script), **({"clock": clock} if clock else {})
        )
        started.append(backend)
        backend.start()
        return backend

    yield make
    for backend in started:
        backend.stop(0)


# --- answers ---


@pytest.mark.parametrize("question", ["Привет", "Напиши объявление: диван", "Hello, <|im_end|> what?"])
def test_greedy_answers_are_plain_generates(text, text_folder, question):
    """Token for token what the library's own call on a model of its own gives."""
    model = AutoModelForCausalLM.from_pretrained(text_folder, dtype=torch.float32)
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    request = ask(question, max_tokens=40)
    ids = loaded.preparer.prepare(request.prompt).token_ids
    wanted = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=40, eos_token_id=[499, 501])
    generation = text.submit(request)
    pieces = list(generation.pieces())
    completion = generation.result()
    assert [token for piece in pieces for token in piece.token_ids] == wanted[0, len(ids) :].tolist()
    assert "".join(piece.text for piece in pieces) == completion.text
    assert completion.prompt_tokens == generation.prompt_tokens == len(ids)


def test_greedy_picture_answers_are_plain_generates(vision, vision_folder, picture):
    """A picture, a text and another picture: each as the library answers it on a fresh model."""
    processor = load_processor(vision_folder)
    for image in (picture(60, 90), None, picture(120, 60, seed=2)):
        messages = PICTURE_QUESTION if image else ({"role": "user", "content": "Привет"},)
        rendered = processor.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        pixels = {"images": [decode(image)]} if image else {}
        inputs = processor(text=[rendered], return_tensors="pt", **pixels)
        fresh = AutoModelForImageTextToText.from_pretrained(vision_folder, dtype=torch.float32)
        wanted = fresh.generate(**inputs, do_sample=False, max_new_tokens=16, eos_token_id=[499, 501])
        generation = vision.submit(ask(prompt=ChatPrompt(messages, (image,) if image else ()), max_tokens=16))
        tokens = [token for piece in generation.pieces() for token in piece.token_ids]
        assert tokens == wanted[0, inputs["input_ids"].shape[1] :].tolist()


def test_a_seed_means_the_same_answer_alone_and_in_company(text):
    """Seeded answers repeat, also while other threads draw; without a seed they differ."""
    seeded = [ask(max_tokens=20, temperature=1.0, seed=7) for _ in range(4)]
    others = [ask(max_tokens=20, temperature=1.0) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: text.submit(request).result().text, seeded + others))
    assert len(set(answers[:4])) == 1
    assert len(set(answers[4:])) > 1
    assert text.submit(ask(max_tokens=20, temperature=1.0, seed=8)).result().text != answers[0]


def test_the_narrowest_sampling_is_greedy(text):
    """top_k 1, a tiny top_p and a min_p of 1 each leave the likeliest token alone."""
    greedy = text.submit(ask()).result().text
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert text.submit(ask(temperature=1.0, seed=3, **narrow)).result().text == greedy


def tokens_of(backend, request):
    """Return the tokens of an answer."""
    return [token for piece in backend.submit(request).pieces() for token in piece.token_ids]


def test_logit_bias_and_penalties_change_the_tokens(text):
    """A bias forces a token; penalties on it take it away again after its first use."""
    assert tokens_of(text, ask(max_tokens=4, logit_bias={90: 1000.0})) == [90] * 4
    for penalty in ({"presence_penalty": 2000.0}, {"frequency_penalty": 2000.0}, {"repetition_penalty": 1e9}):
        tokens = tokens_of(text, ask(max_tokens=4, logit_bias={90: 1000.0}, **penalty))
        if "repetition_penalty" in penalty:
            assert len(set(tokens_of(text, ask(max_tokens=8, **penalty)))) == 8
        else:
            assert tokens.count(90) == 1


def test_an_end_token_ends_the_answer_and_can_be_ignored(text):
    """It counts as made, is not shown, and with ignore_eos the answer goes on to its length."""
    ended = text.submit(ask(max_tokens=5, logit_bias={501: 1000.0})).result()
    assert (ended.text, ended.finish_reason, ended.output_tokens) == ("", "stop", 1)
    ignored = text.submit(ask(max_tokens=5, logit_bias={501: 1000.0}, ignore_eos=True)).result()
    assert (ignored.text, ignored.finish_reason, ignored.output_tokens) == ("", "length", 5)


def test_a_stop_string_ends_the_answer(text):
    """The text ends before it and no token is made after it."""
    whole = text.submit(ask(max_tokens=30)).result()
    stop = whole.text[6:9]
    stopped = text.submit(ask(max_tokens=30, stop=(stop,))).result()
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.output_tokens < whole.output_tokens


def test_prompts_of_every_kind_are_answered(text):
    """Plain text and token ids are continued."""
    for prompt in (TextPrompt("Красный диван"), TokensPrompt((5, 6, 7))):
        assert text.submit(ask(prompt=prompt)).result().output_tokens == 12


def test_the_figures_add_up(start):
    """Tokens in and out, timings and the rate are counted from what was done."""
    backend = start()
    completions = [backend.submit(ask(max_tokens=count)).result() for count in (3, 4)]
    stats = backend.stats()
    assert stats.generation_tokens_total == stats.steps_total == 7
    assert stats.prompt_tokens_total == sum(completion.prompt_tokens for completion in completions)
    assert (stats.num_requests_running, stats.num_requests_waiting, stats.max_waiting) == (0, 0, 2)
    for completion in completions:
        assert 0 <= completion.timings.queued <= completion.timings.first_token <= completion.timings.total


# --- refusals ---


@pytest.mark.parametrize("sampling", [{"logprobs": 2}, {"token_mask": object()}])
def test_what_it_cannot_do_is_refused_by_name(text, sampling):
    """The field is named, and the place is free again."""
    with pytest.raises(Unsupported) as caught:
        text.submit(ask(**sampling))
    assert caught.value.param == next(iter(sampling))
    assert text.stats().num_requests_waiting == 0


def test_prompt_and_answer_must_fit_the_context(text):
    """Exactly fitting is taken, one token more is refused with the arithmetic."""
    prompt = TokensPrompt((5,) * 1000)
    assert text.submit(ask(prompt=prompt, max_tokens=24)).result().output_tokens == 24
    with pytest.raises(ContextTooLong, match="1000 tokens.*25 tokens.*1024") as caught:
        text.submit(ask(prompt=prompt, max_tokens=25))
    assert caught.value.param == "max_tokens"
    with pytest.raises(ContextTooLong) as caught:
        text.submit(ask(prompt=TokensPrompt((5,) * 1024), max_tokens=1))
    assert caught.value.param == "prompt"


def test_the_operators_context_limit_holds(text_folder):
    """MAX_MODEL_LEN under the checkpoint's own is the limit, and is told."""
    backend = ReferenceBackend(text_spec(text_folder), EngineConfig(max_model_len=64))
    assert backend.info.max_model_len == 64
    backend.start()
    assert backend.info.max_model_len == 64
    assert backend.info.generation_defaults["top_k"] == 20
    with pytest.raises(ContextTooLong):
        backend.submit(ask(max_tokens=60))
    backend.stop(0)


def test_a_full_house_refuses_at_once(start):
    """One runs, two wait, the next is refused before its prompt is even looked at, and told when to come back."""
    gate = Gate()
    backend = start(on_token=gate)
    admitted = [backend.submit(ask()) for _ in range(3)]
    gate.wait_until_reached()
    with pytest.raises(Overloaded) as caught:
        backend.submit(ask(prompt=TokensPrompt((-1,))))
    assert caught.value.retry_after >= 1
    assert (backend.stats().num_requests_running, backend.stats().num_requests_waiting) == (1, 2)
    gate.open()
    assert [generation.result().output_tokens for generation in admitted] == [12] * 3
    assert backend.submit(ask()).result().output_tokens == 12


def test_a_waiting_answer_knows_its_place(start):
    """How many start before it, and about how long that takes; none while it runs."""
    gate = Gate()
    backend = start(on_token=gate)
    running = backend.submit(ask())
    gate.wait_until_reached()
    first, second = backend.submit(ask()), backend.submit(ask())
    assert running.queue_position() is None
    assert (first.queue_position().ahead, second.queue_position().ahead) == (0, 1)
    assert 0 < first.queue_position().eta_seconds < second.queue_position().eta_seconds
    gate.open()
    assert second.result().output_tokens == 12


def test_a_refused_prompt_frees_its_place(start):
    """Three bad prompts in a row do not fill the house."""
    backend = start()
    for _ in range(5):
        with pytest.raises(ValidationError):
            backend.submit(ask(prompt=TokensPrompt((-1,))))
    assert backend.stats().num_requests_waiting == 0
    assert backend.submit(ask()).result()


# --- ends ---


def test_an_abort_stops_the_running_request(start):
    """After the abort no more than two tokens are made, and the next request runs."""
    gate = Gate()
    backend = start(on_token=gate)
    generation = backend.submit(ask(max_tokens=500))
    gate.wait_until_reached()
    generation.abort()
    gate.open()
    with pytest.raises(RequestAborted):
        generation.result()
    assert backend.submit(ask()).result().output_tokens == 12
    assert backend.stats().generation_tokens_total <= 14


def test_an_abort_frees_a_waiting_place(start):
    """A waiting request that was aborted never reaches the model, and its place is free for the next."""
    gate = Gate()
    backend = start(on_token=gate)
    running, gone, waiting = (backend.submit(ask()) for _ in range(3))
    gate.wait_until_reached()
    gone.abort()
    last = backend.submit(ask())
    gate.open()
    with pytest.raises(RequestAborted):
        gone.result()
    assert [generation.result().output_tokens for generation in (running, waiting, last)] == [12] * 3


def test_a_request_that_waits_too_long_is_told(start):
    """Its time in the queue ends while another runs, and the other is not disturbed."""
    clock, gate = Clock(), Gate()
    backend = start(clock, on_token=gate)
    running, waiting = backend.submit(ask(queue_timeout=5)), backend.submit(ask(queue_timeout=5))
    gate.wait_until_reached()
    clock.now += 6
    gate.open()
    with pytest.raises(DeadlineExceeded):
        waiting.result()
    assert running.result().output_tokens == 12


def test_a_request_that_runs_too_long_is_told(start):
    """The deadline of the whole request ends it between two tokens."""
    clock = Clock()

    def tick(number):
        clock.now += 1

    backend = start(clock, on_token=tick)
    with pytest.raises(DeadlineExceeded):
        backend.submit(ask(max_tokens=500, timeout=5.5)).result()
    assert backend.stats().generation_tokens_total == 5


def test_people_go_before_batches(start):
    """Of the waiting requests an interactive one is taken first, whoever came first."""
    gate = Gate()
    order = []
    backend = start(on_token=gate)
    first = backend.submit(ask())
    gate.wait_until_reached()
    batch = backend.submit(GenerationRequest("b", TextPrompt("b"), SamplingParams(1), priority=Priority.BATCH))
    person = backend.submit(GenerationRequest("p", TextPrompt("p"), SamplingParams(1)))
    threads = [
        threading.Thread(target=lambda name=name, one=one: order.append((one.result().timings.queued, name)))
        for name, one in (("batch", batch), ("person", person))
    ]
    for thread in threads:
        thread.start()
    gate.open()
    first.result()
    for thread in threads:
        thread.join(PATIENCE)
    assert [name for _, name in sorted(order)] == ["person", "batch"]


# --- faults ---


def test_a_failing_model_fails_one_request(start):
    """An error inside generate() is a typed error without its text, and the next request is answered."""
    failures = iter([RuntimeError("secret"), None])

    def fail(number):
        error = next(failures, None)
        if error is not None:
            raise error

    backend = start(on_token=fail)
    with pytest.raises(ModelError) as caught:
        backend.submit(ask()).result()
    assert "secret" not in caught.value.message
    assert backend.submit(ask()).result().output_tokens == 12
    assert backend.state().status is Status.READY


def test_logits_that_are_not_numbers_fail_one_request(text_folder, text_model):
    """They are counted, and never become an answer."""
    load = scripted(text_model)
    backend = ReferenceBackend(text_spec(text_folder), EngineConfig(), load)
    backend.start()
    backend._loaded.model.logits = torch.full_like(backend._loaded.model.logits, torch.nan)
    with pytest.raises(ModelError):
        backend.submit(ask()).result()
    assert backend.stats().nan_logits_total == 1
    backend.stop(0)


@pytest.mark.parametrize("error", [torch.AcceleratorError("device-side assert"), SystemExit(1)])
def test_a_dead_worker_leaves_nobody_waiting(start, error):
    """Everybody is told at once, new requests are refused, and a restart is asked for."""
    gate = Gate()

    def die(number):
        gate(number)
        raise error

    backend = start(on_token=die)
    left = [backend.submit(ask()) for _ in range(2)]
    gate.wait_until_reached()
    gate.open()
    for generation in left:
        with pytest.raises(EngineDead):
            generation.result()
    state = backend.state()
    assert state.status is Status.DEAD
    assert state.restart_needed
    with pytest.raises(NotReady):
        backend.submit(ask())
    assert backend.stats().num_requests_waiting == 0
    backend.drain()
    assert backend.state().status is Status.DEAD


def test_a_request_prepared_while_the_worker_dies_is_refused(start, text_model):
    """It was admitted, but there is nobody to answer it any more."""
    backend = start()
    backend._queue.fail_all(EngineDead("gone"))
    with pytest.raises(NotReady):
        backend.submit(ask())
    assert backend.stats().num_requests_waiting == 0


def test_a_stall_is_told_from_idleness(start):
    """Only a running request that does not move is a stall, and only a long one asks for a restart."""
    clock, gate = Clock(), Gate()
    backend = start(clock, EngineConfig(stall_seconds=20), on_token=gate)
    clock.now += 1000
    assert backend.state().status is Status.READY
    generation = backend.submit(ask())
    gate.wait_until_reached()
    clock.now += 21
    assert backend.state().status is Status.STALLED
    assert not backend.state().restart_needed
    with pytest.raises(NotReady):
        backend.submit(ask())
    clock.now += 40
    assert backend.state().restart_needed
    gate.open()
    assert generation.result().output_tokens == 12
    assert backend.state().status is Status.READY


# --- start and stop ---


def test_loading_is_told_step_by_step(text_model, text_folder):
    """Until the model is ready its state says how far it is, and requests are refused."""
    states = []

    def load(spec, report, max_model_len):
        report(Progress("loading weights", 5, 10, 1.0))
        states.append(backend.state())
        with pytest.raises(NotReady):
            backend.submit(ask())
        return scripted(text_model)(spec, report, max_model_len)

    backend = ReferenceBackend(text_spec(text_folder), EngineConfig(), load)
    assert backend.state().status is Status.LOADING
    backend.start()
    assert states[0].progress == Progress("loading weights", 5, 10, 1.0)
    assert backend.state().status is Status.READY
    backend.stop(0)


def test_a_start_that_fails_says_why(text_folder, text_model):
    """Logits that are not finite stop the start, and the state tells."""
    spec = text_spec(text_folder, dtype="float16")
    backend = ReferenceBackend(spec, EngineConfig(), scripted(text_model, logits=float("nan")))
    with pytest.raises(StartError, match="VIBE_DTYPE=bfloat16"):
        backend.start()
    assert backend.state().status is Status.DEAD
    backend.stop(0)


def test_draining_finishes_what_was_admitted(start):
    """New requests are refused while those in the house are answered."""
    gate = Gate()
    backend = start(on_token=gate)
    admitted = [backend.submit(ask()) for _ in range(2)]
    gate.wait_until_reached()
    backend.drain()
    assert backend.state().status is Status.DRAINING
    with pytest.raises(NotReady):
        backend.submit(ask())
    gate.open()
    backend.stop(PATIENCE)
    assert [generation.result().output_tokens for generation in admitted] == [12] * 2


def test_a_stop_aborts_what_is_left(start):
    """After its time-out the running and the waiting request end typed, and the thread is gone."""
    gate = Gate()
    backend = start(on_token=gate)
    left = [backend.submit(ask(max_tokens=500)) for _ in range(2)]
    gate.wait_until_reached()
    stopping = threading.Thread(target=backend.stop, args=(0,))
    stopping.start()
    gate.open()
    for generation in left:
        with pytest.raises(RequestAborted):
            generation.result()
    stopping.join(PATIENCE)
    assert not backend._thread.is_alive()


def test_a_drain_before_the_load_ends_keeps_the_doors_shut(text_folder, text_model):
    """A service told to stop while it loads never becomes ready."""
    backend = ReferenceBackend(text_spec(text_folder), EngineConfig(cpu_threads=1), scripted(text_model))
    backend.drain()
    backend.start()
    assert backend.state().status is Status.DRAINING
    backend.stop(0)
