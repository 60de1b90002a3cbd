package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/seakeep/seakeep/gate/upstream/choice"
)

func TestOutcomes(t *testing.T) {
	for code, want := range map[int]struct {
		outcome choice.Outcome
		proves  bool
	}{
		101: {choice.Answered, true}, 200: {choice.Answered, true}, 201: {choice.Answered, true}, 404: {choice.Answered, true},
		409: {choice.Answered, true}, 401: {choice.Answered, false}, 403: {choice.Answered, false}, 410: {choice.Answered, false},
		422: {choice.Answered, false}, 429: {choice.Refused, false}, 500: {choice.Erred, false}, 501: {choice.Answered, false},
		503: {choice.Erred, false}, 504: {choice.Erred, false},
	} {
		if outcome, proves := outcomeOf(code); outcome != want.outcome || proves != want.proves {
			t.Errorf("%d: %v, %v, want %v", code, outcome, proves, want)
		}
	}
	ended, end := context.WithCancelCause(context.Background())
	end(context.Canceled)
	late, end := context.WithCancelCause(context.Background())
	end(ErrNoAnswer)
	torn := errors.New("connection reset by peer")
	for name, test := range map[string]struct {
		ctx   context.Context
		err   error
		fault bool
		want  choice.Outcome
	}{
		"the connection broke":             {context.Background(), torn, false, choice.Broke},
		"no connection":                    {context.Background(), &errUnreachable{torn}, false, choice.Unreached},
		"no connection in time":            {context.Background(), &errUnreachable{context.DeadlineExceeded}, false, choice.Unreached},
		"others' connections were full":    {context.Background(), &errUnreachable{errShared}, false, choice.Gone},
		"the client left":                  {ended, torn, false, choice.Gone},
		"the client left before it was up": {ended, &errUnreachable{context.Canceled}, false, choice.Gone},
		"no answer":                        {late, context.Canceled, false, choice.Broke},
		"the client's body did not come":   {late, context.Canceled, true, choice.Gone},
		"it is closing the connection":     {context.Background(), errNotTaken, false, choice.Gone},
	} {
		if got := outcomeOfError(test.ctx, test.err, test.fault); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestBlamesEtcd(t *testing.T) {
	for body, want := range map[string]bool{
		`{"message":"etcdserver: no leader","code":500}`:                                                                  true,
		`{"message":"etcdserver: request timed out","code":500}`:                                                          true,
		`{"message":"rpc error: code = Unavailable desc = connection error","code":500}`:                                  true,
		`{"message":"Timeout: request did not complete within requested timeout - context deadline exceeded","code":504}`: true,
		"k8s\x00\x0a\x0f\x0a\x02v1\x12\x06Status\x12\x20\x12\x00\x1a\x15etcdserver: no leader":                            true,
		`{"message":"failed calling webhook \"a\": context deadline exceeded","code":500}`:                                false,
		`{"message":"failed calling webhook \"a\": rpc error: code = Unavailable","code":500}`:                            false,
		`{"message":"error trying to reach service: context deadline exceeded","code":503}`:                               false,
		`{"message":"apiserver is shutting down","code":503}`:                                                             false,
		``: false,
	} {
		if got := blamesEtcd([]byte(body)); got != want {
			t.Errorf("%q: %v, want %v", body, got, want)
		}
	}
}

// However the body comes, it passes unchanged, and what it says is found once.
func TestSniffing(t *testing.T) {
	long := strings.Repeat("x", 4<<10)
	for name, test := range map[string]struct {
		source io.Reader
		want   string
		found  int
	}{
		"whole":         {strings.NewReader("etcdserver: no leader"), "etcdserver: no leader", 1},
		"byte for byte": {iotest.OneByteReader(strings.NewReader("etcdserver: no leader")), "etcdserver: no leader", 1},
		"with its end":  {iotest.DataErrReader(strings.NewReader("etcdserver: no leader")), "etcdserver: no leader", 1},
		"long":          {strings.NewReader("etcdserver: no leader" + long), "etcdserver: no leader" + long, 1},
		"too late":      {strings.NewReader(long + "etcdserver: no leader"), long + "etcdserver: no leader", 0},
		"something":     {strings.NewReader("out of order"), "out of order", 0},
	} {
		t.Run(name, func(t *testing.T) {
			found := 0
			got, err := io.ReadAll(&sniffing{ReadCloser: io.NopCloser(test.source), found: func() { found++ }})
			if err != nil || string(got) != test.want || found != test.found {
				t.Errorf("%d bytes, %v, found %d times; want %d, nil, %d", len(got), err, found, len(test.want), test.found)
			}
		})
	}
}

func FuzzSniffing(f *testing.F) {
	f.Add([]byte("etcdserver: no leader"), 3)
	f.Add([]byte(`{"message":"failed calling webhook"}`), 1)
	f.Fuzz(func(t *testing.T, body []byte, size int) {
		if size < 1 || size > 1<<16 {
			return
		}
		found := 0
		s := &sniffing{ReadCloser: io.NopCloser(bytes.NewReader(body)), found: func() { found++ }}
		var got []byte
		p := make([]byte, size)
		for {
			n, err := s.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				break
			}
		}
		begin := body[:min(len(body), maxSniffed)]
		if want := blamesEtcd(begin); !bytes.Equal(got, body) || found > 1 || (found == 1) != want {
			t.Errorf("%d bytes became %d, found %d times, want %v", len(body), len(got), found, want)
		}
	})
}

func TestFindings(t *testing.T) {
	const etcdFails = "[+]ping ok\n[-]etcd-readiness failed: reason withheld\nreadyz check failed\n"
	const otherFails = "[+]etcd ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n"
	for _, test := range []struct {
		ability choice.Ability
		code    int
		checks  string
		want    choice.Finding
	}{
		{choice.Serving, 200, "ok", choice.Well},
		{choice.Quorum, 200, "ok", choice.Well},
		{choice.Quorum, 500, etcdFails, choice.Ill},
		{choice.Quorum, 500, otherFails, choice.Unsaid},
		{choice.Serving, 500, otherFails, choice.Ill},
		{choice.Serving, 503, "", choice.Ill},
		{choice.Serving, 403, "", choice.Unsaid},
		{choice.Quorum, 401, "", choice.Unsaid},
		{choice.Quorum, 429, "", choice.Unsaid},
	} {
		if got := findingOf(test.ability, test.code, test.checks); got != test.want {
			t.Errorf("%s, %d %q: %v, want %v", test.ability, test.code, test.checks, got, test.want)
		}
	}
}
