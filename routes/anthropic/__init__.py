"""Anthropic's Messages API: its requests as chat tasks, and the answers as its messages and events.

Source: https://platform.claude.com/docs/en/api/messages, and what the `anthropic` client sends and reads.
"""
