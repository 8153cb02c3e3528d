"""Conditions: `when:` in policy files, in a subset of CEL (https://github.com/google/cel-spec).

    request.method in ['POST', 'PUT'] && !request.path.startsWith('/internal/')
    response.status == 200 && has(response.body.error) && response.body.error.code != 'none'
    'x-beta' in request.headers || request.query['beta'] == 'true'

Facts: `request.method`, `.path`, `.host`, `.query[..]`, `.headers[..]`, `.body...`; `response.status`, `.headers[..]`,
`.body...`.  A fact that is not known where the condition stands is an error at load.
Operators: `== != < <= > >= && || ! in`, parentheses, `-` before a number.
Functions: `startsWith endsWith contains matches` of texts, `size`, `has`.
Literals: texts ('..', "..", r'..'), ints, doubles, true, false, null, lists.
Not here: arithmetic, `? :`, macros (`all`, `exists`, `map`), maps, bytes, time.

    condition                compiled conditions, for all other packages: start reading here
    spec                     conditions as values of policy files
    lexer, parser, tree      text to a tree
    facts                    facts of requests and responses, and functions that read them
    operators, compiler      the tree to closures

`docs/design/conditions.md` has the rules of evaluation.  Importing the package imports none of its modules: a process
without a condition does not need them.
"""

from typing import Final

MAX_LENGTH: Final = 2048
"""Characters of a condition, at most."""
