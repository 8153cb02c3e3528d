#!/bin/sh
# Judge a change of policies: problems, tests, lint, and what the change means.
#
#   judge-policies.sh POLICIES BASE
#
# POLICIES is a policy file or directory in a git repository, BASE the commit or branch to compare with; empty for none.
# It writes into the directory $OUT (build/policies unless set):
#
#   lint.sarif   findings of `sidecar lint`, as code hosts show them beside the lines
#   change.md    meaning of the change, as Markdown for a pull request
#
# It ends with 1 if `sidecar check`, `sidecar test` or `sidecar lint` does; all of them run in any case.
set -eu

policies=${1:?name a policy file or directory}
base=${2:-}
out=${OUT:-build/policies}
failed=0
mkdir -p "$out"

sidecar check "$policies" || failed=1
if find "$policies" -name '*.test.yaml' | grep -q .; then
    sidecar test "$policies" || failed=1
fi
sidecar lint "$policies" || failed=1
sidecar lint --sarif "$policies" > "$out/lint.sarif" || true

if [ -n "$base" ] && git cat-file -e "$base:$policies" 2> /dev/null; then
    old=$(mktemp -d)
    trap 'rm -rf "$old"' EXIT
    git archive "$base" "$policies" | tar -x -C "$old"
    sidecar diff --markdown "$old/$policies" "$policies" > "$out/change.md" || failed=1
else
    printf '### Policies: new\n\nThere is nothing to compare `%s` with.\n' "$policies" > "$out/change.md"
fi
cat "$out/change.md"
exit "$failed"
