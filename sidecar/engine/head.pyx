# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""Fast parsers of common request and response heads, and of bearer tokens in them, in C.

A head is common if it is complete, valid and not long, and its field names have only letters, digits and hyphens.  For
any other head the parsers return None, and the grammar (`core/http1.py`) parses or rejects it.  For a common head the
result equals that of the Python code: `take_request` in `downstream/request_head.py` and `take_response` in
`upstream/response_head.py`.

Loops over octets need no bound: `bytes` end with a NUL, which is in no class of octets.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy

from sidecar.core.http1 import CHUNKED, FEW_MEMBERS, FEW_PARAMETERS, LONG_HEAD, MAX_FIELDS
from sidecar.core.message import HOP_BY_HOP, SECRETS, write_http_date

cdef enum:
    NAME = 1        # octet of a common field name: letter, digit or hyphen
    METHOD = 2      # octet of a token (RFC 9110 5.6.2)
    TARGET = 4      # octet of a request target (`http1.TARGET`)
    VALUE = 8       # octet of a field value or reason phrase
    LONGEST = 65536  # most bytes of a head
    SHORT = 64      # most octets of a value that is short
    SLOTS = 1024    # size of a table of names, which is at most half full
    SPANS = 64      # most separate ranges of lines to forward
    PREFIXES = 32   # most prefixes of names
    TAKEN = 1       # kinds of field names in a request
    NOTED = 2
    LENGTH = 1      # kinds of field names in a response
    CODING = 2
    CONNECTION = 3
    DATE = 4
    DROPPED = 5
    SECRET = 6
    SAMPLES = 8     # words, of eight octets each, that stand for a text
    RECENT = 64     # places for recent heads; a power of two
    UPGRADE_REQUIRED = 426

cdef unsigned char OCTETS[256]
cdef unsigned char LOWER[256]
cdef int _octet
for _octet in range(256):
    OCTETS[_octet] = 0
    if _octet < 128 and (chr(_octet).isalnum() or _octet == 45):
        OCTETS[_octet] |= NAME
    if _octet < 128 and (chr(_octet).isalnum() or chr(_octet) in "!#$%&'*+-.^_`|~"):
        OCTETS[_octet] |= METHOD
    if 0x21 <= _octet <= 0x7E and _octet != 0x23:
        OCTETS[_octet] |= TARGET
    if _octet == 9 or 0x20 <= _octet <= 0x7E or _octet >= 0x80:
        OCTETS[_octet] |= VALUE
    LOWER[_octet] = _octet + 32 if 65 <= _octet <= 90 else _octet

cdef unsigned long long ONES = 0x0101010101010101
cdef unsigned long long SPACES = 0x2020202020202020
cdef unsigned long long DELS = 0x7F7F7F7F7F7F7F7F
cdef unsigned long long HIGH_BITS = 0x8080808080808080

cdef Py_ssize_t LONG = LONG_HEAD
cdef Py_ssize_t FIELDS = MAX_FIELDS
cdef Py_ssize_t MEMBERS = FEW_MEMBERS
cdef Py_ssize_t PARAMETERS = FEW_PARAMETERS


cdef extern from *:
    """
    #if defined(__GNUC__)
    typedef unsigned char Octets __attribute__((vector_size(16), aligned(1), may_alias));
    #define CONTROLS(part) ((part < 32) | (part == 127))
    /* True if one of 64 octets is less than a space or is DEL. */
    static inline int has_control(const unsigned char *p) {
        const Octets *parts = (const Octets *)p;
        Octets found = (Octets)(CONTROLS(parts[0]) | CONTROLS(parts[1]) | CONTROLS(parts[2]) | CONTROLS(parts[3]));
        unsigned long long halves[2];
        memcpy(halves, &found, sizeof halves);
        return (halves[0] | halves[1]) != 0;
    }
    #else
    static inline int has_control(const unsigned char *p) { return 1; }
    #endif
    """
    bint has_control(const unsigned char *p) noexcept nogil


cdef inline bint is_spelt(const unsigned char *p, const unsigned char *name, Py_ssize_t size) noexcept:
    """True if `p` begins with `name`, which is in lower case, regardless of case."""
    cdef Py_ssize_t i
    for i in range(size):
        if LOWER[p[i]] != name[i]:
            return False
    return True


cdef class Names:
    """Hash table of names in lower case with the kind of each: open addressing, hashed by length and three octets."""

    cdef list names
    cdef const unsigned char *texts[SLOTS]
    cdef Py_ssize_t sizes[SLOTS]
    cdef unsigned char kinds[SLOTS]

    def __cinit__(self, dict kinds):
        cdef int at
        cdef bytes name
        assert len(kinds) <= SLOTS // 2
        self.names = [None] * SLOTS
        for at in range(SLOTS):
            self.kinds[at] = 0
        for name, kind in kinds.items():
            at = self.slot(<const unsigned char *>PyBytes_AS_STRING(name), len(name))
            while self.kinds[at]:
                at = (at + 1) % SLOTS
            self.names[at], self.kinds[at], self.sizes[at] = name, kind, len(name)
            self.texts[at] = <const unsigned char *>PyBytes_AS_STRING(name)

    cdef unsigned int slot(self, const unsigned char *p, Py_ssize_t size) noexcept:
        return <unsigned int>(size * 37 + LOWER[p[0]] * 131 + LOWER[p[size >> 1]] * 61 + LOWER[p[size - 1]] * 17) % SLOTS

    cdef int find(self, const unsigned char *p, Py_ssize_t size) noexcept:
        """Return the slot of a name, regardless of case; -1 if it is not in the table."""
        cdef unsigned int at = self.slot(p, size)
        while self.kinds[at]:
            if self.sizes[at] == size and is_spelt(p, self.texts[at], size):
                return at
            at = (at + 1) % SLOTS
        return -1


cdef struct Field:
    Py_ssize_t start, colon, value, end, next    # the value without white space around it


cdef struct Passing:
    Py_ssize_t starts[SPANS]
    Py_ssize_t ends[SPANS]
    Py_ssize_t size
    int count


cdef inline Py_ssize_t skip_words(const unsigned char *p, Py_ssize_t i, Py_ssize_t size) noexcept:
    """Return the index from `i` on, in steps of eight octets, at which one of the next eight is less than a space or is
    DEL, or at which less than eight of `size` octets are left."""
    cdef unsigned long long word, others
    while i + 8 <= size:
        memcpy(&word, p + i, 8)
        others = word ^ DELS
        if ((word - SPACES) & ~word | (others - ONES) & ~others) & HIGH_BITS:
            break
        i += 8
    return i


cdef inline bint read_field(const unsigned char *p, Py_ssize_t size, Py_ssize_t i, Field *field) noexcept:
    """Parse the field line at `i` of `size` octets into `field`; False if the line is not a common one."""
    field.start = i
    while OCTETS[p[i]] & NAME:
        i += 1
    if p[i] != 58 or i == field.start:
        return False
    field.colon = i
    i += 1
    while p[i] == 32 or p[i] == 9:
        i += 1
    field.value = i
    i = skip_words(p, i, size if size < i + SHORT else i + SHORT)
    if i == field.value + SHORT:  # a long value, such as a token
        while i + 64 <= size and not has_control(p + i):
            i += 64
        i = skip_words(p, i, size)
    while OCTETS[p[i]] & VALUE:
        i += 1
    if p[i] != 13 or p[i + 1] != 10:
        return False
    field.next = i + 2
    while i > field.value and (p[i - 1] == 32 or p[i - 1] == 9):
        i -= 1
    field.end = i
    return True


cdef inline bint let_pass(Passing *passing, Field *field) noexcept:
    """Add a line to the ranges to forward; False if there are too many ranges."""
    if passing.count and passing.ends[passing.count - 1] == field.start:
        passing.ends[passing.count - 1] = field.next
    elif passing.count == SPANS:
        return False
    else:
        passing.starts[passing.count] = field.start
        passing.ends[passing.count] = field.next
        passing.count += 1
    passing.size += field.next - field.start
    return True


cdef bytes join(const unsigned char *p, Passing *passing):
    cdef bytes lines = PyBytes_FromStringAndSize(NULL, passing.size)
    cdef char *to = PyBytes_AS_STRING(lines)
    cdef int i
    for i in range(passing.count):
        memcpy(to, p + passing.starts[i], passing.ends[i] - passing.starts[i])
        to += passing.ends[i] - passing.starts[i]
    return lines


cdef inline bytes cut(const unsigned char *p, Py_ssize_t start, Py_ssize_t end):
    return PyBytes_FromStringAndSize(<const char *>p + start, end - start)


cdef bint has_few_parts(const unsigned char *p, Py_ssize_t start, Py_ssize_t end) noexcept:
    """True if a long head has so few parameters and list members that it exceeds no limit (`http1.has_few_parts`)."""
    cdef Py_ssize_t i, members = 0, parameters = 0
    for i in range(start):
        parameters += p[i] == 47 or p[i] == 38
    for i in range(start, end):
        members += p[i] == 44 or p[i] == 59
    return members <= MEMBERS and parameters < PARAMETERS


cdef class RequestHeads:
    """Parser of common request heads, with the names of the fields to take and to note."""

    cdef Names names
    cdef list prefixes
    cdef const unsigned char *texts[PREFIXES]
    cdef Py_ssize_t sizes[PREFIXES]
    cdef int count
    cdef unsigned char begins[256]    # 1 for each octet with which a prefix begins

    def __cinit__(self, taken, noted, prefixes):
        """Take and note fields as `message.Selection` does.  Heads that may have twins are not common."""
        cdef bytes prefix
        cdef int octet
        self.names = Names({**dict.fromkeys(taken, TAKEN), **dict.fromkeys(noted, NOTED)})
        self.prefixes = list(prefixes)
        assert len(self.prefixes) <= PREFIXES
        self.count = 0
        for octet in range(256):
            self.begins[octet] = 0
        for prefix in self.prefixes:
            self.begins[<unsigned char>prefix[0]] = 1
            self.texts[self.count] = <const unsigned char *>PyBytes_AS_STRING(prefix)
            self.sizes[self.count] = len(prefix)
            self.count += 1

    cdef bint is_claim(self, const unsigned char *p, Py_ssize_t size) noexcept:
        """True if a name begins with one of the prefixes."""
        cdef int i
        if not self.begins[LOWER[p[0]]]:
            return False
        for i in range(self.count):
            if size >= self.sizes[i] and is_spelt(p, self.texts[i], self.sizes[i]):
                return True
        return False

    def take(self, bytes data not None):
        """Return method, target, version, end of the head, lines to forward, fields taken, and True if one was noted.

        Return None if the head at the beginning of `data` is not a common one.
        """
        cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t i = 0, space, start, fields = 0
        cdef bint noticed = False
        cdef int slot
        cdef Field field
        cdef Passing passing
        cdef list special
        while OCTETS[p[i]] & METHOD:
            i += 1
        space = i
        if p[i] != 32 or i == 0:
            return None
        i += 1
        while OCTETS[p[i]] & TARGET:
            i += 1
        if i == space + 1 or PyBytes_GET_SIZE(data) - i < 13 or memcmp(p + i, b" HTTP/1.1\r\n", 11):
            return None
        field.end = i    # of the target
        start = i = i + 11
        method = b"GET" if space == 3 and memcmp(p, b"GET", 3) == 0 else cut(p, 0, space)
        target = cut(p, space + 1, field.end)
        special = []
        passing.count = passing.size = 0
        while p[i] != 13:
            if i > LONGEST or fields == FIELDS or not read_field(p, PyBytes_GET_SIZE(data), i, &field):
                return None
            i = field.next
            fields += 1
            slot = self.names.find(p + field.start, field.colon - field.start)
            if slot >= 0 and self.names.kinds[slot] == TAKEN:
                special.append((<bytes>self.names.names[slot], cut(p, field.value, field.end)))
            elif slot < 0 and self.is_claim(p + field.start, field.colon - field.start):
                special.append((cut(p, field.start, field.colon).lower(), cut(p, field.value, field.end)))
            elif let_pass(&passing, &field):
                noticed = noticed or slot >= 0
            else:
                return None
        i += 2
        if p[i - 1] != 10 or i > LONGEST or (i > LONG and not has_few_parts(p, start, i)):
            return None
        return method, target, 11, i, join(p, &passing), special, noticed


cdef class RecentHeads:
    """Recent heads with their parts, which are not parsed again: one for each length of a read, modulo `RECENT`.

    A head is kept when it arrives for the second time in turn, so heads of one message are not copied.
    """

    cdef list heads, found
    cdef unsigned long long samples[RECENT]    # of the last head that was not known

    def __cinit__(self):
        self.heads, self.found = [b""] * RECENT, [None] * RECENT
        for place in range(RECENT):
            self.samples[place] = 0

    cdef object find(self, const unsigned char *p, Py_ssize_t size):
        """Return the parts of the head at the beginning of a read of `size` octets; None if it is not kept."""
        cdef bytes head = <bytes>self.heads[size & (RECENT - 1)]
        cdef Py_ssize_t length = PyBytes_GET_SIZE(head)
        if length == 0 or length > size or memcmp(p, PyBytes_AS_STRING(head), length):
            return None
        return self.found[size & (RECENT - 1)]

    cdef object keep(self, const unsigned char *p, Py_ssize_t size, Py_ssize_t length, found):
        """Keep the parts of a head of `length` octets if it was the last one too."""
        cdef unsigned long long word, sample = 1
        cdef Py_ssize_t i, place = size & (RECENT - 1)
        if length < 8 * SAMPLES:
            return
        for i in range(SAMPLES):
            memcpy(&word, p + i * (length // SAMPLES), 8)
            sample = sample * 31 + word
        if sample == self.samples[place]:
            self.heads[place], self.found[place] = cut(p, 0, length), found
        self.samples[place] = sample


cdef RecentHeads RESPONSES = RecentHeads()
cdef Names RESPONSE = Names({
    **dict.fromkeys(SECRETS, SECRET), **dict.fromkeys(HOP_BY_HOP, DROPPED),
    b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION, b"date": DATE,
})
cdef Py_ssize_t UNKNOWN = -2


def take_response(bytes data not None, wall):
    """Return status, end of the head, lines to forward, length of the body, and True if the connection is persistent.

    The length is in bytes, `CHUNKED`, or None if no field states it.  Return None if the head at the beginning of
    `data` is not a common one.
    """
    cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t i = 12, j, start, fields = 0, size
    cdef long long length = UNKNOWN
    cdef bint keep = True, has_date = False, has_secret = False
    cdef int slot, kind, status
    cdef Field field
    cdef Passing passing
    found = RESPONSES.find(p, PyBytes_GET_SIZE(data))
    if found is not None:
        return found
    if PyBytes_GET_SIZE(data) < 16 or memcmp(p, b"HTTP/1.1 ", 9):
        return None
    if not (50 <= p[9] <= 53 and 48 <= p[10] <= 57 and 48 <= p[11] <= 57):
        return None
    status = (p[9] - 48) * 100 + (p[10] - 48) * 10 + p[11] - 48
    if status == UPGRADE_REQUIRED:
        return None
    if p[i] == 32:
        while OCTETS[p[i]] & VALUE:
            i += 1
    if p[i] != 13 or p[i + 1] != 10:
        return None
    start = i = i + 2
    passing.count = passing.size = 0
    while p[i] != 13:
        if i > LONGEST or fields == FIELDS or not read_field(p, PyBytes_GET_SIZE(data), i, &field):
            return None
        i = field.next
        fields += 1
        slot = RESPONSE.find(p + field.start, field.colon - field.start)
        kind = RESPONSE.kinds[slot] if slot >= 0 else 0
        size = field.end - field.value
        if kind == 0 or kind == SECRET:
            if not let_pass(&passing, &field):
                return None
            has_secret = has_secret or kind == SECRET
        elif kind == DATE:
            if has_date or not size or not let_pass(&passing, &field):
                return None
            has_date = True
        elif kind == LENGTH:
            if length != UNKNOWN or not 0 < size <= 18:
                return None
            length = 0
            for j in range(field.value, field.end):
                if not 48 <= p[j] <= 57:
                    return None
                length = length * 10 + p[j] - 48
        elif kind == CODING:
            if length != UNKNOWN or size != 7 or not is_spelt(p + field.value, b"chunked", 7):
                return None
            length = CHUNKED
        elif kind == CONNECTION:
            if size == 5 and is_spelt(p + field.value, b"close", 5):
                keep = False
            elif size != 10 or not is_spelt(p + field.value, b"keep-alive", 10):
                return None
    i += 2
    if p[i - 1] != 10 or i > LONGEST or (i > LONG and not has_few_parts(p, start, i)):
        return None
    lines = join(p, &passing)
    if not has_date:
        lines += b"date: %b\r\n" % write_http_date(wall())
    found = status, i, lines, None if length == UNKNOWN else length, keep
    if has_date and not has_secret and i <= LONG:
        RESPONSES.keep(p, PyBytes_GET_SIZE(data), i, found)
    return found


cdef enum:
    SHORTEST = 64   # shortest field lines that are kept, in bytes
    PLACES = 256    # places in a table of field lines; a power of two


cdef class Kept:
    """Field lines, those that go on in their place, and the entry of their token."""

    cdef bytes known, others
    cdef object entry


cdef class KnownLines:
    """Table of field lines with a bearer token, as that of `sidecar.identity.credentials`."""

    cdef list kept, found

    def __init__(self, list found not None):
        self.kept = [None] * PLACES
        self.found = found

    cdef inline Py_ssize_t place(self, const char *p, Py_ssize_t size) noexcept:
        """Return the place of `size` octets of field lines.

        Parts at equal distances choose it.  A token is most of the lines, and tokens differ nearly everywhere.
        """
        cdef Py_ssize_t step = (size - 8) // SAMPLES, i
        cdef unsigned long long word, found = <unsigned long long>size
        for i in range(1, SAMPLES + 1):
            memcpy(&word, p + i * step, 8)
            found = (found ^ word) * 0x9E3779B97F4A7C15ULL
        return <Py_ssize_t>(found >> 56)

    def find(self, bytes lines not None, bytes request_id not None):
        cdef Py_ssize_t rest = PyBytes_GET_SIZE(request_id) + 16, size = PyBytes_GET_SIZE(lines) - rest, new
        cdef const char *p = PyBytes_AS_STRING(lines)
        cdef char *q
        cdef Kept kept
        cdef bytes result
        if size < SHORTEST:
            return None
        found = self.kept[self.place(p, size)]
        if found is None:
            return None
        kept = <Kept>found
        if PyBytes_GET_SIZE(kept.known) != size or memcmp(p, PyBytes_AS_STRING(kept.known), size):
            return None
        if memcmp(p + size, b"x-request-id: ", 14):
            return None
        new = PyBytes_GET_SIZE(kept.others)
        result = PyBytes_FromStringAndSize(NULL, new + rest)
        q = PyBytes_AS_STRING(result)
        memcpy(q, PyBytes_AS_STRING(kept.others), new)
        memcpy(q + new, p + size, rest)
        self.found[0] = kept.entry
        return result

    def keep(self, bytes known not None, bytes others not None, entry):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(known)
        cdef Kept kept
        if size >= SHORTEST:
            kept = Kept()
            kept.known, kept.others, kept.entry = known, others, entry
            self.kept[self.place(PyBytes_AS_STRING(known), size)] = kept
