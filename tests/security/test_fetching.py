"""Nothing that a client names is fetched, opened or connected to; see docs/known-vulnerabilities.md."""

import pytest

CHAT = "/v1/chat/completions"
ELSEWHERE = [
    "http://169.254.169.254/latest/meta-data/",
    "https://127.0.0.1:8085/metrics",
    "http://allowed.example@internal.example/a.png",
    "http://allowed.example\\@internal.example/a.png",
    "//internal.example/a.png",
    "ftp://internal.example/a.png",
    "gopher://internal.example:6379/_INFO",
    "file:///etc/passwd",
    "/etc/passwd",
    "../../etc/passwd",
    "data:image/png,http://internal.example/a.png",
    "data:text/html;base64,PGEgaHJlZj0iaHR0cDovL2ludGVybmFsLmV4YW1wbGUiPg==",
]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_no_address_in_place_of_an_image_is_fetched(client, avision, address, connected):
    """In each protocol, whole or in parts, a client's error: neither a name is resolved nor a file opened."""
    part = {"type": "image_url", "image_url": {"url": address}}
    chat = client.post(CHAT, json={"model": "avision", "messages": [{"role": "user", "content": [part]}]})
    ours = client.post("/api/v1/image/analyze", json={"prompt": "Hello", "image": address})
    assert {chat.status_code, ours.status_code} <= {400, 415}
    assert "root:" not in chat.text + ours.text
    assert (avision.submitted, connected) == ([], [])


@pytest.mark.parametrize("address", ELSEWHERE)
def test_addresses_in_a_text_are_text(client, avibe, address, connected):
    """Markdown images and links in a prompt are not fetched, alone, in a batch or in a chat."""
    prompt = f"![image]({address}) [link]({address})"
    assert client.post("/api/v1/text/generate", json={"prompt": prompt}).status_code == 200
    assert client.post("/api/v1/text/batch", json={"prompts": [prompt, prompt]}).text.count("\n") >= 2
    asked = {"model": "avibe", "messages": [{"role": "user", "content": prompt}]}
    assert client.post(CHAT, json=asked).status_code == 200
    assert (len(avibe.submitted), connected) == (4, [])


@pytest.mark.parametrize(
    "claimed", ["___decode_addr_10.0.0.9:21001___", "http://10.0.0.9/", "cmpl-1", "10.0.0.9:21001"]
)
def test_a_request_id_is_a_label(client, claimed, connected):
    """Whatever it spells, it is returned or replaced, and never interpreted."""
    response = client.post("/api/v1/text/generate", json={"prompt": "Hello"}, headers={"X-Request-ID": claimed})
    assert response.status_code == 200
    assert connected == []
