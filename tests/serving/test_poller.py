"""The selector of the polling thread, beside the standard library's."""

import selectors
import socket

import pytest

from serving.poller import Selector


@pytest.mark.parametrize("kind", [Selector, selectors.DefaultSelector])
def test_what_is_registered_is_reported_until_it_is_taken_out(kind):
    """For reading, for writing, for both; each with its own data."""
    (reader, told), (writer, other) = socket.socketpair(), socket.socketpair()
    with kind() as selector, reader, told, writer, other:
        selector.register(reader, selectors.EVENT_READ, "reader")
        assert selector.select(0) == []
        told.sendall(b"x")
        assert [(key.data, mask) for key, mask in selector.select(0)] == [("reader", selectors.EVENT_READ)]
        selector.register(writer, selectors.EVENT_WRITE, "writer")
        assert sorted(key.data for key, _ in selector.select(0)) == ["reader", "writer"]
        selector.modify(writer, selectors.EVENT_READ, "modified")
        assert [key.data for key, _ in selector.select(0)] == ["reader"]
        selector.unregister(reader)
        other.sendall(b"x")
        assert [key.data for key, _ in selector.select(0)] == ["modified"]


@pytest.mark.parametrize("kind", [Selector, selectors.DefaultSelector])
def test_mistakes_are_the_errors_of_any_selector(kind, tmp_path):
    """A socket twice, one that is unknown, one that is closed, and a file, which cannot be waited for."""
    ours, theirs = socket.socketpair()
    with kind() as selector, ours, theirs, (tmp_path / "file").open("wb") as file:
        selector.register(ours, selectors.EVENT_READ)
        with pytest.raises(KeyError):
            selector.register(ours, selectors.EVENT_READ)
        with pytest.raises(KeyError):
            selector.unregister(theirs)
        with pytest.raises(PermissionError):
            selector.register(file, selectors.EVENT_READ)
        with pytest.raises(OSError, match="Bad file descriptor"):
            selector.register(10_000, selectors.EVENT_READ)
        theirs.close()
        with pytest.raises(ValueError, match="file descriptor"):
            selector.register(theirs, selectors.EVENT_READ)
        assert [key.fileobj for key, _ in selector.select(0)] == [ours]  # its peer has gone


def test_a_socket_closed_without_being_taken_out_is_forgotten():
    """As the kernel does; taking it out then is no error."""
    ours, theirs = socket.socketpair()
    with Selector() as selector, theirs:
        selector.register(ours, selectors.EVENT_READ)
        descriptor = ours.fileno()
        ours.close()
        selector.unregister(descriptor)
        assert selector.select(0) == []
