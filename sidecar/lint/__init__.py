"""Lint of policies: arithmetic over one set of policy files, and along a chain of services.

run         start here: all rules over loaded policies, with suppressions
rule        what a rule is
table       all rules
known       rules by identifier, also those of comments and of plain warnings
rules       the rules by subject
facts       what rules compute with: blocks in force, limits of time, worst case, rates
arithmetic  formulas: binomial tail, Erlang's loss formula, Little's law
chain       which service calls which, from several sets of policies
traffic     stated traffic of routes
recommended starting values that contradict no rule
suppress    comments in policy files that suppress findings with a reason
diff        meaning of a change of policies
behaviour   facts that `diff` compares
fix         safe fixes of findings in the files
sarif       findings as a SARIF log

Values by themselves and references are checked while policies are loaded (`config/checks`).
"""
