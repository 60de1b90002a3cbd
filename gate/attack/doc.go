// Package attack holds no code but tests: what a hostile client, or a broken API server, sends to a gate byte by byte,
// because client libraries would not. The gate is a real one and, wherever the API server itself need not misbehave, so
// is what stands behind it: the API server's own audit log says what arrived and as whom. What each attack is, what
// stops it and what is left is in docs/threat-model.md, which names these tests.
package attack
