"""Conditions: `when:` in policy files, in a subset of CEL, the language of conditions that operators know from
Kubernetes and Envoy (https://github.com/google/cel-spec).

    request.method in ['POST', 'PUT'] && !request.path.startsWith('/internal/')
    response.status == 200 && has(response.body.error) && response.body.error.code != 'none'
    'x-beta' in request.headers || request.query['beta'] == 'true'

Facts: `request.method`, `.path`, `.host`, `.query[..]`, `.headers[..]`, `.body...`; `response.status`, `.headers[..]`,
`.body...`.  Which of them are known depends on where the condition stands; the others are errors at load.
Operators: `== != < <= > >= && || ! in`, parentheses, `-` before a number.
Functions: `startsWith endsWith contains matches` of texts, `size`, `has`.
Literals: texts ('..', "..", r'..'), ints, doubles, true, false, null, lists.

Rules, CEL's unless said otherwise:

1. What is missing has no value, and neither has what is made of it: `request.headers['x'] != 'a'` does not hold where
   there is no such header.  A condition without a value does not hold.  `&&` and `||` absorb it where the other side
   decides: `has(request.headers['x']) && ..`, and in either order.
2. `has(..)` and `'name' in ..` ask whether it is there.  (CEL's `has` takes no index; header names need one.)
3. Types are checked at load as far as they are known: comparing a status with a text is an error with its column.  JSON
   values are checked when they are met: of different types they are unequal, and ordering them has no value.
4. Ints and doubles compare by their value; ints have no bound, since JSON's have none.
5. `matches` finds the pattern anywhere unless it is anchored (RE2's partial match).  Patterns are checked at load to
   take linear time (`sidecar.core.pattern`) and tried on texts of at most 1 KiB; on longer ones it has no value.
6. Nothing is executed: a condition is a fixed tree of closures, of bounded length and depth, and takes time linear in
   what it reads.

Not here: arithmetic, `? :`, macros (`all`, `exists`, `map`), maps, bytes, time.

    lexer, parser, tree      text to a tree
    facts                    what can be spoken of, and how it is read
    operators, compiler      the tree to closures
    condition                what others use
"""

from sidecar.expression.condition import Condition
from sidecar.expression.facts import EVERYTHING, NO_BODIES, REQUEST, RESPONSE, WHOLE_REQUEST, Bodies, Scope
from sidecar.expression.lexer import ExpressionError

__all__ = [
    "EVERYTHING",
    "NO_BODIES",
    "REQUEST",
    "RESPONSE",
    "WHOLE_REQUEST",
    "Bodies",
    "Condition",
    "ExpressionError",
    "Scope",
]
