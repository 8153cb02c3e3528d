"""Identities: who can vouch for a caller, as the section `identities` of policy files declares them.

Start with `verdict`, the interface of an identity.  The stage `authenticate` calls it.

- `spec`: the section in a policy file.
- `factory`: makes identities from their specs, with the state that survives a reload.
- `verdict`: interface of an identity, and its verdicts.
- `credentials`: finds tokens and keys in a request.

Signed tokens:

- `jwt`: identity of signed tokens.
- `jws`: parser of their compact form.
- `claims`: checks of header and claims.
- `keys`: keys that verify signatures; the adapter to PyJWT and cryptography.
- `key_source`: key sets from a URL, a file or the policy, kept fresh.
- `tokens`: cache of verdicts on tokens.
- `verification`: bounds for the CPU that signatures take, and their spec.

Other credentials:

- `api_keys`: identity of API keys.
- `introspection`: identity of opaque tokens that their issuer is asked about.
- `certificate`: identity of client certificates.
- `external`: identity that an external server decides about.

Shared:

- `http_source`: client for the servers of identity providers.
- `forwarding`: header fields about the caller for the upstream.

Credentials of the sidecar itself at an upstream: `outgoing/`.
"""
