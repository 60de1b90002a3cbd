package upstream

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/seakeep/seakeep/gate/upstream/choice"
)

// outcomeOf is what an answer's status says about the server that gave it, and whether it proves, for a request that
// can, that etcd is there.
func outcomeOf(code int) (o choice.Outcome, proves bool) {
	switch {
	case code == http.StatusTooManyRequests:
		return choice.Refused, false
	case code >= 500 && code != http.StatusNotImplemented:
		return choice.Erred, false
	}
	// Found, not there, or in conflict with what is: none of them is said without looking.
	return choice.Answered, code < 300 || code == http.StatusNotFound || code == http.StatusConflict
}

// maxSniffed is more than a Status of an error takes.
const maxSniffed = 2 << 10

// sniffing reads along in an error's body for what it says about etcd.
type sniffing struct {
	io.ReadCloser
	begin []byte
	found func()
}

// Read implements io.Reader.
func (s *sniffing) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if s.found == nil {
		return n, err
	}
	s.begin = append(s.begin, p[:min(n, maxSniffed-len(s.begin))]...)
	if err != nil || len(s.begin) == maxSniffed {
		found := s.found
		s.found = nil
		if errors.Is(err, io.EOF) || err == nil {
			if blamesEtcd(s.begin) {
				found()
			}
		}
	}
	return n, err
}

// blamesEtcd is true for the body of an error that the API server has from etcd, in JSON, protobuf or plain text alike. A
// webhook or an aggregated API server that is not there fails with the same words of the same libraries, and the API
// server says so beside them.
func blamesEtcd(body []byte) bool {
	for _, other := range []string{"webhook", "error trying to reach service", "proxy error"} {
		if bytes.Contains(body, []byte(other)) {
			return false
		}
	}
	for _, words := range []string{
		"etcdserver: ",              // no leader, request timed out, too many requests, …
		"rpc error: code = ",        // what gRPC says when nobody answers
		"context deadline exceeded", // a write that waited until the API server's own --request-timeout
		"raft proposal dropped",
	} {
		if bytes.Contains(body, []byte(words)) {
			return true
		}
	}
	return false
}

// etcdIll is true when the API server's own list of checks has etcd among those that failed.
func etcdIll(checks string) bool { return strings.Contains(checks, "[-]etcd") }
