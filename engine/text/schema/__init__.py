"""JSON schemas, rewritten into what the grammar library enforces exactly, or refused with a keyword and its place.

The library follows a schema only so far: it merges what stands beside `$ref`, refuses most of `oneOf`, `not`, `if` and
others, and tells neither where nor why. So a schema is rewritten first:

    document    where each subschema stands, and what references refer to
    expander    a state (the conditions that hold at one place) becomes shapes, each of one JSON type: reading takes the
                keywords of a type, applying those that apply other schemas, meeting intersects shapes, and subtraction
                takes one from another
    settling    what the library cannot say of arrays and objects becomes shapes that it can
    reach       the states that the schema can reach, and those that have no finite value
    emission    the schema for the library; counting does the same for objects of a number of properties

Everything that the result allows satisfies the schema; it may allow less, but never nothing where the schema allows
something: that is refused. Work is counted, so that no schema takes long.
"""
