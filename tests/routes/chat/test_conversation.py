"""Conversations as chat templates take them, with calls and their results for models that have and have not tools."""

import base64

import pytest

from engine.errors import PayloadTooLarge, Unsupported, ValidationError
from engine.text.images import check_header
from engine.types import ModelInfo
from routes.chat import conversation
from routes.chat.conversation import NO_RESULT, UNREAD_IMAGE, ConversationBuilder, ImageSource, PastCall, has_calls
from tests.fakes import image_bytes

TEXT, VISION = ModelInfo("avibe", "avibe", False, False, 4096), ModelInfo("avision", "avision", True, False, 4096)
CALL = PastCall("c1", 'lo"ok', '{"at": 1}')
IMAGE = base64.b64encode(image_bytes()).decode()


def test_calls_reach_a_template_that_has_them():
    """As objects, with the id of the call that a result answers."""
    builder = ConversationBuilder(TEXT)
    builder.system("Be brief.")
    builder.user(["Hi", "there"])
    builder.assistant("Wait.", [CALL])
    builder.tool_result("c1", "found")
    function = {"name": 'lo"ok', "arguments": '{"at": 1}'}
    assert builder.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]},
        {
            "role": "assistant",
            "content": "Wait.",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
    )
    assert has_calls(builder.messages)


def test_calls_become_text_for_a_template_that_has_none():
    """Nothing of the history vanishes; the model is shown what it would have written."""
    builder = ConversationBuilder(VISION)
    builder.assistant("Wait.", [CALL, CALL])
    builder.assistant("", [CALL])
    builder.tool_result("c1", "found")
    written = '<tool_call>\n{"name": "lo\\"ok", "arguments": {"at": 1}}\n</tool_call>'
    contents = [(message["role"], message["content"]) for message in builder.messages]
    assert contents == [
        ("assistant", f"Wait.\n{written}\n{written}"),
        ("assistant", written),
        ("user", "<tool_response>\nfound\n</tool_response>"),
    ]
    assert has_calls(builder.messages)


def answered(calls, results, info=TEXT):
    """Return the ids and texts of the results that a template is shown behind an answer with these calls."""
    builder = ConversationBuilder(info)
    builder.assistant("", [PastCall(call, "look", "{}") for call in calls])
    for call in results:
        builder.tool_result(call, f"of {call}")
    builder.user("And now?")
    shown = builder.messages[1:-1]
    return [(one["tool_call_id"], one["content"]) if info.uses_tools else one["content"] for one in shown]


@pytest.mark.parametrize("results", ["abc", "acb", "bac", "cba"])
def test_results_stand_in_the_order_of_their_calls(results):
    """Templates show no ids, and programs send results as their calls end."""
    assert answered("abc", results) == [("a", "of a"), ("b", "of b"), ("c", "of c")]
    texts = [f"<tool_response>\nof {call}\n</tool_response>" for call in "abc"]
    assert answered("abc", results, VISION) == texts


@pytest.mark.parametrize(
    ("results", "shown"),
    [
        ("b", [("a", NO_RESULT), ("b", "of b")]),
        ("ca", [("a", "of a"), ("b", NO_RESULT), ("c", "of c")]),
        ("a", [("a", "of a")]),
        ("", []),
    ],
)
def test_a_call_without_a_result_does_not_take_that_of_another(results, shown):
    """A note stands in its place, where another one's would be read as its own."""
    assert answered("abc", results) == shown


@pytest.mark.parametrize(
    ("calls", "results"), [("ab", "xba"), ("ab", "bba"), ("aab", "ba"), (["", ""], ["", ""]), ((), "ba")]
)
def test_results_whose_calls_are_not_known_keep_their_order(calls, results):
    """By a client that makes ids anew, repeats them or has none."""
    assert answered(calls, results) == [(call, f"of {call}") for call in results]


def test_each_answer_has_its_own_results():
    """Ids that begin anew with each answer, and a result that comes behind something else."""
    builder = ConversationBuilder(TEXT)
    for round in "12":
        builder.assistant("", [PastCall(call, "look", "{}") for call in "abc"])
        builder.tool_result("b", f"b{round}")
        builder.tool_result("a", f"a{round}")
        builder.user("Look.", earlier=True)
        builder.tool_result("c", f"c{round}")
    told = [message["content"] for message in builder.messages if message["role"] != "assistant"]
    assert told == ["a1", "b1", "Look.", "c1", "a2", "b2", "Look.", "c2"]


def test_a_result_that_comes_later_takes_the_place_of_no_note():
    """A program may send a picture of a result between two of them."""
    for info in (TEXT, VISION):
        builder = ConversationBuilder(info)
        builder.assistant("", [PastCall(call, "look", "{}") for call in "abc"])
        builder.tool_result("b", "of b")
        builder.user("Look.", earlier=True)
        builder.tool_result("c", "of c")
        builder.tool_result("a", "of a")
        shown = str([message["content"] for message in builder.messages[1:]])
        assert NO_RESULT not in shown
        assert [shown.index(text) for text in ("of b", "Look.", "of c", "of a")] == sorted(
            shown.index(text) for text in ("of a", "of b", "of c", "Look.")
        )


def test_what_is_said_between_calls_and_results_changes_no_order():
    """As an answer of its own, where a protocol has texts behind calls."""
    builder = ConversationBuilder(TEXT)
    builder.assistant("", [PastCall(call, "look", "{}") for call in "ab"])
    builder.assistant("I have looked.")
    for call in "ba":
        builder.tool_result(call, f"of {call}")
    assert [message["content"] for message in builder.messages[2:]] == ["of a", "of b"]


def test_images_of_results_follow_their_order():
    """The first placeholder in a prompt is that of the first image."""
    builder = ConversationBuilder(VISION)
    builder.assistant("", [PastCall(call, "look", "{}") for call in "ab"])
    for call in "ba":
        builder.tool_result(call, [ImageSource(call, base64=IMAGE)])
    assert [image.param for image in builder.images] == ["a", "b"]


def test_an_image_in_a_result_keeps_its_position():
    """Among the texts of the message that stands for the result; it knows the field that it came in."""
    builder = ConversationBuilder(VISION)
    builder.tool_result("c1", ["found", ImageSource("messages[0]", base64=IMAGE)])
    (message,) = builder.messages
    assert [part.get("text", part["type"]) for part in message["content"]] == [
        *("<tool_response>", "\n", "found", "\n", "image", "\n", "</tool_response>")
    ]
    assert [image.param for image in builder.images] == ["messages[0]"]


@pytest.mark.parametrize(
    "source",
    [
        ImageSource("there", url="https://example.com/a.png"),
        ImageSource("there", url="data:image/svg+xml;base64,PHN2Zy8+"),
        ImageSource("there", base64="AAAA"),
        ImageSource("there", base64="A" * 24 * 2**20),
    ],
)
@pytest.mark.parametrize("info", [TEXT, VISION])
def test_a_text_stands_for_an_image_of_a_result_that_cannot_be_read(source, info):
    """An agent sends it again with each request, and cannot do anything about it."""
    builder = ConversationBuilder(info)
    builder.tool_result("c1", ["found", source])
    assert UNREAD_IMAGE in str(builder.messages)
    assert builder.images == ()


def test_of_more_images_than_a_request_may_carry_those_of_the_oldest_results_are_texts():
    """So that an agent which looks at a fifth screenshot goes on; a user's own images stay."""
    builder = ConversationBuilder(VISION)
    images = [base64.b64encode(image_bytes(size=(8 + side, 8))).decode() for side in range(6)]
    builder.user(["look", ImageSource("user", base64=images[0])])
    for number, image in enumerate(images[1:], 1):
        builder.tool_result("c1", [ImageSource(f"{number}", base64=image)])
    assert [image.param for image in builder.images] == ["user", "3", "4", "5"]
    contents = [message["content"] for message in builder.messages]
    shown = [not isinstance(one, str) and any(part["type"] == "image" for part in one) for one in contents]
    assert shown == [True, False, False, True, True, True]
    assert [UNREAD_IMAGE in str(message) for message in builder.messages] == [not one for one in shown]
    builder.user([ImageSource("last", base64=images[0])])
    assert [image.param for image in builder.images] == ["user", "4", "5", "last"]


def test_a_user_with_as_many_images_as_a_request_may_carry_is_shown_no_result():
    """And a fifth one of the user's own is an error, as always."""
    builder = ConversationBuilder(VISION)
    builder.user([ImageSource(f"{number}", base64=IMAGE) for number in range(4)])
    builder.tool_result("c1", [ImageSource("result", base64=IMAGE)])
    assert [image.param for image in builder.images] == ["0", "1", "2", "3"]
    assert UNREAD_IMAGE in str(builder.messages[-1])
    with pytest.raises(ValidationError) as raised:
        builder.user([ImageSource("fifth", base64=IMAGE)])
    assert raised.value.param == "fifth"


@pytest.mark.parametrize(("sent", "most"), [(IMAGE, 4), ("AAAA", 16)])
@pytest.mark.parametrize("told", ["result", "earlier"])
def test_of_many_images_of_the_past_few_are_read(told, sent, most, monkeypatch):
    """A conversation may have thousands of small ones, and no more than those shown matter; damaged ones neither."""
    read = list[bytes]()
    monkeypatch.setattr(conversation, "check_header", lambda data: read.append(data) or check_header(data))
    builder = ConversationBuilder(VISION)
    for number in range(200):
        source = ImageSource(f"{number}", base64=sent)
        if told == "result":
            builder.tool_result("c1", [source])
        else:
            builder.user([source], earlier=True)
    builder.user("And now?")
    assert len(builder.images) == (4 if sent == IMAGE else 0)
    assert len(builder.messages) == 201
    assert len(read) == most


def test_an_image_elsewhere_takes_no_place_of_one_that_can_be_read():
    """It is known for what it is without being looked at."""
    builder = ConversationBuilder(VISION)
    for url in (f"data:image/png;base64,{IMAGE}", *["https://example.com/a.png"] * 20):
        builder.user([ImageSource("there", url=url)], earlier=True)
    assert len(builder.images) == 1


def test_a_result_of_which_no_image_is_shown_is_one_text():
    """As one that never had an image: templates join the parts of a message differently."""
    builder = ConversationBuilder(VISION)
    builder.tool_result("c1", ["found", ImageSource("there", base64="AAAA")])
    assert builder.messages[0]["content"] == f"<tool_response>\nfound\n{UNREAD_IMAGE}\n</tool_response>"


def test_images_of_earlier_turns_are_read_from_the_newest():
    """Those of the latest turn come before all others, and a damaged one leaves its place to an older one."""
    builder = ConversationBuilder(VISION)
    for number in range(5):
        builder.user([ImageSource(f"{number}", base64=IMAGE)], earlier=True)
    builder.user([ImageSource("latest", base64=IMAGE)], earlier=True)
    builder.tool_result("c1", [ImageSource("damaged", base64="AAAA"), ImageSource("found", base64=IMAGE)])
    assert [image.param for image in builder.images] == ["3", "4", "latest", "found"]
    assert str(builder.messages).count(UNREAD_IMAGE) == 4


def test_a_conversation_without_calls_is_known_as_such():
    """No tag is looked for in the answers to it."""
    builder = ConversationBuilder(TEXT)
    builder.user("Hi")
    builder.assistant("Hello.")
    assert not has_calls(builder.messages)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (ImageSource("there", url="https://example.com/a.png"), Unsupported),
        (ImageSource("there", url="nothing"), ValidationError),
        (ImageSource("there", base64="!!!"), ValidationError),
        (ImageSource("there", base64="A" * 24 * 2**20), PayloadTooLarge),
    ],
)
def test_an_image_that_cannot_be_read_is_named(source, error):
    """By its place in the request, whatever the protocol calls that."""
    with pytest.raises(error) as raised:
        ConversationBuilder(VISION).user([source])
    assert getattr(raised.value, "param", "there") == "there"
