"""Going on from an answer: without JavaScript by the page's form, with it and for programs by `history`."""

import html
import re

import pytest

from app_production import create_app
from config import load_settings
from engine.errors import ContextTooLong
from routes.follow_up import Talk
from routes.locale import LOCALES
from routes.pages import FORMATTED_BESIDE_FAILURE
from routes.request_models import MAX_TURNS, Turn
from routes.signed_conversations import MAX_BYTES, SignedConversations
from tests.fakes import image_bytes, multipart

OWN, IMAGE = "/api/v1/text/generate", "/api/v1/image/analyze"
RU = {"Accept-Language": "ru"}
STALE = "This conversation cannot be continued any more."


def conversation_in(page):
    """Return the conversation that a page's form holds, None if there is none."""
    found = re.search(r'name="conversation" value="([^"]*)"', page)
    return html.unescape(found[1]) if found else None


def ask(client, prompt="A listing, please", **options):
    """Return the page with the first answer."""
    return client.post("/avibe", data={"prompt": prompt}, **options).text


def follow(client, page, button="written", change="", **options):
    """Return the response to a change of the answer on a page."""
    fields = {"prompt": "A listing, please", "conversation": conversation_in(page), "follow_up": button}
    return client.post("/avibe", data=fields | {"change": change}, **options)


def said(request):
    """Return the roles and texts of a conversation that a model was asked."""
    return [(message["role"], message["content"]) for message in request.prompt.messages]


def counting(backend):
    """Let a model count a token for each character, and each image as a hundred."""

    def tokenize(request):
        contents = [message["content"] for message in request.prompt.messages]
        texts = [text if isinstance(text, str) else text[1]["text"] for text in contents]
        length = sum(map(len, texts)) + 100 * len(request.prompt.images)
        if length > backend.info.max_model_len:
            raise ContextTooLong("too long", "prompt", backend.info.max_model_len)
        return list(range(length))

    backend.tokenize = tokenize


def test_a_written_change_goes_on_from_the_answer(client, avibe):
    """The model gets the conversation; the page shows it and can go on from its end."""
    page = ask(client)
    for number, change in enumerate(("Shorter!", "And <b>a title</b>")):
        page = follow(client, page, change=change).text
        assert said(avibe.submitted[-1])[-1] == ("user", change)
        assert len(avibe.submitted[-1].prompt.messages) == 3 + 2 * number
    assert said(avibe.submitted[-1])[:3] == [
        ("user", "A listing, please"),
        ("assistant", "An answer."),
        ("user", "Shorter!"),
    ]
    assert page.count(">An answer.<") == 3
    assert "And &lt;b&gt;a title&lt;/b&gt;</p>" in page
    assert "A listing, please</textarea>" in page


@pytest.mark.parametrize("language", ["en", "ru"])
def test_a_usual_change_is_one_button(client, avibe, language):
    """In the visitor's language, whatever else was typed."""
    chips = LOCALES[language].texts["follow_up"]["chips"]
    headers = {"Accept-Language": language}
    page = ask(client, headers=headers)
    for name, chip in chips.items():
        assert f'value="{name}"' in page
        follow(client, page, name, "something else", headers=headers)
        assert said(avibe.submitted[-1])[-1] == ("user", chip["prompt"])
    assert set(LOCALES["ru"].texts["follow_up"]["chips"]) == set(LOCALES["en"].texts["follow_up"]["chips"])


def test_a_change_of_an_answer_about_an_image_goes_along_with_it(client, avision):
    """The image belongs to the first question, and the page holds it."""
    first = client.post("/avision", **multipart([("image", (image_bytes(), "a.png")), ("prompt", "What is it?")])).text
    kept = re.search(r'name="kept_image" value="([^"]*)"', first)[1]
    fields = [("kept_image", kept), ("prompt", "What is it?"), ("conversation", conversation_in(first))]
    page = client.post("/avision", **multipart([*fields, ("follow_up", "shorter"), ("change", "")]))
    assert page.status_code == 200
    asked = avision.submitted[-1].prompt
    assert [message["role"] for message in asked.messages] == ["user", "assistant", "user"]
    assert asked.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert asked.images[0].data == image_bytes()


@pytest.mark.parametrize("long", [True, False])
def test_a_refusal_shows_a_long_conversation_as_the_text_that_it_is(client, avibe, long):
    """It costs little, also where it is one of too many; a good answer shows what came before it formatted."""
    avibe.text = "**bold**" + long * ("\n\n" + "x" * FORMATTED_BESIDE_FAILURE)
    page = ask(client)
    fields = {"prompt": "x", "conversation": conversation_in(page), "follow_up": "written", "change": "y"}
    refused = client.post("/avibe", data=fields | {"max_tokens": "0"})
    assert refused.status_code == 400
    assert ("<code>**bold**" in refused.text, "<strong>" in refused.text) == (long, not long)
    assert follow(client, page, change="y").text.count("<strong>bold</strong>") == 2


def test_the_form_itself_starts_over(client, avibe):
    """Sent by its own button, it asks its question alone, whatever conversation it holds."""
    conversation = conversation_in(ask(client))
    client.post("/avibe", data={"prompt": "Something new", "conversation": conversation, "change": "x"})
    assert said(avibe.submitted[-1]) == [("user", "Something new")]


@pytest.mark.parametrize("mark", ["change", "cut", "empty", "other form"])
def test_a_conversation_that_was_not_signed_here_is_refused(client, avibe, mark):
    """A page of another site cannot show its own sentences as a model's answers."""
    genuine = conversation_in(ask(client))
    forged = {"change": f"X{genuine[1:]}", "cut": genuine[:-3], "empty": ""}.get(mark)
    if mark == "other form":
        forged = client.application.extensions["services"].conversations.signed("image", [Turn(prompt="a", text="b")])
    answer = client.post("/avibe", data={"prompt": "x", "conversation": forged, "follow_up": "written", "change": "y"})
    assert (answer.status_code, len(avibe.submitted)) == (400, 1)
    assert STALE in answer.text
    assert conversation_in(answer.text) is None


def test_a_conversation_that_is_too_old_is_refused_in_the_visitors_language():
    """A signature expires."""
    turns = [Turn(prompt="a", text="b")]
    signed = SignedConversations("key").signed("text", turns)
    assert SignedConversations("key").read("text", signed) == tuple(turns)
    with pytest.raises(Exception, match="cannot be continued"):
        SignedConversations("key", seconds=-1).read("text", signed)
    assert "conversation_stale" in LOCALES["ru"].texts["messages"]


def test_copies_with_one_admin_key_read_each_others_conversations():
    """Without one, each process has a key of its own."""
    turns = [Turn(prompt="a", text="b")]
    for first, second, same in (("k", "k", True), ("k", "l", False), (None, None, False)):
        signed, reader = SignedConversations(first).signed("text", turns), SignedConversations(second)
        if same:
            assert reader.read("text", signed) == tuple(turns)
        else:
            with pytest.raises(Exception, match="cannot be continued"):
                reader.read("text", signed)


def test_a_signed_conversation_is_bounded():
    """The latest turns are kept, whatever their size."""
    conversations = SignedConversations("key")
    turns = [Turn(prompt=f"{number}", text="я" * 1000) for number in range(200)]
    kept = conversations.read("text", conversations.signed("text", turns))
    assert kept == tuple(turns[-len(kept) :])
    assert MAX_BYTES // 2 < len(kept) * 2000 <= MAX_BYTES
    assert conversations.signed("text", [Turn(prompt="a", text="b" * MAX_BYTES)]) == ""


def test_an_answer_too_long_for_the_page_offers_no_change(client, avibe):
    """A change of nothing would be asked."""
    avibe.text = "b" * MAX_BYTES
    page = ask(client)
    assert avibe.text in page
    assert conversation_in(page) is None
    assert 'name="follow_up" value="shorter" data-change' not in page.partition("<template")[0]


def test_whatever_a_model_writes_can_be_gone_on_from(client, avibe):
    """A NUL too, which no question may have; on the page and by programs."""
    avibe.text = "one\0two"
    assert follow(client, ask(client), change="Shorter!").status_code == 200
    history = [{"prompt": "x", "text": avibe.text}]
    assert client.post(OWN, json={"prompt": "y", "history": history}).status_code == 200
    assert [said(request)[1] for request in avibe.submitted[1:]] == [("assistant", "one\ufffdtwo")] * 2


def test_a_failed_change_keeps_what_was_written(client, avibe):
    """The conversation can still go on."""
    page = ask(client)
    avibe.capacity = 0
    failed = follow(client, page, change="Shorter!")
    assert failed.status_code == 503
    assert conversation_in(failed.text) == conversation_in(page)
    assert "Shorter!</textarea>" in failed.text
    assert "An answer." in failed.text
    empty = follow(client, page, change=" ")
    assert (empty.status_code, conversation_in(empty.text)) == (400, conversation_in(page))


def test_a_page_before_any_answer_has_nothing_to_go_on_from(client):
    """Neither an empty form nor a failed first question has the field."""
    for page in (client.get("/").text, client.post("/avibe", data={"prompt": ""}).text):
        assert conversation_in(page) is None
    assert Talk() == Talk((), "", "", "", 0)


def test_the_oldest_turns_make_room_for_the_answer_and_it_is_said(client, avibe):
    """As few as need be are dropped; the page and the body tell how many."""
    counting(avibe)
    room = avibe.info.max_model_len - 256 - len("now")
    sizes = [room // 2, 100, room - 200, 50]
    history = [{"prompt": str(number), "text": "x" * (size - 1)} for number, size in enumerate(sizes)]
    answer = client.post(OWN, json={"prompt": "now", "history": history})
    assert answer.json["data"]["dropped_turns"] == 1
    assert [text for _, text in said(avibe.only)][::2] == ["1", "2", "3", "now"]
    longer = client.post(OWN, json={"prompt": "now", "history": history, "max_tokens": 2048}).json
    assert longer["data"]["dropped_turns"] == 3
    alone = client.post(OWN, json={"prompt": "now", "history": history[:1] * 3, "max_tokens": 2048}).json
    assert alone["data"]["dropped_turns"] == 2
    turns = [Turn(prompt=turn["prompt"], text=turn["text"]) for turn in history]
    signed = client.application.extensions["services"].conversations.signed("text", turns)
    fields = {"prompt": "x", "conversation": signed, "follow_up": "written", "change": "now"}
    assert "всего 1." in client.post("/avibe", data=fields, headers=RU).text


def test_only_a_request_with_a_history_tells_what_was_dropped(client, avibe):
    """Other bodies stay as they were; one that fits drops nothing; in a stream the last event tells."""
    turn = {"prompt": "a", "text": ""}
    assert "dropped_turns" not in client.post(OWN, json={"prompt": "x"}).json["data"]
    assert "dropped_turns" not in client.post(OWN, json={"prompt": "x", "history": []}).json["data"]
    assert client.post(OWN, json={"prompt": "x", "history": [turn]}).json["data"]["dropped_turns"] == 0
    streamed = client.post(OWN, json={"prompt": "x", "history": [turn], "stream": True}).text
    assert '"dropped_turns":0' in streamed
    assert said(avibe.submitted[-1]) == [("user", "a"), ("assistant", ""), ("user", "x")]


def test_an_image_has_a_history_in_either_body(client, avision):
    """In a form it is the text of a JSON list."""
    form = [("prompt", "And now?"), ("image", (image_bytes(), "a.png")), ("history", '[{"prompt":"a","text":"b"}]')]
    assert client.post(IMAGE, **multipart(form)).json["data"]["dropped_turns"] == 0
    assert [message["role"] for message in avision.only.prompt.messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    "history",
    [
        "x",
        {},
        [1],
        ["a"],
        [{"prompt": "a"}],
        [{"prompt": "a", "text": 1}],
        [{"prompt": "a\0", "text": "b"}],
        [{"prompt": "a", "text": "b", "role": "user"}],
        [{"prompt": "a", "text": "b"}] * (MAX_TURNS + 1),
    ],
)
def test_a_history_of_another_shape_is_refused(client, history):
    """In JSON and in a form, by the path of what is wrong."""
    form = [("prompt", "x"), ("image", (image_bytes(), "a.png")), ("history", history if history == "x" else "[1]")]
    for answer in (client.post(OWN, json={"prompt": "x", "history": history}), client.post(IMAGE, **multipart(form))):
        assert answer.status_code == 400
        assert answer.json["message"].removeprefix("Unknown field: ").startswith("history")


def test_a_batch_and_a_form_have_no_history(client):
    """It is a field of single requests of the API."""
    lines = client.post("/api/v1/text/batch", json={"prompts": [{"prompt": "x", "history": []}]}).text
    assert "Unknown field: history." in lines
    assert client.post("/avibe", data={"prompt": "x", "history": "[]"}).status_code == 400


def test_the_application_signs_with_its_admin_key(models, machine):
    """So that a copy of the service, or the next process, can go on."""
    settings = load_settings({"ADMIN_KEY": "a-key-of-an-operator"}, None)
    client = create_app(settings, models, machine).test_client()
    signed = conversation_in(client.post("/avibe", data={"prompt": "x"}).text)
    assert SignedConversations("a-key-of-an-operator").read("text", signed) == (Turn(prompt="x", text="An answer."),)
