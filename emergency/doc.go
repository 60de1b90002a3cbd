// Package emergency acts on gates from an engineer's shell: it speaks to their admin endpoints, over the unix socket
// on the gate's own host or over mTLS, to several at once. It needs no API server, no DNS where addresses are given
// as numbers, and no configuration but what the call names.
package emergency
