"""What every chat protocol of /v1 has in common: one request type, its rules, and the parts of its answers.

A protocol translates its JSON into a `ChatTask` and the parts of the answers back. Nothing here knows that JSON; errors
name fields as the protocol does (`FieldNames`, and the paths that it passes in).
"""
