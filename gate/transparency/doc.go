// Package transparency shows that a client cannot tell the gate from the API server behind it, except where it is meant
// to. It holds tests only. Traffic that a reviewer can read (testdata/*.traffic) is sent to a real API server directly and
// through the gate, over HTTP/1.1 and HTTP/2 on either side, and status, headers and bodies are compared byte for byte;
// what is about time, memory or connections rather than bytes has a test of its own beside it.
package transparency
