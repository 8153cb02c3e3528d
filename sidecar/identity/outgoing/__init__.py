"""Credentials of the sidecar at an upstream, which it sends with every request (`upstreams.NAME.credentials`).

Start with `stage`: the innermost stage of each pipeline to such an upstream.

- `spec`: the block in a policy file, and the client that tokens and answers about tokens are asked as.
- `stage`: puts the credential into requests, and repeats one that the upstream answers with 401.
- `source`: interface of credentials, and one from a file or from the policy.
- `oauth2`: token from an OAuth 2.0 server (client credentials, RFC 6749 4.4), renewed before its end.
"""
