package attack

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// TestSmuggling sends requests that two servers could cut in two different places. Behind the gate there must never be a
// request that the gate did not see as one and answer as one, and never one of another caller.
func TestSmuggling(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	api := recordOf(t, n)
	// The API server may refuse before the fault is reached; and when it is reached while that answer is on its way, the
	// connection is cut in the middle of it.
	const malformedBody = "400 or 403 or "
	const post = "/api/v1/namespaces/default/configmaps"
	for name, test := range map[string]struct {
		// raw has MARK for the marker and HIDDEN for a second request that bears it too.
		raw string
		// want are the gate's answers, and what they may be as well. A second one means that the gate saw the second request
		// as one of its own.
		want string
	}{
		"CL.TE":                                     {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Type: application/json\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN", "403 403"},
		"TE.CL":                                     {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nf\r\n0123456789abcde\r\n0\r\n\r\nHIDDEN", "403 403"},
		"TE.TE with a space before the colon":       {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nHIDDEN", "400"},
		"TE.TE unknown coding":                      {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nHIDDEN", "501"},
		"TE.TE twice":                               {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nHIDDEN", "501"},
		"TE.TE listed":                              {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nHIDDEN", "501"},
		"TE.TE with a vertical tab":                 {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\nHIDDEN", "400"},
		"TE folded":                                 {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: 5\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nHIDDEN", "403 403"},
		"TE by underscore":                          {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN", "403 403"},
		"TE in HTTP/1.0":                            {"POST " + post + " HTTP/1.0\r\nUser-Agent: MARK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHIDDEN", "403"},
		"two lengths":                               {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: 0\r\nContent-Length: 60\r\n\r\nHIDDEN", "400"},
		"two lengths in one":                        {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: 0, 60\r\n\r\nHIDDEN", "400"},
		"a length with a sign":                      {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: +0\r\n\r\nHIDDEN", "400"},
		"a negative length":                         {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: -1\r\n\r\nHIDDEN", "400"},
		"a length in hexadecimal":                   {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: 0x0\r\n\r\nHIDDEN", "400"},
		"a bare carriage return in a header":        {"GET " + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nA: b\r\rHIDDEN\r\n\r\n", "400"},
		"a bare line feed ends a chunk's extension": {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nTransfer-Encoding: chunked\r\n\r\n2;\n{}\r\n0\r\n\r\nHIDDEN", malformedBody},
		"a quoted chunk extension":                  {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"\r\n\r\n0\r\n\r\nHIDDEN\"\r\n{}\r\n0\r\n\r\n", malformedBody},
		"a chunk size too large to count":           {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\nHIDDEN", malformedBody},
		"a chunk size with a sign":                  {"POST " + post + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\nHIDDEN", malformedBody},
		"a body with a GET":                         {"GET " + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nContent-Length: LENGTH\r\n\r\nHIDDEN", "403"},
		"a body with an upgrade that is refused":    {"POST /api/v1/namespaces/default/pods/x/exec?command=a HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: LENGTH\r\n\r\nHIDDEN", "403"},
		"no host":                                   {"GET " + secrets + " HTTP/1.1\r\nUser-Agent: MARK\r\n\r\n", "400"},
		"two hosts":                                 {"GET " + secrets + " HTTP/1.1\r\nHost: a\r\nHost: b\r\nUser-Agent: MARK\r\n\r\n", "400"},
		"a host with a path":                        {"GET " + secrets + " HTTP/1.1\r\nHost: a/../b\r\nUser-Agent: MARK\r\n\r\n", "400"},
		"an absolute target of another host":        {"GET https://other.example.com" + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\n\r\n", "403"},
		"a target with a user":                      {"GET https://admin:admin@127.0.0.1" + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\n\r\n", "403"},
		"a target behind a scheme":                  {"GET http:SERVER" + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\n\r\n", "400"},
		"a target behind a scheme, upgraded":        {"GET http:SERVER/api/v1/namespaces/default/pods/x/exec HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "400"},
		"an authority":                              {"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\nUser-Agent: MARK\r\n\r\nHIDDEN", "400 403"},
		"a tunnel with a path":                      {"CONNECT " + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\n\r\n", "400"},
		"an echo of headers":                        {"TRACE /api HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\n\r\n", "400"},
		"HTTP/2 in clear inside":                    {"GET " + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "403 400"},
		"an unknown upgrade":                        {"GET " + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\nHIDDEN", "403 403"},
		"HTTP/0.9":                                  {"GET " + secrets + "\r\n", "400"},
		"a pipelined second request":                {"GET " + secrets + " HTTP/1.1\r\nHost: g\r\nUser-Agent: MARK\r\n\r\nHIDDEN", "403 403"},
	} {
		t.Run(name, func(t *testing.T) {
			mark := marker()
			// The hidden request would be refused to mallory; to anyone with rights it says 404.
			hidden := line("GET", secrets+"/hidden-"+mark, mark) + "X-Remote-User: " + lab.AdminUser + "\r\n\r\n"
			raw := strings.NewReplacer("MARK", mark, "HIDDEN", hidden, "LENGTH", fmt.Sprint(len(hidden)), "SERVER", l.APIServerURL(0)).Replace(test.raw)
			heard := speak(t, connect(t, n, "http/1.1", &mallory), raw)
			if got := strings.Trim(fmt.Sprint(codes(heard)), "[]"); !slices.Contains(strings.Split(test.want, " or "), got) {
				t.Errorf("the gate answered %q, want %s", got, test.want)
			}
			seen := api.arrivals(t, mark)
			if len(seen) > max(1, len(heard)) {
				t.Errorf("the API server saw %d requests, the client got %d answers: %+v", len(seen), len(heard), seen)
			}
			for _, a := range seen {
				if a.User.Username != "mallory" || a.ImpersonatedUser != nil {
					t.Errorf("a request arrived as %+v", a)
				}
				if strings.Contains(a.RequestURI, "hidden") && len(heard) < 2 {
					t.Errorf("the hidden request arrived: %+v", a)
				}
			}
		})
	}
}

// TestTargetsPassNoRule: a rule, or a lockdown, must match whatever the API server will do. An admin asks for what a rule
// denies, in every way a target can be written.
func TestTargetsPassNoRule(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{More: "limits: [{name: no-secrets, match: {resources: [secrets]}, action: Deny}]\n"})
	api := recordOf(t, n)
	admin := lab.Admin
	server := l.APIServerURL(0)
	for name, target := range map[string]string{
		"plain":                      secrets,
		"with dots":                  "/api/v1/namespaces/x/../kube-system/secrets",
		"with dots, encoded":         "/api/v1/%2e%2e/v1/namespaces/kube-system/secrets",
		"with slashes":               "//api/v1/namespaces/kube-system//secrets",
		"with a slash, encoded":      "/api%2fv1/namespaces/kube-system/secrets",
		"letters, encoded":           "/api/v1/namespaces/kube-system/%73ecrets",
		"with a fragment":            secrets + "#/pods",
		"with a parameter":           secrets + ";x=/pods",
		"with a question, encoded":   secrets + "%3fwatch=1",
		"behind a scheme":            "http:" + server + secrets,
		"behind a scheme, as named":  "http:https://gate" + secrets,
		"behind the same scheme":     "https:" + server + secrets,
		"relative, behind a scheme":  "http:" + strings.TrimPrefix(secrets, "/"),
		"absolute":                   server + secrets,
		"absolute, of another":       "http://other.example.com" + secrets,
		"a network path":             "//" + strings.TrimPrefix(server, "https://") + secrets,
		"watched, as long ago":       "/api/v1/watch/namespaces/kube-system/secrets",
		"through the old proxy path": "/api/v1/proxy/namespaces/kube-system/secrets",
		"in upper case":              "/API/V1/namespaces/kube-system/SECRETS",
	} {
		t.Run(name, func(t *testing.T) {
			mark := marker()
			heard := speak(t, connect(t, n, "http/1.1", &admin), line("GET", target, mark)+"Connection: close\r\n\r\n")
			if len(heard) != 1 || heard[0].StatusCode == http.StatusOK {
				t.Errorf("got %v", codes(heard))
			}
			for _, a := range api.arrivals(t, mark) {
				if a.ObjectRef.Resource == "secrets" {
					t.Errorf("it arrived as %+v", a)
				}
			}
		})
	}
}
