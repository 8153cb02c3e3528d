"""Policy `aggregate`: one answer made of the answers of several parts.

spec       keys of the block
texts      templates of paths, fields and JSON values, with values from other parts
plan       order of the parts, errors across parts, and the worst case
answer     one answer: nested, merged or by a template
heads      what the fields of a part's answer say
lifetime   cache directives of the answer: the least of all parts
streaming  body of an answer of which one part streams
targets    requests of the parts
run        parts of one request, in flight: start reading here
stage      the stage
"""
